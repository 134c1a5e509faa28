"""Progress bars for long work: shown at a terminal, silent in logs and tests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from threading import Lock
from typing import TypeVar

from xmi.terminal import visible

T = TypeVar("T")

_SCREEN = Lock()
"""Held by the bar that is shown: lines of several would overwrite one another."""


def track(items: Sequence[T] | Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Iterates with a progress bar on standard error.

    The bar appears only at a terminal, and only for more than one item, so that loops inside a larger progress
    stay quiet; while one bar is shown, other loops, of this thread or another, do without.

    Args:
        items: What to iterate over.
        description: What is being done; it is text, whatever it holds.
        total: Number of items, if they have no length.

    Yields:
        The items.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    count = total if total is not None else len(items) if isinstance(items, Sequence) else None
    console = Console(stderr=True)
    if not console.is_terminal or count in (0, 1) or not _SCREEN.acquire(blocking=False):
        yield from items
        return
    label = TextColumn("{task.description}", markup=False)
    columns = (label, BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=console, transient=True) as progress:
            yield from progress.track(items, total=count, description=visible(description, lines=False))
    finally:
        _SCREEN.release()
