"""The figures of the alignment show its numbers and wear its tests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from xmi import plot
from xmi.measure import Alignment, Silhouette, alignment

MARGIN = "cosine, same minus different task, across modalities"


@pytest.fixture(scope="module")
def result() -> Alignment:
    rng = np.random.default_rng(0)
    centres = np.repeat(rng.normal(size=(5, 1, 8)), 8, 0)
    points = centres * np.array([0.0, 1.0, 2.0])[:, None] + rng.normal(size=(40, 3, 8))
    tasks = [f"t{i}" for i in range(5) for _ in range(8)]
    return alignment(points, tasks, ["text", "<b>image"] * 20, permutations=199)


def _lines(figure):
    return {t.name: t for t in figure.data if t.name}


@pytest.mark.parametrize("state", ["raw", "gap removed"])
def test_cosines_wear_the_test_of_their_margin(result: Alignment, state: str) -> None:
    lines = _lines(result.figure(state=state))
    for where in ("across modalities", "within a modality"):
        for which in ("same task", "different task"):
            curve = result.curve(f"cosine, {which}, {where}", state)
            assert lines[f"{which}, {where}"].y == pytest.approx(curve["value"], abs=1e-3)
    found = result.curve(MARGIN, state)["corrected"]
    symbols = lines["same task, across modalities"].marker.symbol
    assert [s == "circle" for s in symbols] == [q < 0.05 for q in found]
    assert 0 < sum(q < 0.05 for q in found) < 3, "some layers pass, some do not"


def test_centroids_have_bands_and_a_chance_line(result: Alignment) -> None:
    figure = plot.alignment(result, kind="centroids", state="raw")
    curve = result.curve("centroids, text to <b>image", "raw")
    line = _lines(figure)["centroids of text, points of &lt;b&gt;image"]
    assert line.y == pytest.approx(curve["value"], abs=1e-3)
    band = next(t for t in figure.data if t.fill == "toself" and t.legendgroup == line.legendgroup)
    np.testing.assert_allclose(band.y, [*curve["high"], *curve["low"][::-1]], atol=1e-3)
    assert figure.layout.shapes[0].y0 == 1 / 5


def test_shape_draws_three_measures_without_bands(result: Alignment) -> None:
    figure = plot.alignment(result, kind="shape")
    assert list(_lines(figure)) == ["CKA", "RSA", "Procrustes"]
    assert not [t for t in figure.data if t.fill == "toself"]
    assert _lines(figure)["RSA"].y == pytest.approx(result.curve("RSA", "gap removed")["value"], abs=1e-3)


def test_what_was_not_measured_is_not_drawn(result: Alignment) -> None:
    values = result.values.copy()
    values[:, result.measures.index("RSA")] = np.nan
    assert list(_lines(plot.alignment(replace(result, values=values), kind="shape"))) == ["CKA", "Procrustes"]


def test_unknown_kinds_and_states_are_refused(result: Alignment) -> None:
    with pytest.raises(ValueError, match="use one of cosine, centroids, shape"):
        result.figure(kind="angles")
    with pytest.raises(KeyError, match="states"):
        result.figure(state="cooked")


def test_silhouette_fills_what_passes_its_test() -> None:
    curves = np.array([0.1, 0.5])
    lines = _lines(Silhouette((0, 1), curves, curves, np.array([0.2, 0.01]), np.array([0.01, 0.2])).figure())
    assert list(lines["clusters are tasks"].marker.symbol) == ["circle-open", "circle"]
    assert list(lines["clusters are modalities"].marker.symbol) == ["square", "square-open"]
    assert _lines(Silhouette((0, 1), curves, curves).figure())["clusters are tasks"].marker.symbol == "circle"
