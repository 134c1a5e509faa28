"""The server's processes: with which settings they are started, and when they are ready."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

STORE, HUB, API = 9000, 9010, 8001  # ports: in a network namespace of its own all are free
HOST = f"http://127.0.0.1:{API}"
MEMORY = 8 << 30  # bytes that the graphics card is said to have
SHARED = 256 << 20  # bytes of shared memory that Ray takes
SHOWN = 3000  # characters of a log or an answer that a message shows
NAP = 1.0  # seconds before looking again


class ServerError(RuntimeError):
    """The server cannot be set up, or does not come up."""


def model_key(id: str, folder: Path) -> str:
    """The key by which nnsight 0.8 and `ndif` name a model.

    Args:
        id: Its id on the Hub.
        folder: Its files; the configuration tells a vision-language model from a language model.

    Returns:
        The key.

    Raises:
        ServerError: There is no configuration in the folder.
    """
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise ServerError(f"{folder} holds no model that could be served as {id}: {error}") from error
    task = "image-text-to-text" if "vision_config" in config else "text-generation"
    identity = json.dumps({"repo_id": id, "revision": None, "task": task})
    return f"nnsight.modeling.transformers.TransformersModel:{identity}"


def settings(home: Path, scratch: Path, keys: Sequence[str], dtype: str) -> dict[str, str]:
    """Environment of the server's processes; of this process' own they get the path and the language.

    Args:
        home: Folder of the installation, whose environment is `venv`.
        scratch: Folder for what Ray writes and what comes from the Hub. Its path must be short: sockets lie in it.
        keys: Keys of the models to serve.
        dtype: How their weights are held.

    Returns:
        All variables.
    """
    kept = {name: os.environ[name] for name in ("LANG", "LC_ALL", "TZ") if name in os.environ}
    # Ray declares this in place of what it finds: ndif's controller manages only nodes with a graphics card.
    resources = {"CPU": 1 + len(keys), "GPU": 1, "cuda_memory_bytes": MEMORY, "object_store_memory": SHARED}
    return kept | {
        "PATH": f"{home / 'venv' / 'bin'}:{os.environ.get('PATH', os.defpath)}",
        "HOME": str(scratch),
        "PYTHONPATH": str(Path(__file__).parent / "served"),  # the actors, and nothing else of this project
        "HF_ENDPOINT": f"http://127.0.0.1:{HUB}",
        "HF_HOME": str(scratch / "hub"),
        "OMP_NUM_THREADS": "1",
        "RAY_OVERRIDE_RESOURCES": json.dumps(resources),
        "RAY_USAGE_STATS_ENABLED": "0",
        "NDIF_RAY_TEMP_DIR": str(scratch),
        "NDIF_OBJECT_STORE_URL": f"http://127.0.0.1:{STORE}",
        "NDIF_API_PORT": str(API),
        "NDIF_STATUS_TTL_S": "2",  # so that a model that has become ready is seen soon
        "NDIF_AUTOSCALING_MAX_REPLICAS": "1",
        "NDIF_MODEL_IMPORT_PATH": "cpu_actors.CPUModel",
        "NDIF_CONTROLLER_IMPORT_PATH": "cpu_actors.CPUController",
        "NDIF_DEPLOYMENTS": "|".join(keys),
        "NDIF_DEFAULT_DTYPE": dtype,
    }


def commands(home: Path) -> dict[str, list[str]]:
    """What is run, by name: a store that speaks S3, and the rest by ndif's own command."""
    bin = home / "venv" / "bin"
    return {
        "store": [str(bin / "moto_server"), "-H", "127.0.0.1", "-p", str(STORE)],
        "ndif": [str(bin / "ndif"), "start", "--foreground", "redis", "ray", "api"],
    }


@contextmanager
def running(commands: Mapping[str, list[str]], env: Mapping[str, str], logs: Path) -> Iterator[Callable[[], None]]:
    """Runs processes that write logs, and kills them when left.

    Args:
        commands: Command by name.
        env: Their environment.
        logs: Folder of `NAME.log`, and where they run.

    Yields:
        A function that raises `ServerError`, with the end of the log, if one of the processes has ended.

    Raises:
        ServerError: One of them cannot be run.
    """
    logs.mkdir(parents=True, exist_ok=True)
    started: dict[str, subprocess.Popen[bytes]] = {}

    def check() -> None:
        for name, process in started.items():
            if process.poll() is not None:
                raise ServerError(f"{name} ended with status {process.returncode}.\n{tail(logs / f'{name}.log')}")

    try:
        for name, command in commands.items():
            with (logs / f"{name}.log").open("wb") as log:
                try:
                    started[name] = subprocess.Popen(
                        command,
                        env=dict(env),
                        cwd=logs,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        process_group=0,  # Ctrl-C is not for them
                    )
                except OSError as error:
                    raise ServerError(f"{name} cannot be run: {error}") from error
        yield check
    finally:
        for process in started.values():
            if process.poll() is None:
                os.killpg(process.pid, 9)
            process.wait()


def wait(keys: Sequence[str], check: Callable[[], None], seconds: float, url: str = HOST) -> None:
    """Waits until the server has loaded its models.

    Args:
        keys: The models' keys.
        check: Raises if waiting has become pointless.
        seconds: How long to wait.
        url: The server.

    Raises:
        ServerError: A model is not ready in time.
    """
    until, found = time.monotonic() + seconds, "nothing"
    with httpx.Client(base_url=url, timeout=60) as client:
        while time.monotonic() < until:
            check()
            try:
                answer = client.get("/status")
            except httpx.TransportError as error:
                found = str(error)
            else:
                found = answer.text
                if set(keys) <= _ready(answer):
                    return
            time.sleep(NAP)
    raise ServerError(f"{' and '.join(keys)} did not become ready within {seconds:.0f} s; last found: {found[:SHOWN]}")


def _ready(status: httpx.Response) -> set[str]:
    """Keys of the models that a server says are ready."""
    deployments = status.json()["deployments"].values() if status.is_success else ()
    return {d["model_key"] for d in deployments if d.get("model_key") and d["application_state"] == "RUNNING"}


def tail(log: Path) -> str:
    """The end of a log."""
    return log.read_text(errors="replace")[-SHOWN:]
