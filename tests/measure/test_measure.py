"""Numbers against independent ways to compute them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.manifold import TSNE

import xmi
from xmi.measure import (
    Answers,
    Phases,
    Transfer,
    accuracy,
    cosine_per_layer,
    merge,
    paper_hit,
    project,
    silhouette,
    strict_hit,
    wilson,
)
from xmi.measure.result import encode


@given(st.integers(1, 400), st.data())
def test_wilson_equals_scipy(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n))
    expected = binomtest(k, n).proportion_ci(method="wilson")
    found = wilson(k / n, n)
    np.testing.assert_allclose([found.low, found.high], [expected.low, expected.high], atol=1e-12)
    assert found.low <= found.mean <= found.high


def test_intervals_count_items_not_repeats() -> None:
    hits, units = [1, 0, 1, 1], ["a", "b", "c", "d"]
    once = accuracy(hits, units)
    assert accuracy(hits * 10, units * 10) == once, "asking ten times is no evidence of its own"
    assert (once.mean, once.n) == (0.75, 4)


def test_accuracy_is_the_mean_over_tasks() -> None:
    found = accuracy([1] * 9 + [0], [f"u{i}" for i in range(10)], ["big"] * 9 + ["small"])
    assert found.mean == 0.5
    assert found.n == 10


def test_bad_proportions() -> None:
    with pytest.raises(ValueError, match="0 <= mean <= 1"):
        wilson(1.5, 3)
    with pytest.raises(ValueError, match="one entry per answer"):
        accuracy([1, 0], ["a"])
    assert np.isnan(accuracy([], []).mean)


@pytest.mark.parametrize(
    ("predicted", "answer", "hit"),
    [("Ath", "Athens", True), (" Athens", "Athens", True), ("Athens", "Ath", True), ("Rome", "Athens", False),
     ("", "Athens", False), ("  ", "Athens", False), ("athens", "Athens", False), ("thens", "Athens", False)],
)  # fmt: skip
def test_paper_score(predicted: str, answer: str, hit: bool) -> None:
    assert paper_hit(predicted, answer) == hit


def test_scores() -> None:
    assert paper_hit("athens", "Athens", ignore_case=True)
    assert strict_hit(3, 3)
    assert not strict_hit(3, 4)


def test_cosines_by_hand() -> None:
    vectors = np.array([[[1.0, 0.0]], [[1.0, 1.0]], [[0.0, 0.0]]])
    with pytest.warns(xmi.XmiWarning, match=r"'null' at layers \[0\]: a zero vector"):
        found = cosine_per_layer(vectors, ["a", "b", "null"], ["t", "t", "u"])
    nan = np.nan
    np.testing.assert_allclose(found.values[0], [[1, 0.5**0.5, nan], [0.5**0.5, 1, nan], [nan, nan, nan]], atol=1e-12)
    table = found.within_and_across()
    np.testing.assert_allclose(table["same"], 0.5**0.5)
    assert table["different"].isna().all()
    centred = cosine_per_layer(vectors[:2], ["a", "b"], centred=True)
    np.testing.assert_allclose(centred.values[0, 0, 1], -1.0)


def blobs() -> tuple[np.ndarray, list[str], list[str]]:
    """Two tasks far apart, two modalities nowhere apart, one layer; a second layer where it is the other way round."""
    rng = np.random.default_rng(0)
    tasks, modalities = ["a", "a", "b", "b"] * 6, ["text", "image"] * 12
    points = rng.normal(size=(24, 2, 8)) * 0.1
    points[:, 0, 0] += np.where(np.array(tasks) == "a", 5, -5)
    points[:, 1, 0] += np.where(np.array(modalities) == "text", 5, -5)
    return points, tasks, modalities


def test_silhouette_tells_tasks_from_modalities() -> None:
    found = silhouette(*blobs())
    assert found.by_task[0] > 0.9 > 0.1 > found.by_modality[0]
    assert found.by_modality[1] > 0.9 > 0.1 > found.by_task[1]
    alone = silhouette(blobs()[0], ["a"] * 24, blobs()[2])
    assert np.isnan(alone.by_task).all()


def test_pca_equals_svd() -> None:
    points, tasks, modalities = blobs()
    found = project(points, tasks, modalities)
    centred = points[:, 0] - points[:, 0].mean(0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs(found.points[0]), np.abs(u[:, :2] * s[:2]), atol=1e-4)
    np.testing.assert_allclose(found.explained[0], (s**2 / (s**2).sum())[:2], atol=1e-4)


def test_tsne_is_repeatable_and_bad_input_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TSNE, "fit_transform", TSNE.fit_transform.__wrapped__)  # tests/quick.py remembers
    points, tasks, modalities = blobs()
    first, second = (project(points[:, :1], tasks, modalities, method="tsne").points for _ in range(2))
    np.testing.assert_array_equal(first, second)
    with pytest.raises(ValueError, match="'umap'"):
        project(points, tasks, modalities, method="umap")
    with pytest.raises(ValueError, match="at least 3"):
        project(points[:2], tasks[:2], modalities[:2])
    with pytest.raises(ValueError, match="NaN"):
        project(points * np.nan, tasks, modalities)


def answers(*hits: bool) -> Answers:
    n = len(hits)
    names = tuple(f"u{i}" for i in range(n))
    zeros = np.zeros(n)
    return Answers(names, ("t",) * n, names, names, names, zeros, zeros.astype(int), np.array(hits), np.array(hits))


def transfer(curve: list[list[float]]) -> Transfer:
    """A transfer of the given accuracy per source and layer, over ten queries; later layers are likelier."""
    hits = np.array([[np.arange(10) < round(10 * a) for a in row] for row in curve])
    names = tuple(f"u{i}" for i in range(10))
    shape = hits.shape
    predicted = tuple(tuple(("x",) * 10 for _ in row) for row in curve)
    return Transfer(
        tuple("ab"[: len(curve)]), tuple(range(shape[1])), ("t",) * 10, names, names, predicted,
        np.zeros(shape) - 1 / (1 + np.arange(shape[1]))[:, None], np.zeros(shape, int), hits, ~hits,
        answers(*[False] * 10),
    )  # fmt: skip


def test_transfer_tables() -> None:
    found = transfer([[0.1, 0.9, 0.9], [0.2, 0.4, 0.6]])
    assert [p.mean for p in found.curve("a")] == pytest.approx([0.1, 0.9, 0.9])
    assert found.best_layer_of("a") == 2, "of equally accurate layers the one with the likelier labels"
    assert found.best_layer_of("b", "strict") == 0
    assert found.best_layer == 2
    assert found.accuracy("b", 1).mean == pytest.approx(0.4)
    assert found.accuracy("b", 1, "strict").mean == pytest.approx(0.6)
    assert len(found.to_frame()) == 6
    pooled = Transfer.concat([found, found])
    assert pooled.accuracy("a", 1) == found.accuracy("a", 1)
    for wrong in (lambda: found.accuracy("c"), lambda: found.accuracy("a", 7), lambda: found.accuracy()):
        with pytest.raises(KeyError):
            wrong()
    with pytest.raises(ValueError, match="lenient"):
        found.accuracy("a", 1, "lenient")
    with pytest.raises(ValueError, match="same sources"):
        Transfer.concat([found, transfer([[0.1, 0.2]])])


def test_phases_relative_and_merge() -> None:
    probability = np.array([[[0.2, 0.1, 0.1], [0.0, 0.0, 0.0]]])
    tops = ((("x", 1.0),), (("y", 1.0),))
    one = Phases("one", ("embed", "0"), probability, probability * 0, tops)
    np.testing.assert_allclose(one.relative, [[0.5, 0.25, 0.25], [np.nan] * 3])
    assert one.dominant == ("input", "")
    both = merge("both", [one, Phases("two", ("embed", "0"), probability, probability * 0, ((("z", 1.0),),) * 2)])
    assert both.probability.shape[0] == 2
    assert dict(both.top_tokens[0]) == {"x": 0.5, "z": 0.5}
    with pytest.raises(ValueError, match="same depth"):
        merge("none", [])


def test_results_round_trip(tmp_path: Path) -> None:
    for result in (transfer([[0.1, 0.9]]), answers(True, False), silhouette(*blobs())):
        again = type(result).load(result.save(tmp_path / "r.json"))
        assert type(again) is type(result)
        np.testing.assert_equal(encode(again), encode(result))
    with pytest.raises(xmi.StorageError, match="holds no Answers of xmi: it holds a Silhouette"):
        Answers.load(tmp_path / "r.json")
