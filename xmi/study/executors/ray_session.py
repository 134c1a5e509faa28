"""Ray for the time of a study: a local one that is started and ended, or a cluster; and how many actors fit there."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import torch
from filelock import FileLock, Timeout

from xmi.errors import RunError
from xmi.study.executors.fork import MOST
from xmi.study.plan import Running

PREFIX = "xmi-ray-"
"""How the folders of a local Ray begin: sockets, logs and what actors were sent."""

LOCK = "lock"
"""Held by the process that a folder belongs to."""

SETTLED = 60.0
"""Seconds after which a folder without a lock is nobody's."""

PATIENCE = 10.0
"""Seconds in which a cluster must accept a connection, and then answer."""

JOINING = 60.0
"""Seconds in which a cluster that answers must take this process as a driver."""

LOCAL = {
    "RAY_worker_niceness": "0",  # actors would yield to every other process
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
"""The environment that a local Ray is started with."""


def count_actors(gpus: Sequence[int], cores: int, running: Running, device: str | None) -> tuple[int, float]:
    """How many actors there are, and how many GPUs each has.

    Args:
        gpus: The GPUs of each node.
        cores: All cores.
        running: What the user asked for.
        device: Where models are to be loaded; None for a GPU if there is one.

    Returns:
        As many actors as were asked for; otherwise as GPUs allow, or without GPUs one per core, at most 4.

    Raises:
        RunError: There are too few GPUs or cores for what was asked.
    """
    if device != "cpu" and (any(gpus) or running.gpus_per_model is not None or device is not None):
        share = running.gpus_per_model or 1.0
        most = sum(int(count // share) if share >= 1 else count * int(1 / share) for count in gpus)
        if most < (running.workers or 1):
            raise RunError(
                f"workers={running.workers or 1} with gpus_per_model={share:g}: there is room for {most}; Ray finds "
                f"these GPUs per node: {', '.join(map(str, gpus))}."
            )
        return running.workers or most, share
    if cores < (running.workers or 1):
        raise RunError(f"workers={running.workers}: Ray finds this many cores: {cores}.")
    return running.workers or min(MOST, cores), 0.0


Session: TypeAlias = tuple[Any, "str | None", tuple[int, float]]
"""Ray; the folder where actors may write (None: the temporary folder of their node); actors, and the GPUs of each."""


@contextmanager
def session(running: Running, device: str | None = None) -> Iterator[Session]:
    """A local Ray, a cluster, or what the caller has begun.

    Raises:
        RunError: No cluster answers, it is too small, or another one was begun.
    """
    begun = "ray" in sys.modules and sys.modules["ray"].is_initialized()  # by the caller, who ends it
    if running.on == "ray" and not begun:
        with _local(running, device) as found:
            yield found
        return
    if begun and running.on not in ("ray", "auto"):
        raise RunError(f"on: {running.on}: Ray was begun in this process already. Say on: auto to use what it reached.")
    import ray

    try:
        if not begun:
            _reach(str(running.on))
            _join(ray, str(running.on))
    except (OSError, RuntimeError, ValueError, ImportError) as error:
        raise RunError(f"on: {running.on}: no Ray cluster answers there: {error}") from error
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        cores = int(sum(node.get("CPU", 0) for node in nodes))
        yield ray, None, count_actors([int(node.get("GPU", 0)) for node in nodes], cores, running, device)
    finally:
        if not begun:
            ray.shutdown()


def _reach(on: str) -> None:
    """Waits until a cluster answers: Ray itself goes on trying for half a minute, or for a quarter of an hour.

    What it speaks is gRPC, which says whether somebody listens there who speaks it, too.

    Raises:
        OSError: There is none, nobody answers, or somebody else does.
    """
    import grpc
    from ray._private.services import canonicalize_bootstrap_address_or_die

    address = on.removeprefix("ray://") if on != "auto" else canonicalize_bootstrap_address_or_die("auto")
    place = urlsplit(f"//{address}")
    socket.create_connection((place.hostname, place.port), timeout=PATIENCE).close()  # says best what is wrong
    if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        return
    with grpc.insecure_channel(address) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=PATIENCE)
        except grpc.FutureTimeoutError:
            raise TimeoutError(f"what listens at {address} does not speak as Ray does") from None


def _join(ray: Any, on: str) -> None:
    """Connects this process, in a thread that is given up after a while: Ray may wait for ever for a part that hangs.

    Raises:
        OSError: It took too long.
        Exception: What Ray raises.
    """
    found: Future[Any] = Future()

    def connect() -> None:
        try:
            found.set_result(ray.init(address=on, log_to_driver=False, logging_level=logging.ERROR))
        except BaseException as error:
            found.set_exception(error)

    Thread(target=connect, daemon=True).start()
    try:
        found.result(timeout=JOINING)
    except ConnectionError as error:
        token = "RAY_AUTH_MODE" not in os.environ  # which `ray start` sets by itself where there is a token
        raise ConnectionError(f"{error}{' (if it asks for a token: RAY_AUTH_MODE=token)' if token else ''}") from error
    except FutureTimeout:
        raise TimeoutError(f"it listens, but did not take this process within {JOINING:g} s") from None


@contextmanager
def _local(running: Running, device: str | None) -> Iterator[Session]:
    """A Ray of this node alone: no dashboard, no usage statistics, no socket but those of 127.0.0.1."""
    import ray

    for name, value in LOCAL.items():
        os.environ.setdefault(name, value)
    gpus = torch.cuda.device_count()
    size = count_actors([gpus], max(running.workers or 1, os.cpu_count() or 1), running, device)
    root = tempfile.gettempdir()
    root = root if len(root) < 24 or sys.platform == "win32" else "/tmp"  # paths of sockets have 107 characters at most
    _remove_left(Path(root))
    folder = tempfile.mkdtemp(prefix=PREFIX, dir=root)
    with FileLock(f"{folder}/{LOCK}"), _closed_and_quiet(ray):
        try:
            ray.init(
                address="local", num_cpus=size[0], num_gpus=gpus, include_dashboard=False, log_to_driver=False,
                logging_level=logging.ERROR, _temp_dir=folder,
            )  # fmt: skip
            yield ray, folder, size
        finally:
            ray.shutdown()
            _remove(Path(folder))


@contextmanager
def _closed_and_quiet(ray: Any) -> Iterator[None]:
    """What Ray has no option for: all its sockets are those of 127.0.0.1, and a dead actor is not told in ten lines."""
    changes = [
        (vars(ray._private.ray_constants), "ENABLE_RAY_CLUSTER", False),  # as it is by default on Windows and macOS
        (vars(ray._private.worker), "print_to_stdstream", lambda *_, **__: None),
    ]
    before = [names[name] for names, name, _ in changes]
    for names, name, value in changes:
        names[name] = value
    try:
        yield
    finally:
        for (names, name, _), value in zip(changes, before, strict=True):
            names[name] = value


def _remove_left(root: Path) -> None:
    """Removes the folders of processes that were killed: nobody holds their lock.

    One without a lock is about to get it, or was removed while processes that ended still wrote there.
    """
    for folder in root.glob(f"{PREFIX}*"):
        with suppress(Timeout, OSError):
            if (folder / LOCK).is_file() or time.time() - folder.stat().st_mtime > SETTLED:
                with FileLock(folder / LOCK, timeout=0):
                    _remove(folder)


def _remove(folder: Path) -> None:
    """Removes a folder, its lock last: while processes that end still write there, the next run tries again."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != LOCK:
            path.unlink()
    if [path.name for path in folder.iterdir()] == [LOCK]:
        shutil.rmtree(folder, ignore_errors=True)
