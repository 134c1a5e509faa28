"""The geometry of single prompts' vectors: projections and cluster scores, layer by layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go

from xmi.measure import Projection, Silhouette
from xmi.plot.theme import (
    BLUE,
    FRAME,
    GREY,
    LAYER_AXIS,
    ORANGE,
    SYMBOLS,
    colour,
    finish,
    first_layer,
    layer_tick,
    numbers,
    slider,
    text,
)

LEVEL = 0.05
_METHODS = {"pca": "PCA", "tsne": "t-SNE"}


def projection(result: Projection, *, layer: int | None = None, title: str | None = None) -> go.Figure:
    """The points of single prompts in the plane: colour is the task, symbol the modality; with a layer slider.

    Args:
        result: The projected points.
        layer: Layer shown at first; the middle one by default.
        title: Title of the figure.

    Returns:
        A scatter plot whose axes fit each layer; PCA axes name the variance they explain.
    """
    tasks, kinds = (list(dict.fromkeys(names)) for names in (result.tasks, result.modalities))
    members = {
        (t, k): [i for i, pair in enumerate(zip(result.tasks, result.modalities, strict=True)) if pair == (t, k)]
        for t in tasks
        for k in kinds
    }
    members = {pair: found for pair, found in members.items() if found}
    active = first_layer(layer, result.layers)
    start = result.points[active]
    figure = go.Figure()
    for (task, kind), found in members.items():
        hover = f"{text(task)}, {text(kind)}<extra></extra>"
        figure.add_scatter(
            x=numbers(start[found, 0]), y=numbers(start[found, 1]), mode="markers", showlegend=False,
            hovertemplate=hover,
            marker={"color": colour(tasks.index(task)), "symbol": SYMBOLS[kinds.index(kind) % len(SYMBOLS)], "size": 8,
                    "opacity": 0.8, "line": {"width": 0.6, "color": FRAME}},
        )  # fmt: skip
    _key(figure, tasks, kinds)
    steps = []
    for i, depth in enumerate(result.layers):
        plane = result.points[i]
        change = {name: [numbers(plane[found, a]) for found in members.values()] for a, name in enumerate("xy")}
        steps.append((str(depth), [change, _plane_layout(result, i), list(range(len(members)))]))
    name = f"{_METHODS.get(result.method, result.method)} of single-prompt task vectors"
    finish(figure, title or name, height=620, sliders=[slider(steps, active=active)])
    return figure.update_layout(_plane_layout(result, active))


def silhouette(result: Silhouette, *, title: str = "Do prompts cluster by task or by modality?") -> go.Figure:
    """The silhouette by task against that by modality at each layer.

    Args:
        result: The two curves.
        title: Title of the figure.

    Returns:
        Two lines from -1 to 1; above zero the points lie nearer to their own cluster than to the next. If the curves
        were tested, markers are filled where p < 0.05 after correction for the number of layers.
    """
    figure = go.Figure()
    for name, values, p, tint, symbol, dash in (
        ("clusters are tasks", result.by_task, result.p_task, BLUE, "circle", "solid"),
        ("clusters are modalities", result.by_modality, result.p_modality, ORANGE, "square", "dash"),
    ):
        symbols = symbol if p is None else [symbol if q < LEVEL else f"{symbol}-open" for q in p]
        figure.add_scatter(
            x=list(result.layers), y=numbers(values), name=name, mode="lines+markers",
            line={"color": tint, "dash": dash, "width": 2.2}, marker={"symbol": symbols, "size": 8},
            customdata=None if p is None else [[q] for q in numbers(p)],
            hovertemplate="%{y:.2f}" + ("" if p is None else ", p = %{customdata[0]:.2g}"),
        )  # fmt: skip
    figure.add_hline(y=0, line={"color": GREY, "width": 1, "dash": "dot"})
    tested = result.p_task is not None or result.p_modality is not None
    note = f"filled: p < {LEVEL}, corrected for {len(result.layers)} layers" if tested else ""
    finish(figure, title, height=400, hovermode="x unified", subtitle=note)
    figure.update_xaxes(title_text=LAYER_AXIS, dtick=layer_tick(result.layers))
    return figure.update_yaxes(title_text="silhouette (cosine, -1 to 1)", range=[-1.05, 1.05])


def _plane_layout(result: Projection, i: int) -> dict[str, Any]:
    """Titles and ranges of the two axes at one layer."""
    low, high = result.points[i].min(0), result.points[i].max(0)
    pad = np.maximum((high - low) * 0.06, 1e-6)
    layout: dict[str, Any] = {}
    for a, axis in enumerate(("xaxis", "yaxis")):
        share = result.explained[i, a]
        pca = f"PC {a + 1} ({share:.0%} of variance; residual units)"
        layout[f"{axis}.title.text"] = (
            pca if np.isfinite(share) else f"{_METHODS.get(result.method, result.method)} {a + 1} (arbitrary units)"
        )
        layout[f"{axis}.range"] = numbers([low[a] - pad[a], high[a] + pad[a]])
    return layout


def _key(figure: go.Figure, tasks: list[str], kinds: list[str]) -> None:
    """Legend entries of their own: one per task (colour) and one per modality (symbol)."""
    for i, task in enumerate(tasks):
        figure.add_scatter(x=[None], y=[None], mode="markers", name=text(task), hoverinfo="skip",
                           marker={"color": colour(i), "size": 10})  # fmt: skip
    for i, kind in enumerate(kinds):
        figure.add_scatter(x=[None], y=[None], mode="markers", name=text(kind), hoverinfo="skip",
                           marker={"color": GREY, "symbol": SYMBOLS[i % len(SYMBOLS)], "size": 10})  # fmt: skip
