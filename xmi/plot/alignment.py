"""How far two modalities agree on the tasks, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from xmi.measure import Alignment
from xmi.plot.theme import (
    BLUE,
    GREEN,
    GREY,
    LAYER_AXIS,
    ORANGE,
    PURPLE,
    SKY,
    faint,
    finish,
    layer_tick,
    numbers,
    text,
)

LEVEL = 0.05
_COSINE = "cosine, {}, {}"
_SHAPES = (("CKA", BLUE, "circle", "solid"), ("RSA", ORANGE, "square", "dash"), ("Procrustes", GREEN, "diamond", "dot"))


def alignment(
    result: Alignment, *, kind: str = "cosine", state: str = "gap removed", title: str | None = None
) -> go.Figure:
    """One family of measures at each layer.

    Args:
        result: The measures.
        kind: `cosine` (same against different task, across and within modalities), `centroids` (accuracy of nearest
            centroids, both directions and within each modality), or `shape` (CKA, RSA, Procrustes).
        state: `raw` or `gap removed`.
        title: Title of the figure.

    Returns:
        Lines with 95 % bands where there are intervals; markers are filled where p < 0.05 after correction for the
        number of layers.

    Raises:
        ValueError: Unknown kind.
        KeyError: Unknown state.
    """
    draws = {"cosine": _cosine, "centroids": _centroids, "shape": _shape}
    if kind not in draws:
        raise ValueError(f"Unknown kind of figure {kind!r}; use one of {', '.join(draws)}.")
    figure = go.Figure()
    name, axis, span = draws[kind](figure, result, state)
    finish(
        figure, title or f"{name}, {state}", height=430, hovermode="x unified",
        subtitle=f"{result.a} and {result.b}, {len(result.tasks)} tasks; filled: p < {LEVEL}, corrected for layers",
    )  # fmt: skip
    figure.update_xaxes(title_text=LAYER_AXIS, dtick=layer_tick(result.layers))
    return figure.update_yaxes(title_text=axis, range=span)


def _cosine(figure: go.Figure, result: Alignment, state: str) -> tuple[str, str, Sequence[float]]:
    # A margin's test speaks of the difference between two lines; the line above wears its markers.
    for where, tint, faded, symbol, size in (
        ("within a modality", ORANGE, PURPLE, "square", 11),
        ("across modalities", BLUE, SKY, "circle", 7),  # drawn last: where the two agree, both can be seen
    ):
        margin = _COSINE.format("same minus different task", where)
        _line(figure, result, state, _COSINE.format("same task", where), f"same task, {where}",
              (tint, symbol, "solid"), test=margin, size=size)  # fmt: skip
        _line(figure, result, state, _COSINE.format("different task", where), f"different task, {where}",
              (faded, None, "dash"))  # fmt: skip
    return "Cosine of single prompts", "mean cosine (-1 to 1)", (-1.05, 1.05)


def _centroids(figure: go.Figure, result: Alignment, state: str) -> tuple[str, str, Sequence[float]]:
    a, b = result.a, result.b
    for pair, name, style, size in (
        (f"within {a}", f"within {a}, left out", (SKY, "diamond", "dash"), 13),
        (f"within {b}", f"within {b}, left out", (PURPLE, "triangle-up", "dash"), 11),
        (f"{b} to {a}", f"centroids of {b}, points of {a}", (ORANGE, "square", "solid"), 8),
        (f"{a} to {b}", f"centroids of {a}, points of {b}", (BLUE, "circle", "solid"), 5),
    ):
        _line(figure, result, state, f"centroids, {pair}", name, style, size=size)
    figure.add_hline(y=1 / len(result.tasks), line={"color": GREY, "width": 1.5, "dash": "dot"})
    return "Task of the nearest centroid", "accuracy (share of points)", (-0.05, 1.05)


def _shape(figure: go.Figure, result: Alignment, state: str) -> tuple[str, str, Sequence[float]]:
    for measure, tint, symbol, dash in _SHAPES:
        _line(figure, result, state, measure, measure, (tint, symbol, dash))
    figure.add_hline(y=0, line={"color": GREY, "width": 1, "dash": "dot"})
    return "Likeness of shape", "CKA, correlation or cosine (-1 to 1)", (-1.05, 1.05)


def _line(
    figure: go.Figure,
    result: Alignment,
    state: str,
    measure: str,
    name: str,
    style: tuple[str, str | None, str],
    *,
    test: str | None = None,
    size: int = 8,
) -> None:
    curve = result.curve(measure, state)
    if curve["value"].isna().all():
        return
    known = result.curve(test or measure, state)
    tint, symbol, dash = style
    layers, low, high = list(result.layers), numbers(curve["low"]), numbers(curve["high"])
    if curve["low"].notna().all():
        figure.add_scatter(
            x=layers + layers[::-1], y=high + low[::-1], fill="toself", fillcolor=faint(tint, 0.12), mode="lines",
            line={"width": 0}, showlegend=False, hoverinfo="skip", legendgroup=name,
        )  # fmt: skip
    shown = "%{y:.2f}" + (" [%{customdata[0]:.2f}, %{customdata[1]:.2f}]" if curve["low"].notna().all() else "")
    tested = symbol is not None and known["p"].notna().all()
    symbols = None if symbol is None else [symbol if q < LEVEL else f"{symbol}-open" for q in known["corrected"]]
    figure.add_scatter(
        x=layers, y=numbers(curve["value"]), name=text(name), legendgroup=name,
        mode="lines" if symbol is None else "lines+markers", line={"color": tint, "dash": dash, "width": 2.2},
        marker={"symbol": symbols, "size": size},
        customdata=[[low[i], high[i], *numbers((known["p"][i], known["corrected"][i]))] for i in range(len(layers))],
        hovertemplate=shown + (", p = %{customdata[2]:.2g}, corrected %{customdata[3]:.2g}" if tested else ""),
    )  # fmt: skip
