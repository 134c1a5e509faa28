"""The figures show the numbers of the results, and strings as they were written."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis import strategies as st

import xmi
from xmi import plot
from xmi.measure import (
    Answers,
    LensReading,
    Phases,
    Projection,
    Proportion,
    Silhouette,
    Similarity,
    Transfer,
    cosine_per_layer,
)
from xmi.measure.result import Result
from xmi.plot.labels import apart
from xmi.plot.looks import GREY, PALETTE, SYMBOLS
from xmi.plot.registry import draws
from xmi.plot.theme import finish, numbers, text

RNG = np.random.default_rng(0)


def _answers(hits: np.ndarray, labels: tuple[str, ...] | None = None) -> Answers:
    n = len(hits)
    words = tuple(map(str, range(n)))
    return Answers(
        words, ("a",) * (n // 2) + ("b",) * (n - n // 2), words, labels or ("x", "x", "y", "z") * (n // 4), words,
        np.zeros(n), np.zeros(n, int), hits.astype(bool), ~hits.astype(bool),
    )  # fmt: skip


def _transfer() -> Transfer:
    clean = _answers(np.array([1, 0, 0, 0, 0, 0, 0, 0]))
    hits = RNG.random((3, 4, 8)) < 0.5
    words = tuple(tuple(clean.predicted for _ in range(4)) for _ in range(3))
    sources = ("text ICL", "<b>image</b> ICL", "control: random vector")
    return Transfer(sources, (2, 3, 4, 5), clean.tasks, clean.units, clean.answers, words, np.zeros(hits.shape),
                    np.zeros(hits.shape, int), hits, ~hits, clean)  # fmt: skip


def _phases(label: str, top: str = " capital") -> Phases:
    tops = ((("<script>alert(1)</script>", 0.5), (top, 0.25)),) * 3
    return Phases(label, ("embed", "0", "1"), RNG.random((5, 3, 3)), np.zeros((5, 3, 3)), tops)


def _lines(figure):
    """Named traces that a reader sees as curves or points."""
    return {t.name: t for t in figure.data if t.name}


def test_transfer_draws_each_curve_with_its_interval():
    sweep = _transfer()
    figure = plot.transfer(sweep)
    lines = _lines(figure)
    curve = sweep.curve("text ICL")
    assert lines["text ICL"].y == pytest.approx([p.mean for p in curve], abs=1e-4)
    assert list(lines["text ICL"].x) == [2, 3, 4, 5]
    assert list(lines["text ICL"].customdata) == [f"{p}, n = {p.n}" for p in curve]
    band = next(t for t in figure.data if t.fill == "toself" and t.legendgroup == "text ICL")
    assert np.allclose(band.y, [p.high for p in curve] + [p.low for p in curve][::-1], atol=1e-3)


def test_transfer_sets_controls_and_levels_apart():
    lines = _lines(plot.transfer(_transfer()))
    assert lines["control: random vector"].line.dash == "longdash"
    assert lines["control: random vector"].line.color == GREY
    assert lines["text ICL"].line.color in PALETTE
    # One of eight items is right without a patch; the commonest label is right in 2 of 4 items of both tasks.
    assert list(lines["no context (0.12)"].y) == [0.125, 0.125]
    assert list(lines["majority label (0.50)"].y) == [0.5, 0.5]
    assert "<b>image</b> ICL" not in lines
    assert "&lt;b&gt;image&lt;/b&gt; ICL" in lines


def test_transfer_names_its_lines_bands_its_controls_and_keeps_the_rest_for_later():
    sweep = replace(_transfer(), sources=("text ICL", "1 example", "control: random vector"))
    figure = plot.transfer(sweep, prompt=0.75)
    shown = {t.legendgroup for t in figure.data if t.visible is not None and t.visible is True}
    assert shown == {"text ICL", "controls", "prompt"}
    assert {t.legendgroup for t in figure.data if t.visible == "legendonly"} >= {"1 example", "control: random vector"}
    curve, clean = sweep.curve("control: random vector"), sweep.clean.accuracy()
    controls = _lines(figure)["controls, all together"]
    assert np.allclose(controls.y[:4], [max(p.high, clean.high) for p in curve], atol=1e-3)
    assert np.allclose(controls.y[4:], [min(p.low, clean.low) for p in curve][::-1], atol=1e-3)
    assert list(_lines(figure)["prompt (0.75)"].y) == [0.75, 0.75]
    beside = [t for t in figure.data if t.mode == "text"]
    assert [t.legendgroup for t in sorted(beside, key=lambda t: t.legendgroup)] == ["controls", "prompt", "text ICL"]
    assert all(t.legendgroup in t.text[0] and t.x[0] == 5 for t in beside)


@given(st.lists(st.floats(0, 1), max_size=8))
def test_names_beside_lines_stand_apart_and_in_order(values):
    found = apart(sorted(values), 0.1)
    assert all(b - a >= 0.1 - 1e-3 for a, b in pairwise(found))
    assert all(value <= 1.03 for value in found)
    assert len(found) == len(values)


def test_transfer_follows_the_score_and_marks_a_layer():
    sweep = _transfer()
    strict = _lines(plot.transfer(sweep, score="strict"))["text ICL"]
    assert strict.y == pytest.approx([p.mean for p in sweep.curve("text ICL", "strict")], abs=1e-4)
    sizes = _lines(plot.transfer(sweep, chosen={"text ICL": 4}))["text ICL"].marker.size
    assert sizes.index(max(sizes)) == sweep.layers.index(4)
    assert len(set(_lines(plot.transfer(sweep))["text ICL"].marker.size)) == 1


def test_transfer_shows_base_similarity_by_colour_and_additions_by_dash():
    sweep = _transfer()
    sources = ("text ICL", "text ICL + instruction", "base LLM text ICL")
    lines = _lines(plot.transfer(replace(sweep, sources=sources)))
    assert len({lines[s].line.color for s in sources}) == 1
    assert len({lines[s].line.dash for s in sources}) == 3
    assert lines["text ICL"].marker.symbol != lines["text ICL + instruction"].marker.symbol


def test_phases_share_and_tokens():
    measured = _phases("text ICL")
    figure = plot.phases(measured)
    for i, phase in enumerate(("input", "task", "answer")):
        assert _lines(figure)[phase].y == pytest.approx(measured.relative[:, i], abs=1e-3)
    tokens = _lines(figure)["top tokens"].customdata[1]
    assert "&lt;script&gt;" in tokens
    assert "<script>" not in tokens
    assert "50\u00a0%" in tokens


def test_phases_of_a_study_have_a_row_per_specification_and_a_menu_of_tasks():
    parts = {
        p.label: p
        for p in (_phases("text ICL"), _phases("image ICL"), _phases("t · image ICL"), _phases("t · text ICL"))
    }
    figure = plot.phases(parts)
    assert [a.text for a in figure.layout.annotations] == ["text ICL", "image ICL"]
    labels = [b.label for b in figure.layout.updatemenus[0].buttons]
    assert labels == ["all tasks", "t"]
    change = figure.layout.updatemenus[0].buttons[1].args[0]
    assert len(change["y"]) == len(figure.data)
    # Rows keep their specification whatever the order in which the tasks came.
    assert change["y"][0] == pytest.approx(parts["t · text ICL"].relative[:, 0], abs=1e-3)
    row = len(figure.data) // 2
    assert change["y"][row] == pytest.approx(parts["t · image ICL"].relative[:, 0], abs=1e-3)


def test_phases_refuse_different_depths():
    other = Phases("b", ("embed",), np.ones((1, 1, 3)), np.ones((1, 1, 3)), ((("a", 1.0),),))
    with pytest.raises(ValueError, match="same depth"):
        plot.phases([_phases("a"), other])


def test_similarity_has_a_fixed_range_and_a_step_per_layer():
    vectors = RNG.normal(size=(4, 3, 5))
    result = cosine_per_layer(vectors, ["a · x", "b · x", "a · y", "b · y"], ["a", "b", "a", "b"])
    figure = plot.similarity(result, layer=2)
    order = [0, 2, 1, 3]  # grouped
    assert np.allclose(np.array(figure.data[0].z, float), result.values[2][np.ix_(order, order)], atol=1e-3)
    assert (figure.data[0].zmin, figure.data[0].zmax) == (-1, 1)
    steps = figure.layout.sliders[0].steps
    assert figure.layout.sliders[0].active == 2
    for layer, step in enumerate(steps):
        assert np.allclose(np.array(step.args[0]["z"][0], float), result.values[layer][np.ix_(order, order)], atol=1e-3)
    assert list(figure.layout.xaxis.ticktext) == ["a", "b"]
    with pytest.raises(ValueError, match="Layer 9"):
        plot.similarity(result, layer=9)


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_projection_colours_tasks_and_shapes_modalities(method):
    points = RNG.normal(size=(2, 6, 2))
    explained = np.array([[0.5, 0.25], [0.75, 0.125]]) if method == "pca" else np.full((2, 2), np.nan)
    tasks, kinds = ("a", "a", "b", "b", "a", "b"), ("text", "image") * 3
    figure = plot.projection(Projection(method, tasks, kinds, (0, 1), points, explained), layer=1)
    shown = [t for t in figure.data if t.x[0] is not None]
    assert sum(len(t.x) for t in shown) == 6
    first = shown[0]
    assert (first.marker.color, first.marker.symbol) == (PALETTE[0], SYMBOLS[0])
    assert np.allclose(first.x, points[1][[0, 4], 0], atol=1e-3)
    assert {(t.marker.color, t.marker.symbol) for t in shown} == set(product(PALETTE[:2], SYMBOLS[:2]))
    step = figure.layout.sliders[0].steps[0]
    assert step.args[0]["y"][0] == pytest.approx(list(points[0][[0, 4], 1]), abs=1e-3)
    assert ("75\u00a0%" in figure.layout.xaxis.title.text) == (method == "pca")
    assert ("50\u00a0%" in step.args[1]["xaxis.title.text"]) == (method == "pca")


def test_silhouette_curves_and_missing_values():
    result = Silhouette((0, 1), np.array([0.1, np.nan]), np.array([-0.2, 0.3]))
    lines = _lines(plot.silhouette(result))
    assert list(lines["clusters are tasks"].y) == [0.1, None]
    assert list(lines["clusters are modalities"].y) == [-0.2, 0.3]


def test_reading_shows_tokens_with_their_probabilities():
    tokens = ((("a", "<b>"), ("a very long token indeed", "c")),)
    result = LensReading(("embed", "0"), tokens, np.array([[[0.5, 0.25], [0.75, 0.125]]]), "last")
    drawn, words = result.figure().data
    assert [list(row) for row in drawn.z] == [[0.5, 0.25], [0.75, 0.125]]
    assert words.text[1] == drawn.customdata[0][1][0] == "&lt;b&gt;"
    assert (words.x[2], words.y[2], words.text[2]) == ("top 1", "0", "a very l…")
    assert tuple(drawn.customdata[1][0]) == ("a very long token indeed", "0.750")
    with pytest.raises(ValueError, match="no prompt 1"):
        result.figure(prompt=1)


def test_accuracies_and_summary_carry_intervals():
    answers = _answers(np.array([1, 1, 0, 0, 1, 1, 1, 1]))
    per_task = plot.accuracies(answers).data[0]
    assert list(per_task.x) == [0.5, 1.0]
    named = plot.accuracies({"m": Proportion(0.5, 10, 0.25, 0.75)}).data[0]
    assert (named.error_x.array[0], named.error_x.arrayminus[0]) == (0.25, 0.25)
    frame = pd.DataFrame([{"method": "patch", "source": "text ICL", "target": "image", "accuracy": 0.5, "low": 0.25,
                           "high": 0.75, "n": 10}])  # fmt: skip
    both = plot.summary({"one": frame, "two": frame})
    assert [t.name for t in both.data] == ["one", "two"]
    assert both.data[0].marker.symbol != both.data[1].marker.symbol
    assert both.data[0].y[0] == "text ICL:<br>patch → image query"


def test_figure_of_draws_every_result():
    similarity = Similarity(("a", "b"), ("a", "b"), np.ones((2, 2, 2)))
    assert plot.figure_of(similarity).data[0].type == "heatmap"
    assert similarity.figure(layer=0).layout.sliders[0].active == 0
    assert _lines(plot.figure_of([_phases("a"), _phases("b")]))["task"]
    assert _lines(plot.figure_of({"a": _phases("a")}))["task"]
    assert _lines(_transfer().figure())["text ICL"]
    with pytest.raises(TypeError, match="int"):
        plot.figure_of(3)


def test_a_figure_is_one_decorated_function():
    @dataclass(frozen=True)
    class Lengths(Result):
        values: tuple[float, ...]

    @draws(Lengths)
    def lengths(result: Lengths, *, title: str = "Lengths") -> go.Figure:
        return finish(go.Figure().add_scatter(y=result.values), title, height=300)

    assert list(Lengths((1.0, 2.0)).figure(title="Mine").data[0].y) == [1.0, 2.0]
    with pytest.raises(xmi.ArgumentError, match="lengths: title must be"):
        Lengths((1.0,)).figure(title=3)


def test_every_module_of_figures_is_imported():
    drawing = [p.stem for p in Path(plot.__file__).parent.glob("*.py") if "@draws(" in p.read_text("utf-8")]
    known = {function.__module__ for function in plot.figure_of.registry.values()}
    assert len(drawing) > 10 and {f"xmi.plot.{name}" for name in drawing} <= known


def test_every_figure_names_its_axes_and_leaves_the_background_to_the_page():
    result = cosine_per_layer(RNG.normal(size=(2, 2, 3)), ["a", "b"])
    plane = Projection("pca", ("a",), ("x",), (0,), np.ones((1, 1, 2)), np.ones((1, 2)))
    for figure in (plot.transfer(_transfer()), plot.phases(_phases("a")), plot.projection(plane)):
        assert figure.layout.xaxis.title.text
        assert figure.layout.yaxis.title.text
    for figure in (plot.transfer(_transfer()), plot.phases(_phases("a")), plot.similarity(result)):
        layout = json.loads(figure.to_json())["layout"]["template"]["layout"]
        assert layout["paper_bgcolor"] == layout["plot_bgcolor"] == "rgba(0,0,0,0)"
        assert figure.layout.title.text


def test_text_is_shown_as_written():
    assert text("<b>&") == "&lt;b&gt;&amp;"
    assert text("שלום")[0] == "\u2068"  # right-to-left text does not reorder its surroundings
    assert numbers([[0.123456, np.nan]]) == [[0.1235, None]]
