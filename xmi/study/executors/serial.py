"""Cells one after another, in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from xmi.study.executors.executor import Done, Executor, Say, Work
from xmi.study.grid import Cell
from xmi.study.plan import Running


class Serial(Executor):
    """Does cells in their order, which is one in which each has what it needs."""

    def each(self, work: Work, cells: Sequence[Cell]) -> Iterator[Done]:
        """As `Executor.each`."""
        for cell in cells:
            yield work.do(cell)


def offer(running: Running, work: Work, tell: Say) -> Serial:
    """Takes any study."""
    return Serial()
