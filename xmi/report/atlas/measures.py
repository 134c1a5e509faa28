"""Phases and geometry of all models, as tables that can be sorted: the measures of the report's sections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from xmi.errors import NotMeasuredError
from xmi.measure import Alignment, Boundaries, Silhouette, Similarity
from xmi.measure.boundaries import CHANGES
from xmi.names import MODALITIES
from xmi.numerals import p_value
from xmi.report.atlas.models import Number, Studied, Table
from xmi.report.sections.alignment import MARGIN, largest
from xmi.report.sections.geometry import clearest
from xmi.study.results import StudyResults

SHAPES = ("CKA", "RSA", "Procrustes")


def changes(models: Sequence[Studied]) -> Table | None:
    """The relative depths at which the phases change, by specification."""
    found = [one.measured(StudyResults.boundaries) for one in models]
    labels = list(dict.fromkeys(label for result in found if result for label in result.labels))
    rows = tuple(_changes(result, labels) for result in found)
    groups = tuple((label, CHANGES) for label in labels)
    return Table("changes", "Where the phases change", groups, rows).known() if groups else None


def _changes(result: Boundaries | None, labels: Sequence[str]) -> tuple[Number | None, ...]:
    if result is None:
        return (None,) * len(labels) * len(CHANGES)
    rows = {(row.label, row.change): row for row in result.to_frame().itertuples()}
    return tuple(_change(rows.get((label, change))) for label in labels for change in CHANGES)


def _change(row: Any) -> Number | None:
    if row is None:
        return None
    ends = row.relative_low, row.relative_high
    return Number.of(row.relative, *ends, f"n = {row.n}", anchor="panel-boundaries", share=row.relative)


def geometry(models: Sequence[Studied]) -> Table | None:
    """How far the vectors of one task lie together, each measure at the layer where it is largest."""
    aligned = [one.measured(StudyResults.alignment) for one in models]
    a, b = next(((result.a, result.b) for result in aligned if result), MODALITIES)
    ways = f"{a} to {b}", f"{b} to {a}"
    groups = (
        ("cosine of prompts across modalities", ("same minus different task",)),
        ("nearest centroid", ways),
        ("shape", SHAPES),
        ("silhouette of prompts", ("by task", "by modality")),
        ("cosine of task vectors", ("same minus different task",)),
    )
    rows = tuple(
        (
            *_aligned(one, result, ways),
            *_clusters(one, one.measured(StudyResults.silhouette)),
            _vectors(one, one.measured(lambda results, model: results.similarity(model, centred=True))),
        )
        for one, result in zip(models, aligned, strict=True)
    )
    return Table("measures", "Geometry", groups, rows).known()


def _aligned(one: Studied, result: Alignment | None, ways: Sequence[str]) -> tuple[Number | None, ...]:
    """The alignment of modalities without the gap between them."""
    wanted = [(MARGIN, "cosine"), *((f"centroids, {way}", "centroids") for way in ways)]
    return tuple(_largest(one, result, *pair) for pair in (*wanted, *((shape, "shape") for shape in SHAPES)))


def _largest(one: Studied, result: Alignment | None, measure: str, panel: str) -> Number | None:
    try:
        row = None if result is None else largest(result.curve(measure, "gap removed"))
    except NotMeasuredError:  # of other modalities
        return None
    if row is None:
        return None
    notes = one.layer(row["layer"]), _p(row["corrected"])
    return Number.of(row["value"], row["low"], row["high"], *notes, anchor=f"panel-alignment-{panel}")


def _clusters(one: Studied, result: Silhouette | None) -> tuple[Number | None, ...]:
    at = None if result is None else clearest(result)
    if result is None or at is None:
        return None, None
    nan, where = float("nan"), one.layer(result.layers[at])
    sides = (result.by_task, result.p_task), (result.by_modality, result.p_modality)
    return tuple(
        Number.of(values[at], nan, nan, where, "" if p is None else _p(p[at]), anchor="panel-silhouette")
        for values, p in sides
    )


def _vectors(one: Studied, result: Similarity | None) -> Number | None:
    table = None if result is None else result.within_and_across()
    if table is None or not {"same", "different"} <= set(table.columns):
        return None
    margin = (table["same"] - table["different"]).to_numpy(float)
    if np.isnan(margin).all():
        return None
    nan, at = float("nan"), int(np.nanargmax(margin))
    return Number.of(margin[at], nan, nan, one.layer(table["layer"].iloc[at]), anchor="panel-similarity")


def _p(value: Any) -> str:
    return p_value(value) if value == value else ""  # not NaN
