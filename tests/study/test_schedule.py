"""Which cell is next: needs, affinity, deaths, and a cost that grows no faster than the study."""

from __future__ import annotations

import random
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import pytest

import xmi
from xmi.study.executors.executor import Done
from xmi.study.executors.schedule import Lost, Schedule, drive
from xmi.study.experiments import registry
from xmi.study.grid import Cell, needs_among


def cells_of(models: int, tasks: int, seeds: int) -> list[Cell]:
    """All that is read, then all that is asked, model by model and seed by seed."""
    return [
        Cell(kind, f"m{model}", f"t{task}", seed)
        for model in range(models)
        for seed in range(seeds)
        for kind in ("read", "ask")
        for task in range(tasks)
    ]


def test_needs_are_those_of_the_definition() -> None:
    """Every pair is looked at."""
    cells = [*cells_of(2, 3, 2), *(Cell(kind, "m0", None, 0) for kind in ("words", "lens", "geometry", "base"))]
    kinds = registry()
    for cell, found in needs_among(cells).items():
        assert list(found) == [
            other
            for kind in kinds[cell.kind].takes
            for other in cells
            if other.kind == kind
            and other.model == cell.model
            and (other.seed == cell.seed or not kinds[kind].every_seed)
        ]


@pytest.mark.parametrize("seed", range(20))
def test_any_order_of_events_is_sound(seed: int) -> None:
    """Random needs, random workers, random deaths; what is ready is found by looking at all cells each time."""
    rng = random.Random(seed)
    cells = cells_of(rng.randint(1, 3), rng.randint(1, 5), rng.randint(1, 3))
    needs = {cell: rng.sample(cells[:i], min(i, rng.randint(0, 3))) for i, cell in enumerate(cells)}
    schedule, done, busy = Schedule(cells, needs.__getitem__), set[Cell](), dict[int, Cell]()
    homes: dict[tuple[str, str | None], int] = {}
    loaded: dict[int, set[str]] = defaultdict(set)
    while len(done) < len(cells):
        worker = rng.randrange(4)
        if worker not in busy:
            ready = [c for c in cells if not {*done, *busy.values()} & {c} and done.issuperset(needs[c])]
            cell = schedule.take(worker)
            assert (cell in ready) if ready else cell is None
            if cell is not None:
                home = {c: homes.get((c.model, c.task)) for c in ready}
                free = [c for c in ready if home[c] is None]
                own = [c for c in ready if home[c] == worker]
                best = own or [c for c in free if c.model in loaded[worker]] or free or ready
                assert cell == best[0], "the first of the best, in the plan's order"
                homes.setdefault((cell.model, cell.task), worker)
                loaded[worker].add(cell.model)
                busy[worker] = cell
        elif rng.random() < 0.2:
            schedule.lost(worker, busy.pop(worker))
            homes = {about: home for about, home in homes.items() if home != worker}
            loaded.pop(worker, None)
        else:
            done.add(cell := busy.pop(worker))
            schedule.done(cell)
        assert schedule.left == len(cells) - len(done)


class Mortal:
    """Workers that answer at once; one cell kills whoever is at it, so many times."""

    def __init__(self, deaths: int) -> None:
        self.deaths, self.given = deaths, Counter[Cell]()

    def hire(self, worker: int) -> tuple[int, int]:
        return worker, -1

    def give(self, worker: int, cell: Cell) -> tuple[int, Cell]:
        self.given[cell] += 1
        return worker, cell

    def wait(self, handles: Sequence[Any]) -> Sequence[Any]:
        return handles[:1]

    def take(self, handle: Any, worker: int, cell: Cell | None) -> Done | Lost | None:
        if cell is not None and cell.task == "t1" and self.given[cell] <= self.deaths:
            return Lost("no memory")
        return None if cell is None else Done(cell, {}, 0.0)


def test_a_cell_is_begun_three_times_at_most() -> None:
    cells, work = cells_of(1, 3, 1)[:3], type("Work", (), {"needs": lambda self, cell: ()})()
    crew = Mortal(deaths=2)
    assert {done.cell for done in drive(work, cells, crew, 2)} == set(cells)
    assert crew.given[cells[1]] == 3 and crew.given.total() == 5
    with pytest.raises(xmi.RunError, match=r"3 workers died.*work on m0\.0\.t1\.read: no memory"):
        list(drive(work, cells, Mortal(deaths=3), 2))


def test_the_cost_grows_with_the_number_of_cells() -> None:
    def seconds(seeds: int) -> float:
        cells = cells_of(1, 25, seeds)
        start = time.process_time()
        needs = needs_among(cells)
        schedule = Schedule(cells, needs.__getitem__)
        for number in range(len(cells)):
            cell = schedule.take(number % 8)
            assert cell is not None
            schedule.done(cell)
        return time.process_time() - start

    few, many = (min(seconds(seeds) for _ in range(5)) for seeds in (20, 160))
    assert many / few < 20, "8 times as many cells took more than 20 times as long"
    assert few < 1, "a thousand cells"
