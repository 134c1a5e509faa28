"""The figures of an atlas: phases, transfer and geometry of all models over relative depth."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from xmi.measure import Phases
from xmi.names import MODALITIES, SPECIFICATIONS, label_parts
from xmi.plot import phases as phases_figure
from xmi.plot.depth import by_depth
from xmi.report.atlas.models import Studied
from xmi.report.panels import Panel
from xmi.report.sections.alignment import MARGIN
from xmi.study.results import StudyResults

_DEPTH = "0 is the embedding, 1 the last layer, so that models of different depth share one axis."
_GEOMETRY = (
    ("cosine, same minus different task", MARGIN, "difference of mean cosines", False),
    ("CKA", "CKA", "CKA", False),
    ("RSA", "RSA", "rank correlation", False),
    ("Procrustes", "Procrustes", "cosine", False),
)


def panels(models: Sequence[Studied]) -> list[Panel]:
    """All figures, each in its section; what no model has is left out."""
    accuracy, sides = "accuracy (share of items)", {"tasks": "by_task", "modalities": "by_modality"}
    found = [
        Panel("phases", "phases", "Phases by relative depth", _DEPTH, _phases(models)),
        Panel(
            "transfer",
            "matrix",
            "Accuracy by relative depth of the patched layer",
            f"When a task vector is patched in after one layer of a query without context. {_DEPTH}",
            _views({name: (_transfer(*pair), accuracy, True) for name, pair in _ways()}, models),
        ),
        Panel(
            "alignment",
            "geometry",
            "Alignment of text and image prompts by relative depth",
            f"After the mean of each modality was subtracted. {_DEPTH}",
            _views(_aligned(models), models),
        ),
        Panel(
            "silhouette",
            "geometry",
            "Clusters of prompts by relative depth",
            f"The mean silhouette of single prompts, with tasks and with modalities as clusters. {_DEPTH}",
            _views({name: (_silhouette(side), "mean silhouette", False) for name, side in sides.items()}, models),
        ),
    ]
    return [panel for panel in found if panel.variants]


Read = Callable[[Studied], pd.DataFrame | None]
"""Reads a curve: layer, value, low and high; None where the run has none."""


def _views(views: dict[str, tuple[Read, str, bool]], models: Sequence[Studied]) -> Any:
    drawn = []
    for name, (read, axis, shares) in views.items():
        curves = {}
        for one in models:
            curve = one.measured(lambda *_, one=one, read=read: read(one))
            if curve is not None and one.layers and curve["value"].notna().any():
                curves[one.label] = curve.assign(depth=(curve["layer"] + 1) / one.layers)
        if curves:
            drawn.append((name, _figure(by_depth(curves, axis=axis, shares=shares))))
    return tuple(drawn)


def _figure(figure: go.Figure) -> tuple[tuple[str, dict[str, Any]], ...]:
    return (("all models", json.loads(figure.to_json())),)


def _phases(models: Sequence[Studied]) -> Any:
    """The phases of each specification: one row of curves per model."""
    known: dict[str, list[Phases]] = {}
    for one in models:
        for label, measured in (one.measured(StudyResults.phases) or {}).items():
            if not label_parts(label)[0]:
                known.setdefault(label, []).append(replace(measured, model=one.label))
    return tuple((label, _figure(phases_figure(parts, x="relative"))) for label, parts in known.items())


def _ways() -> list[tuple[str, tuple[str, str]]]:
    return [(f"{source} into {t} queries", (source, t)) for t in reversed(MODALITIES) for source in SPECIFICATIONS]


def _transfer(source: str, target: str) -> Read:
    def read(one: Studied) -> pd.DataFrame | None:
        sweep = one.results.transfer(one.model, target)
        if source not in sweep.sources:
            return None
        rows = [(at, p.mean, p.low, p.high) for at, p in zip(sweep.layers, sweep.curve(source), strict=True)]
        return pd.DataFrame(rows, columns=["layer", "value", "low", "high"])

    return read


def _aligned(models: Sequence[Studied]) -> dict[str, tuple[Read, str, bool]]:
    first = next((result for one in models if (result := one.measured(StudyResults.alignment))), None)
    if first is None:
        return {}
    ways = [f"centroids, {a} to {b}" for a, b in ((first.a, first.b), (first.b, first.a))]
    views = [_GEOMETRY[0], *((way, way, "accuracy (share of prompts)", True) for way in ways), *_GEOMETRY[1:]]
    return {name: (_curve(measure), axis, shares) for name, measure, axis, shares in views}


def _curve(measure: str) -> Read:
    return lambda one: one.results.alignment(one.model).curve(measure, "gap removed")


def _silhouette(side: str) -> Read:
    def read(one: Studied) -> pd.DataFrame:
        result = one.results.silhouette(one.model)
        return pd.DataFrame({"layer": result.layers, "value": getattr(result, side), "low": np.nan, "high": np.nan})

    return read
