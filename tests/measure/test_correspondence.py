"""CKA, RSA and Procrustes against loops, scipy, and what must not change them."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import orthogonal_procrustes
from scipy.spatial.distance import cosine
from scipy.stats import ortho_group, spearmanr

from tests.night import times
from xmi.measure.correspondence import linear_cka, procrustes, rsa

MEASURES = (linear_cka, rsa, procrustes)


def identity(n: int) -> np.ndarray:
    return np.arange(n)[None]


def pairs(seed: int, n: int = 6, d: int = 10, shared: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(n, d))
    return a, shared * a + rng.normal(size=(n, d))


def unbiased_hsic(k: np.ndarray, l: np.ndarray) -> float:  # noqa: E741
    """Song et al. 2012, eq. 5, as printed."""
    n, k, l = len(k), k - np.diag(np.diag(k)), l - np.diag(np.diag(l))  # noqa: E741
    one = np.ones(n)
    first = np.trace(k @ l) + (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
    return float((first - 2 / (n - 2) * one @ k @ l @ one) / (n * (n - 3)))


def test_cka_equals_the_printed_formula() -> None:
    a, b = pairs(0, 9)
    order = np.random.default_rng(1).permutation(9)
    found = linear_cka(a, b, np.stack([np.arange(9), order]))
    for value, other in zip(found, (b, b[order]), strict=True):
        k, l = a @ a.T, other @ other.T  # noqa: E741
        expected = unbiased_hsic(k, l) / np.sqrt(unbiased_hsic(k, k) * unbiased_hsic(l, l))
        assert value == pytest.approx(expected, abs=1e-12)


def test_cka_of_unrelated_vectors_is_about_zero_where_the_usual_estimate_nears_one() -> None:
    rng = np.random.default_rng(0)
    found, usual = [], []
    for _ in range(200):
        a, b = rng.normal(size=(2, 8, 200))
        found.append(linear_cka(a, b, identity(8))[0])
        k, l = ((x - x.mean(0)) @ (x - x.mean(0)).T for x in (a, b))  # noqa: E741
        usual.append((k * l).sum() / np.linalg.norm(k) / np.linalg.norm(l))
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(200)
    assert np.mean(usual) > 0.9


def test_rsa_equals_spearman_of_the_distances() -> None:
    a, b = pairs(2)
    order = np.array([3, 1, 0, 2, 5, 4])
    upper = [(i, j) for i in range(6) for j in range(i + 1, 6)]
    for value, other in zip(rsa(a, b, np.stack([np.arange(6), order])), (b, b[order]), strict=True):
        here, there = ([cosine(x[i], x[j]) for i, j in upper] for x in (a, other))
        assert value == pytest.approx(spearmanr(here, there).statistic, abs=1e-12)


def procrustes_by_loop(a: np.ndarray, b: np.ndarray, order: np.ndarray, centred: bool) -> float:
    """One rotation fitted for every held-out pair, by scipy."""
    count = len(a)

    def components(x: np.ndarray) -> np.ndarray:
        middle = x - x.mean(0) if centred else x
        _, _, axes = np.linalg.svd(middle, full_matrices=False)
        return middle @ axes[: min(count - 2 if centred else count - 1, a.shape[1], b.shape[1])].T

    left, right = components(a), components(b)[order]
    cosines = []
    for held in range(count):
        fit = [i for i in range(count) if i != held]
        x0, y0 = (s[fit].mean(0) if centred else 0 * s[0] for s in (left, right))
        rotation, _ = orthogonal_procrustes(left[fit] - x0, right[fit] - y0)
        cosines.append(1 - cosine((left[held] - x0) @ rotation, right[held] - y0))
    return float(np.mean(cosines))


@settings(max_examples=times(60), deadline=None)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(4, 20),
    width=st.integers(3, 24),
    noise=st.floats(0.01, 10),
    mean=st.floats(0, 30),
    centred=st.booleans(),
)
def test_procrustes_equals_a_loop_over_scipy(
    seed: int, count: int, width: int, noise: float, mean: float, centred: bool
) -> None:
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(count, width))
    b = a @ ortho_group.rvs(width, random_state=seed) + noise * rng.normal(size=a.shape)
    a, b = a + mean, b - mean
    orders = np.stack([np.arange(count), *(rng.permutation(count) for _ in range(3))])
    expected = [procrustes_by_loop(a, b, order, centred) for order in orders]
    np.testing.assert_allclose(procrustes(a, b, orders, centred=centred), expected, rtol=0, atol=1e-9)


def test_procrustes_recovers_a_rotation() -> None:
    a, _ = pairs(4, d=20)
    moved = 3 * a @ ortho_group.rvs(20, random_state=0) + 7
    orders = np.array(list(permutations(range(6))))
    found = procrustes(a, moved, orders)
    assert found[0] == pytest.approx(1)
    assert (found[1:] < 1 - 1e-6).all(), "no other pairing is a rotation"


def test_procrustes_does_not_leak_the_held_out_pair() -> None:
    """Means over all pairs would give the held-out vector as minus the sum of the others."""
    rng = np.random.default_rng(5)
    found = [procrustes(*rng.normal(size=(2, 6, 40)), identity(6))[0] for _ in range(200)]
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(200)


@settings(max_examples=times(20), deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 100))
@pytest.mark.parametrize("measure", MEASURES)
def test_rotation_and_scale_change_nothing(measure, seed: int, scale: float) -> None:
    a, b = pairs(seed)
    turned = scale * b @ ortho_group.rvs(10, random_state=seed)
    np.testing.assert_allclose(measure(a, turned, identity(6)), measure(a, b, identity(6)), atol=1e-6)


@pytest.mark.parametrize("measure", MEASURES)
def test_likeness_of_a_thing_with_itself_is_one_and_bounded(measure) -> None:
    a, b = pairs(6)
    assert measure(a, a, identity(6))[0] == pytest.approx(1)
    every = measure(a, b, np.array(list(permutations(range(6)))))
    assert every.min() >= -1 - 1e-12
    assert every.max() <= 1 + 1e-12


@pytest.mark.parametrize("measure", MEASURES)
def test_too_few_pairs_say_nothing(measure) -> None:
    a, b = pairs(7, 3)
    assert np.isnan(measure(a, b, identity(3))).all()


def test_cka_of_a_side_that_does_not_vary_says_nothing() -> None:
    a, _ = pairs(8)
    assert np.isnan(linear_cka(a, np.ones((6, 10)), identity(6))).all()
