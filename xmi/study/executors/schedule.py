"""Which cell is done next, and by whom. Needs are counted, so that the cost grows with their number and no faster."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any, Protocol, TypeAlias

from xmi.errors import RunError
from xmi.study.executors.executor import Done, Work
from xmi.study.grid import Cell

TRIES = 3
"""How often a cell is begun whose worker dies of it, or a worker that dies when it starts."""

Key: TypeAlias = "int | str"
"""Whose queue: a worker's, or that of a model's cells whose tasks no worker has begun."""


class Schedule:
    """The cells that are left, for several workers.

    A worker best goes on with the tasks that it began (what no seed changes is in its memory), then with tasks that
    nobody began, those of a model that it has loaded first; before it idles, it takes over what waits for another.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        needs: Callable[[Cell], Collection[Cell]],
        loaded: Mapping[int, Collection[str]] | None = None,
    ) -> None:
        """Begins with what needs nothing.

        Args:
            cells: The cells, in the order of choice.
            needs: What a cell needs; what is not among the cells is finished.
            loaded: The models that workers have.
        """
        self.left = len(cells)
        self._rank = {cell: rank for rank, cell in enumerate(cells)}
        self._missing: dict[Cell, int] = {}
        self._takers: dict[Cell, list[Cell]] = defaultdict(list)
        self._ready: dict[tuple[str, str | None], set[Cell]] = defaultdict(set)
        self._home: dict[tuple[str, str | None], int] = {}
        self._queues: dict[Key, list[tuple[int, Cell]]] = defaultdict(list)
        self._loaded: dict[int, set[str]] = defaultdict(set)
        self._loaded.update({worker: set(models) for worker, models in (loaded or {}).items()})
        for cell in cells:
            missing = [other for other in needs(cell) if other in self._rank]
            self._missing[cell] = len(missing)
            for other in missing:
                self._takers[other].append(cell)
        for cell in cells:
            if not self._missing[cell]:
                self._offer(cell)

    def take(self, worker: int) -> Cell | None:
        """The next cell for a worker; None if all that are left wait for others."""
        has = self._loaded[worker]
        free = [key for key in self._queues if isinstance(key, str)]
        others = [key for key in self._queues if isinstance(key, int) and key != worker]
        for keys in ([worker], [m for m in free if m in has], [m for m in free if m not in has], others):
            first = [(self._queues[key][0], key) for key in keys if self._first(key)]
            if first:
                (_, cell), key = min(first)
                self._begin(cell, worker, new=isinstance(key, str))
                return cell
        return None

    def done(self, cell: Cell) -> None:
        """A cell is finished and stored: what waited for it alone can be begun."""
        self.left -= 1
        for taker in self._takers.pop(cell, ()):
            self._missing[taker] -= 1
            if not self._missing[taker]:
                self._offer(taker)

    def lost(self, worker: int, cell: Cell | None) -> None:
        """A worker died: the cell it was at is to be done again, and what waited for it is anybody's."""
        self._loaded.pop(worker, None)
        self._queues.pop(worker, None)
        again = [cell] if cell else []
        for about in [about for about, home in self._home.items() if home == worker]:
            del self._home[about]
            again += self._ready[about]
        for one in again:
            self._offer(one)

    def _offer(self, cell: Cell) -> None:
        about = (cell.model, cell.task)
        self._ready[about].add(cell)
        heappush(self._queues[self._home.get(about, cell.model)], (self._rank[cell], cell))

    def _begin(self, cell: Cell, worker: int, new: bool) -> None:
        about = (cell.model, cell.task)
        self._ready[about].remove(cell)
        self._loaded[worker].add(cell.model)
        if new:
            self._home[about] = worker
            for other in self._ready[about]:
                self._offer(other)

    def _first(self, key: Key) -> bool:
        """Whether a queue holds a cell; entries that are done, or have moved to another queue, are dropped."""
        queue = self._queues[key]
        while queue:
            cell = queue[0][1]
            about = (cell.model, cell.task)
            if cell in self._ready[about] and self._home.get(about, cell.model) == key:
                return True
            heappop(queue)
        return False


@dataclass(frozen=True)
class Lost:
    """A worker that died; another has taken its place.

    Attributes:
        why: What is known of the reason.
    """

    why: str


class Crew(Protocol):
    """Several workers, by their numbers. What one is at has a handle."""

    def hire(self, worker: int) -> Any:
        """Starts a worker, anew if it died; it has answered when it is ready."""

    def give(self, worker: int, cell: Cell) -> Any:
        """Begins a cell."""

    def wait(self, handles: Sequence[Any]) -> Iterable[Any]:
        """Waits until at least one has an answer, and returns those that have."""

    def take(self, handle: Any, worker: int, cell: Cell | None) -> Done | Lost | None:
        """The answer; None if a worker is ready. Raises what the cell raised."""


def drive(
    work: Work, cells: Sequence[Cell], crew: Crew, count: int, loaded: Mapping[int, Collection[str]] | None = None
) -> Iterator[Done]:
    """Has a crew do cells, as `Executor.each` says.

    Args:
        work: The study's work.
        cells: The cells, in the order of choice.
        crew: The workers.
        count: How many they are.
        loaded: The models that workers have.

    Raises:
        RunError: Several workers died of one cell.
    """
    schedule, losses = Schedule(cells, work.needs, loaded), Losses()
    busy: dict[Any, tuple[int, Cell | None]] = {crew.hire(worker): (worker, None) for worker in range(count)}
    idle: list[int] = []

    def give() -> None:
        while idle and (cell := schedule.take(idle[0])) is not None:
            worker = idle.pop(0)
            busy[crew.give(worker, cell)] = worker, cell

    while schedule.left:
        finished = []
        for handle in crew.wait(list(busy)):
            worker, cell = busy.pop(handle)
            answer = crew.take(handle, worker, cell)
            if isinstance(answer, Lost):
                losses.add(cell.key if cell else "", answer)
                schedule.lost(worker, cell)
                busy[crew.hire(worker)] = worker, None
                continue
            losses.forget(cell.key if cell else "")
            idle.append(worker)
            finished += [answer] if answer else []
        give()  # before anything is stored: nobody waits for the disk
        for done in finished:
            yield done
            schedule.done(done.cell)
        give()


class Losses:
    """How often workers died, by what they were at; too often is an error."""

    def __init__(self) -> None:
        """Begins at none."""
        self._count: Counter[str] = Counter()

    def add(self, what: str, lost: Lost) -> None:
        """Counts one.

        Args:
            what: The key of a cell, or nothing for a worker that was starting.
            lost: What is known.

        Raises:
            RunError: It was one too many.
        """
        self._count[what] += 1
        if self._count[what] == TRIES:
            about = f"were at work on {what}" if what else "were starting"
            raise RunError(
                f"{TRIES} workers died, one after another, while they {about}: {lost.why}. Finished cells are kept. "
                "The usual reason is that memory runs out: give fewer workers, and run again."
            )

    def forget(self, what: str) -> None:
        """It went well."""
        del self._count[what]
