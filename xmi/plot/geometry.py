"""The geometry of single prompts' vectors: projections and cluster scores, layer by layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go

from xmi.measure import Projection, Silhouette
from xmi.numerals import decimal, p_value, percent
from xmi.plot.looks import CLUSTERS, GREY, LEVELS, modalities, named
from xmi.plot.registry import draws
from xmi.plot.theme import (
    FRAME,
    LAYER_AXIS,
    finish,
    first_layer,
    layer_tick,
    numbers,
    slider,
    span,
    text,
)

LEVEL = 0.05
_METHODS = {"pca": "PCA", "tsne": "t-SNE"}


@draws(Projection)
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
    looks, symbols = named(tasks), modalities(kinds)
    active = first_layer(layer, result.layers)
    start = result.points[active]
    figure = go.Figure()
    for (task, kind), found in members.items():
        hover = f"{text(task)}, {text(kind)}<extra></extra>"
        figure.add_scatter(
            x=numbers(start[found, 0]), y=numbers(start[found, 1]), mode="markers", showlegend=False,
            legendgroup=f"task {task}", meta=[f"modality {kind}"], hovertemplate=hover,
            marker={"color": looks[task].colour, "symbol": symbols[kind], "size": 8, "opacity": 1,
                    "line": {"width": 0.6, "color": FRAME}},
        )  # fmt: skip
    for name in sorted(tasks):  # the key: colours are tasks, symbols are modalities
        figure.add_scatter(x=[None], y=[None], mode="markers", name=text(name), hoverinfo="skip",
                           legendgroup=f"task {name}", legendrank=looks[name].rank,
                           marker={"color": looks[name].colour, "size": 10})  # fmt: skip
    for name in kinds:
        figure.add_scatter(x=[None], y=[None], mode="markers", name=text(name), hoverinfo="skip",
                           legendgroup=f"modality {name}", legendrank=900,
                           marker={"color": GREY, "symbol": symbols[name], "size": 10})  # fmt: skip
    name = f"{_METHODS.get(result.method, result.method)} of single-prompt task vectors"
    finish(figure, title or name, height=620)
    steps = []
    for i, depth in enumerate(result.layers):
        plane = result.points[i]
        change = {name: [numbers(plane[found, a]) for found in members.values()] for a, name in enumerate("xy")}
        steps.append((str(depth), [change, _plane_layout(result, i), list(range(len(members)))]))
    figure.update_layout(sliders=[slider(steps, active=active)])
    return figure.update_layout(_plane_layout(result, active))


@draws(Silhouette)
def silhouette(result: Silhouette, *, title: str = "Do prompts cluster by task or by modality?") -> go.Figure:
    """The silhouette by task against that by modality at each layer.

    Args:
        result: The two curves.
        title: Title of the figure.

    Returns:
        Two lines; above zero the points lie nearer to their own cluster than to the next. If the curves were tested,
        markers are filled where p < 0.05 after correction for the number of layers.
    """
    figure = go.Figure()
    for kind, values, p in (
        ("tasks", result.by_task, result.p_task),
        ("modalities", result.by_modality, result.p_modality),
    ):
        look, shown = CLUSTERS[kind], [decimal(v) for v in values]
        if p is not None:
            shown = [f"{said}, {p_value(q)}" for said, q in zip(shown, p, strict=True)]
        figure.add_scatter(
            x=list(result.layers), y=numbers(values), name=f"clusters are {kind}", mode="lines+markers",
            legendgroup=kind, legendrank=look.rank, line=look.line,
            marker={"symbol": look.symbol if p is None else look.marks(p < LEVEL), "size": 8},
            customdata=shown, hovertemplate="%{customdata}",
        )  # fmt: skip
    figure.add_hline(y=0, line=LEVELS["zero"].line)
    tested = result.p_task is not None or result.p_modality is not None
    note = f"filled: p < {LEVEL}, corrected for {len(result.layers)} layers" if tested else ""
    finish(figure, title, height=400, hovermode="x unified", subtitle=note)
    figure.update_xaxes(title_text=LAYER_AXIS, dtick=layer_tick(result.layers))
    return figure.update_yaxes(title_text="silhouette (cosine)", range=span(result.by_task, result.by_modality))


def _plane_layout(result: Projection, i: int) -> dict[str, Any]:
    """Titles and ranges of the two axes at one layer."""
    low, high = result.points[i].min(0), result.points[i].max(0)
    pad = np.maximum((high - low) * 0.06, 1e-6)
    layout: dict[str, Any] = {}
    for a, axis in enumerate(("xaxis", "yaxis")):
        share = result.explained[i, a]
        pca = f"PC {a + 1} ({percent(share)} of variance; residual units)"
        layout[f"{axis}.title.text"] = (
            pca if np.isfinite(share) else f"{_METHODS.get(result.method, result.method)} {a + 1} (arbitrary units)"
        )
        layout[f"{axis}.range"] = numbers([low[a] - pad[a], high[a] + pad[a]])
    return layout
