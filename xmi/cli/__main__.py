"""`python -m xmi.cli`."""

from xmi.cli import main

main()
