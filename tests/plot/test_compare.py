"""The forest and the layer comparison show the numbers of their results."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from tests.measure.synthetic import answers, sweep
from xmi import plot
from xmi.measure import compare, comparisons, layerwise

HITS = np.random.default_rng(0).random((3, 2, 30)) < np.array([0.9, 0.6, 0.1])[:, None, None]
UNITS = [f"{'ab'[i % 2]}/{i}" for i in range(30)]
TASKS = [unit[0] for unit in UNITS]
SWEEP = sweep(HITS, ("text ICL", "<b>image</b> ICL", "control: random"), UNITS, TASKS)
CELLS = {"text ICL > image": answers(HITS[1, 0], UNITS, TASKS), "no context > image": SWEEP.clean}


def _table() -> pd.DataFrame:
    return comparisons(CELLS, {"image.validation": SWEEP, "image.test": SWEEP})


def test_forest_shows_every_contrast() -> None:
    table = _table()
    figure = plot.figure_of(table)
    shown = {}
    for trace in figure.data:
        for y, x, up, down, symbol in zip(
            trace.y, trace.x, trace.error_x.array, trace.error_x.arrayminus, trace.marker.symbol, strict=True
        ):
            shown[y] = (x, x - down, x + up, symbol.endswith("-open"))
    assert len(shown) == len(table) == 3
    labels = ("text ICL<br>- the prompt", "text ICL<br>- random", "text ICL<br>- no context")
    for row, label in zip(table.itertuples(), labels, strict=True):
        assert shown[label][:3] == pytest.approx((row.difference, row.low, row.high), abs=1e-3)
        assert shown[label][3] == (row.p_holm >= 0.05)
    assert list(figure.layout.yaxis.categoryarray) == [y for t in figure.data for y in t.y]
    assert figure.layout.meta["subtitle"].startswith("image queries; ")
    assert "Holm" in figure.layout.meta["subtitle"]
    both = plot.comparisons(pd.concat([table, table.assign(target="text")]))
    assert {y for t in both.data for y in t.y} >= {
        "text ICL → image query<br>- random",
        "text ICL → text query<br>- random",
    }
    json.dumps(figure.to_plotly_json(), default=list)


def test_filled_markers_follow_the_column_asked_for() -> None:
    table = _table().assign(p=0.04, p_bh=0.2, p_holm=0.2)
    for column, filled in (("p", True), ("p_bh", False)):
        symbols = [s for t in plot.comparisons(table, p=column).data for s in t.marker.symbol]
        assert {not s.endswith("-open") for s in symbols} == {filled}
    with pytest.raises(ValueError, match="'q'"):
        plot.comparisons(table, p="q")


def test_one_comparison_is_a_forest_of_one_and_strings_are_shown_as_written() -> None:
    one = compare(answers(HITS[0, 0]), answers(HITS[2, 0]), names=("<b>x</b>", "y"))
    figure = one.figure()
    (trace,) = figure.data
    assert list(trace.y) == ["&lt;b&gt;x&lt;/b&gt;<br>- y"]
    assert trace.x[0] == pytest.approx(one.difference, abs=1e-3)


def test_an_interval_that_is_not_known_is_left_out() -> None:
    single = compare(answers([True, False, True], tasks=["a", "a", "b"]), answers([False] * 3, tasks=["a", "a", "b"]))
    (trace,) = single.figure().data
    assert trace.error_x.array == (None,)


def test_empty_tables_draw_an_empty_forest() -> None:
    assert len(plot.figure_of(comparisons({}, {})).data) == 0


def test_layer_comparison_fills_what_holds_after_correction() -> None:
    found = layerwise(SWEEP, "text ICL", "control: random")
    band, line = found.figure().data
    assert list(line.x) == [10, 11]
    assert line.y == pytest.approx(found.difference, abs=1e-3)
    assert np.allclose(band.y, [*found.high, *found.low[::-1]], atol=1e-3)
    assert list(line.marker.symbol) == ["circle", "circle"]
    nothing = layerwise(SWEEP, "text ICL", "text ICL").figure().data[1]
    assert list(nothing.marker.symbol) == ["circle-open", "circle-open"]
