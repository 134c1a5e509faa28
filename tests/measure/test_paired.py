"""Intervals and p-values of paired differences, against brute force, scipy, and simulation."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tests.measure.coverage import simulated
from xmi.measure import benjamini_hochberg, holm
from xmi.measure.paired import paired

RNG = np.random.default_rng(5)
THIRDS = np.arange(-3, 4) / 3


def column(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, float)[:, None]


def by_hand(values: np.ndarray, tasks: np.ndarray) -> np.ndarray:
    """Every sign pattern's macro mean."""
    names = np.unique(tasks)
    return np.array(
        [
            np.mean([np.mean((np.array(signs) * values)[tasks == t]) for t in names])
            for signs in product([1, -1], repeat=len(values))
        ]
    )


def test_exact_p_equals_every_sign_pattern() -> None:
    tasks = np.array(list("aaaabbbbbb"))
    for _ in range(20):
        values = RNG.choice(THIRDS, 10)
        null = by_hand(values, tasks)
        found = paired(column(values), tasks)
        assert found.difference[0] == pytest.approx(null[0])
        assert found.p[0] == pytest.approx(np.mean(np.abs(null) >= abs(null[0]) - 1e-9))
        assert found.corrected[0] == found.p[0], "one measure needs no correction"


def test_p_equals_scipys_permutation_test_and_counts_the_observed_pattern() -> None:
    values = np.tile([1, 2 / 3, 1 / 3, 0, 0, -1 / 3, -1, 1 / 3], 5)
    found = paired(column(values), ["t"] * 40, resamples=49_999)
    scipys = stats.permutation_test(
        (values,), lambda x, axis: x.mean(axis), permutation_type="samples", n_resamples=49_999, vectorized=True,
        random_state=1,
    )  # fmt: skip
    assert found.p[0] == pytest.approx(scipys.pvalue, abs=0.01)
    assert 0.01 < found.p[0] < 0.3, "a case in which the two could differ"
    sure = paired(np.ones((40, 1)), ["t"] * 40, resamples=99)
    assert sure.p[0] == pytest.approx(1 / 100), "never zero"


def test_interval_equals_scipys_bootstrap_where_items_are_many() -> None:
    tasks = np.array(["a"] * 150 + ["b"] * 90)
    values = RNG.choice([-1, 0, 1], 240, p=[0.2, 0.4, 0.4])
    found = paired(column(values), tasks)
    parts = [values[tasks == t] for t in "ab"]
    scipys = stats.bootstrap(
        parts, lambda x, y, axis: (x.mean(axis) + y.mean(axis)) / 2, method="percentile", random_state=2
    ).confidence_interval
    np.testing.assert_allclose([found.low[0], found.high[0]], [scipys.low, scipys.high], atol=0.01)


def test_few_items_have_the_textbook_standard_error() -> None:
    """The plain bootstrap of n items is too narrow by (n - 1) / n; the textbook error of a stratified mean is not."""
    tasks = np.repeat(list("abcdefghijkl"), 4)
    values = RNG.uniform(-1, 1, 48)
    error = np.sqrt(sum(values[tasks == t].var(ddof=1) / 4 for t in np.unique(tasks))) / 12
    found = paired(column(values), tasks, confidence=0.6827)
    assert (found.high - found.low)[0] / 2 == pytest.approx(error, rel=0.05)


@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0])
def test_items_that_agree_do_not_give_an_interval_of_no_width(value: float) -> None:
    found = paired(np.full((60, 1), value), ["t"] * 60)
    unseen = stats.binomtest(0, 60).proportion_ci().high  # Clopper and Pearson: none of 60 items differed
    assert found.low[0] == pytest.approx(value - unseen * (1 + value))
    assert found.high[0] == pytest.approx(value + unseen * (1 - value))
    assert (found.p[0] == 1) == (value == 0)


def test_tasks_weigh_alike() -> None:
    found = paired(column([1] * 90 + [0] * 2), ["big"] * 90 + ["small"] * 2)
    assert found.difference[0] == pytest.approx(0.5)


@given(st.lists(st.sampled_from(THIRDS.tolist()), min_size=4, max_size=12), st.integers(1, 3))
def test_swapping_the_methods_mirrors_everything(values: list[float], size: int) -> None:
    tasks = [f"t{i // 2 % size}" for i in range(len(values) // 2 * 2)]
    chosen = column(values[: len(tasks)])
    left, right = paired(chosen, tasks, resamples=499), paired(-chosen, tasks, resamples=499)
    np.testing.assert_allclose(left.difference, -right.difference, atol=1e-12)
    np.testing.assert_allclose(left.low, -right.high, atol=1e-9)
    np.testing.assert_allclose(left.p, right.p)
    assert left.low[0] <= left.difference[0] <= left.high[0]
    assert -1 <= left.low[0] <= left.high[0] <= 1
    assert 0 < left.p[0] <= left.corrected[0] <= 1


def test_measures_share_resamples_and_seeds_repeat() -> None:
    values = RNG.choice(THIRDS, (60, 3))
    tasks = ["a"] * 25 + ["b"] * 35
    together = paired(values, tasks)
    for k in range(3):
        alone = paired(values[:, k : k + 1], tasks)
        np.testing.assert_allclose(
            [alone.low[0], alone.high[0], alone.p[0]], [together.low[k], together.high[k], together.p[k]]
        )
        assert together.corrected[k] >= together.p[k]
    again, other = paired(values, tasks), paired(values, tasks, seed=1)
    np.testing.assert_array_equal(again.low, together.low)
    assert (other.low != together.low).any()


@pytest.mark.parametrize("level", [(0.6, 0.45), (0.5, 0.5), (0.97, 0.5)])
def test_interval_covers_the_true_difference(level: tuple[float, float]) -> None:
    rng = np.random.default_rng(11)
    truth = simulated(20000, rng, level)[0].mean()
    found = paired(*simulated(1000, rng, level), resamples=999)
    covered = np.mean((found.low <= truth) & (truth <= found.high))
    assert 0.93 <= covered <= 0.97


def test_interval_covers_rare_differences() -> None:
    """One item in sixty differs: most samples hold one or none, where a plain bootstrap has no width."""
    rng = np.random.default_rng(12)
    values = (rng.random((72, 1000)) < 1 / 60).astype(float)
    found = paired(values, np.repeat(list("abcdef"), 12), resamples=999)
    assert np.mean((found.low <= 1 / 60) & (found.high >= 1 / 60)) >= 0.95


def test_p_is_uniform_if_the_methods_are_equal() -> None:
    rng = np.random.default_rng(13)
    p = paired(*simulated(2000, rng, (0.5, 0.5)), resamples=999).p
    assert 0.035 <= np.mean(p < 0.05) <= 0.065
    smooth = paired(rng.uniform(-1, 1, (72, 2000)), np.repeat(list("abcdef"), 12), resamples=999).p
    assert stats.kstest(smooth, "uniform").statistic < 0.04
    real = paired(*simulated(500, rng, (0.7, 0.45)), resamples=999).p
    assert np.mean(real < 0.05) > 0.9, "a true difference is found"


def test_repeats_of_an_item_are_no_evidence_of_their_own() -> None:
    """The same items answered alike under ten seeds: averaged, 5 % are significant; taken as items, many more."""
    rng = np.random.default_rng(14)
    p, naive = [], []
    for run in range(200):
        values = rng.choice([-1, 0, 1], 30, p=[0.25, 0.5, 0.25])
        p.append(paired(column(values), ["t"] * 30, resamples=199, seed=run).p[0])
        naive.append(paired(column(np.repeat(values, 10)), ["t"] * 300, resamples=199, seed=run).p[0])
    assert np.mean(np.array(p) < 0.05) <= 0.09
    assert np.mean(np.array(naive) < 0.05) > 0.3


def test_correction_for_layers_bounds_any_false_finding() -> None:
    rng = np.random.default_rng(15)
    any_alone, any_corrected = [], []
    for run in range(300):
        common = rng.choice([-1, 0, 1], (40, 1), p=[0.2, 0.6, 0.2])
        fresh = rng.choice([-1, 0, 1], (40, 12), p=[0.2, 0.6, 0.2])
        layers = np.where(rng.random((40, 12)) < 0.5, common, fresh)  # neighbouring layers answer alike
        found = paired(layers, ["a"] * 20 + ["b"] * 20, resamples=199, seed=run)
        any_alone.append(found.p.min() <= 0.05)
        any_corrected.append(found.corrected.min() <= 0.05)
    assert np.mean(any_alone) > 0.2, "without correction, looking at twelve layers finds something too often"
    assert 0.02 <= np.mean(any_corrected) <= 0.085
    layers[:, 4] = np.where(rng.random(40) < 0.8, 1, 0)
    assert paired(layers, ["t"] * 40).corrected[4] < 0.01


def test_corrected_equals_the_largest_statistic_by_hand() -> None:
    values = RNG.choice(THIRDS, (8, 3))
    tasks = np.array(list("aaabbbbb"))
    null = np.array([by_hand(values[:, k], tasks) for k in range(3)])
    null = np.abs(null / np.sqrt((null**2).mean(1))[:, None])  # in units of its own spread under the null
    expected = [(null.max(0) >= null[k, 0] - 1e-9).mean() for k in range(3)]
    np.testing.assert_allclose(paired(values, tasks).corrected, expected)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_bonferroni_closed_by_hand(p: list[float]) -> None:
    values = np.array(p)
    found = holm(p)
    # The closed test: a hypothesis falls if every set of hypotheses that holds it falls by Bonferroni.
    for i in range(len(p)):
        sets = [np.array(s, bool) for s in product([False, True], repeat=len(p)) if s[i]]
        assert found[i] == pytest.approx(min(1.0, max(values[s].min() * s.sum() for s in sets)))


def test_benjamini_hochberg_by_hand() -> None:
    p = np.array([0.03, 0.01, 0.5, 0.02])
    np.testing.assert_allclose(benjamini_hochberg(p), [0.04, 0.04, 0.5, 0.04])
    assert len(benjamini_hochberg([])) == len(holm([])) == 0


def test_bad_input() -> None:
    for wrong in ([0.5, 1.2], [-0.1], [np.nan], [[0.1]]):
        for correct in (holm, benjamini_hochberg):
            with pytest.raises(ValueError, match=r"in \[0, 1\]"):
                correct(wrong)
    with pytest.raises(ValueError, match="a task per item"):
        paired(np.zeros((3, 1)), ["t"])
    with pytest.raises(ValueError, match="a task per item"):
        paired(np.zeros((0, 1)), [])
    with pytest.raises(ValueError, match="NaN"):
        paired(np.full((3, 1), np.nan), ["t"] * 3)
    with pytest.raises(ValueError, match=r"\[-1, 1\]"):
        paired(np.full((3, 1), 2.0), ["t"] * 3)
    with pytest.raises(ValueError, match="confidence"):
        paired(np.zeros((3, 1)), ["t"] * 3, confidence=95)
    single = paired(np.zeros((3, 1)), ["a", "a", "b"])
    assert np.isnan([single.low[0], single.high[0]]).all(), "one item says nothing about how items differ"
