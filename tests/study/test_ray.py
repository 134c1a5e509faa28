"""Cells done by a local Ray of two actors: the bytes of an ordinary run, deaths, errors, and nothing left behind."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from sklearn.manifold import TSNE

import xmi
from analyses.benchmarks.scaling import Timed, workers_of
from tests.study.kill import actors, end_equal, files, left, start
from tests.study.test_study import run
from tests.zoo.world import make_world
from xmi.study.executors import ray, ray_session, schedule
from xmi.study.executors.executor import Done, Say
from xmi.study.grid import Cell
from xmi.study.plan import Running

pytest.importorskip("ray", reason="Ray is not installed: pip install 'xmi[ray]'")

TWO = Running(on="ray", workers=2)


@pytest.fixture(autouse=True)
def whole_projections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Actors are processes of Ray, which know nothing of tests/quick.py: nor may what they are compared with."""
    monkeypatch.setattr(TSNE, "fit_transform", TSNE.fit_transform.__wrapped__)


@pytest.fixture(scope="module")
def session() -> Iterator[str]:
    """A local Ray, started as a study starts it; studies of this process take it for the caller's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        before = listening()
        with ray_session.session(TWO) as (_, folder, _size):
            assert folder is not None
            assert {address for address, _ in listening() - before} == {"127.0.0.1"}
            yield folder
    assert left() == []


def listening() -> set[tuple[str, int]]:
    """Addresses and ports on which something on this machine waits for connections."""
    found = set()
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            place, state = line.split()[1], line.split()[3]
            if state == "0A":
                last = bytes.fromhex(place.split(":")[0])[-4:][::-1]
                mapped = name == "tcp" or place.startswith("0000000000000000FFFF0000")
                found.add((".".join(map(str, last)) if mapped else place, int(place.split(":")[1], 16)))
    return found


@pytest.mark.slow
def test_actors_give_the_files_of_forked_processes_though_one_is_killed(session: str, tmp_path: Path) -> None:
    world = make_world(tmp_path / "world", size=(200, 120))
    forked = run(world, tmp_path / "forked", on="fork", workers=2)
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if line.startswith("[ 5/"):
            os.kill(actors(os.getpid())[0], signal.SIGKILL)

    done = run(world, tmp_path / "actors", on="ray", workers=2, say=say)
    assert files(done.path) == files(forked.path)
    assert "Ray: 2 actors, a core each" in said
    assert sum("died; another one takes its place" in line for line in said) == 1
    next(done.path.glob("cells/*.ask.json")).unlink()
    run(world, done.path, on="serial")  # where a study is done is no part of what it is
    assert files(done.path) == files(forked.path)


@pytest.mark.parametrize("on", ["ray://{}", "auto", "ray://127.0.0.1:70000", "ray://no.host.invalid"])
def test_an_address_where_nobody_listens_is_an_error_at_once(on: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as bound:  # and never listens
        bound.bind(("127.0.0.1", 0))
        free = f"127.0.0.1:{bound.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", free)
        monkeypatch.setattr("ray.is_initialized", lambda: False)
        begin = time.monotonic()
        with pytest.raises(xmi.RunError, match="no Ray cluster answers there"):  # noqa: SIM117
            with ray_session.session(Running(on=on.format(free))):
                pass
        assert time.monotonic() - begin < 15


@pytest.mark.parametrize("on", ["ray://{}", "auto"])
def test_somebody_else_who_listens_is_an_error_soon(on: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        monkeypatch.setattr("ray._private.ray_constants.ENABLE_RAY_CLUSTER", False)  # 127.0.0.1 stays what it is
        monkeypatch.setattr("ray.is_initialized", lambda: False)
        monkeypatch.setattr(ray_session, "PATIENCE", 0.5)
        with pytest.raises(xmi.RunError, match=rf"answers there: what listens at {address} does not speak as Ray"):  # noqa: SIM117
            with ray_session.session(Running(on=on.format(address))):
                pass


def test_a_cluster_that_takes_nobody_is_an_error_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", lambda **_: time.sleep(20))
    monkeypatch.setattr(ray_session, "_reach", lambda on: None)
    monkeypatch.setattr(ray_session, "JOINING", 0.2)
    with pytest.raises(xmi.RunError, match=r"it listens, but did not take this process within 0\.2 s"):  # noqa: SIM117
        with ray_session.session(Running(on="ray://127.0.0.1:1")):
            pass


def test_what_the_caller_has_begun_is_not_taken_for_another_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    with pytest.raises(xmi.RunError, match="begun in this process already"):  # noqa: SIM117
        with ray_session.session(Running(on="ray://127.0.0.1:1")):
            pass


def test_folders_that_nobody_holds_are_removed(tmp_path: Path) -> None:
    for name in ("held", "dead", "new", "late"):
        (tmp_path / f"{ray_session.PREFIX}{name}").mkdir()
    held, dead, new, late = (tmp_path / f"{ray_session.PREFIX}{name}" for name in ("held", "dead", "new", "late"))
    (dead / "session").mkdir()
    (dead / ray_session.LOCK).touch()
    (late / "session").mkdir()  # written after the lock was removed
    os.utime(late, (0, 0))
    with FileLock(held / ray_session.LOCK):
        ray_session._remove_left(tmp_path)
        assert sorted(tmp_path.iterdir()) == [held, new]


@dataclass(frozen=True)
class Faulty(Timed):
    """A work whose model cannot be loaded, and of which one cell fails and another ends its process."""

    def names(self) -> list[str]:
        return ["one", "two"]

    def facts(self, name: str, tell: Say) -> dict[str, Any]:
        raise xmi.ModelError(f"{name} cannot be loaded")

    def do(self, cell: Cell) -> Done:
        if cell.kind == "ask" and cell.task == "t0":
            raise xmi.TaskError("no t0")
        if cell.kind == "ask" and cell.task == "t1":
            os._exit(1)
        return super().do(cell)


@pytest.mark.slow
def test_errors_and_deaths_are_named(session: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "TRIES", 2)  # each start takes seconds
    work, said = Faulty(tmp_path, tasks=2, seconds=0.01), list[str]()
    with ray.Ray(Running(on="ray", workers=1), said.append) as executor:
        with pytest.raises(xmi.ModelError, match="one cannot be loaded"):
            executor.facts(work, said.append)  # type: ignore[arg-type]
        read, fails, dies = work.cells(1)[:2], *work.cells(1)[2:]
        with pytest.raises(xmi.TaskError, match="no t0") as caught:
            workers_of(executor, work, [*read, fails])
        assert "in do" in caught.value.__notes__[0]
        with pytest.raises(xmi.RunError, match=r"2 workers died.*at work on timed\.0\.t1\.ask"):
            workers_of(executor, work, [dies])
    assert said[0] == "Ray: 1 actor, a core each"
    assert [line[: line.index(";")] for line in said[1:]] == ["    The actor at work on timed.0.t1.ask died"] * 2


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """A Ray cluster of this node, on ports of 127.0.0.1: what `on` reaches it, and the address it is at."""
    for name, value in {
        **ray_session.LOCAL,
        "RAY_AUTH_MODE": "disabled",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        port, client = (str(free.getsockname()[1]) for free in (one, two))
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    place = tempfile.mkdtemp(prefix="xmi-ray-head-", dir="/tmp")  # paths of sockets have 107 characters at most
    options = {"port": port, "ray-client-server-port": client, "node-ip-address": "127.0.0.1", "num-cpus": "2"}
    options |= {"temp-dir": place, "include-dashboard": "false"}
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--disable-usage-stats"]
    command += [word for name, value in options.items() for word in (f"--{name}", value)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as head:
        assert head.stdout is not None
        assert any("Ray runtime started" in line for line in head.stdout)
        yield {"client": f"ray://127.0.0.1:{client}", "driver": "auto"}
        head.terminate()
        head.stdout.close()
    shutil.rmtree(place, ignore_errors=True)


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_a_cluster_gives_the_files_of_forked_processes(cluster: dict[str, str], tmp_path: Path) -> None:
    world = make_world(tmp_path / "world", size=(200, 120))
    whole = run(world, tmp_path / "whole", on="fork", workers=2)
    for name, on in cluster.items():
        with start(world, tmp_path / name, on) as process:
            said, _ = process.communicate()
        assert "Ray: 2 actors, a core each" in said
        assert files(tmp_path / name) == files(whole.path)
        assert actors(os.getpid()) == []


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_a_run_killed_at_random_moments_ends_equal(tmp_path: Path) -> None:
    """Ten times an actor dies and then the study, which is run to its end."""
    told = end_equal(make_world(tmp_path / "world", size=(200, 120)), tmp_path, times=10)
    assert len(told) == 10
    print("\n".join(told))
    assert left() == []
