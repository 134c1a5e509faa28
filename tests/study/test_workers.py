"""Cells in several processes: order, errors, deaths, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import xmi
from tests.study.kill import files, start
from tests.study.test_study import run
from tests.zoo.world import make_world
from xmi.study import workers
from xmi.study.grid import Cell

CELLS = [Cell(kind, "model", task, 0) for kind in ("read", "ask") for task in "abcd"]


def needs(cell: Cell) -> list[Cell]:
    """Every question needs all that is read."""
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
    done = list(workers.each(CELLS, needs, noted(log), count))
    assert sorted(cell.key for cell, _ in done) == sorted(cell.key for cell in CELLS)
    assert {seconds for _, seconds in done} == {0.5}
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
        list(workers.each(CELLS, needs, do, 2))
    assert "in do" in caught.value.__notes__[0]


def test_an_error_that_cannot_be_sent_is_told(tmp_path: Path) -> None:
    class Odd(Exception):
        pass

    def do(cell: Cell) -> float:
        raise Odd(cell.task)

    with pytest.raises(RuntimeError, match=r"Odd: [ab]"):
        list(workers.each(CELLS, needs, do, 2))


def test_a_process_that_dies_is_missed() -> None:
    def do(cell: Cell) -> float:
        if cell.task == "b":
            os.kill(os.getpid(), signal.SIGKILL)
        return 0.0

    with pytest.raises(xmi.RunError, match=r"model\.0\.b\.read.*exit code -9.*memory.*workers=1"):
        list(workers.each(CELLS, needs, do, 2))


def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    """A killed process cannot end its workers; they must see for themselves, and write nothing more."""
    script = f"""
import os, sys, time
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from xmi.study import workers
from xmi.study.grid import Cell
def do(cell):
    os.write(1, f"{{os.getpid()}}\\n".encode())  # at once: with PYTHONUNBUFFERED, print writes the line's end apart
    time.sleep(60)
list(workers.each([Cell("read", "m", t, 0) for t in "abcd"], lambda cell: [], do, 3))
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        ids = [int(process.stdout.readline()) for _ in range(3)]
        assert all(alive(i) for i in ids)
        process.kill()
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


def test_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    small = torch.nn.Linear(2, 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert workers.count_workers(None, [small]) == workers.MOST
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert workers.count_workers(None, [small]) == 1
    assert workers.count_workers(3, [small]) == 3
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    monkeypatch.setattr(workers, "SMALL", 5)
    assert workers.count_workers(None, [small]) == 1
    elsewhere = torch.nn.Linear(2, 2, device="meta")
    assert workers.count_workers(None, [elsewhere]) == 1
    with pytest.raises(xmi.RunError, match=r"workers=2.*is on meta.*Use 1"):
        workers.count_workers(2, [elsewhere])
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(xmi.RunError, match="darwin"):
        workers.count_workers(2, [small])
    with pytest.raises(xmi.RunError, match="at least one"):
        monkeypatch.setattr(sys, "platform", "linux")
        workers.count_workers(0, [small])
