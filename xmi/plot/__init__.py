"""Results to plotly figures. Every function returns its figure and shows nothing."""

from __future__ import annotations

from collections.abc import Mapping
from functools import singledispatch
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from xmi.measure import Answers, LensReading, Phases, Projection, Silhouette, Similarity, Transfer
from xmi.plot.geometry import projection, silhouette
from xmi.plot.phases import phases
from xmi.plot.reading import reading
from xmi.plot.similarity import similarity
from xmi.plot.transfer import accuracies, majority, method_name, summary, transfer

__all__ = [
    "accuracies",
    "figure_of",
    "majority",
    "method_name",
    "phases",
    "projection",
    "reading",
    "silhouette",
    "similarity",
    "summary",
    "transfer",
]


@singledispatch
def figure_of(result: Any, **options: Any) -> go.Figure:
    """Draws any result of `xmi.measure`.

    Args:
        result: A result; a summary table (DataFrame); a list or dict of Phases; a dict of Answers or of summary tables.
        **options: Options of the function that draws it.

    Returns:
        The plotly figure.

    Raises:
        TypeError: Nothing here draws that type.
    """
    raise TypeError(f"xmi.plot has no figure for {type(result).__name__}; it draws the results of xmi.measure.")


figure_of.register(Similarity, similarity)
figure_of.register(Projection, projection)
figure_of.register(Silhouette, silhouette)
figure_of.register(Transfer, transfer)
figure_of.register(Phases, phases)
figure_of.register(LensReading, reading)
figure_of.register(Answers, accuracies)
figure_of.register(pd.DataFrame, summary)


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
