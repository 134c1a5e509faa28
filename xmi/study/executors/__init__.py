"""Where the cells of a study are done: one module each.

To add one, write a module with an `offer` (see `choose`) and name it in `REGISTRY`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from xmi.errors import RunError
from xmi.study.executors import fork, host, ray, serial
from xmi.study.executors.executor import Executor, Say, Work
from xmi.study.plan import Running

REGISTRY = (ray, host, fork, serial)
"""In the order in which they are asked; the last one takes any study."""


def choose(running: Running, work: Work, tell: Say) -> Executor:
    """The first that takes a study.

    Args:
        running: What the user asked for.
        work: The study's work; models are loaded here only if the choice depends on them.
        tell: Told one line per model that is loaded.

    Raises:
        RunError: Several processes were asked for where they cannot share a model.
    """
    offers: Iterator[Executor | None] = (module.offer(running, work, tell) for module in REGISTRY)
    return next(executor for executor in offers if executor is not None)


def check(running: Running, loading: Mapping[str, Any]) -> None:
    """Refuses what cannot be done, before anything is loaded.

    Args:
        running: What the user asked for.
        loading: Options of `xmi.load`.

    Raises:
        RunError: Options that exclude each other, or a library that is missing.
    """
    if running.on == "serial" and (running.workers or 1) > 1:
        raise RunError(f"workers={running.workers}: on: serial is this process alone. Leave one of them out.")
    if loading.get("remote") and not ray.meant(running) and (running.workers or 1) > 1:
        raise RunError(
            f"workers={running.workers}: cells are done on a host (remote: {loading['remote']}); in_flight says how "
            "many jobs are there at the same time. Leave workers out."
        )
    if ray.meant(running):
        ray.check(running, loading)
    elif running.gpus_per_model is not None:
        raise RunError(f"gpus_per_model={running.gpus_per_model:g} is for on: ray, which loads a model per worker.")


def loads_here(running: Running) -> bool:
    """Whether models are loaded on this machine, so that they can only go to its devices."""
    return not ray.meant(running) or running.on == "ray"
