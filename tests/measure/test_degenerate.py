"""What has no value gets none: NaN, or a refusal; never a number that was put in its place.

Every public function of `xmi.measure` that makes numbers from numbers stands in one table, with NaN, infinite, zero,
constant, empty and single inputs, and with what must come of each.
"""

from __future__ import annotations

import inspect
import pkgutil
import warnings
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from importlib import import_module
from typing import Any

import numpy as np
import pytest

import xmi.measure
from tests.measure.synthetic import answers, sweep
from xmi.errors import MeasureError, VectorError, XmiError, XmiWarning
from xmi.measure import Overriding, Phases, alignment, compare, layerwise, project, silhouette
from xmi.measure.base_comparison import BaseComparison, similarity_to_base
from xmi.measure.boundaries import bootstrap_boundaries, find_boundaries, mean_shares, resampled_means
from xmi.measure.clusters import apart, centroid_votes, left_out_hits, pair_means, silhouette_test, unit_length
from xmi.measure.correspondence import linear_cka, procrustes, rsa
from xmi.measure.paired import benjamini_hochberg, holm, paired
from xmi.measure.permutation import p_values, shuffles
from xmi.measure.similarity import cosine_per_layer
from xmi.measure.stats import accuracies, accuracy, wilson
from xmi.measure.task_words import choose_task_words

N, LAYERS, WIDTH = 12, 2, 5
TASKS = ["a", "b", "c"] * 4
MODALITIES = ["text"] * 6 + ["image"] * 6
ORDERS = np.arange(N)[None]

REFUSED = "refused"
Filled = Callable[[float | str], np.ndarray]


def points(kind: str, shape: tuple[int, ...] = (N, LAYERS, WIDTH)) -> np.ndarray:
    """Vectors of which one, at the last layer, is degenerate; or all of them are the same."""
    made = np.random.default_rng(0).normal(size=shape)
    if kind == "constant":
        made[:] = made[:1] + 0.1
    elif kind == "empty":
        made = made[:0]
    elif kind == "one":
        made = made[:1]
    else:
        made[0, -1] = {"nan": np.nan, "inf": np.inf, "zero": 0.0}[kind]
    return made


def named(values: np.ndarray, names: list[str]) -> list[str]:
    return names[: len(values)]


def lone(values: np.ndarray) -> np.ndarray:
    """The last layer alone."""
    return values[:, -1]


def cosines(kind: str) -> Any:
    values = points(kind)
    return cosine_per_layer(values, named(values, [f"v{i}" for i in range(N)])).values[-1, 0]


def centred_cosines(kind: str) -> Any:
    values = points(kind)
    return cosine_per_layer(values, named(values, [f"v{i}" for i in range(N)]), centred=True).values[-1, 0]


def kin(kind: str) -> Any:
    values = points(kind)
    return similarity_to_base(values, values, named(values, [f"t{i}" for i in range(N)])).cosine[-1, 0]


def projected(method: str) -> Callable[[str], Any]:
    def made(kind: str) -> Any:
        values = points(kind)
        return project(values, named(values, TASKS), named(values, MODALITIES), method=method).points[-1]

    return made


def clustered(kind: str) -> Any:
    values = points(kind)
    found = silhouette(values, named(values, TASKS), named(values, MODALITIES), permutations=20)
    return [found.by_task[-1], found.by_modality[-1], found.p_task[-1], found.p_modality[-1]]


def aligned(kind: str) -> Any:
    values = points(kind)
    found = alignment(values, named(values, TASKS), named(values, MODALITIES), permutations=5)
    chosen = [i for i, name in enumerate(found.measures) if name.startswith(("cosine", "centroids", "gap", "RSA"))]
    return found.values[0, chosen, -1]


def paired_with(measure: Any, **options: Any) -> Callable[[str], Any]:
    def made(kind: str) -> Any:
        values = lone(points(kind))
        other = np.random.default_rng(1).normal(size=values.shape)
        return measure(values, other, np.arange(len(values))[None], **options)

    return made


def differences(kind: str) -> Any:
    values = np.clip(lone(points(kind))[:, :1], -1, 1) if kind not in ("nan", "inf") else lone(points(kind))[:, :1]
    found = paired(values, named(values, TASKS), resamples=50)
    return [found.low, found.high] if kind == "one" else [found.difference, found.p]


def hits(kind: str) -> Any:
    values = (lone(points(kind))[:, 0] > 0).astype(float)
    if kind in ("nan", "inf"):
        values[0] = np.nan if kind == "nan" else np.inf
    units = [f"u{i}" for i in range(len(values))]
    found = accuracy(values, units)
    assert accuracies([values, values], units) == [found] * 2 or np.isnan(found.mean)
    return [found.mean, found.low, found.high]


def rows_of_hits(kind: str) -> Any:
    values = (lone(points(kind))[:, 0] > 0).astype(float)
    if kind in ("nan", "inf"):
        values[0] = np.nan if kind == "nan" else np.inf
    found = accuracies([values], [f"u{i}" for i in range(len(values))])[0]
    return [found.mean, found.low, found.high]


def proportion(kind: str) -> Any:
    given = {
        "nan": (np.nan, 3),
        "inf": (np.inf, 3),
        "zero": (0.0, 3),
        "constant": (1.0, 3),
        "empty": (0.0, 0),
        "one": (1.0, 1),
    }
    found = wilson(*given[kind])
    return [found.mean, found.low, found.high]


def p_list(correct: Any) -> Callable[[str], Any]:
    given = {
        "nan": [np.nan, 0.1],
        "inf": [np.inf, 0.1],
        "zero": [0.0, 0.0],
        "constant": [0.5, 0.5],
        "empty": [],
        "one": [0.5],
    }
    return lambda kind: correct(given[kind])


def of_permutations(kind: str) -> Any:
    values = lone(points(kind))[:, :1]
    return list(vars(p_values(values)).values()) if len(values) else np.zeros(0)


def phases(kind: str) -> Phases:
    mass = np.abs(points(kind, (N, 4, 3)))
    return Phases("p", ("embed", "0", "1", "2"), mass, np.zeros_like(mass), ((("x", 1.0),),) * 4)


def all_zero() -> Phases:
    mass = np.abs(points("constant", (N, 4, 3)))
    mass[:, -1] = 0.0
    return replace(phases("constant"), probability=mass)


def bounded(kind: str) -> Any:
    found = phases(kind).boundaries(resamples=20)
    return [found.low, found.high] if kind in ("one", "constant") else [found.found]


def places(kind: str) -> Any:
    values = np.abs(points(kind, (N, 4, 3)))
    return find_boundaries(values / values.sum(-1, keepdims=True) if kind != "zero" else values)[0]


def words(kind: str) -> Any:
    values = np.abs(points(kind, (4, 1, 2)))
    ids = np.tile(np.array([[[1, 2]]]), (len(values), 1, 1))
    return choose_task_words(["a", "a", "b", "b"][: len(values)], ids, values, {1: "x", 2: "yy"}, {}, ["0"]).mass


def unit(kind: str) -> Any:
    return unit_length(lone(points(kind)))[:1]


def drawn(kind: str) -> Any:
    values = points(kind, (N, 4, 3))
    named_units = [f"u{i}" for i in range(len(values))]
    return resampled_means(values, named_units, ["t"] * len(values), resamples=3)


def spread(kind: str) -> Any:
    values = lone(points(kind))
    distances = np.linalg.norm(values[:, None] - values, axis=-1)[None]
    labels = np.arange(len(values)) % 3
    if len(values) < 3:
        return np.full(1, np.nan)
    return silhouette_test(distances, labels, shuffles(["s"] * N, 5, np.random.default_rng(0))).p


NAN = "nan"
FINE = "a number"
DEFAULT = {"nan": REFUSED, "inf": REFUSED, "empty": REFUSED, "one": REFUSED}

TABLE: dict[str, tuple[Callable[[str], Any], dict[str, str]]] = {
    "cosine_per_layer": (cosines, {"nan": REFUSED, "inf": REFUSED, "zero": NAN, "constant": FINE, "one": FINE}),
    "cosine_per_layer, centred": (
        centred_cosines, {"nan": REFUSED, "inf": REFUSED, "zero": FINE, "constant": NAN, "one": NAN},
    ),
    "similarity_to_base": (kin, {"nan": REFUSED, "inf": REFUSED, "zero": NAN, "constant": FINE, "one": FINE}),
    "project, pca": (projected("pca"), {**DEFAULT, "zero": FINE, "constant": NAN}),
    "project, tsne": (projected("tsne"), {**DEFAULT, "zero": FINE, "constant": NAN}),
    "silhouette": (clustered, {**DEFAULT, "zero": NAN, "constant": NAN}),
    "alignment": (aligned, {**DEFAULT, "zero": NAN}),
    "linear_cka": (
        paired_with(linear_cka), {"nan": NAN, "inf": NAN, "zero": FINE, "constant": NAN, "empty": NAN, "one": NAN},
    ),
    "rsa": (paired_with(rsa), {"nan": NAN, "inf": NAN, "zero": NAN, "constant": NAN, "empty": NAN, "one": NAN}),
    "procrustes": (paired_with(procrustes), {"zero": FINE, "constant": NAN, "empty": NAN, "one": NAN}),
    "procrustes, about the origin": (
        paired_with(procrustes, centred=False), {"zero": NAN, "constant": FINE, "empty": NAN, "one": NAN},
    ),
    "paired": (differences, {**DEFAULT, "one": NAN, "constant": FINE, "zero": FINE}),
    "accuracy": (hits, {"nan": REFUSED, "inf": REFUSED, "empty": NAN, "one": FINE, "constant": FINE, "zero": FINE}),
    "accuracies": (
        rows_of_hits,
        {"nan": REFUSED, "inf": REFUSED, "empty": NAN, "one": FINE, "constant": FINE, "zero": FINE},
    ),
    "wilson": (proportion, {"nan": REFUSED, "inf": REFUSED, "empty": NAN, "one": FINE, "constant": FINE, "zero": FINE}),
    "holm": (p_list(holm), {"nan": REFUSED, "inf": REFUSED, "zero": FINE, "constant": FINE, "one": FINE}),
    "benjamini_hochberg": (p_list(benjamini_hochberg), {"nan": REFUSED, "inf": REFUSED, "zero": FINE, "one": FINE}),
    "p_values": (of_permutations, {"nan": NAN, "inf": NAN, "one": FINE}),
    "Phases.relative": (lambda kind: phases(kind).relative[-1], {"nan": NAN, "inf": NAN, "zero": FINE, "empty": NAN}),
    "Phases.shares": (lambda kind: phases(kind).shares[0, -1], {"nan": NAN, "inf": NAN, "zero": NAN}),
    "Phases.boundaries": (bounded, {"nan": REFUSED, "inf": REFUSED, "zero": FINE, "empty": REFUSED, "one": NAN}),
    "find_boundaries": (places, {"nan": NAN, "inf": NAN}),
    "resampled_means": (drawn, {"nan": FINE, "zero": FINE}),
    "choose_task_words": (words, {"nan": REFUSED, "inf": REFUSED, "empty": REFUSED, "one": REFUSED}),
    "unit_length": (unit, {"nan": NAN, "inf": NAN, "zero": NAN}),
    "silhouette_test": (spread, {"nan": NAN, "inf": NAN, "constant": NAN}),
}  # fmt: skip

ELSEWHERE = {
    # Made of hits, which are true or false; what they do without any is tested below or by their own tests.
    "compare", "compare_all", "layerwise", "answers_at", "majority_answers", "comparisons", "hits_of", "rivals_of",
    "only_labelled", "paper_hit", "strict_hit", "whole_hit", "boundaries", "merge", "bootstrap_boundaries",
    "mean_shares",
    # Labels, orders and files.
    "orders", "shuffles", "encode", "decode", "checked", "announce_zeros", "apart", "centroid_votes", "left_out_hits",
    "pair_means", "index_of", "left_out_cosines",
    # Rows of a summary table, read as they stand.
    "cell", "proportion", "row_of",
    # Words and verdicts on accuracies, known or not: tested with the report's sentences.
    "behind", "effect", "judged", "known", "rungs", "too_few",
}  # fmt: skip


def test_every_public_function_is_in_the_table() -> None:
    found = set()
    for module in pkgutil.iter_modules(xmi.measure.__path__):
        here = import_module(f"xmi.measure.{module.name}")
        functions = inspect.getmembers(here, inspect.isfunction)
        found |= {n for n, f in functions if not n.startswith("_") and f.__module__ == here.__name__}
    assert found - ELSEWHERE - {name.split(",")[0] for name in TABLE} == set()


CASES = [(name, kind, expected) for name, (_, cases) in TABLE.items() for kind, expected in cases.items()]


@pytest.mark.fault("A9")
@pytest.mark.parametrize(("name", "kind", "expected"), CASES, ids=lambda v: str(v).replace(" ", "_"))
def test_what_has_no_value_gets_none(name: str, kind: str, expected: str) -> None:
    measure = TABLE[name][0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if expected == REFUSED:
            with pytest.raises(XmiError):
                measure(kind)
            return
        values = np.concatenate([np.ravel(v) for v in np.atleast_1d(measure(kind))]).astype(float)
    if expected == NAN:
        assert np.isnan(values).all(), values
    else:
        assert np.isfinite(values).all(), values


@pytest.mark.fault("A9")
@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1.0, 1e160, 1e300])
def test_cosines_do_not_depend_on_the_scale(scale: float) -> None:
    values = points("constant") + np.random.default_rng(2).normal(size=(N, LAYERS, WIDTH))
    names = [f"v{i}" for i in range(N)]
    expected = cosine_per_layer(values, names).values
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_allclose(cosine_per_layer(values * scale, names).values, expected, atol=1e-12)


@pytest.mark.fault("A9")
def test_who_has_no_direction_is_named() -> None:
    values = points("zero")
    with pytest.warns(XmiWarning, match=r"'v0' at layers \[1\]: a zero vector"):
        found = cosine_per_layer(values, [f"v{i}" for i in range(N)], ["g"] * 6 + ["h"] * 6)
    assert np.isnan(found.values).sum() == 2 * N - 1 and np.isfinite(found.values[0]).all()
    means = found.within_and_across().set_index("layer")
    assert means.loc[1].isna().all() and means.loc[0].notna().all(), "a mean does not leave NaN out"
    with pytest.raises(VectorError, match=r"NaN or infinite values in 'v0' at layers \[1\]"):
        cosine_per_layer(points("nan"), [f"v{i}" for i in range(N)])
    for measure in (silhouette, alignment):
        with pytest.warns(XmiWarning, match=r"1 of 12 points are zero .* point 0 at layer 1"):
            measure(values, TASKS, MODALITIES, permutations=3)


@pytest.mark.fault("A9")
def test_a_zero_at_one_layer_leaves_the_others_as_they_are() -> None:
    whole, holed = points("constant") + points("zero"), points("constant") + points("zero")
    holed[0, -1] = 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for measure in (silhouette, alignment):
            left, right = (measure(v, TASKS, MODALITIES, permutations=9) for v in (whole, holed))
            for field in (
                f.name for f in fields(left) if f.name in ("by_task", "by_modality", "values", "low", "high")
            ):
                np.testing.assert_array_equal(getattr(left, field)[..., 0], getattr(right, field)[..., 0])


def test_the_order_of_rounding_errors_is_no_correlation() -> None:
    line = np.outer(np.linspace(0.1, 3.7, N), np.random.default_rng(4).normal(size=WIDTH))
    other = np.random.default_rng(5).normal(size=(N, WIDTH))
    assert np.isnan(rsa(line, other, ORDERS)).all(), "all cosine distances are zero"
    same = np.full((N, WIDTH), 0.1) * 3
    assert np.isnan(procrustes(same, other, ORDERS)).all()


def test_constant_sides_have_no_correspondence_in_any_state() -> None:
    values = points("constant")
    values[6:] = np.random.default_rng(3).normal(size=(6, LAYERS, WIDTH))
    found = alignment(values, TASKS, MODALITIES, permutations=5)
    table = found.to_frame().set_index(["state", "measure"])["value"]
    for state, measure in (("raw", "RSA"), ("raw", "CKA"), ("gap removed", "Procrustes"), ("gap removed", "RSA")):
        assert table.loc[state, measure].isna().all(), (state, measure)
    assert table.loc["gap removed", "cosine, same task, across modalities"].isna().all()


@pytest.mark.fault("A9")
def test_masses_that_are_all_zero_have_no_shares_and_no_phase() -> None:
    found = all_zero()
    assert np.isnan(found.shares[:, -1]).all() and np.isnan(found.relative[-1]).all()
    assert found.dominant[-1] == "" and found.dominant[0] != ""
    some = phases("zero")  # of one prompt at one depth: the mean is that of the others
    np.testing.assert_allclose(some.relative[-1], some.shares[1:, -1].mean(0))
    place = bootstrap_boundaries(
        some.shares, some.probability.sum(-1), [str(i) for i in range(N)], ["t"] * N, resamples=5
    )
    assert np.isfinite(place.found).all()
    missing = np.isnan(some.shares).any(-1)
    np.testing.assert_array_equal(mean_shares(some.shares, missing), some.relative)
    np.testing.assert_array_equal(mean_shares(phases("constant").shares, missing & False), phases("constant").relative)


def test_a_mean_over_nothing_is_not_a_number() -> None:
    empty = answers([])
    for score in ("paper", "strict"):
        assert np.isnan(empty.accuracy(score).mean) and empty.accuracy(score).n == 0
    with pytest.raises(MeasureError):
        compare(empty, empty)
    one = answers([True], ["u"])
    found = compare(one, one)
    assert found.n == 1 and np.isnan([found.low, found.high]).all()
    single = layerwise(sweep(np.ones((1, 2, 1)), ["s"], ["u"], ["t"]))
    assert np.isnan(single.low).all() and np.isnan(single.high).all()


@pytest.mark.fault("A9")
def test_no_layer_is_best_by_nan_or_by_nothing() -> None:
    tied = sweep(np.ones((1, 3, 2)), ["s"], ["u", "v"], ["t", "t"])
    broken = replace(
        tied, log_probability=np.where(np.arange(3)[None, :, None] == 1, np.nan, 0.0) + np.zeros((1, 3, 2))
    )
    with pytest.raises(MeasureError, match=r"layers \[11\] hold NaN"):
        _ = broken.best_layer
    asked = Overriding(
        "text ICL", "text ICL", (0, 1), ("a",), ("b",), ("u",), ("test",), (("x",),) * 6, np.zeros((2, 6, 1), bool),
        np.zeros((2, 6, 1), bool),
    )  # fmt: skip
    with pytest.raises(MeasureError, match="no validation queries"):
        _ = asked.best_layer


def test_weights_that_were_not_compared_are_neither_near_nor_far() -> None:
    values: dict[str, Any] = {f.name: () for f in fields(BaseComparison)} | {"vlm": "a", "base": "b"}
    made = {"places": ("embed", "blocks.0"), "moved": np.array([0.1, np.nan])}
    assert BaseComparison(**{**values, **made}).related is None
    assert BaseComparison(**{**values, **made, "moved": np.array([0.1, 0.1])}).related is True
    assert BaseComparison(**{**values, "moved": np.zeros(0)}).related is None


def test_helpers_keep_nan() -> None:
    values = unit_length(lone(points("zero")))
    labels = np.arange(N) % 3
    gram = values @ values.T
    means = pair_means(gram, labels[:, None] == labels, ~np.eye(N, dtype=bool), np.ones((N, 1)), np.ones((N, 1)))
    assert np.isnan(means).all()
    assert not apart(np.zeros((3, 3))) and not apart(np.full((3, 3), np.nan)) and apart(np.eye(3))
    # Those that count nearest centroids are asked for finite points only: the alignment sees to it.
    assert centroid_votes(np.eye(3), np.arange(3), np.eye(3), np.arange(3)).trace() == 3
    assert np.isnan(left_out_hits(np.eye(3), np.arange(3), np.arange(3)[None])[0]).all()
    assert all(is_dataclass(kind) for kind in (Phases, BaseComparison))
