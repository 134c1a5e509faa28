"""`python -m xmi.cli`."""

from xmi.cli import main

if __name__ == "__main__":
    main()
