"""What does the cells of a study, and what it is given."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Protocol

from xmi.study.grid import Cell


class Work(Protocol):
    """A study's work, as `xmi.study.work.Work` describes it: it can be pickled, and loads models where it is done."""

    def needs(self, cell: Cell) -> Collection[Cell]:
        """What must be finished before a cell."""

    def do(self, cell: Cell) -> float:
        """Does a cell and stores what it gives; returns the seconds that it took."""


class Executor(Protocol):
    """Says where cells are done."""

    def each(self, work: Work, cells: Sequence[Cell]) -> Iterator[tuple[Cell, float]]:
        """Does cells, each after those it needs, and yields them with their seconds as they are finished.

        Args:
            work: The study's work.
            cells: What to do, in the order of choice; what a cell needs and is not among them is finished.

        Raises:
            RunError: A process died.
            Exception: What a cell raised; nothing more is begun then.
        """
