"""The geometry: likeness of task vectors, and clusters of single prompts."""

from __future__ import annotations

from functools import partial

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Bool, Float

from xmi import plot
from xmi.measure import Silhouette
from xmi.numerals import SPACE, decimal, defined
from xmi.report.panels import Draw, Entry
from xmi.report.sections.section import Finding, Part, for_each
from xmi.report.wording import LEVEL, layers, runs
from xmi.study.results import StudyResults


def geometry_takeaways(results: StudyResults) -> list[Finding]:
    """Whether prompts cluster by task or by modality, and where."""
    return for_each(results, lambda model: cluster_sentence(results.silhouette(model)))


def cluster_sentence(curve: Silhouette) -> str:
    """Whether points cluster by task more than by modality, as far as the tests allow to say.

    Args:
        curve: Both silhouettes.

    Returns:
        A sentence; nothing where one of the two has no clusters to compare.
    """
    gap = _gap(curve)
    if np.isnan(gap).all():
        return ""
    wins = clustered(curve)
    note = "" if curve.p_task is None else f"; clusters of tasks tested, p{SPACE}<{SPACE}{LEVEL} after correction"
    where = runs([str(i) for i in curve.layers], wins.tolist())
    best = clearest(curve, wins)
    if best is None:
        shown = "At no layer" if curve.p_task is None else "At no layer are prompts shown to"
        return f"{shown} {'do prompts ' if curve.p_task is None else ''}cluster by task more than by modality."
    return (
        f"Prompts cluster by task more than by modality at {layers(where)}; most clearly at layer "
        f"{curve.layers[best]} (silhouette {decimal(curve.by_task[best])} against "
        f"{decimal(curve.by_modality[best])}{note})."
    )


def clustered(curve: Silhouette) -> Bool[np.ndarray, " layer"]:
    """Where points cluster by task more than by modality, and their clusters of tasks pass the test, if it was made."""
    passed = np.ones(len(curve.layers), dtype=bool)
    if curve.p_task is not None:
        passed = np.array([defined(p) and p < LEVEL for p in curve.p_task])
    return np.logical_and(_gap(curve) > 0, passed)


def clearest(curve: Silhouette, among: Bool[np.ndarray, " layer"] | None = None) -> int | None:
    """Returns the index of the layer at which clusters of tasks are farthest ahead of those of modalities.

    Args:
        curve: Both silhouettes.
        among: Which layers are meant; all by default.

    Returns:
        The index; None where no layer has both.
    """
    gap = _gap(curve) if among is None else np.where(among, _gap(curve), np.nan)
    return None if np.isnan(gap).all() else int(np.nanargmax(gap))


def _gap(curve: Silhouette) -> Float[np.ndarray, " layer"]:
    both = [defined(t) and defined(m) for t, m in zip(curve.by_task, curve.by_modality, strict=True)]
    return np.where(both, curve.by_task - curve.by_modality, np.nan)


def _similarity(results: StudyResults, model: str, *, centred: bool) -> go.Figure:
    return plot.similarity(results.similarity(model, centred=centred))


def _projection(method: str) -> Draw:
    return lambda results, model: plot.projection(results.projection(model, method))


PART = Part(
    "geometry",
    (
        Entry(
            "similarity",
            "Cosine similarity of the task vectors",
            "One row per task and specification. Blocks on the diagonal that stand out from the rest mean: the same "
            "task, however it is specified, gives a similar vector. Removing the mean takes away the direction that "
            "all vectors share.",
            {"mean removed": partial(_similarity, centred=True), "raw": partial(_similarity, centred=False)},
        ),
        Entry(
            "projection",
            "Vectors of single prompts in the plane",
            "Each point is one prompt. Colour is the task, symbol the modality of its examples. Where modality does "
            "not matter, both symbols of one colour share a place.",
            {"PCA": _projection("pca"), "t-SNE": _projection("tsne")},
        ),
        Entry(
            "silhouette",
            "Clusters by task, or by modality",
            "The mean silhouette of the same points, once with tasks as clusters and once with modalities.",
            {"": lambda results, model: plot.silhouette(results.silhouette(model))},
        ),
    ),
    geometry_takeaways,
)
