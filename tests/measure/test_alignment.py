"""The alignment of two modalities against scikit-learn, loops, and chance."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kstest
from sklearn.metrics import silhouette_score
from sklearn.model_selection import LeaveOneOut, cross_val_score
from sklearn.neighbors import NearestCentroid

from tests.night import times
from xmi.measure import Alignment, alignment, silhouette
from xmi.measure.clusters import left_out_hits, pair_means, silhouette_test
from xmi.measure.correspondence import linear_cka
from xmi.measure.permutation import orders, p_values, shuffles

MARGIN = "cosine, same minus different task, {}"
ACROSS, WITHIN = MARGIN.format("across modalities"), MARGIN.format("within a modality")


def cloud(
    seed: int = 0, tasks: int = 5, size: int = 6, layers: int = 2, d: int = 12, *, task: float = 1.0, gap: float = 3.0
) -> tuple[np.ndarray, list[str], list[str]]:
    """Points whose tasks are `task` apart in both modalities (uneven numbers of points), with a gap between."""
    rng = np.random.default_rng(seed)
    centres, shift = task * rng.normal(size=(tasks, d)), gap * rng.normal(size=d)
    names = [(t, m) for t in range(tasks) for m in ("text", "image") for _ in range(size + t % 2)]
    points = np.stack([centres[t] + (m == "image") * shift + rng.normal(size=(layers, d)) for t, m in names])
    return points, [f"task {t}" for t, _ in names], [m for _, m in names]


def unit(points: np.ndarray) -> np.ndarray:
    return points / np.linalg.norm(points, axis=-1, keepdims=True)


def without_gap(points: np.ndarray, modalities: list[str]) -> np.ndarray:
    kinds = np.array(modalities)
    return np.stack([p - points[kinds == m].mean(0) for p, m in zip(points, modalities, strict=True)])


@pytest.mark.parametrize("state", ["raw", "gap removed"])
def test_cosines_equal_a_loop_over_pairs(state: str) -> None:
    points, tasks, kinds = cloud()
    found = alignment(points, tasks, kinds, permutations=9)
    values = unit((points if state == "raw" else without_gap(points, kinds)).astype(np.float32).astype(float))
    for layer in range(2):
        means: dict[str, list[float]] = {}
        for i in range(len(tasks)):
            for j in range(i):
                same = "same task" if tasks[i] == tasks[j] else "different task"
                where = "within a modality" if kinds[i] == kinds[j] else "across modalities"
                means.setdefault(f"cosine, {same}, {where}", []).append(float(values[i, layer] @ values[j, layer]))
        assert len(means) == 4
        for name, cosines in means.items():
            row = found.curve(name, state).iloc[layer]
            assert row["value"] == pytest.approx(np.mean(cosines), abs=1e-6)
            assert row["low"] < row["value"] < row["high"]
        margin = np.mean(means["cosine, same task, across modalities"]) - np.mean(
            means["cosine, different task, across modalities"]
        )
        assert found.curve(ACROSS, state)["value"][layer] == pytest.approx(margin, abs=1e-6)


@pytest.mark.parametrize("state", ["raw", "gap removed"])
def test_centroids_equal_scikit_learn(state: str) -> None:
    points, tasks, kinds = cloud(1, task=0.6)
    found = alignment(points, tasks, kinds, permutations=9)
    values, names, modalities = (
        points if state == "raw" else without_gap(points, kinds),
        np.array(tasks),
        np.array(kinds),
    )
    seen = []
    for layer in range(2):
        x = unit(values[:, layer])
        sides = {m: (x[modalities == m], names[modalities == m]) for m in ("text", "image")}
        for here, there in (("text", "image"), ("image", "text")):
            expected = NearestCentroid().fit(*sides[here]).score(*sides[there])
            seen.append(expected)
            row = found.curve(f"centroids, {here} to {there}", state).iloc[layer]
            assert row["value"] == pytest.approx(expected)
            assert row["low"] < expected < row["high"]
            alone = cross_val_score(NearestCentroid(), *sides[here], cv=LeaveOneOut()).mean()
            if state == "raw":
                assert found.curve(f"centroids, within {here}", state)["value"][layer] == pytest.approx(alone)
    assert 0.2 < np.mean(seen) < 1, "neither chance nor perfect, or the comparison says little"


def test_weights_are_repeats_of_points_that_make_no_pair_with_themselves() -> None:
    rng = np.random.default_rng(0)
    x, labels, counts = unit(rng.normal(size=(7, 3))), np.array([0, 0, 0, 1, 1, 2, 2]), np.array([2, 0, 1, 3, 1, 0, 2])
    weights = np.stack([np.ones(7), counts], axis=1)
    found = pair_means(x @ x.T, labels[:, None] == labels, ~np.eye(7, dtype=bool), weights, weights)
    repeats = np.repeat(np.arange(7), counts)
    pairs = [(i, j) for i in repeats for j in repeats if i != j]
    same = np.mean([x[i] @ x[j] for i, j in pairs if labels[i] == labels[j]])
    other = np.mean([x[i] @ x[j] for i, j in pairs if labels[i] != labels[j]])
    np.testing.assert_allclose(found[:, 1], [same, other, same - other])


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    """Tasks stay the same, prompts are drawn again; the truth is what very many prompts give."""
    truth = alignment(*cloud(0, tasks=3, size=300, layers=1, gap=0.0), permutations=1).curve(ACROSS)["value"][0]
    centres = np.random.default_rng(0).normal(size=(3, 12))
    tasks, kinds = [f"t{i}" for i in range(3) for _ in range(16)], (["text"] * 8 + ["image"] * 8) * 3
    hits = []
    for seed in range(times(100, 50)):
        points = np.repeat(centres, 16, 0)[:, None] + np.random.default_rng([1, seed]).normal(size=(48, 1, 12))
        row = alignment(points, tasks, kinds, permutations=1, seed=seed).curve(ACROSS).iloc[0]
        hits.append(row["low"] <= truth <= row["high"])
    assert 0.86 <= np.mean(hits) <= 1


def test_tests_across_exchange_the_names_of_one_modality() -> None:
    """Every renaming of the image tasks, made by hand, gives one entry of the permutation distribution."""
    points, tasks, kinds = cloud(2, tasks=4, layers=1, task=0.5)
    found = alignment(points, tasks, kinds, permutations=200)
    known, by_hand = list(dict.fromkeys(tasks)), []
    for order in orders(4, 200, np.random.default_rng(0))[0]:
        renamed = [known[order[known.index(t)]] if m == "image" else t for t, m in zip(tasks, kinds, strict=True)]
        by_hand.append(alignment(points, renamed, kinds, permutations=1))
    for name in (ACROSS, "centroids, text to image", "centroids, image to text", "CKA", "RSA", "Procrustes"):
        values = [one.curve(name, "gap removed")["value"][0] for one in by_hand]
        row = found.curve(name, "gap removed").iloc[0]
        assert len(values) == 24
        assert row["p"] == pytest.approx(np.mean(np.array(values) >= row["value"] - 1e-9)), name
        assert row["chance"] == pytest.approx(np.mean(values), abs=1e-6), name
        assert row["permuted"] == "names of the tasks of image"


def test_tests_within_exchange_the_points() -> None:
    points, tasks, kinds = cloud(3)
    found = alignment(points, tasks, kinds, permutations=99)
    for name in (WITHIN, "centroids, within text", "centroids, within image"):
        row = found.curve(name).iloc[0]
        assert row["p"] == pytest.approx(0.01), "100 labellings, and the true one is the best"
        assert row["permuted"] == "task labels of points within each modality"
    x = unit(points[np.array(kinds) == "text", 0])
    labels = np.unique([t for t, m in zip(tasks, kinds, strict=True) if m == "text"], return_inverse=True)[1]
    shuffled = shuffles([""] * len(labels), 6, np.random.default_rng(0))
    hits, sums = left_out_hits(x @ x.T, labels, shuffled)
    for hit, total, order in zip(hits, sums, shuffled, strict=True):
        y = labels[order]
        assert hit == pytest.approx(cross_val_score(NearestCentroid(), x, y, cv=LeaveOneOut()).mean())
        alike = (y[:, None] == y) & ~np.eye(len(y), dtype=bool)
        assert total == pytest.approx((x @ x.T)[alike].sum())


def test_clustered_modalities_without_a_correspondence_are_not_called_aligned() -> None:
    """Tight clusters at unrelated places: a test that shuffled points would reject far too often."""
    p: dict[str, list[float]] = {}
    for seed in range(times(80)):
        rng = np.random.default_rng(seed)
        centres = rng.normal(size=(2, 5, 16))
        points = np.concatenate([np.repeat(c, 4, 0) for c in centres])[:, None]
        points = points + 0.2 * rng.normal(size=points.shape)
        tasks = [f"t{i}" for _ in range(2) for i in range(5) for _ in range(4)]
        found = alignment(points, tasks, ["a"] * 20 + ["b"] * 20, permutations=119, seed=seed)
        for name in (ACROSS, "CKA", "RSA", "Procrustes"):
            p.setdefault(name, []).append(found.curve(name, "gap removed")["p"][0])
        assert found.curve(WITHIN)["p"][0] < 0.01
    for name, values in p.items():
        assert kstest(values, "uniform").pvalue > 0.001, name


def test_p_values_within_are_uniform_when_tasks_mean_nothing() -> None:
    p = []
    for seed in range(times(200)):
        points, tasks, kinds = cloud(seed, tasks=3, size=4, layers=1, task=0.0)
        p.append(alignment(points, tasks, kinds, permutations=99, seed=seed).curve(WITHIN)["p"][0])
    assert kstest(p, "uniform").pvalue > 0.001


def test_corrected_p_values_bound_any_false_finding() -> None:
    rng = np.random.default_rng(0)
    least, alone = [], []
    for _ in range(400):
        found = p_values(rng.normal(size=(100, 10)) * np.arange(1, 11))
        least.append(found.corrected.min())
        alone.append(found.p.min())
        assert (found.corrected >= found.p - 1e-12).all() or found.corrected.min() <= 0.05
    assert np.mean(np.array(least) <= 0.05) < 0.09
    assert np.mean(np.array(alone) <= 0.05) > 0.3, "without correction ten layers find something"


def test_gap_removal_lets_centroids_carry_over() -> None:
    found = alignment(*cloud(4, task=1.5, gap=8.0), permutations=9)
    raw, clear = (found.curve("centroids, text to image", s)["value"] for s in ("raw", "gap removed"))
    assert (clear > raw + 0.2).all()
    assert (found.curve("gap")["value"] > 0.9).all()
    assert (found.curve("gap", "gap removed")["value"] < 0.3).all()
    np.testing.assert_allclose(found.curve("CKA")["value"], found.curve("CKA", "gap removed")["value"])


def test_items_are_paired_by_name() -> None:
    points, _, kinds = cloud(5, tasks=4)
    points, kinds = points[:20], ["text"] * 10 + ["image"] * 10
    items = [f"i{k}" for k in range(10)] + [f"i{k}" for k in (3, 1, 4, 0, 5, 9, 2, 6, 80, 81)]
    tasks = ["x", "y"] * 10
    found = alignment(points, tasks, kinds, items=items, permutations=99)
    shared = [k for k in range(10) if f"i{k}" in items[10:]]
    partner = [items[10:].index(f"i{k}") + 10 for k in shared]
    expected = linear_cka(
        points[shared, 0].astype(float), points[partner, 0].astype(float), np.arange(len(shared))[None]
    )
    row = found.curve("CKA").iloc[0]
    assert row["value"] == pytest.approx(expected[0], abs=1e-5)
    assert (row["permuted"], found.paired) == ("pairing of items", "items")
    with pytest.raises(ValueError, match="'i1' has several points in 'text'"):
        alignment(points, tasks, kinds, items=["i1"] * 2 + items[2:])
    with pytest.raises(ValueError, match="one item per point"):
        alignment(points, tasks, kinds, items=items[1:])


def test_task_vectors_have_measures_across_only() -> None:
    rng = np.random.default_rng(6)
    centres = rng.normal(size=(5, 3, 16))
    vectors = np.concatenate([centres, centres + 0.1 * rng.normal(size=centres.shape), centres])
    kinds = ["text ICL"] * 5 + ["image ICL"] * 5 + ["instruction"] * 5
    tasks = [f"t{i}" for i in range(5)] * 3
    found = alignment(vectors, tasks, kinds, between=("text ICL", "image ICL"))
    assert (found.curve(ACROSS)["p"] == 1 / 120).all()
    assert (found.curve("centroids, text ICL to image ICL")["value"] == 1).all()
    assert found.curve(WITHIN)[["value", "p"]].isna().all(axis=None)
    assert found.curve("centroids, within text ICL")[["value", "low", "p"]].isna().all(axis=None)
    with pytest.raises(ValueError, match="between two modalities"):
        alignment(vectors, tasks, kinds)
    with pytest.raises(ValueError, match="between two modalities"):
        alignment(vectors, tasks, kinds, between=("text ICL", "sound"))


def test_result_round_trips_and_is_reproducible(tmp_path: Path) -> None:
    found = alignment(*cloud(), permutations=19)
    again = Alignment.load(found.save(tmp_path / "a.json"))
    assert again.to_frame().equals(found.to_frame())
    assert alignment(*cloud(), permutations=19).to_frame().equals(found.to_frame())
    assert len(found.to_frame()) == 2 * 14 * 2
    with pytest.raises(KeyError, match="No 'cosine'"):
        found.curve("cosine")


def test_bad_input_is_named() -> None:
    points, tasks, kinds = cloud()
    with pytest.raises(ValueError, match=r"lacking .*'image': \['task 0'\]"):
        keep = [i for i in range(len(tasks)) if (tasks[i], kinds[i]) != ("task 0", "image")]
        alignment(points[keep], [tasks[i] for i in keep], [kinds[i] for i in keep])
    with pytest.raises(ValueError, match="two tasks or more"):
        alignment(points, ["one"] * len(tasks), kinds)
    with pytest.raises(ValueError, match="at least 1 permutation"):
        alignment(points, tasks, kinds, permutations=0)
    with pytest.raises(ValueError, match="NaN or infinite"):
        alignment(points * np.nan, tasks, kinds)


def test_orders_and_shuffles() -> None:
    every, whole = orders(4, 23, np.random.default_rng(0))
    assert (whole, len(every), len({tuple(o) for o in every})) == (True, 24, 24)
    assert every[0].tolist() == [0, 1, 2, 3]
    some, whole = orders(5, 23, np.random.default_rng(0))
    assert (whole, some.shape) == (False, (24, 5))
    assert some[0].tolist() == list(range(5))
    strata = list("aabbb")
    found = shuffles(strata, 50, np.random.default_rng(0))
    assert found[0].tolist() == list(range(5))
    assert all(sorted(row[:2]) == [0, 1] and sorted(row[2:]) == [2, 3, 4] for row in found)
    assert len({tuple(row) for row in found}) == 12, "all orders within strata occur"


def test_silhouette_is_tested_by_exchanging_labels() -> None:
    points, tasks, kinds = cloud(7, tasks=3, size=4, task=2.0)
    found = silhouette(points, tasks, kinds, permutations=199)
    assert (found.p_task == 1 / 200).all()
    assert (found.p_modality == 1 / 200).all()
    nothing = silhouette(np.random.default_rng(0).normal(size=points.shape), tasks, kinds, permutations=199)
    assert (nothing.p_task > 0.05).all()
    assert silhouette(points, tasks, kinds, permutations=0).p_task is None
    assert list(found.to_frame().columns) == ["layer", "by_task", "by_modality", "p_task", "p_modality"]
    labels = np.unique(tasks, return_inverse=True)[1]
    shuffled = shuffles(kinds, 60, np.random.default_rng(0))
    x = unit(points[:, 0])
    values = [silhouette_score(x, labels[o], metric="cosine") for o in shuffled]
    expected = np.mean(np.array(values) >= values[0] - 1e-9)
    test = silhouette_test((1 - x @ x.T)[None], labels, shuffled)
    assert test.chance[0] == pytest.approx(np.mean(values), abs=1e-6)
    assert test.p[0] == pytest.approx(expected)


def test_takes_seconds_for_a_study() -> None:
    """180 points, 12 layers, 128 dimensions, 999 permutations; some 1.5 s, with room for a busy machine."""
    points, tasks, kinds = cloud(8, tasks=6, size=15, layers=12, d=128)
    start = time.process_time()
    alignment(points, tasks, kinds)
    assert time.process_time() - start < 6
