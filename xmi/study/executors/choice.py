"""Which executor does the cells of a study."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from xmi.study.executors import REGISTRY, named
from xmi.study.executors.executor import Executor, Say, Work
from xmi.study.plan import Running


def choose(running: Running, work: Work, tell: Say) -> Executor:
    """The first that takes a study.

    Args:
        running: What the user asked for.
        work: The study's work; models are loaded here only if the choice depends on them.
        tell: Told one line per model that is loaded.

    Raises:
        RunError: Several processes were asked for where they cannot share a model.
    """
    offers: Iterator[Executor | None] = (entry.executor.offer(running, work, tell) for entry in REGISTRY)
    return next(executor for executor in offers if executor is not None)


def check(running: Running, loading: Mapping[str, Any]) -> None:
    """Refuses what cannot be done, before anything is loaded.

    Args:
        running: What the user asked for.
        loading: Options of `xmi.load`.

    Raises:
        RunError: Options that exclude each other, or a library that is missing.
    """
    for entry in REGISTRY:
        entry.executor.check(running, loading)


def loads_here(running: Running) -> bool:
    """Whether models are loaded on this machine, so that they can only go to its devices."""
    kind = named(running.on)
    return kind is None or kind.loads_here(running)
