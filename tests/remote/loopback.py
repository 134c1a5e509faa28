"""The loopback server as a test holds it: started, asked, made to fail, killed, started again."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

SERVER = Path(__file__).with_name("server.py")
ORGANISM = Path(__file__).parents[2] / "xmi" / "data" / "organism"
EMBEDDED = {"xmi/organism": ORGANISM / "vlm", "xmi/organism-llm": ORGANISM / "llm"}
"""Repo ids of the embedded models on the loopback server, and their folders."""
KEY = "loopback-key-0123456789"
"""The API key that a test's server asks for; nothing that is written may hold it."""


class Loopback:
    """A server process, ready when the constructor's `start` or the context manager returns.

    Its port stays the same over `kill` and `start`; with a state folder its jobs and results do too.

    Args:
        models: Folder of each repo id; by default the embedded models.
        api_key: The key to ask for; None asks for none.
        state: Folder for jobs and results; by default they are kept in memory and die with the process.
        dtype: What the weights are held in.
        inline_limit: Bytes up to which a listening client gets its result inline.
        min_nnsight: The oldest client that is served.
        hide: Packages that the server cannot import.
        port: 0 takes a free one.
    """

    def __init__(
        self,
        models: Mapping[str, str | Path] = EMBEDDED,
        *,
        api_key: str | None = KEY,
        state: Path | None = None,
        dtype: str = "float32",
        inline_limit: int | None = None,
        min_nnsight: str | None = None,
        hide: tuple[str, ...] = ("xmi", "tests", "analyses"),
        port: int = 0,
    ) -> None:
        options = {
            "--api-key": api_key,
            "--state": state and state.resolve(),
            "--inline-limit": inline_limit,
            "--min-nnsight": min_nnsight,
        }
        self._arguments = ["--dtype", dtype, "--follow-stdin"]
        self._arguments += [f"--model={name}={Path(folder).resolve()}" for name, folder in models.items()]
        self._arguments += [f"--hide={package}" for package in hide]
        self._arguments += [f"{flag}={value}" for flag, value in options.items() if value is not None]
        self.port = port
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Loopback:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server is not started"
        return self._process.pid

    def start(self, timeout: float = 120) -> Loopback:
        """Starts the process and waits until it is ready."""
        assert self._process is None, "the server runs already"
        environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "NDIF_API_KEY")}
        environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        with tempfile.TemporaryFile("w+") as errors:
            self._process = process = subprocess.Popen(
                [sys.executable, str(SERVER), f"--port={self.port}", *self._arguments],
                cwd=tempfile.gettempdir(), env=environment,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
                start_new_session=True,  # Ctrl-C is for the client
            )  # fmt: skip
            assert process.stdout is not None
            late = threading.Timer(timeout, process.kill)
            late.start()
            line = process.stdout.readline()
            late.cancel()
            if not line.startswith("READY"):
                self.kill()
                errors.seek(0)
                raise RuntimeError(f"The loopback server did not start within {timeout} s:\n{errors.read()[-4000:]}")
        self.port = int(line.rsplit(":", 1)[1])
        return self

    def kill(self) -> None:
        """Ends the process as a power cut would."""
        assert self._process is not None, "the server is not started"
        self._process.kill()
        self.stop()

    def stop(self) -> None:
        """Ends the process by closing its standard input; does nothing if there is none."""
        process, self._process = self._process, None
        if process is not None:
            with process:
                assert process.stdin is not None
                process.stdin.close()

    def stats(self) -> dict[str, Any]:
        """Returns what the server has seen; see `Server.stats` in `serving/routes.py`."""
        answer = httpx.get(f"{self.url}/_test/stats", verify=False).raise_for_status()
        return dict(answer.json())

    def faults(self, **wanted: Any) -> None:
        """Sets what goes wrong from now on, instead of what did before; nothing named, nothing goes wrong.

        The names are those of `Faults` in `serving/faults.py`: `server.faults(reject=503)`, `server.faults(delay=2)`.
        """
        answer = httpx.post(f"{self.url}/_test/faults", json=wanted, verify=False)
        assert answer.status_code == 200, answer.text
