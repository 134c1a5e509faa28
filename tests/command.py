"""The command line as a user calls it: in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys


def run_xmi(*arguments: str, timeout: float = 280) -> subprocess.CompletedProcess[str]:
    """Runs `xmi ARGUMENTS` with this interpreter and returns the finished process, whatever its exit code."""
    code = "import sys; from xmi.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


def listen_to_interrupts() -> None:
    """For `preexec_fn`: a process whose parent runs in the background would ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
