"""Cells whose models are on a host, several at the same time, in this thread.

A cell computes until it needs the host; then it stands still, and others go on until its job has ended. So nothing here
runs at the same time but waiting, and the jobs of several cells are under way together.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from xmi.backend import backend_for
from xmi.backend.gather import Coroutine
from xmi.backend.steps import Steps
from xmi.errors import JobError, RunError
from xmi.study.executors.executor import Done, Executor, Say, Work
from xmi.study.executors.schedule import Schedule
from xmi.study.grid import Cell
from xmi.study.plan import Running


@dataclass(frozen=True)
class AtHost(Executor):
    """Does cells that stand still at their requests.

    Attributes:
        count: How many are begun at the same time at most.
    """

    count: int

    @classmethod
    def check(cls, running: Running, loading: Mapping[str, Any]) -> None:
        """Refuses workers: what is under way together is jobs."""
        if not backend_for(loading.get("remote")).needs_weights and (running.workers or 1) > 1:
            raise RunError(
                f"workers={running.workers}: cells are done on a host (remote: {loading['remote']}); in_flight says "
                "how many jobs are there at the same time. Leave workers out."
            )

    @classmethod
    def offer(cls, running: Running, work: Work, tell: Say) -> AtHost | None:
        """Takes a study whose models compute elsewhere."""
        here = backend_for(work.loading.get("remote")).needs_weights
        if here or running.on is not None or running.workers == 1:
            return None
        count = max(work.model(name, tell).engine.backend.in_flight for name in work.names())
        return cls(count) if count > 1 else None

    def each(self, work: Work, cells: Sequence[Cell]) -> Iterator[Done]:
        """As `Executor.each`; what is under way when a job fails is waited for before its error is raised."""
        begun: list[_Begun] = []
        try:
            yield from self._each(work, Schedule(cells, work.needs), begun)
        finally:
            for one in begun:
                one.give_up()

    def _each(self, work: Work, schedule: Schedule, begun: list[_Begun]) -> Iterator[Done]:
        failure = None
        while schedule.left and (failure is None or begun):
            while failure is None and len(begun) < self.count and (cell := schedule.take(0)) is not None:
                begun.append(_Begun(Coroutine(partial(work.do, cell))))
            first = min(begun, key=lambda one: one.due)
            time.sleep(max(0.0, first.due - time.monotonic()))
            try:
                done = first.go_on()
            except JobError as error:
                begun.remove(first)
                failure = failure or error
                continue
            if done is not None:
                begun.remove(first)
                yield done
                schedule.done(done.cell)
        if failure is not None:
            raise failure


@dataclass(eq=False)
class _Begun:
    """A cell that was begun.

    Attributes:
        coroutine: What does it.
        steps: The request at which it stands, if it has come to one.
        due: When there is something to do for it.
    """

    coroutine: Coroutine
    steps: Steps[list[Any]] | None = None
    due: float = 0.0

    def go_on(self) -> Done | None:
        """One step of its request, and when that has ended on to the next one; at the end, what it gave."""
        if self.steps is None:
            given = self.coroutine.switch()
        else:
            try:
                self.due = time.monotonic() + next(self.steps)
                return None
            except StopIteration as ended:
                answer = ended.value
            except BaseException as error:
                self.coroutine.throw(error)  # out of the cell, and raised here again
                raise
            given = self.coroutine.switch(answer)
        if self.coroutine.dead:
            done: Done = given
            return done
        run, calls = given
        self.steps, self.due = run(calls), 0.0
        return None

    def give_up(self) -> None:
        """Ends it where it stands; its job goes on at the host."""
        if self.steps is not None:
            self.steps.close()
        if not self.coroutine.dead:
            self.coroutine.throw()
