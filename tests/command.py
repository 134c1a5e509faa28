"""Commands as a user gives them, each in a process of its own.

An interpreter that imports torch, transformers and the rest takes eight seconds to start, which is more than most tests
do then. So one process imports them once, `multiprocessing`'s fork server, and the others begin as copies of it. They
import xmi themselves, have the caller's environment, arguments and folder, and end as interpreters end. What depends on
what is imported when is tested with `sys.executable`.
"""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TextIO

_SERVER = get_context("forkserver")
_SERVER.set_forkserver_preload(["tests.libraries"])

CLI = "import sys; from xmi.cli import main; sys.exit(main())"
"""The command `xmi`, as code."""


class Started:
    """A process at work: the part of `subprocess.Popen` that the tests use."""

    def __init__(self, process: Any, stdout: TextIO | None, stderr: TextIO | None) -> None:
        self._process, self.stdout, self.stderr, self.pid = process, stdout, stderr, process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, or the negative number of the signal that ended it; None while it runs."""
        code: int | None = self._process.exitcode
        return code

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = 280) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            self.send_signal(signal.SIGKILL)
            raise TimeoutError(f"The process did not end within {timeout} s.")
        return self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def communicate(self) -> tuple[str, str]:
        """Waits for its end; returns what it still said."""
        said = tuple("" if stream is None else stream.read() for stream in (self.stdout, self.stderr))
        self.wait()
        return said  # type: ignore[return-value]

    def __enter__(self) -> Started:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in (self.stdout, self.stderr):
            if stream is not None:
                stream.close()
        self.wait()


def start(
    code: str, *arguments: str, module: bool = False, stdout: Any = None, stderr: Any = None,
    environment: Mapping[str, str] | None = None, cwd: str | Path | None = None,
) -> Started:  # fmt: skip
    """Starts `python -c CODE ARGUMENTS`, or `python -m CODE ARGUMENTS`.

    Args:
        code: Code, or the name of a module.
        arguments: What follows.
        module: Whether it is a module's name.
        stdout: `subprocess.PIPE`, an open file, or None to throw it away.
        stderr: Likewise.
        environment: Its environment; this process's if None.
        cwd: Where it works; where this process does if None.
    """
    read, ends, given = [], [], []
    for stream in (stdout, stderr):
        if stream == subprocess.PIPE:
            reader, writer = _SERVER.Pipe(duplex=False)
            read.append(os.fdopen(os.dup(reader.fileno()), encoding="utf-8"))
            reader.close()
            ends.append(writer)
        else:
            read.append(None)
            writer = None if stream is None else stream.name
        given.append(writer)
    variables, place = dict(os.environ if environment is None else environment), str(cwd or Path.cwd())
    process = _SERVER.Process(target=_begin, args=(code, arguments, module, given, variables, place))
    process.start()
    for end in ends:
        end.close()
    return Started(process, *read)


def run(code: str, *arguments: str, timeout: float = 280, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs it to its end, with the options of `start`, and returns the finished process whatever its exit code."""
    with tempfile.TemporaryDirectory() as folder:
        paths = Path(folder, "stdout"), Path(folder, "stderr")
        with paths[0].open("wb") as stdout, paths[1].open("wb") as stderr:
            ended = start(code, *arguments, stdout=stdout, stderr=stderr, **options).wait(timeout)
        said = [path.read_text(encoding="utf-8", errors="replace") for path in paths]
    return subprocess.CompletedProcess([code, *arguments], ended, *said)


def run_xmi(*arguments: str, timeout: float = 280) -> subprocess.CompletedProcess[str]:
    """Runs `xmi ARGUMENTS` and returns the finished process, whatever its exit code."""
    return run(CLI, *arguments, timeout=timeout)


def listen_to_interrupts() -> None:
    """For `preexec_fn`: a process whose parent runs in the background would ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _begin(
    code: str, arguments: tuple[str, ...], module: bool, streams: list[Any], environment: dict[str, str], cwd: str
) -> None:
    """What the new process does."""
    listen_to_interrupts()
    for number, stream in zip((1, 2), streams, strict=True):
        match stream:
            case Connection():
                end = stream.fileno()
            case _:
                end = os.open(stream or os.devnull, os.O_WRONLY | os.O_APPEND)
        os.dup2(end, number)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    path = [part for part in environment.get("PYTHONPATH", "").split(os.pathsep) if part]
    sys.path[:] = ["", *path, *(part for part in sys.path if part not in path and part)]
    sys.argv = ["-c", *arguments]
    if module:
        sys.argv[0] = code
        runpy.run_module(code, run_name="__main__", alter_sys=True)
    else:
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
