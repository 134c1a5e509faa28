"""The report's figures, drawn by `xmi.plot` as in a notebook and gathered into panels."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from xmi import plot
from xmi.errors import RunError
from xmi.plot.theme import LAYER_AXIS
from xmi.report.tables import targets
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
        "At each layer the residual stream at the final “:” is decoded by the plan's lens. The curves share out the "
        "probability of three sets of tokens: the input, the task word and the answer. Grey: how much of the "
        "probability all three have; where that is next to nothing, their shares say little. Crosses: the probability "
        "of the task's other labels, which are wrong answers here. Point at a layer to see its top tokens; choose a "
        "task to see it alone.",
    ),
    "boundaries": (
        "phases",
        "Where the phases change",
        "Depth at which the task outweighs the input, and the answer the task, with bootstrap intervals over items; "
        "from 0 (embedding) to 1 (last layer), so that models of different depth can be laid side by side. A change "
        "that does not occur is not drawn.",
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
    "comparisons": (
        "transfer",
        "Methods compared on the same items",
        "The difference of accuracy between two methods that were asked the same test items, with its 95 % bootstrap "
        "interval; a filled marker holds after Holm's correction over all contrasts (paired permutation test). Each "
        "source is patched after the layer that its validation items chose, a control where the source is.",
    ),
    "ensembling": (
        "transfer",
        "Examples, with and without the instruction",
        "Accuracy of a vector averaged over more and more one-example prompts, alone and averaged with the "
        "instruction's vector, after one layer chosen on validation items.",
    ),
    "overriding": (
        "transfer",
        "One task in the prompt, another patched in",
        "Text examples of one task stand in the prompt, and a vector of another task that shares its inputs is patched "
        "in after each layer: whose label is answered? The bold line is the patched task. Read it against the levels: "
        "how often the same is answered without a patch, and with the task's instruction put first; and against a "
        "random vector.",
    ),
    "base_similarity": (
        "transfer",
        "Vectors of the base LLM and of the model",
        "Cosine per layer between the text ICL vectors of the model and of its base LLM: of the same task, and as the "
        "control of different tasks.",
    ),
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


def panels(results: StudyResults, names: Collection[str] = tuple(_TEXTS)) -> list[Panel]:
    """Returns the named panels, all by default; a measurement that the study left out is left out here too."""

    def similarity(centred: bool) -> Draw:
        return lambda model: plot.similarity(results.similarity(model, centred=centred))

    def projection(method: str) -> Draw:
        return lambda model: plot.projection(results.projection(model, method))

    def transfer(target: str) -> Draw:
        return lambda model: _transfer(results, model, target)

    def contrasts(target: str) -> Draw:
        return lambda model: plot.comparisons(results.comparisons(model).loc[lambda table: table.target == target])

    def ensembling(target: str) -> Draw:
        return lambda model: plot.ensemble_curve(results.ensembling(model, target))

    def base_similarity(centred: bool) -> Draw:
        return lambda model: plot.base_similarity(results.base_similarity(model, centred=centred))

    draws: dict[str, dict[str, Draw]] = {
        "phases": {
            "shares": lambda model: plot.phases(results.phases(model)),
            "probabilities": lambda model: plot.phases(results.phases(model), measure="absolute"),
        },
        "boundaries": {"": lambda model: plot.boundaries(results.boundaries(model))},
        "similarity": {"mean removed": similarity(True), "raw": similarity(False)},
        "projection": {"PCA": projection("pca"), "t-SNE": projection("tsne")},
        "silhouette": {"": lambda model: plot.silhouette(results.silhouette(model))},
        "transfer-image": {"": transfer("image")},
        "transfer-text": {"": transfer("text")},
        "comparisons": {f"{t} queries": contrasts(t) for t in ("image", "text") if t in targets(results)},
        "ensembling": {f"{t} queries": ensembling(t) for t in ("image", "text")},
        "overriding": {"": lambda model: plot.overriding(results.overriding(model))},
        "base_similarity": {"raw": base_similarity(False), "mean removed": base_similarity(True)},
    }
    found = [Panel(name, *_TEXTS[name], variants(results, views)) for name, views in draws.items() if name in names]
    return [p for p in found if p.variants]


def _transfer(results: StudyResults, model: str, target: str) -> go.Figure:
    sweep = results.transfer(model, target)
    rows = {s: row_of(results.summary(model), "patch", s, target) for s in sweep.sources}
    chosen = {s: int(row["layer"]) for s, row in rows.items() if row and row["layer"] in sweep.layers}
    majority = row_of(results.summary(model), "majority", None, target)
    always = float(majority["accuracy"]) if majority else None
    return plot.transfer(sweep, chosen=chosen, always=always, title=f"Task vectors patched into {target} queries")


def variants(results: StudyResults, draws: dict[str, Draw]) -> Variants:
    """Draws each view of a panel for every model; what was not measured, or has nothing to draw, is left out."""
    found = []
    for label, draw in draws.items():
        figures = []
        for model in results.models:
            try:
                figures.append((model, json.loads(draw(model).to_json())))
            except (RunError, ValueError):  # not measured, or nothing to draw
                continue
        if figures:
            side_by_side([figure["layout"] for _, figure in figures])
            found.append((label, tuple(figures)))
    return tuple(found)


def side_by_side(layouts: Sequence[dict[str, Any]]) -> None:
    """Gives figures that stand beside each other the same scales and the same rows, so that they can be compared.

    Axes of layers are left alone, since models differ in depth, and so are figures whose slider exchanges the ranges.

    Args:
        layouts: The layouts of the figures, changed in place.
    """
    if any("sliders" in layout for layout in layouts):
        return
    for name in {n for layout in layouts for n in layout if n.startswith(("xaxis", "yaxis"))}:
        axes = [layout.get(name, {}) for layout in layouts]
        if any(axis.get("title", {}).get("text") == LAYER_AXIS for axis in axes):
            continue
        if all(axis.get("categoryarray") for axis in axes):
            rows = _interleaved([axis["categoryarray"] for axis in axes])
            height = max(layout["height"] for layout in layouts)
            for layout, axis in zip(layouts, axes, strict=True):
                axis |= {"categoryarray": rows, "range": [len(rows) - 0.5, -0.5], "autorange": False}
                layout["height"] = height
        elif all(axis.get("range") and axis.get("tickvals") == axes[0].get("tickvals") for axis in axes):
            ranges = [axis["range"] for axis in axes]
            if all(low < high for low, high in ranges):
                for axis in axes:
                    axis["range"] = [min(low for low, _ in ranges), max(high for _, high in ranges)]


def _interleaved(orders: Sequence[Sequence[str]]) -> list[str]:
    """All rows, each after the one that it follows in its own figure."""
    rows = list(orders[0])
    for order in orders[1:]:
        for before, name in zip([None, *order], order, strict=False):
            if name not in rows:
                rows.insert(rows.index(before) + 1 if before is not None else 0, name)
    return rows
