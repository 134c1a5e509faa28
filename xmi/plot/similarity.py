"""Cosine heat maps of task vectors, layer by layer."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from xmi.measure import Similarity
from xmi.plot.registry import draws
from xmi.plot.theme import finish, first_layer, numbers, slider, text

# Blue, near-white, orange: a diverging scale of two Okabe-Ito hues whose ends differ in lightness too.
_SCALE = [[0.0, "#01406B"], [0.25, "#4C9CCB"], [0.5, "#F4F1EA"], [0.75, "#EBA64A"], [1.0, "#9A4300"]]

# Lying above the map, it leaves a narrow figure its width. Anchored by its bottom it would push the title away.
_COLORBAR = {
    "orientation": "h", "x": 0, "xanchor": "left", "y": 1.075, "yanchor": "middle", "len": 1, "ypad": 6, "thickness": 8,
    "outlinewidth": 0, "tickvals": [-1, -0.5, 0, 0.5, 1], "ticklabelposition": "outside top",
    "ticktext": ["-1", "-0.5", "cosine 0", "0.5", "1"],
}  # fmt: skip


@draws(Similarity)
def similarity(result: Similarity, *, layer: int | None = None, title: str | None = None) -> go.Figure:
    """Heat map of the cosines between all pairs of vectors, with a layer slider and a fixed colour range.

    Args:
        result: The cosines. Vectors are drawn in the order of their groups; a line parts the groups.
        layer: Layer shown at first; the middle one by default.
        title: Title of the figure.

    Returns:
        The heat map, colours from -1 to 1 at every layer.
    """
    order = sorted(range(len(result.labels)), key=lambda i: result.groups.index(result.groups[i]))
    groups = [result.groups[i] for i in order]
    values = result.values[:, order][:, :, order]
    names = [text(result.labels[i]) for i in order]
    active = first_layer(layer, tuple(range(len(values))))
    figure = go.Figure(
        go.Heatmap(
            z=numbers(values[active]),
            zmin=-1,
            zmax=1,
            colorscale=_SCALE,
            colorbar=_COLORBAR,
            hovertemplate="%{customdata[0]}<br>%{customdata[1]}<br>cosine %{z:.2f}<extra></extra>",
            customdata=[[(a, b) for b in names] for a in names],
        )
    )
    axis = _group_axis(groups)
    kind = "Cosine of task vectors, mean removed" if result.centred else "Cosine of task vectors"
    finish(figure, title or kind, height=640, subtitle=_rows_of(result, order, groups), above=44)
    steps = [(str(i), [{"z": [numbers(z)]}, {}]) for i, z in enumerate(values)]
    figure.update_layout(sliders=[slider(steps, active=active, below=124)])
    figure.update_layout(xaxis={**axis, "tickangle": -90}, yaxis={**axis, "autorange": "reversed"})
    return _part(figure, groups)


def _blocks(groups: list[str]) -> list[tuple[str, int, int]]:
    """Name, first and last index of each run of equal groups."""
    starts = [i for i, g in enumerate(groups) if i == 0 or groups[i - 1] != g]
    return [(groups[a], a, b - 1) for a, b in zip(starts, [*starts[1:], len(groups)], strict=True)]


def _group_axis(groups: list[str]) -> dict[str, Any]:
    blocks = _blocks(groups)
    return {
        "tickvals": [(a + b) / 2 for _, a, b in blocks],
        "ticktext": [text(name) for name, _, _ in blocks],
        "showgrid": False,
        "zeroline": False,
        "ticks": "",
        "constrain": "domain",
    }


def _rows_of(result: Similarity, order: list[int], groups: list[str]) -> str:
    """Which vectors stand within each group, when that is the same for every group."""
    kinds: dict[str, list[str]] = {}
    for i, group in zip(order, groups, strict=True):
        kinds.setdefault(group, []).append(result.labels[i].removeprefix(group).strip(" ·"))
    first, *rest = kinds.values()
    if not all(first) or any(other != first for other in rest):
        return "rows and columns: task vectors, grouped by task"
    return "in each block: " + ", ".join(first)


def _part(figure: go.Figure, groups: list[str]) -> go.Figure:
    line = {"color": "rgba(60,60,60,0.65)", "width": 1}
    size = len(groups) - 0.5
    shapes = []
    if len(set(groups)) < len(groups):
        for _, first, _ in _blocks(groups)[1:]:
            at = first - 0.5
            shapes.append({"type": "line", "x0": at, "x1": at, "y0": -0.5, "y1": size, "line": line})
            shapes.append({"type": "line", "x0": -0.5, "x1": size, "y0": at, "y1": at, "line": line})
    return figure.update_layout(shapes=shapes)
