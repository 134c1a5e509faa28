"""Boundaries of the phases against brute force and known crossings; what is pooled, kept and refused."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations_with_replacement
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from xmi.measure import Phases, merge
from xmi.measure.boundaries import Boundaries, find_boundaries, resampled_means
from xmi.measure.phases import boundaries
from xmi.measure.result import encode

INPUT, TASK, ANSWER = np.eye(3)


def phases(shares: np.ndarray, label: str = "text ICL", **more: object) -> Phases:
    """Phases with the given shares [prompt, depth, 3]."""
    depth = ("embed", *map(str, range(shares.shape[1] - 1)))
    return Phases(label, depth, shares, shares * 0, ((("x", 1.0),),) * len(depth), **more)


def ramps(first: np.ndarray, second: np.ndarray, depths: int = 13, wide: float = 6) -> np.ndarray:
    """Curves in which task takes over from input at `first` (in depths) and answer from task at `second`, linearly."""
    places = np.arange(depths)
    late = np.clip((places - np.asarray(first)[..., None]) / wide + 0.5, 0, 1)
    later = np.clip((places - np.asarray(second)[..., None]) / wide + 0.5, 0, 1) * late
    return np.stack([1 - late, late - later, later], -1)


@pytest.mark.parametrize(("first", "second"), [(2.0, 9.0), (2.3, 8.75), (3.99, 10.01)])
def test_known_crossings_are_found(first: float, second: float) -> None:
    np.testing.assert_allclose(find_boundaries(ramps(first, second)), [first, second], atol=1e-12)
    measured = phases(np.repeat(ramps(first, second)[None], 4, 0))
    found = measured.boundaries()
    np.testing.assert_allclose(found.layer[0], [first - 1, second - 1], atol=1e-12)
    np.testing.assert_allclose(found.relative(found.layer)[0], [first / 12, second / 12], atol=1e-12)
    np.testing.assert_allclose(found.low, found.high, err_msg="equal prompts leave no doubt")
    np.testing.assert_allclose(found.found, 1)


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ([INPUT, INPUT, ANSWER], [None, None]),  # no task phase in between
        ([INPUT, INPUT, INPUT], [None, None]),
        ([TASK, TASK, ANSWER], [None, 1.5]),  # no input phase
        ([INPUT, TASK, TASK], [0.5, None]),
        ([INPUT, INPUT, TASK, ANSWER, TASK, TASK, TASK, ANSWER], [1.5, 6.5]),  # one depth out of line
        ([ANSWER, TASK, INPUT], [None, None]),  # the wrong way round
        ([[1 / 3] * 3] * 4, [None, None]),
        # The task has the most mass of any stretch here, but leads nowhere.
        ([[0.0, 0.45, 0.55], [0.55, 0.45, 0.0]], [None, None]),
    ],
)
def test_what_is_not_there_is_not_invented(curve: list[np.ndarray], expected: list[float | None]) -> None:
    np.testing.assert_allclose(find_boundaries(np.array(curve)), np.array(expected, float))


@given(arrays(float, (7, 3), elements=st.floats(0.01, 1)))
def test_boundaries_part_the_best_stretches(raw: np.ndarray) -> None:
    curve = raw / raw.sum(-1, keepdims=True)
    totals = {
        (a, b): curve[:a, 0].sum() + curve[a:b, 1].sum() + curve[b:, 2].sum()
        for a, b in combinations_with_replacement(range(8), 2)
    }
    best = [cut for cut, total in totals.items() if total > max(totals.values()) - 1e-12]
    if len(best) > 1:  # a tie: either is right
        return
    leaders = curve.argmax(-1)
    a, b = best[0]
    there = [0 in leaders[:a], 1 in leaders[a:b], 2 in leaders[b:]]
    for j, (cut, place) in enumerate(zip((a, b), find_boundaries(curve), strict=True)):
        assert np.isnan(place) != (there[j] and there[j + 1])
        if not np.isnan(place):
            assert cut - 1 <= place <= cut
            at = [np.interp(place, range(7), curve[:, k]) for k in (j, j + 1)]
            np.testing.assert_allclose(at[0], at[1], atol=1e-9, err_msg="the curves cross there")


def drawn(rng: np.random.Generator, items: int) -> np.ndarray:
    return ramps(rng.normal(3, 1, items), rng.normal(9, 1, items))


def test_intervals_cover_the_truth() -> None:
    rng = np.random.default_rng(0)
    truth = find_boundaries(drawn(rng, 200_000).mean(0))[None] - 1
    inside, width = [], []
    for trial in range(150):
        found = phases(drawn(rng, 25)).boundaries(resamples=200, seed=trial, confidence=0.9)
        inside.append((found.low <= truth) & (truth <= found.high))
        width.append(found.high - found.low)
    covered = np.mean(inside, axis=0)
    assert (covered > 0.82).all(), covered
    assert (covered < 0.97).all(), "as wide as anything"
    assert 0 < np.min(width) < np.mean(width) < 1


def test_items_not_repeats_make_an_interval_narrow() -> None:
    once = drawn(np.random.default_rng(1), 12)
    items = tuple(f"t/{i}" for i in range(12))
    one, thrice = phases(once, units=items), phases(np.repeat(once, 3, 0), units=tuple(np.repeat(items, 3)))
    for name in ("low", "high", "layer", "found"):
        np.testing.assert_allclose(getattr(thrice.boundaries(), name), getattr(one.boundaries(), name), atol=1e-12)
    assert thrice.boundaries().n == one.boundaries().n == (12,)
    unknown = replace(thrice, units=()).boundaries()
    assert unknown.n == (36,)
    assert (unknown.high - unknown.low < one.boundaries().high - one.boundaries().low).all()


def test_units_are_drawn_whole_and_within_their_task() -> None:
    values = np.arange(6.0)[:, None, None] * np.ones((1, 2, 3))
    units, tasks = ("a", "a", "b", "c", "c", "d"), ("t", "t", "t", "u", "u", "u")
    found = resampled_means(values, units, tasks, resamples=400)
    first = {"aa": (2, 4), "ab": (3, 3), "bb": (4, 2)}  # sums and counts of each draw from a task
    second = {"cc": (14, 4), "cd": (12, 3), "dd": (10, 2)}
    possible = {(s + q) / (n + m) for s, n in first.values() for q, m in second.values()}
    assert {round(v, 9) for v in found[:, 0, 0]} == {round(v, 9) for v in possible}
    again = resampled_means(values, units, tasks, resamples=400)
    np.testing.assert_array_equal(found, again)
    assert (found != resampled_means(values, units, tasks, resamples=400, seed=1)).any()


def test_one_item_has_no_interval() -> None:
    shares = drawn(np.random.default_rng(0), 4)
    for measured in (phases(shares[:1]), phases(shares, units=("u",) * 4), phases(shares, tasks=tuple("abcd"))):
        found = measured.boundaries()
        assert np.isfinite(found.layer).all()
        assert np.isnan(found.low).all()
        assert np.isnan(found.high).all()
    with pytest.raises(ValueError, match="confidence=1"):
        phases(shares).boundaries(confidence=1)
    with pytest.raises(ValueError, match="0 prompts"):
        phases(shares[:0]).boundaries()


def test_doubt_about_a_boundary_is_said() -> None:
    rng = np.random.default_rng(0)
    strong = rng.random(30) < 0.5
    shares = np.stack([np.stack([INPUT, TASK if s else INPUT * 0.49 + ANSWER * 0.51, ANSWER]) for s in strong])
    found = phases(shares).boundaries()
    assert ((found.found > 0.05) & (found.found < 0.95)).all(), "some resamples have a task phase, some do not"


def test_several_measurements_lie_side_by_side(tmp_path: Path) -> None:
    small = phases(np.repeat(ramps(2, 4, 7, 2)[None], 3, 0), "t · text ICL", model="small")
    large = phases(np.repeat(ramps(4, 8, 13, 4)[None], 3, 0), "t · text ICL", model="large")
    found = boundaries([small, large])
    table = found.to_frame().set_index(["model", "change"])
    np.testing.assert_allclose(table.loc[("small", "input → task"), ["layer", "relative"]].astype(float), [1, 2 / 6])
    np.testing.assert_allclose(table.loc[("large", "input → task"), ["layer", "relative"]].astype(float), [3, 4 / 12])
    again = Boundaries.load(found.save(tmp_path / "b.json"))
    np.testing.assert_equal(encode(again), encode(found))
    with pytest.raises(ValueError, match="at least one"):
        boundaries([])
    with pytest.raises(ValueError, match="same confidence"):
        Boundaries.concat([found, replace(found, confidence=0.5)])


def test_tables_tell_relative_depth_and_ranks() -> None:
    measured = replace(phases(drawn(np.random.default_rng(0), 3)), rank=np.arange(117.0).reshape(3, 13, 3) ** 2)
    table = measured.to_frame()
    assert list(table["relative_depth"].unique()) == pytest.approx(np.arange(13) / 12)
    answer = table[(table["phase"] == "answer") & (table["depth"] == "3")].iloc[0]
    assert answer["mean_rank"] == pytest.approx(measured.rank[:, 4, 2].mean())
    assert answer["median_rank"] == pytest.approx(np.median(measured.rank[:, 4, 2]))
    assert answer["mean_rank"] != answer["median_rank"]


def test_a_boundary_tells_how_much_mass_it_speaks_of() -> None:
    shares = np.repeat(ramps(2.25, 9)[None], 3, 0)
    faint = shares * np.linspace(1, 1e-6, 13)[:, None]
    found, plain = phases(faint).boundaries(), phases(shares).boundaries()
    np.testing.assert_allclose(found.layer, plain.layer, atol=1e-9)
    np.testing.assert_allclose(plain.mass, 1)
    np.testing.assert_allclose(found.mass[0], np.interp([2.25, 9], range(13), np.linspace(1, 1e-6, 13)))
    assert np.isnan(phases(shares[:, :5]).boundaries().mass[0, 1])


def test_merge_keeps_what_intervals_need() -> None:
    shares = drawn(np.random.default_rng(0), 2)
    one = phases(shares, units=("a", "b"), tasks=("t", "t"), task_words=("capital",), model="m")
    two = phases(shares, units=("c", "d"), tasks=("u", "u"), task_words=("color", "capital"), model="m")
    both = merge("both", [one, two])
    assert (both.units, both.tasks) == (("a", "b", "c", "d"), ("t", "t", "u", "u"))
    assert (both.task_words, both.model) == (("capital", "color"), "m")
    assert merge("both", [one, phases(shares)]).units == ()
    with pytest.raises(ValueError, match="one lens, found logit lens, tuned lens"):
        merge("both", [one, replace(two, lens="tuned lens")])
    with pytest.raises(ValueError, match="one slot"):
        merge("both", [one, replace(two, slot="query.delimiter")])


def test_results_stored_before_still_load(tmp_path: Path) -> None:
    measured = phases(drawn(np.random.default_rng(0), 3))
    content = json.loads(measured.save(tmp_path / "new.json").read_text())
    old = {k: content[k] for k in ("type", "label", "depth", "probability", "rank", "top_tokens")}
    (tmp_path / "old.json").write_text(json.dumps(old))
    again = Phases.load(tmp_path / "old.json")
    np.testing.assert_equal(encode(again), encode(measured))
    assert again.boundaries().n == (3,)
