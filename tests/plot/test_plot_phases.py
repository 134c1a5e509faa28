"""Figures of the boundaries: drawn where they are, with their intervals, for models of any depth."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from xmi import plot
from xmi.measure import Phases
from xmi.measure.boundaries import CHANGES
from xmi.measure.phases import boundaries
from xmi.measure.task_words import TaskWords
from xmi.plot.looks import GREEN, VERMILION


def measured(label: str = "text ICL", depths: int = 9, model: str = "", seed: int = 0) -> Phases:
    """Phases that change about a third and two thirds of the way through."""
    rng = np.random.default_rng(seed)
    at = np.arange(depths) / (depths - 1)
    late, later = (1 / (1 + np.exp(-30 * (at - rng.normal(p, 0.05, (12, 1))))) for p in (1 / 3, 2 / 3))
    shares = np.stack([1 - late, late - late * later, late * later], -1)
    names = ("embed", *map(str, range(depths - 1)))
    return Phases(label, names, shares, shares * 0, ((("x", 1.0),),) * depths, model=model)


def shapes(figure, kind: str) -> list:
    return [s for s in figure.layout.shapes if s.type == kind]


@pytest.mark.parametrize("x", ["layer", "relative"])
def test_boundaries_are_lines_and_intervals_are_bands(x: str) -> None:
    phases = measured()
    found = phases.boundaries()
    scale = (lambda v: v) if x == "layer" else found.relative
    figure = plot.phases(phases, x=x)
    assert [s.x0 for s in shapes(figure, "line")] == pytest.approx(list(scale(found.layer)[0]), rel=1e-3)
    assert [s.line.color for s in shapes(figure, "line")] == [VERMILION, GREEN]
    assert [s.x0 for s in shapes(figure, "rect")] == pytest.approx(list(scale(found.low)[0]), rel=1e-3)
    assert [s.x1 for s in shapes(figure, "rect")] == pytest.approx(list(scale(found.high)[0]), rel=1e-3)
    places = list(range(-1, 8)) if x == "layer" else pytest.approx(list(phases.relative_depth), abs=1e-3)
    assert list(figure.data[0].x) == places
    assert not plot.phases(phases, x=x, boundaries=False).layout.shapes
    assert "NaN" not in figure.to_json()


def test_a_boundary_that_does_not_exist_is_not_drawn() -> None:
    phases = measured()
    assert not plot.phases(replace(phases, probability=phases.probability[:, ::-1])).layout.shapes
    one = plot.phases(replace(phases, probability=phases.probability[:1], rank=phases.rank[:1]))
    assert (len(shapes(one, "line")), len(shapes(one, "rect"))) == (2, 0), "one prompt has no interval"


def test_models_of_different_depth_lie_side_by_side() -> None:
    small, large = measured(depths=9, model="small"), measured(depths=33, model="large")
    figure = plot.phases({"a": small, "b": large}, x="relative")
    assert [a.text for a in figure.layout.annotations] == ["text ICL, small", "text ICL, large"]
    assert [len(t.x) for t in figure.data] == [9] * 5 + [33] * 5
    assert {s.xref for s in shapes(figure, "line")} == {"x", "x2"}
    assert {s.yref for s in shapes(figure, "line")} == {"y domain", "y2 domain"}
    lenses = plot.phases([small, replace(small, lens="tuned lens")])
    assert [a.text for a in lenses.layout.annotations] == ["text ICL, logit lens", "text ICL, tuned lens"]
    with pytest.raises(ValueError, match="x='relative'"):
        plot.phases([small, large])
    with pytest.raises(ValueError, match=r"Two measurements are named 'text ICL' \(model 'small', logit lens\)"):
        plot.phases([small, small])
    with pytest.raises(ValueError, match="Unknown axis 'depth'"):
        plot.phases(small, x="depth")


def test_the_menu_exchanges_boundaries_with_the_task() -> None:
    parts = [measured(), measured("t · text ICL", seed=1)]
    figure = plot.phases(parts)
    data, layout = figure.layout.updatemenus[0].buttons[1].args
    assert [s["x0"] for s in layout["shapes"] if s["type"] == "line"] == pytest.approx(
        list(parts[1].boundaries().layer[0]), rel=1e-3
    )
    assert {len(values) for values in data.values()} == {len(figure.data)}


def test_boundaries_have_a_figure_of_their_own() -> None:
    found = boundaries([measured(depths=9, model="small"), measured("<b>", 33, "large")])
    figure = found.figure()
    assert [t.name for t in figure.data] == list(CHANGES)
    for j, trace in enumerate(figure.data):
        assert list(trace.x) == pytest.approx(list(found.relative(found.layer)[:, j]), rel=1e-3)
        ends = np.array(trace.x) + np.array(trace.error_x.array), np.array(trace.x) - np.array(trace.error_x.arrayminus)
        np.testing.assert_allclose(ends, [found.relative(v)[:, j] for v in (found.high, found.low)], rtol=2e-3)
    assert list(figure.layout.yaxis.ticktext) == ["text ICL (small)", "&lt;b&gt; (large)"]
    by_layer = found.figure(x="layer")
    assert list(by_layer.data[0].x) == pytest.approx(list(found.layer[:, 0]), rel=1e-3)
    assert by_layer.layout.xaxis.range[1] > 31
    nothing = replace(found, layer=found.layer * np.nan, low=found.low * np.nan, high=found.high * np.nan)
    assert list(json.loads(nothing.figure().to_json())["data"][0]["x"]) == [None, None]
    with pytest.raises(ValueError, match="Unknown axis"):
        found.figure(x="depth")


def test_task_words_show_how_far_they_stand_out() -> None:
    found = TaskWords(
        ("a", "b"), (" <i>", " word"), (1, 2), ("3", "embed"), np.array([0.5, 0.25]), np.array([0.125, 0.0]),
        np.array([1.0, 0.5]), ("a", "b", "c"),
    )  # fmt: skip
    figure = found.figure()
    assert [list(t.x) for t in figure.data] == [[0.5, 0.25], [0.125, 0.0]]
    assert list(figure.layout.yaxis.ticktext) == ["a: “ &lt;i&gt;”", "b: “ word”"]
    assert tuple(figure.data[0].customdata[1][1:]) == ("embed", "0.250", "50\u00a0%")
    none = TaskWords((), (), (), (), found.mass[:0], found.mass[:0], found.mass[:0], ("a", "b"))
    assert list(none.figure().data[0].x) == []


@pytest.mark.fault("A11")
def test_a_task_called_all_tasks_is_not_the_pool() -> None:
    pooled, task = measured("text ICL"), measured("all tasks · text ICL", seed=1)
    figure = plot.phases([task, pooled])
    first, second = (button.args[0]["y"][0] for button in figure.layout.updatemenus[0].buttons)
    assert first == pytest.approx(pooled.relative[:, 0], abs=1e-3)
    assert second == pytest.approx(task.relative[:, 0], abs=1e-3)
