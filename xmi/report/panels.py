"""The report's figures, drawn by `xmi.plot` as in a notebook and gathered into panels."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from xmi import plot
from xmi.errors import RunError
from xmi.report.wording import row_of
from xmi.study.results import StudyResults

Draw = Callable[[str], go.Figure]
Variants = tuple[tuple[str, tuple[tuple[str, dict[str, Any]], ...]], ...]

_TRANSFER = (
    "Accuracy when a task vector overwrites the residual stream after one layer, at the last token of a query without "
    "context. Bands and hover texts give 95 % Wilson intervals over items; a large marker is the "
    "layer chosen on validation items."
)
# Section, heading and how to read it.
_TEXTS = {
    "phases": (
        "phases",
        "What the last token decodes to, layer by layer",
        "At each layer the residual stream at the final “:” is decoded by the logit lens. The curves share out the "
        "probability of three sets of tokens: the input, the task word and the answer. Point at a layer to see its "
        "top tokens; choose a task to see it alone.",
    ),
    "similarity": (
        "geometry",
        "Cosine similarity of the task vectors",
        "One row per task and specification. Blocks on the diagonal that stand out from the rest mean: the same task, "
        "however it is specified, gives a similar vector. Removing the mean takes away the direction that all vectors "
        "share.",
    ),
    "projection": (
        "geometry",
        "Vectors of single prompts in the plane",
        "Each point is one prompt. Colour is the task, symbol the modality of its examples. Where modality does not "
        "matter, both symbols of one colour share a place.",
    ),
    "silhouette": (
        "geometry",
        "Clusters by task, or by modality",
        "The mean silhouette of the same points, once with tasks as clusters and once with modalities.",
    ),
    "transfer-image": ("transfer", "Vectors patched into image queries", _TRANSFER),
    "transfer-text": ("transfer", "Vectors patched into text queries", _TRANSFER),
}


@dataclass(frozen=True)
class Panel:
    """Figures that belong together.

    Attributes:
        name: Its id on the page.
        section: The section it stands in.
        title: Heading.
        note: How to read it.
        variants: Views of which one is shown at a time; each a label and one figure per model: (model, figure as JSON).
    """

    name: str
    section: str
    title: str
    note: str
    variants: Variants


def panels(results: StudyResults) -> list[Panel]:
    """Returns the panels of all sections; a measurement that the study left out is left out here too."""

    def similarity(centred: bool) -> Draw:
        return lambda model: plot.similarity(results.similarity(model, centred=centred))

    def projection(method: str) -> Draw:
        return lambda model: plot.projection(results.projection(model, method))

    def transfer(target: str) -> Draw:
        return lambda model: _transfer(results, model, target)

    draws: dict[str, dict[str, Draw]] = {
        "phases": {"": lambda model: plot.phases(results.phases(model))},
        "similarity": {"mean removed": similarity(True), "raw": similarity(False)},
        "projection": {"PCA": projection("pca"), "t-SNE": projection("tsne")},
        "silhouette": {"": lambda model: plot.silhouette(results.silhouette(model))},
        "transfer-image": {"": transfer("image")},
        "transfer-text": {"": transfer("text")},
    }
    found = [Panel(name, *_TEXTS[name], _variants(results, views)) for name, views in draws.items()]
    return [p for p in found if p.variants]


def _transfer(results: StudyResults, model: str, target: str) -> go.Figure:
    sweep = results.transfer(model, target)
    rows = {s: row_of(results.summary(model), "patch", s, target) for s in sweep.sources}
    chosen = {s: int(row["layer"]) for s, row in rows.items() if row and row["layer"] in sweep.layers}
    return plot.transfer(sweep, chosen=chosen, title=f"Task vectors patched into {target} queries")


def _variants(results: StudyResults, draws: dict[str, Draw]) -> Variants:
    variants = []
    for label, draw in draws.items():
        figures = []
        for model in results.models:
            try:
                figures.append((model, json.loads(draw(model).to_json())))
            except (RunError, ValueError):  # not measured, or nothing to draw
                continue
        if figures:
            variants.append((label, tuple(figures)))
    return tuple(variants)
