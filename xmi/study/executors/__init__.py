"""Where the cells of a study are done: one module each.

To add one, write a module with an `offer` (see `choose`) and name it in `REGISTRY`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch

from xmi.study.executors import fork, serial
from xmi.study.executors.executor import Executor

REGISTRY = (fork, serial)
"""In the order in which they are asked; the last one takes any study."""


def choose(workers: int | None, models: Collection[torch.nn.Module]) -> Executor:
    """The first that takes a study.

    Args:
        workers: How many processes the user asked for; None leaves it to the models.
        models: All that are loaded.

    Raises:
        RunError: Several processes were asked for where they cannot share a model.
    """
    offers: Iterator[Executor | None] = (module.offer(workers, models) for module in REGISTRY)
    return next(executor for executor in offers if executor is not None)
