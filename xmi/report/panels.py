"""Panels of a page: figures drawn by `xmi.plot` as in a notebook, a view at a time, models side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from pydantic_core import from_json, to_json

from xmi.errors import RunError
from xmi.plot.theme import LAYER_AXIS
from xmi.study.results import StudyResults

Draw = Callable[[StudyResults, str], go.Figure]
"""Draws a figure of a study's model."""

Variants = tuple[tuple[str, tuple[tuple[str, dict[str, Any]], ...]], ...]


@dataclass(frozen=True)
class Entry:
    """A panel as a section declares it.

    Attributes:
        name: Its id on the page.
        title: Heading.
        note: How to read it.
        views: How each view is drawn, by its label.
    """

    name: str
    title: str
    note: str
    views: Mapping[str, Draw]


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


def drawn(results: StudyResults, section: str, entries: Sequence[Entry]) -> list[Panel]:
    """Draws the panels of a section; a measurement that the study left out is left out here too."""
    found = [Panel(e.name, section, e.title, e.note, variants(results, e.views)) for e in entries]
    return [panel for panel in found if panel.variants]


def variants(results: StudyResults, views: Mapping[str, Draw]) -> Variants:
    """Draws each view of a panel for every model; what was not measured, or has nothing to draw, is left out."""
    found = []
    for label, draw in views.items():
        figures = []
        for model in results.models:
            try:
                figures.append((model, _of_depth(as_json(draw(results, model)), results, model)))
            except (RunError, ValueError):  # not measured, or nothing to draw
                continue
        if figures:
            side_by_side([figure["layout"] for _, figure in figures])
            found.append((label, tuple(figures)))
    return tuple(found)


def _of_depth(figure: dict[str, Any], results: StudyResults, model: str) -> dict[str, Any]:
    """Tells a figure over layers how many the model has, so that the page can show it over relative depth."""
    layout = figure["layout"]
    axes = [axis for name, axis in layout.items() if name.startswith("xaxis")]
    layers = results.study.get("provenance", {}).get("models", {}).get(model, {}).get("layers")
    if layers and any(axis.get("title", {}).get("text") == LAYER_AXIS for axis in axes):
        layout["meta"] = {**(layout.get("meta") or {}), "layers": layers}
    return figure


def as_json(figure: go.Figure) -> dict[str, Any]:
    """Returns what a figure's JSON holds; what has no value (NaN) is null. Faster than by plotly's own encoder."""
    content: dict[str, Any] = from_json(to_json(figure.to_dict(), inf_nan_mode="null", fallback=_plain))
    return content


def _plain(value: Any) -> Any:
    """A number of numpy as one of Python."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"A figure holds a {type(value).__name__}, which has no JSON.")


def side_by_side(layouts: Sequence[dict[str, Any]]) -> None:
    """Gives figures that stand side by side the same scales and the same rows, so that they can be compared.

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
