"""Cells in several processes: order, errors, deaths, and nothing left behind."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from greenlet import getcurrent

import xmi
from tests import command
from tests.study.kill import files, start
from tests.study.test_study import run
from tests.zoo.world import make_world
from xmi.backend.gather import request, together
from xmi.backend.steps import Steps
from xmi.remote.requests import Requests, apart
from xmi.study import executors
from xmi.study.executors import choice, fork, ray
from xmi.study.executors.executor import Done
from xmi.study.executors.fork import Fork
from xmi.study.executors.host import AtHost
from xmi.study.executors.ray import Ray
from xmi.study.executors.ray_session import count_actors
from xmi.study.executors.serial import Serial
from xmi.study.grid import Cell, cells_of
from xmi.study.plan import Running
from xmi.study.prepare import prepare
from xmi.study.run import store_of
from xmi.study.work import Work

CELLS = [Cell(kind, "model", task, 0) for kind in ("read", "ask") for task in "abcd"]


@dataclass
class Small:
    """Work of which every question needs all that is read."""

    act: Callable[[Cell], float]

    def do(self, cell: Cell) -> Done:
        return Done(cell, {}, self.act(cell))

    def needs(self, cell: Cell) -> list[Cell]:
        return CELLS[:4] if cell.kind == "ask" else []


def noted(path: Path) -> Callable[[Cell], float]:
    """Writes down what began and ended, and where."""

    def do(cell: Cell) -> float:
        for what in ("begins", "ends"):
            with path.open("a") as stream:
                stream.write(f"{what} {cell.kind} {cell.task} {os.getpid()}\n")
            time.sleep(0.02)
        return 0.5

    return do


@pytest.mark.parametrize("count", [1, 2, 3])
def test_cells_wait_for_what_they_need(tmp_path: Path, count: int) -> None:
    log = tmp_path / "log"
    done = list(Fork(count).each(Small(noted(log)), CELLS))
    assert sorted(one.cell.key for one in done) == sorted(cell.key for cell in CELLS)
    assert {one.seconds for one in done} == {0.5}
    lines = [line.split() for line in log.read_text().splitlines()]
    last_read = max(i for i, (what, kind, *_) in enumerate(lines) if (what, kind) == ("ends", "read"))
    first_ask = min(i for i, (what, kind, *_) in enumerate(lines) if (what, kind) == ("begins", "ask"))
    assert last_read < first_ask
    ids = {line[3] for line in lines}
    assert len(ids) == count and (str(os.getpid()) in ids) == (count == 1)
    if count == 2:
        assert len({(line[2], line[3]) for line in lines}) <= 5, "a process goes on with the tasks it knows"


def test_an_error_arrives_with_the_trace_of_its_process() -> None:
    def do(cell: Cell) -> float:
        raise xmi.TaskError(f"no {cell.task}")

    with pytest.raises(xmi.TaskError, match=r"no [ab]") as caught:
        list(Fork(2).each(Small(do), CELLS))
    assert "in do" in caught.value.__notes__[0]


def test_an_error_that_cannot_be_sent_is_told(tmp_path: Path) -> None:
    class Odd(Exception):
        pass

    def do(cell: Cell) -> float:
        raise Odd(cell.task)

    with pytest.raises(RuntimeError, match=r"Odd: [ab]"):
        list(Fork(2).each(Small(do), CELLS))


def test_a_process_that_dies_is_missed() -> None:
    def do(cell: Cell) -> float:
        if cell.task == "b":
            os.kill(os.getpid(), signal.SIGKILL)
        return 0.0

    with pytest.raises(xmi.RunError, match=r"model\.0\.b\.read.*exit code -9.*memory.*workers=1"):
        list(Fork(2).each(Small(do), CELLS))


def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    """A killed process cannot end its workers; they must see for themselves, and write nothing more."""
    script = f"""
import os, sys, time
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from xmi.study.executors.fork import Fork
from xmi.study.grid import Cell
class Work:
    def needs(self, cell):
        return []
    def do(self, cell):
        os.write(1, f"{{os.getpid()}}\\n".encode())  # at once: with PYTHONUNBUFFERED, print writes the line's end apart
        time.sleep(60)
list(Fork(3).each(Work(), [Cell("read", "m", t, 0) for t in "abcd"]))
"""
    with command.start(script, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        ids = [int(process.stdout.readline()) for _ in range(3)]
        assert all(alive(i) for i in ids)
        process.send_signal(signal.SIGKILL)
        process.wait()
        end = time.monotonic() + 10
        while any(alive(i) for i in ids) and time.monotonic() < end:
            time.sleep(0.05)
        assert not any(alive(i) for i in ids)


def alive(number: int) -> bool:
    """Whether a process runs (and is no zombie)."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_several_processes_write_what_one_writes(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world", size=(200, 120))
    one = run(world, tmp_path / "one", workers=1)
    with start(world, tmp_path / "two") as process:
        process.communicate()
    assert files(one.path) == files(tmp_path / "two")


def test_work_can_be_done_where_it_was_sent(tmp_path: Path) -> None:
    """Pickled work holds no model; a process that never saw the study writes the same bytes into its folder."""
    world = make_world(tmp_path / "world")
    options = {"base": world / "base", "shots": 2, "prompts": 4, "seeds": (0,), "points": 4}
    asked = prepare(model=world / "eye", tasks=[str(world / "capital.json")], out=tmp_path / "run", **options)
    xmi.run(world / "eye", tasks=[str(world / "capital.json")], out=tmp_path / "run", workers=1, **options)
    work = Work(store_of(asked), cells_of(asked.plan, asked.tasks), asked.tasks, asked.loading)
    for name in work.names():
        work.model(name)
    before = files(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "cells")
    sent = tmp_path / "work.pickle"
    sent.write_bytes(pickle.dumps(work))
    assert len(sent.read_bytes()) < 100_000
    script = (
        f"import pickle; work = pickle.load(open({str(sent)!r}, 'rb')); "
        "[work.keep(work.do(cell)) for cell in work.cells]"
    )
    done = command.run(script)
    assert done.returncode == 0, done.stderr
    assert files(tmp_path / "run") == before


@dataclass
class Asking(Small):
    """Work that stands still at a request before and after it acts, for as long as `pause` says."""

    pause: Callable[[Cell], float] = lambda cell: 0.01

    def do(self, cell: Cell) -> Done:
        def run(calls: list[Any]) -> Steps[list[Any]]:
            yield self.pause(cell)
            return calls

        assert request(run, [cell]) == [cell]
        done = super().do(cell)
        assert request(run, [cell, cell]) == [cell, cell]
        return done


def test_cells_on_a_host_stand_still_together_and_wait_for_what_they_need() -> None:
    said: list[tuple[str, str | None]] = []
    slow = {"a": 0.2}  # the others overtake it
    work = Asking(lambda cell: said.append((cell.kind, cell.task)) or 0.0, lambda cell: slow.get(str(cell.task), 0.01))
    found = [done.cell for done in AtHost(3).each(work, CELLS)]
    assert sorted(map(str, found)) == sorted(map(str, CELLS)) and len(said) == len(CELLS)
    assert found[:4] == [CELLS[1], CELLS[2], CELLS[3], CELLS[0]], "cells that need a wait for it"
    begun = time.monotonic()
    list(AtHost(4).each(Asking(lambda cell: 0.0, lambda cell: 0.25), CELLS))
    assert time.monotonic() - begun < 8 * 0.5 / 2, "two rounds of four instead of eight"


@pytest.mark.parametrize("error", [xmi.JobError("cell a"), xmi.RemoteError("away"), KeyboardInterrupt()], ids=repr)
def test_a_failed_job_leaves_the_others_theirs(error: BaseException) -> None:
    left: list[str] = []

    def act(cell: Cell) -> float:
        try:
            if cell.task == "a":
                raise error
        finally:
            left.append(str(cell.task))
        return 0.0

    found: list[str | None] = []
    with pytest.raises(type(error)):
        for done in AtHost(3).each(Asking(act), CELLS):
            found.append(done.cell.task)
    # What is under way when a job fails is waited for; nothing more is begun. Of another error nothing can be hoped.
    assert found == (["b", "c"] if isinstance(error, xmi.JobError) else [])
    assert getcurrent().parent is None, "what comes afterwards is not in a cell"


class Sent:
    """Jobs that take a moment."""

    def steps(self, calls: list[Any], label: str) -> Steps[list[Any]]:
        yield 0.05
        return list(calls)

    def release(self, label: str) -> None:
        """Keeps nothing."""


@pytest.mark.timeout(20)
def test_what_is_waited_for_on_the_spot_does_not_wait_for_those_that_stand_still(tmp_path: Path) -> None:
    requests = Requests(lambda folder, tell: Sent(), tmp_path, in_flight=1)  # type: ignore[arg-type, return-value]

    def act(cell: Cell) -> float:
        ask: Callable[[], Any] = lambda: request(requests.now(), [(abs, (torch.ones(1),))])  # noqa: E731
        if cell.task == "a":
            return float(len(ask()))
        with apart():
            return float(len(together([ask], apart=True)[0]))

    assert len(list(AtHost(3).each(Small(act), CELLS))) == len(CELLS)


def test_the_first_that_takes_a_study_does_its_cells() -> None:
    said: list[str] = []
    small = type("Vlm", (), {"model": torch.nn.Linear(2, 2)})
    does = {"names": lambda _: ["small"], "model": lambda _, name, tell: tell(name) or small, "loading": {}}
    work = type("Work", (), does)()
    assert isinstance(choice.choose(Running(workers=1), work, said.append), Serial)
    assert choice.choose(Running(workers=3), work, said.append) == Fork(3)
    assert said == ["small", "small"]
    assert isinstance(choice.choose(Running(on="serial"), work, said.append), Serial)
    assert isinstance(choice.choose(Running(on="ray"), work, said.append), Ray)
    assert len(said) == 2, "a model was loaded here, though it is needed elsewhere"


class Rack(Serial):
    """Takes the studies that are meant for it."""

    @classmethod
    def offer(cls, running: Running, work: Any, tell: Any) -> Any:
        return cls() if executors.named(running.on) is cls else None

    @classmethod
    def check(cls, running: Running, loading: Any) -> None:
        if executors.named(running.on) is cls and loading.get("device") == "cuda":
            raise xmi.RunError("no GPU in the rack")


def test_another_kind_is_a_class_and_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = executors.Entry(f"{__name__}:Rack", ("rack",), port=7)
    for module in (executors, choice):
        monkeypatch.setattr(module, "REGISTRY", (entry, *executors.REGISTRY))
    running = Running(on="rack://node")
    assert running.on == "rack://node:7" and Running(on="rack").on == "rack"
    assert type(choice.choose(running, type("Work", (), {"loading": {}})(), print)).__name__ == "Rack"
    with pytest.raises(xmi.RunError, match="no GPU in the rack"):
        prepare(model="organism", tasks=["country-capital"], on="rack", device="cuda")


def test_every_kind_that_a_plan_names_is_found_and_told() -> None:
    for name in executors.NAMES:
        assert executors.named(Running(on=name).on) is not None
        assert name in str(Running.model_fields["on"].description)
    assert executors.named(Running(on="ray://head").on) is Ray


def test_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    small = torch.nn.Linear(2, 2)

    def count(model: torch.nn.Module = small, **asked: object) -> int:
        return fork.count_workers(Running(**asked), [model])

    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert count() == count(on="fork") == fork.MOST
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert count() == 1
    assert count(workers=3) == 3
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    monkeypatch.setattr(fork, "SMALL", 5)
    assert (count(), count(on="fork")) == (1, fork.MOST)
    elsewhere = torch.nn.Linear(2, 2, device="meta")
    assert count(elsewhere) == 1
    with pytest.raises(xmi.RunError, match=r"workers=2.*is on meta.*Use 1"):
        count(elsewhere, workers=2)
    with pytest.raises(xmi.RunError, match=r"on=fork.*is on meta.*--on ray"):
        count(elsewhere, on="fork")
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(xmi.RunError, match="darwin"):
        count(workers=2)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"on": "rays"}, "serial, fork, ray, auto or ray://host:port, found 'rays'"),
        ({"on": "ray://"}, "found 'ray://'"),
        ({"on": "serial", "workers": 2}, "serial is this process alone"),
        ({"gpus_per_model": 2}, "gpus_per_model=2 is for on: ray"),
        ({"on": "ray", "gpus_per_model": 1.5}, r"a part of one GPU such as 0\.5, found 1\.5"),
        ({"on": "ray", "gpus_per_model": 0}, "found 0"),
        ({"on": "ray", "remote": "http://x"}, "on a host, whose queue does the scheduling"),
        ({"workers": 2, "remote": "http://x"}, "in_flight says how many jobs are there"),
        ({"on": "auto", "device": "cudda"}, "device=cudda"),
        ({"on": "ray", "device": "cuda:1"}, "Ray gives each copy of the models its own GPU"),
        ({"on": "ray", "device": "cpu", "gpus_per_model": 1}, "with device=cpu"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_before_a_model_is_read(asked: dict[str, object], said: str, tmp_path: Path) -> None:
    with pytest.raises(xmi.RunError, match=said):
        prepare(model="organism", tasks=["country-capital"], out=tmp_path / "run", **asked)


def test_without_ray_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "find_spec", lambda name: None)
    with pytest.raises(xmi.RunError, match=r"pip install 'xmi\[ray\]'"):
        prepare(model="organism", tasks=["country-capital"], on="ray")


@pytest.mark.parametrize(
    ("gpus", "asked", "device", "expected"),
    [
        ([8], {}, None, (8, 1.0)),
        ([8], {}, "cpu", (4, 0.0)),
        ([8], {"workers": 3}, "cuda", (3, 1.0)),
        ([8], {"gpus_per_model": 0.5}, None, (16, 0.5)),
        ([8, 8], {"gpus_per_model": 3}, None, (4, 3.0)),  # no copy lies on two nodes
        ([0, 8], {}, None, (8, 1.0)),
        ([0], {}, None, (4, 0.0)),
        ([0], {"workers": 6}, None, (6, 0.0)),
        ([8], {"workers": 9}, None, "workers=9 with gpus_per_model=1: there is room for 8"),
        ([2, 2], {"gpus_per_model": 4}, None, "room for 0; Ray finds these GPUs per node: 2, 2"),
        ([0], {}, "cuda", "GPUs per node: 0"),
        ([0, 0], {"workers": 64}, None, "workers=64: Ray finds this many cores: 32"),
    ],
    ids=str,
)
def test_actors_are_as_many_as_fit(
    gpus: list[int], asked: dict[str, Any], device: str | None, expected: tuple[int, float] | str
) -> None:
    def count() -> tuple[int, float]:
        return count_actors(gpus, 32, Running(on="ray", **asked), device)

    if isinstance(expected, str):
        with pytest.raises(xmi.RunError, match=expected):
            count()
    else:
        assert count() == expected
