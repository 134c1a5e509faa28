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
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

from analyses.real_ndif.hub import Repository, serving
from analyses.real_ndif.server import HOST, HUB, ServerError, commands, running, settings, wait

PATIENCE = 10.0  # seconds that the command has to end when it is told to
REFUSED = 2  # exit status where the server is not there to run a command against


def serve(
    home: Path,
    scratch: Path,
    id: str,
    folder: Path,
    dtype: str,
    seconds: float,
    command: Sequence[str],
    url: str = HOST,
) -> int:
    """Starts the server, runs a command against it, and ends the server.

    Args:
        home: Folder of the installation.
        scratch: Ray's folder.
        id: The id under which the model is served.
        folder: The model's files.
        dtype: How its weights are held.
        seconds: How long to wait for the server.
        command: What to run; see `client` for what it finds in its environment.
        url: Where the server will be.

    Returns:
        The command's exit status.

    Raises:
        ServerError: The server did not come up, or there is no such command.
    """
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    env, logs, begun = settings(home, scratch, id, dtype), home / "logs", time.monotonic()
    shutil.rmtree(logs, ignore_errors=True)
    print(f"Starting the server; its logs are in {logs}.", flush=True)
    with serving(Repository(id, folder), HUB), running(commands(home), env, logs) as check:
        try:
            wait(id, check, seconds, url)
        except ServerError:
            with suppress(OSError):
                shutil.copytree((scratch / "session_latest" / "logs").resolve(), logs / "ray")  # where actors say why
            raise
        print(f"{id} is served at {url} after {time.monotonic() - begun:.0f} s.", flush=True)
        return run(command, os.environ | client(env, url))


def client(env: dict[str, str], url: str = HOST) -> dict[str, str]:
    """What the command finds in its environment: host, API key, and a Hub that has this model alone.

    The key is a new one for this server, which takes any and writes it into its log. A key for the real NDIF, and a
    token for the real Hub, are not handed on.
    """
    kept = {name: env[name] for name in ("HF_ENDPOINT", "HF_HOME")}
    return kept | {"NDIF_HOST": url, "NDIF_API_KEY": str(uuid.uuid4()), "HF_TOKEN": "", "HF_HUB_OFFLINE": "0"}


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


if __name__ == "__main__":
    pipe, home, scratch, id, folder, dtype, seconds, *command = sys.argv[1:]
    heed(int(pipe))
    sys.exit(report(lambda: serve(Path(home), Path(scratch), id, Path(folder), dtype, float(seconds), command)))
