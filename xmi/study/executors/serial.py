"""Cells one after another, in this process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from xmi.errors import RunError
from xmi.study.executors.executor import Done, Executor, Say, Work
from xmi.study.grid import Cell
from xmi.study.plan import Running


class Serial(Executor):
    """Does cells in their order, which is one in which each has what it needs."""

    @classmethod
    def check(cls, running: Running, loading: Mapping[str, Any]) -> None:
        """Refuses several workers."""
        if running.on == "serial" and (running.workers or 1) > 1:
            raise RunError(f"workers={running.workers}: on: serial is this process alone. Leave one of them out.")

    @classmethod
    def offer(cls, running: Running, work: Work, tell: Say) -> Serial:
        """Takes any study."""
        return cls()

    def each(self, work: Work, cells: Sequence[Cell]) -> Iterator[Done]:
        """As `Executor.each`."""
        for cell in cells:
            yield work.do(cell)
