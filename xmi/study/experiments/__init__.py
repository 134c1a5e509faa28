"""What a study does: one module per experiment, which says all that there is to say of its cells.

To add one, write a module with its `EXPERIMENTS` (see `experiment.py`) and name it in `MODULES`; if a plan chooses
whether it is done, name its kind in `CHOSEN`, too.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line needs the names for --help, and must not wait for torch
    from xmi.study.experiments.experiment import Experiment

MODULES = (
    "lens",
    "words",
    "base_comparison",
    "vectors",
    "queries",
    "ensembling",
    "overriding",
    "geometry",
)
"""In the order in which a study does them; neighbours that every seed needs are done seed by seed."""

CHOSEN = ("ensembling", "overriding")
"""What a study does beyond the matrix: accuracy against the number of examples with and without the instruction, and
one task in the prompt with another one's vector patched in."""


@cache
def registry() -> dict[str, Experiment]:
    """All experiments, by the kind of their cells."""
    modules = (import_module(f"{__name__}.{name}") for name in MODULES)
    return {experiment.kind: experiment for module in modules for experiment in module.EXPERIMENTS}
