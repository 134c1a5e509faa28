"""What runs within the namespaces, as their first process: the server, then a command, then the end of both.

When this process ends, the kernel ends whatever is left in the process namespace. It ends when the command does, on
Ctrl-C, on SIGTERM, and when the script that entered the namespaces is gone.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from pydantic import TypeAdapter

from analyses.real_ndif.hub import serving
from analyses.real_ndif.server import HOST, HUB, ServerError, commands, model_key, running, settings, wait

PATIENCE = 10.0  # seconds that the command has to end when it is told to
REFUSED = 2  # exit status where the server is not there to run a command against


@dataclass(frozen=True)
class Asked:
    """What is served, and to whom.

    Attributes:
        home: Folder of the installation.
        models: Folder of each model by the id under which it is served.
        dtype: How their weights are held.
        seconds: How long to wait for the server.
        command: What to run against it; see `client` for what it finds in its environment.
    """

    home: Path
    models: dict[str, Path]
    dtype: str
    seconds: float
    command: list[str]


def serve(asked: Asked, scratch: Path) -> int:
    """Starts the server, runs a command against it, and ends the server.

    Args:
        asked: What and to whom.
        scratch: Folder for what need not be kept.

    Returns:
        The command's exit status.

    Raises:
        ServerError: The server did not come up, or there is no such command.
    """
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    keys = [model_key(id, folder) for id, folder in asked.models.items()]
    env, logs, begun = settings(asked.home, scratch, keys, asked.dtype), asked.home / "logs", time.monotonic()
    shutil.rmtree(logs, ignore_errors=True)
    print(f"Starting the server; its logs are in {logs}.", flush=True)
    with serving(asked.models, HUB), running(commands(asked.home), env, logs) as check:
        try:
            wait(keys, check, asked.seconds)
        except ServerError as error:
            with suppress(OSError):
                shutil.copytree((scratch / "session_latest" / "logs").resolve(), logs / "ray")
            raise ServerError(f"{error}\nWhy a model could not be loaded stands in {logs}/ray/worker-*.") from error
        print(f"{' and '.join(asked.models)} served at {HOST} after {time.monotonic() - begun:.0f} s.", flush=True)
        return run(asked.command, os.environ | client(env))


def client(env: Mapping[str, str]) -> dict[str, str]:
    """What the command finds in its environment: host, API key, and a Hub that has the served models alone.

    The key is a new one for this server, which takes any and writes it into its log. A key for the real NDIF, and a
    token for the real Hub, are not handed on.
    """
    kept = {name: env[name] for name in ("HF_ENDPOINT", "HF_HOME")}
    return kept | {"NDIF_HOST": HOST, "NDIF_API_KEY": str(uuid.uuid4()), "HF_TOKEN": "", "HF_HUB_OFFLINE": "0"}


def run(command: Sequence[str], env: dict[str, str]) -> int:
    """Runs a command, and ends it before this process ends.

    Returns:
        Its exit status, as a shell counts it.

    Raises:
        ServerError: It cannot be run.
    """
    try:
        process = subprocess.Popen(command, env=env)
    except OSError as error:
        raise ServerError(f"{command[0]} cannot be run: {error}") from error
    try:
        status = process.wait()
        return status if status >= 0 else 128 - status
    except KeyboardInterrupt:  # Ctrl-C has reached the command too
        with suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
        raise
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()


def heed(outside: int) -> None:
    """Has this process end in order when it is told to, or when the other end of a pipe is closed.

    Args:
        outside: File descriptor of the pipe, whose other end only the script outside has.
    """

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.exit(128 + number)

    def watch() -> None:
        os.read(outside, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGTERM, end)  # the first process of a namespace is spared what it has no handler for
    threading.Thread(target=watch, daemon=True).start()


def report(work: Callable[[], int]) -> int:
    """Runs something; turns a `ServerError` into a message, and that and Ctrl-C into an exit status."""
    try:
        return work()
    except ServerError as error:
        print(f"error: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def main(pipe: str, scratch: str, asked: str) -> int:
    """Serves what is asked for as JSON; returns the exit status."""
    heed(int(pipe))
    try:
        return report(lambda: serve(TypeAdapter(Asked).validate_json(asked), Path(scratch)))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)  # in case the script outside no longer can


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
