"""Results to plotly figures. Every function returns its figure and shows nothing."""

from __future__ import annotations

from collections.abc import Mapping
from functools import singledispatch
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from xmi.arguments import check_calls
from xmi.errors import ArgumentError
from xmi.measure import (
    Alignment,
    Answers,
    Comparison,
    LayerComparison,
    LensReading,
    Phases,
    Projection,
    Silhouette,
    Similarity,
    Transfer,
)
from xmi.measure.base_comparison import BaseComparison, BaseSimilarity
from xmi.measure.boundaries import Boundaries
from xmi.measure.ensembling import EnsembleCurve
from xmi.measure.overriding import Overriding
from xmi.measure.task_words import TaskWords
from xmi.plot.alignment import alignment
from xmi.plot.base_comparison import base_comparison, base_similarity
from xmi.plot.boundaries import boundaries
from xmi.plot.compare import comparisons, layer_comparison
from xmi.plot.ensembling import ensemble_curve
from xmi.plot.geometry import projection, silhouette
from xmi.plot.overriding import overriding
from xmi.plot.phases import phases
from xmi.plot.reading import reading
from xmi.plot.similarity import similarity
from xmi.plot.task_words import task_words
from xmi.plot.transfer import accuracies, majority, method_name, summary, transfer

__all__ = [
    "accuracies",
    "alignment",
    "base_comparison",
    "base_similarity",
    "boundaries",
    "comparisons",
    "ensemble_curve",
    "figure_of",
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
    "transfer",
]


@singledispatch
def figure_of(result: Any, **options: Any) -> go.Figure:
    """Draws any result of `xmi.measure`.

    Args:
        result: A result; a table of a summary or of comparisons (DataFrame); a list or dict of Phases; a dict of
            Answers or of summary tables.
        **options: Options of the function that draws it.

    Returns:
        The plotly figure.

    Raises:
        ArgumentError: Nothing here draws that type.
    """
    raise ArgumentError(f"xmi.plot has no figure for {type(result).__name__}; it draws the results of xmi.measure.")


check_calls(__name__)  # before the functions below are handed on, so that their options are checked, too

figure_of.register(Similarity, similarity)
figure_of.register(Projection, projection)
figure_of.register(Silhouette, silhouette)
figure_of.register(Alignment, alignment)
figure_of.register(Transfer, transfer)
figure_of.register(Phases, phases)
figure_of.register(Boundaries, boundaries)
figure_of.register(TaskWords, task_words)
figure_of.register(LensReading, reading)
figure_of.register(Answers, accuracies)
figure_of.register(Comparison, comparisons)
figure_of.register(BaseComparison, base_comparison)
figure_of.register(BaseSimilarity, base_similarity)
figure_of.register(EnsembleCurve, ensemble_curve)
figure_of.register(Overriding, overriding)
figure_of.register(LayerComparison, layer_comparison)


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
