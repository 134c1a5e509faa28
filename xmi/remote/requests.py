"""What is asked of a model on a host: calls of kernels become jobs, of bounded size and number."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from threading import RLock, Semaphore
from typing import Any, TypeVar

from xmi.backend.gather import Call
from xmi.backend.portions import cut_calls
from xmi.backend.steps import Steps, abreast
from xmi.remote.jobs import Jobs
from xmi.remote.payload import load_of

T = TypeVar("T")
Say = Callable[[str], None]

SEAT = 0.02
"""Seconds after which a job that waits for others looks again."""

_ABOUT: ContextVar[str] = ContextVar("xmi_about", default="")
"""What requests are for."""
_APART: ContextVar[bool] = ContextVar("xmi_apart", default=False)
"""Whether who asks waits on the spot, so that nothing else goes on meanwhile."""


@contextmanager
def apart() -> Iterator[None]:
    """Says that requests inside are waited for on the spot."""
    token = _APART.set(True)
    try:
        yield
    finally:
        _APART.reset(token)


@contextmanager
def about(label: str) -> Iterator[None]:
    """Names what the requests inside are for; errors and statistics show it."""
    token = _ABOUT.set(label)
    try:
        yield
    finally:
        _ABOUT.reset(token)


class Requests:
    """The requests of one model.

    Attributes:
        jobs: Where they are kept.
    """

    def __init__(self, kept: Callable[[Path, Say | None], Jobs], folder: Path, in_flight: int) -> None:
        """Nothing is sent yet.

        Args:
            kept: Makes the jobs of a folder.
            folder: Where they are kept, unless `kept_in` says otherwise.
            in_flight: How many jobs are under way at the same time at most, not counting one that is waited for on the
                spot.
        """
        self.jobs = kept(folder, None)
        self._kept, self._keeping = kept, False
        self._one, self._seats = RLock(), Semaphore(in_flight)

    def now(self) -> _Asking:
        """Requests for what is being done: a function for `request`."""
        return _Asking(self, _ABOUT.get(), _APART.get())

    def steps(self, calls: Sequence[Call], label: str, *, spot: bool = False) -> Steps[list[Any]]:
        """Runs kernels, in one request or, if they are too much for one, in several at the same time.

        Args:
            calls: Kernels with their arguments after the model.
            label: What they are for; nothing stands for the kernels' names.
            spot: They are waited for on the spot. Those that are under way cannot end then, so nothing waits for them.

        Returns:
            What each gave.

        Raises:
            RemoteError: As in `Jobs.run`.
        """
        label = label or " + ".join(dict.fromkeys(kernel.__name__.removesuffix("_kernel") for kernel, _ in calls))
        rest = iter(calls)
        parts = [list(islice(rest, size)) for size in cut_calls(map(load_of, calls))]
        with self._one:  # jobs stand in files by their label: threads that ask the same ask one after the other
            jobs, keeping = self.jobs, self._keeping
            sent = [jobs.steps(part, label) for part in parts]
            found = (yield from _in_turn(sent)) if spot else (yield from abreast([self._seated(one) for one in sent]))
            if not keeping:
                jobs.release(label)
        return [one for part in found for one in part]

    def _seated(self, steps: Steps[T]) -> Steps[T]:
        """The steps of a job, once few enough others are under way."""
        while not self._seats.acquire(blocking=False):
            yield SEAT
        try:
            return (yield from steps)
        finally:
            self._seats.release()

    @contextmanager
    def kept_in(self, folder: Path, tell: Say) -> Iterator[None]:
        """Keeps jobs and their results in a folder, until `release` says that they are stored elsewhere."""
        before = self.jobs, self._keeping
        self.jobs, self._keeping = self._kept(folder, tell), True
        try:
            yield
        finally:
            self.jobs, self._keeping = before

    def release(self, label: str) -> None:
        """Drops what was kept under a label."""
        self.jobs.release(label)


@dataclass(frozen=True)
class _Asking:
    """Requests of one model for one purpose; those that are equal are sent together."""

    requests: Requests
    label: str
    spot: bool

    def __call__(self, calls: Sequence[Call]) -> Steps[list[Any]]:
        return self.requests.steps(calls, self.label, spot=self.spot)


def _in_turn(several: Sequence[Steps[T]]) -> Steps[list[T]]:
    """Goes through the steps of several, one after another."""
    found = []
    for steps in several:
        found.append((yield from steps))
    return found
