"""The alignment of modalities: its panels, its table, and what it says in sentences."""

from __future__ import annotations

import math
from typing import Any

import plotly.graph_objects as go

from xmi import plot
from xmi.errors import RunError
from xmi.measure import Alignment, Proportion
from xmi.report.findings import Finding
from xmi.report.panels import Draw, Panel, variants
from xmi.report.tables import MISSING
from xmi.report.wording import percent, runs
from xmi.study.results import StudyResults

LEVEL = 0.05
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


def alignment_panels(results: StudyResults, section: str = "geometry") -> list[Panel]:
    """Returns the panels of the alignment, before and after gap removal; none if the study did not measure it."""

    def draw(kind: str, state: str) -> Draw:
        def figure(model: str) -> go.Figure:
            return plot.alignment(alignment_of(results, model), kind=kind, state=state)

        return figure

    found = [
        Panel(f"alignment-{kind}", section, *text, variants(results, {v: draw(kind, s) for v, s in _VIEWS.items()}))
        for kind, text in _TEXTS.items()
    ]
    return [p for p in found if p.variants]


def alignment_takeaways(results: StudyResults) -> list[Finding]:
    """Where prompts of one task lie together across modalities, and whether centroids carry over."""
    found: list[Finding] = []
    for model in results.models:
        try:
            result = alignment_of(results, model)
        except RunError:  # not measured
            continue
        found += [(model, _together(result)), (model, _carried(result))]
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
    interval = f"[{row['low']:.2f}, {row['high']:.2f}]" if math.isfinite(row["low"]) else ""
    return {
        "value": f"{row['value']:.2f}" if math.isfinite(row["value"]) else MISSING,
        "interval": interval,
        "p": f"p = {row['corrected']:.2g}" if math.isfinite(row["corrected"]) else "",
    }


def _together(result: Alignment) -> str:
    curve = result.curve(MARGIN, "gap removed")
    least = 1 / math.factorial(len(result.tasks))
    if least >= LEVEL:
        return f"{len(result.tasks)} tasks are too few to test whether they align (p is {least:.2f} at least)."
    where = runs([str(i) for i in result.layers], [bool(p < LEVEL) for p in curve["corrected"]])
    start = f"Without the modality gap, {result.a} and {result.b} prompts of one task"
    if not where:
        return f"{start} are at no layer shown to lie nearer to each other than those of different tasks."
    best = curve.iloc[int(curve["value"].to_numpy().argmax())]
    places = f"layer {where}" if where.isdigit() else f"layers {where}"
    return (
        f"{start} lie nearer to each other than those of different tasks at {places}; most at layer {best['layer']}: "
        f"by a cosine of {best['value']:.2f} [{best['low']:.2f}, {best['high']:.2f}]."
    )


def _carried(result: Alignment) -> str:
    parts = []
    for start, end in ((result.a, result.b), (result.b, result.a)):
        name = f"centroids, {start} to {end}"
        clear, raw = (result.curve(name, state) for state in ("gap removed", "raw"))
        best = clear.iloc[int(clear["value"].to_numpy().argmax())]
        size = result.n[0] if end == result.a else result.n[1]
        share = percent(Proportion(best["value"], size, best["low"], best["high"]))
        before = raw["value"][raw["layer"] == best["layer"]].iloc[0]
        parts.append(
            f"centroids of {start} prompts name the task of {share} of {end} prompts at their best layer "
            f"(layer {best['layer']}; {100 * before:.0f}\u00a0% before gap removal)"
        )
    sentence = "; ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}; chance is {100 / len(result.tasks):.0f}\u00a0%."
