"""The alignment of modalities: its panels, its table, and what it says in sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from xmi import plot
from xmi.errors import RunError
from xmi.measure import Alignment, Proportion
from xmi.measure.judgement import LEAST, too_few
from xmi.numerals import decimal, estimate, interval, p_value
from xmi.numerals import percent as share
from xmi.report.panels import Entry
from xmi.report.sections.section import Finding, Part
from xmi.report.wording import LEVEL, layers, percent, runs
from xmi.study.results import StudyResults

MARGIN = "cosine, same minus different task, across modalities"
_VIEWS = {"gap removed": "gap removed", "raw": "raw"}
_TEXTS = {
    "cosine": (
        "Cosine of prompts: the same task against different tasks",
        "Mean cosine of pairs of prompts. Solid above dashed: prompts of one task lie nearer to each other than to "
        "those of other tasks; across modalities, whichever way the task was shown. The test across modalities "
        "exchanges the names of one modality's tasks, the test within them the tasks of its prompts. Removing the gap "
        "subtracts each modality's mean.",
    ),
    "centroids": (
        "Centroids of one modality, prompts of the other",
        "Each prompt is given to the nearest centroid (mean over prompts of a task, at unit length). Bands are 95 % "
        "Wilson intervals over prompts. Within a modality each prompt is left out of its own centroid: the ceiling. "
        "Dotted: one in as many as there are tasks.",
    ),
    "shape": (
        "One shape in both modalities?",
        "CKA (unbiased, linear), RSA (rank correlation of the distances between tasks) and Procrustes (a rotation "
        "fitted on the other tasks carries a task onto its partner) compare shapes and ask for no common coordinates. "
        "With few tasks they are uncertain: the test exchanges the names of one modality's tasks.",
    ),
}
_COLUMNS = (
    ("same minus different task", MARGIN),
    ("{a} to {b}", "centroids, {a} to {b}"),
    ("{b} to {a}", "centroids, {b} to {a}"),
    ("CKA", "CKA"),
    ("RSA", "RSA"),
    ("Procrustes", "Procrustes"),
)


def alignment_of(results: StudyResults, model: str) -> Alignment:
    """Returns the stored alignment of text and image prompts of one model.

    Raises:
        RunError: The study holds none.
    """
    return results.alignment(model)


def alignment_takeaways(results: StudyResults) -> list[Finding]:
    """Where prompts of one task lie together across modalities, and whether centroids carry over."""
    found: list[Finding] = []
    for model in results.models:
        try:
            result = alignment_of(results, model)
        except RunError:  # not measured
            continue
        found += [(model, together(result)), (model, carried(result))]
    return found


def alignment_tables(results: StudyResults) -> list[dict[str, Any]]:
    """The main measures of each model after gap removal.

    Returns:
        `{"model", "columns", "rows"}`; a row holds the layer and its cells, each `{"value", "interval", "p"}`.
    """
    tables = []
    for model in results.models:
        try:
            result = alignment_of(results, model)
        except RunError:
            continue
        names = {"a": result.a, "b": result.b}
        curves = [result.curve(measure.format(**names), "gap removed") for _, measure in _COLUMNS]
        tables.append(
            {
                "model": model,
                "columns": [title.format(**names) for title, _ in _COLUMNS],
                "rows": [
                    {"layer": layer, "cells": [_cell(curve.iloc[i]) for curve in curves]}
                    for i, layer in enumerate(result.layers)
                ],
            }
        )
    return tables


def _cell(row: Any) -> dict[str, str]:
    return {
        "value": decimal(row["value"]),
        "interval": interval(row["low"], row["high"]),
        "p": p_value(row["corrected"]) if math.isfinite(row["corrected"]) else "",
    }


def largest(curve: pd.DataFrame, among: Sequence[bool] | None = None) -> Any | None:
    """Returns the row of the layer at which a measure is largest; None where it is known at no layer.

    Args:
        curve: A measure at each layer, as `Alignment.curve` gives it.
        among: Which layers are meant; all by default.
    """
    values = curve["value"].to_numpy(float)
    values = values if among is None else np.where(among, values, np.nan)
    return curve.iloc[int(np.nanargmax(values))] if np.isfinite(values).any() else None


def together(result: Alignment) -> str:
    """Where prompts of one task lie nearer to each other across modalities than those of different tasks."""
    curve = result.curve(MARGIN, "gap removed")
    least = 1 / math.factorial(len(result.tasks))
    if least >= LEVEL:
        return f"{len(result.tasks)} tasks are too few to test whether they align (p is {decimal(least)} at least)."
    known = curve["value"].map(math.isfinite)
    shown = known & (curve["corrected"] < LEVEL) & (curve["value"] > 0)
    where = runs([str(i) for i in result.layers], shown.tolist())
    start = f"Without the modality gap, {result.a} and {result.b} prompts of one task"
    best = largest(curve, shown.tolist())
    if best is None:
        return f"{start} are at no layer shown to lie nearer to each other than those of different tasks."
    return (
        f"{start} lie nearer to each other than those of different tasks at {layers(where)}; most at layer "
        f"{best['layer']}, where their cosines differ by {estimate(best['value'], best['low'], best['high'])} "
        "(a difference of two cosines, at most 2)."
    )


def carried(result: Alignment) -> str:
    """Whether centroids of one modality name the tasks of the other's prompts."""
    chance, parts = 1 / len(result.tasks), []
    for start, end in ((result.a, result.b), (result.b, result.a)):
        name = f"centroids, {start} to {end}"
        clear, raw = (result.curve(name, state) for state in ("gap removed", "raw"))
        size = result.n[0] if end == result.a else result.n[1]
        best = largest(clear)
        if size < LEAST or best is None:
            parts.append(f"whether centroids of {start} prompts name the task of {end} prompts: {too_few(size)}")
            continue
        value = Proportion(best["value"], size, best["low"], best["high"])
        above = "" if best["low"] > chance else ", not shown to be above chance"
        before = raw["value"][raw["layer"] == best["layer"]].iloc[0]
        parts.append(
            f"centroids of {start} prompts name the task of {percent(value)} of {end} prompts at their best layer"
            f"{above} (layer {best['layer']}; {share(before)} before gap removal)"
        )
    sentence = "; ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}; chance is {share(chance)}."


def _figure(results: StudyResults, model: str, *, kind: str, state: str) -> go.Figure:
    return plot.alignment(alignment_of(results, model), kind=kind, state=state)


PART = Part(
    "geometry",
    tuple(
        Entry(
            f"alignment-{kind}",
            *text,
            {view: partial(_figure, kind=kind, state=state) for view, state in _VIEWS.items()},
        )
        for kind, text in _TEXTS.items()
    ),
    alignment_takeaways,
)
