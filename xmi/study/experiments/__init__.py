"""What a study does: one module per experiment, which says all that there is to say of its cells.

To add one, write a module with its `EXPERIMENTS` (see `experiment.py`): a plan may choose it by the module's name.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line needs the names for --help, and must not wait for torch
    from xmi.study.experiments.experiment import Experiment

FIRST = ("lens", "words", "base_comparison", "vectors", "queries")
"""What belongs to every study that has the models and tasks for it; neighbours that every seed needs are done seed by
seed."""

LAST = ("geometry",)
"""What every study ends with."""

_MODULES = sorted(module.name for module in iter_modules(__path__))
CHOSEN = tuple(name for name in _MODULES if name not in (*FIRST, *LAST, "experiment"))
"""What a plan chooses: all other modules here."""

LISTED = ("ask", "lens", "words", "base_comparison", "overriding", "geometry", "ensembling", "base")
"""Kinds of cells in the order in which the index of a run folder lists what they give; others follow."""


@cache
def registry() -> dict[str, Experiment]:
    """All experiments, by the kind of their cells."""
    modules = (import_module(f"{__name__}.{name}") for name in (*FIRST, *CHOSEN, *LAST))
    return {experiment.kind: experiment for module in modules for experiment in module.EXPERIMENTS}
