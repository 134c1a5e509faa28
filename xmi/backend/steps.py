"""Work that has to wait: steps, between which whoever drives them may drive others.

A generator yields for how many seconds it has nothing to do, and returns what it found.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from heapq import heapify, heappop, heappush
from typing import TypeAlias, TypeVar

T = TypeVar("T")
Steps: TypeAlias = Generator[float, None, T]
"""Yields seconds, returns a result."""


def finish(steps: Steps[T]) -> T:
    """Goes through steps, sleeping in between."""
    while True:
        try:
            pause = next(steps)
        except StopIteration as done:
            found: T = done.value
            return found
        time.sleep(pause)


def abreast(several: Sequence[Steps[T]]) -> Steps[list[T]]:
    """Goes through the steps of several at the same time.

    Raises:
        Exception: What any of them raises; the others are given up.
    """
    results: dict[int, T] = {}
    due = [(0.0, number) for number in range(len(several))]
    heapify(due)
    while due:
        when, number = heappop(due)
        if (pause := when - time.monotonic()) > 0:
            yield pause
        try:
            heappush(due, (time.monotonic() + next(several[number]), number))
        except StopIteration as done:
            results[number] = done.value
    return [results[number] for number in range(len(several))]
