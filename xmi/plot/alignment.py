"""How far two modalities agree on the tasks, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
from numpy.typing import ArrayLike

from xmi.errors import ArgumentError
from xmi.measure import Alignment
from xmi.numerals import estimate, p_value
from xmi.plot.looks import LEVELS, LIKENESS, Look
from xmi.plot.registry import draws
from xmi.plot.theme import LAYER_AXIS, SHARES, band, finish, layer_tick, numbers, span, text

LEVEL = 0.05
_COSINE = "cosine, {}, {}"
_SHAPES = ("CKA", "RSA", "Procrustes")


@draws(Alignment)
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
        ArgumentError: Unknown kind.
        KeyError: Unknown state.
    """
    draws = {"cosine": _cosine, "centroids": _centroids, "shape": _shape}
    if kind not in draws:
        raise ArgumentError(f"Unknown kind of figure {kind!r}; use one of {', '.join(draws)}.")
    figure = go.Figure()
    name, axis, reach = draws[kind](figure, result, state)
    finish(
        figure, title or f"{name}, {state}", height=430, hovermode="x unified",
        subtitle=f"{result.a} and {result.b}, {len(result.tasks)} tasks; filled: p < {LEVEL}, corrected for layers",
    )  # fmt: skip
    figure.update_xaxes(title_text=LAYER_AXIS, dtick=layer_tick(result.layers))
    return figure.update_yaxes(title_text=axis, range=reach)


def _cosine(figure: go.Figure, result: Alignment, state: str) -> tuple[str, str, Sequence[float]]:
    # A margin's test speaks of the difference between two lines; the line above wears its markers.
    drawn = []
    for where, size in (("within a modality", 11), ("across modalities", 7)):  # where the two agree, both can be seen
        margin = _COSINE.format("same minus different task", where)
        for which, test in (("same task", margin), ("different task", None)):
            name, measure = f"{which}, {where}", _COSINE.format(which, where)
            drawn += _line(figure, result, state, measure, name, LIKENESS[name], test=test, size=size)
    return "Cosine of single prompts", "mean cosine", span(*drawn)


def _centroids(figure: go.Figure, result: Alignment, state: str) -> tuple[str, str, Sequence[float]]:
    a, b = result.a, result.b
    for pair, name, look, size in (
        (f"within {a}", f"within {a}, left out", "within a", 13),
        (f"within {b}", f"within {b}, left out", "within b", 11),
        (f"{b} to {a}", f"centroids of {b}, points of {a}", "b to a", 8),
        (f"{a} to {b}", f"centroids of {a}, points of {b}", "a to b", 5),
    ):
        _line(figure, result, state, f"centroids, {pair}", name, LIKENESS[f"centroids, {look}"], size=size)
    figure.add_hline(y=1 / len(result.tasks), line=LEVELS["chance"].line)
    return "Task of the nearest centroid", "accuracy (share of points)", SHARES


def _shape(figure: go.Figure, result: Alignment, state: str) -> tuple[str, str, Sequence[float]]:
    drawn = [v for name in _SHAPES for v in _line(figure, result, state, name, name, LIKENESS[name])]
    figure.add_hline(y=0, line=LEVELS["zero"].line)
    return "Likeness of shape", "CKA, correlation or cosine", span(*drawn)


def _line(
    figure: go.Figure,
    result: Alignment,
    state: str,
    measure: str,
    name: str,
    look: Look,
    *,
    test: str | None = None,
    size: int = 8,
) -> list[ArrayLike]:
    """Draws a curve, and returns what an axis has to show of it."""
    curve = result.curve(measure, state)
    if curve["value"].isna().all():
        return []
    known = result.curve(test or measure, state)
    layers, banded = list(result.layers), curve["low"].notna().all()
    if banded:
        figure.add_trace(band(layers, curve["low"], curve["high"], look.colour, group=name))
    tested = bool(look.symbol) and known["p"].notna().all()
    shown = [estimate(*row) for row in zip(curve["value"], curve["low"], curve["high"], strict=True)]
    if tested:
        both = zip(shown, known["p"], known["corrected"], strict=True)
        shown = [f"{said}, {p_value(p)}, corrected {p_value(q)}" for said, p, q in both]
    figure.add_scatter(
        x=layers, y=numbers(curve["value"]), name=text(name), legendgroup=name, legendrank=look.rank,
        mode="lines+markers" if look.symbol else "lines", line=look.line,
        marker={"symbol": look.marks(known["corrected"] < LEVEL) if look.symbol else None, "size": size},
        customdata=shown, hovertemplate="%{customdata}",
    )  # fmt: skip
    return [curve["value"], curve["low"], curve["high"]]
