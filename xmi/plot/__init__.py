"""Results to plotly figures. Every function returns its figure and shows nothing.

To add one, write a module with a function and say which result it draws (see `registry.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from xmi.arguments import check_calls
from xmi.measure import Phases
from xmi.plot.alignment import alignment
from xmi.plot.attention import attention
from xmi.plot.base_comparison import base_comparison, base_similarity
from xmi.plot.boundaries import boundaries
from xmi.plot.compare import comparisons, layer_comparison
from xmi.plot.ensembling import ensemble_curve
from xmi.plot.geometry import projection, silhouette
from xmi.plot.glance import glance
from xmi.plot.overriding import overriding
from xmi.plot.phases import phases
from xmi.plot.reading import reading
from xmi.plot.registry import figure_of
from xmi.plot.similarity import similarity
from xmi.plot.task_words import task_words
from xmi.plot.trajectory import trajectory
from xmi.plot.transfer import accuracies, majority, method_name, summary, transfer

__all__ = [
    "accuracies",
    "alignment",
    "attention",
    "base_comparison",
    "base_similarity",
    "boundaries",
    "comparisons",
    "ensemble_curve",
    "figure_of",
    "glance",
    "layer_comparison",
    "majority",
    "method_name",
    "overriding",
    "phases",
    "projection",
    "reading",
    "silhouette",
    "similarity",
    "summary",
    "task_words",
    "trajectory",
    "transfer",
]


for _module in iter_modules(__path__):  # whatever stands in this folder draws the results that it names
    import_module(f"{__name__}.{_module.name}")


@figure_of.register(pd.DataFrame)
def _of_table(result: pd.DataFrame, **options: Any) -> go.Figure:
    return (comparisons if "contrast" in result.columns else summary)(result, **options)


@figure_of.register(list)
@figure_of.register(tuple)
def _of_several(result: Any, **options: Any) -> go.Figure:
    return phases(result, **options)


@figure_of.register(Mapping)
def _of_named(result: Any, **options: Any) -> go.Figure:
    first = next(iter(result.values()), None)
    if isinstance(first, Phases):
        return phases(result, **options)
    return (summary if isinstance(first, pd.DataFrame) else accuracies)(result, **options)


check_calls(__name__)
