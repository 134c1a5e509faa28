"""Axes say what they are: a type of their own that no control changes, ranges that fit the data, layers as numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.plot.gallery import FIGURES, drawn, menu, overriding
from xmi import plot
from xmi.measure import Similarity
from xmi.plot.looks import WINNERS
from xmi.plot.theme import LAYER_AXIS, SHARES, span


def controls(figure: go.Figure) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """What each button of a menu and each step of a slider changes: of the traces, of the layout."""
    for menu_ in figure.layout.updatemenus:
        yield from ((b.args[0], b.args[1]) for b in menu_.buttons)
    for slider in figure.layout.sliders:
        yield from ((s.args[0], s.args[1]) for s in slider.steps)


def axes(figure: go.Figure) -> dict[str, Any]:
    return {a.plotly_name: a for a in (*figure.select_xaxes(), *figure.select_yaxes())}


@pytest.mark.fault("A13")
@pytest.mark.parametrize("kind", FIGURES)
def test_every_axis_has_a_type_that_no_control_makes_plotly_guess(kind: str) -> None:
    """Plotly guesses the types of axes again when a control exchanges data: of numbers it can guess one thing only."""
    figure = drawn(kind)
    types = {name: axis.type for name, axis in axes(figure).items()}
    assert types
    assert None not in types.values()
    for data, layout in controls(figure):
        assert set(types.values()) == {"linear"}
        assert not [k for k in layout if k.endswith(".type")], "which would also make plotly choose another range"
        for values in (v for k in ("x", "y") for trace in data.get(k, ()) for v in trace):
            assert values is None or isinstance(values, (int, float))
        assert "x" not in data or kind == "projection", "a control need not touch an axis of layers"
    if kind in ("phases", "phases absolute", "phases relative depth", "similarity", "projection"):
        assert list(controls(figure))


@pytest.mark.fault("A13")
@pytest.mark.parametrize("kind", FIGURES)
def test_layers_are_numbers_wherever_they_are_an_axis(kind: str) -> None:
    for axis in drawn(kind).select_xaxes():
        if axis.title.text == LAYER_AXIS:
            assert axis.type == "linear"


@pytest.mark.fault("A13")
def test_boundaries_lie_where_the_curves_cross_for_every_task() -> None:
    figure = menu()
    x = list(figure.data[0].x)
    assert x == [-1, 0, 1, 2, 3]
    assert figure.layout.xaxis.ticktext[0] == "embed"
    assert figure.layout.xaxis.tickvals[0] == -1
    for data, layout in controls(figure):
        curves = dict(zip(("input", "task", "answer"), data["y"][:3], strict=True))
        lines = [s for s in layout["shapes"] if s["type"] == "line" and s["xref"] == "x"]
        assert lines
        for shape, (left, right) in zip(lines, (("input", "task"), ("task", "answer")), strict=True):
            gap = np.interp(shape["x0"], x, np.subtract(curves[left], curves[right]))
            assert abs(gap) < 0.02


@pytest.mark.fault("D8")
@given(st.lists(st.floats(-1, 1) | st.just(np.nan), max_size=6), st.lists(st.floats(-1, 1), max_size=2))
def test_a_range_fits_its_data_and_shows_what_they_are_read_against(values: list[float], around: list[float]) -> None:
    low, high = span(values, around=around or [0.0])
    shown = [v for v in (*values, *(around or [0.0])) if np.isfinite(v)]
    assert low <= min(shown) <= max(shown) <= high
    width = max(shown) - min(shown)
    assert high - low <= 1.11 * width + 1e-3 or (width == 0 and high - low <= 0.11)


@pytest.mark.fault("D8")
@pytest.mark.parametrize("kind", FIGURES)
def test_data_fill_their_axis_or_the_axis_is_of_shares(kind: str) -> None:
    """At least three quarters of a fitted axis are used by data, intervals or the line of no difference."""
    figure = drawn(kind)
    for way in "xy":
        for axis in figure.select_xaxes() if way == "x" else figure.select_yaxes():
            title = axis.title.text or ""
            if not re.search("cosine|difference of acc|silhouette|CKA", title) or axis.range is None:
                continue
            ends = [0.0]
            for trace in figure.data:
                values = np.array(trace[way], float)
                error = trace[f"error_{way}"]
                for sign, side in ((1, error.array), (-1, error.arrayminus)):
                    ends += list(values + sign * np.array(side, float)) if side is not None else list(values)
            used = np.nanmax(ends) - np.nanmin(ends)
            low, high = axis.range
            assert low <= np.nanmin(ends) + 1e-3
            assert np.nanmax(ends) - 1e-3 <= high
            assert used >= 0.75 * (high - low), (kind, title, axis.range)


@pytest.mark.fault("D8")
@pytest.mark.parametrize("kind", ["transfer", "overriding", "alignment centroids", "phases", "accuracies"])
def test_shares_are_drawn_from_zero_to_one(kind: str) -> None:
    figure = drawn(kind)
    axis = figure.layout.xaxis if kind == "accuracies" else figure.layout.yaxis
    assert tuple(axis.range) == SHARES


@pytest.mark.fault("D9")
def test_overriding_shows_its_finding_first() -> None:
    """The patched task's line is the boldest mark; runs that know no layer are levels, not places on the axis."""
    result = overriding()
    figure = plot.overriding(result)
    lines = {t.legendgroup: t for t in figure.data if t.name}
    widths = {group: trace.line.width for group, trace in lines.items()}
    assert max(widths, key=widths.__getitem__) == "patched"
    assert widths["patched"] >= 1.5 * max(w for g, w in widths.items() if g != "patched")
    assert lines["patched"].line.dash == "solid"
    assert min(t.legendrank for t in lines.values()) == WINNERS["patched"].rank
    assert all(set(t.x) <= set(result.layers) for t in lines.values())
    for method in ("no patch", "system prompt"):
        level = result.share("patched", method)
        assert list(lines[method].y) == pytest.approx([level.mean] * len(result.layers), abs=1e-3)
        edge = next(t for t in figure.data if t.fill == "toself" and t.legendgroup == method)
        assert (min(edge.y), max(edge.y)) == pytest.approx((level.low, level.high), abs=1e-3)
    best = result.best_layer
    sizes = dict(zip(lines["patched"].x, lines["patched"].marker.size, strict=True))
    assert max(sizes, key=sizes.__getitem__) == best
    share = result.share("patched", layer=best)
    assert lines["patched"].y[best] == pytest.approx(share.mean, abs=1e-3)


@pytest.mark.fault("D3")
@pytest.mark.parametrize("kind", FIGURES)
def test_no_text_of_a_figure_prints_minus_zero_or_nan(kind: str) -> None:
    figure = drawn(kind)
    said: list[str] = []

    def collect(value: Any) -> None:
        if isinstance(value, str):
            said.append(value)
        elif isinstance(value, dict):
            for inner in value.values():
                collect(inner)
        elif isinstance(value, (list, tuple, np.ndarray)):
            for inner in value:
                collect(inner)

    collect(figure.to_plotly_json())
    faulty = [s for s in said if re.search(r"[-\u2212]0\.0+(?!\d)|\bnan\b", s)]
    assert not faulty
    # Plotly formats what a template names itself: signed numbers would come out as minus zero.
    assert not [t.hovertemplate for t in figure.data if t.hovertemplate and re.search(r":\+", t.hovertemplate)]


def test_similarity_is_read_on_a_scale_from_minus_one_to_one() -> None:
    figure = plot.similarity(Similarity(("a", "b"), ("a", "b"), np.full((2, 2, 2), 0.9)))
    assert (figure.data[0].zmin, figure.data[0].zmax) == (-1, 1)
