"""Comparisons of methods: pairing by item, seeds as blocks, layers, and the table of a study's contrasts."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tests.measure.synthetic import answers, sweep
from xmi.measure import (
    Answers,
    Comparison,
    LayerComparison,
    Transfer,
    answers_at,
    benjamini_hochberg,
    compare,
    compare_all,
    comparisons,
    holm,
    layerwise,
    majority_answers,
)
from xmi.measure.result import encode

UNITS = [f"{task}/{i}" for task in "abc" for i in range(10)]
TASKS = [unit[0] for unit in UNITS]


def pooled(chance: float, seed: int, seeds: int = 3) -> Answers:
    """Thirty items asked under several seeds, each time in another order."""
    rng = np.random.default_rng(seed)
    parts = []
    for _ in range(seeds):
        order = rng.permutation(30)
        parts.append(answers(rng.random(30) < chance, [UNITS[i] for i in order], [TASKS[i] for i in order]))
    return Answers.concat(parts)


def frame(side: Answers) -> pd.DataFrame:
    table = side.to_frame()
    return table.assign(seed=table.groupby("unit").cumcount())


def test_difference_is_that_of_the_accuracies_by_task_and_seed() -> None:
    a, b = pooled(0.7, 1), pooled(0.3, 2)
    found = compare(a, b, names=("patch", "prompt"))
    left, right = frame(a), frame(b)
    assert (found.a, found.b, found.n, found.seeds, found.answers) == ("patch", "prompt", 30, 3, (90, 90))
    assert found.accuracy_a == pytest.approx(a.accuracy().mean)
    assert found.accuracy_b == pytest.approx(b.accuracy().mean)
    assert found.difference == pytest.approx(a.accuracy().mean - b.accuracy().mean)
    assert found.tasks == ("a", "b", "c")
    for values, by in ((found.by_task, "task"), (found.by_seed, "seed")):
        np.testing.assert_allclose(values, left.groupby(by)["paper"].mean() - right.groupby(by)["paper"].mean())
    assert found.p < 0.01
    assert 0 < found.low < found.difference < found.high


def test_order_of_the_prompts_does_not_matter_and_seeds_stay_blocks() -> None:
    a, b = pooled(0.7, 3), pooled(0.6, 4)
    found = compare(a, b)
    turned = replace(b, **{k: getattr(b, k)[::-1] for k in ("units", "tasks", "paper", "strict", "answers")})
    again = compare(a, turned)
    assert (again.difference, again.p) == (pytest.approx(found.difference), found.p)
    averaged = compare(Answers.concat([a] * 5), Answers.concat([b] * 5))
    assert averaged.seeds == 15
    assert (averaged.n, averaged.p) == (found.n, found.p), "asking again is no evidence of its own"
    assert (averaged.low, averaged.high) == pytest.approx((found.low, found.high))


def test_sides_asked_unequally_often() -> None:
    a = pooled(0.7, 3)
    once = answers([True] * 30, UNITS, TASKS)
    found = compare(a, once)
    assert (found.seeds, len(found.by_seed), found.answers) == (0, 0, (90, 30))
    assert found.difference == pytest.approx(a.accuracy().mean - 1)
    assert math.isnan(found.to_frame()["lowest_seed"][0])
    assert list(found.to_frame()[["answers_a", "answers_b"]].iloc[0]) == [90, 30]


def test_p_of_single_answers_is_the_exact_sign_test() -> None:
    """With one answer per item the sign-flip test is McNemar's exact one: a binomial test of the discordant items."""
    a, b = [True] * 9 + [False] * 3, [False] * 7 + [True] * 5
    found = compare(answers(a), answers(b))
    assert found.p == pytest.approx(stats.binomtest(7, 10).pvalue)


def test_all_three_scores() -> None:
    a = answers([True] * 4 + [False] * 6, labels=["red"] * 10, written=["red wine"] * 7 + ["reddish"] * 3)
    b = answers([False] * 10, labels=["red"] * 10, written=["blue"] * 10)
    assert compare(a, b).difference == pytest.approx(0.4)
    assert compare(a, b, score="strict").difference == pytest.approx(-0.4)
    assert compare(a, b, score="whole").difference == pytest.approx(0.7)
    with pytest.raises(ValueError, match="max_new_tokens"):
        compare(a, answers([True] * 10), score="whole")
    with pytest.raises(ValueError, match="lenient"):
        compare(a, b, score="lenient")


def test_missing_items_are_named() -> None:
    some = answers([True] * 22, UNITS[8:], TASKS[8:])
    every = answers([True] * 30, UNITS, TASKS)
    for pair in ((some, every), (every, some)):
        names = ("few", "all") if pair[0] is some else ("all", "few")
        with pytest.raises(ValueError, match=r"'few' was not asked 'a/0', 'a/1', .* and 3 more"):
            compare(*pair, names=names)
    with pytest.raises(ValueError, match="no answers"):
        compare(answers([]), answers([]))
    elsewhere = answers([True] * 30, UNITS, ["d"] * 30)
    with pytest.raises(ValueError, match="not asked"):
        compare(every, elsewhere)


def test_many_pairs_equal_one_by_one() -> None:
    a, b, c = pooled(0.7, 1), pooled(0.5, 2), pooled(0.4, 3)
    few = (answers([True, False] * 6), answers([False] * 12), ("few a", "few b"))
    pairs = [(a, b, ("a", "b")), few, (a, c, ("a", "c")), (b, c, ("b", "c"))]
    for pair, found in zip(pairs, compare_all(pairs), strict=True):
        alone = compare(pair[0], pair[1], names=pair[2])
        assert (found.a, found.b, found.n, found.p) == (alone.a, alone.b, alone.n, alone.p)
        assert (found.low, found.high) == pytest.approx((alone.low, alone.high))
        np.testing.assert_allclose(found.by_task, alone.by_task)
        np.testing.assert_allclose(found.by_seed, alone.by_seed)
    assert compare_all([]) == []


def hits(curves: list[list[float]], n: int = 30, seed: int = 0) -> np.ndarray:
    """Hits of the given chance per source and layer; an item is as hard for every source and layer."""
    hard = np.random.default_rng(seed).random(n)
    return hard < np.array(curves)[..., None]


def test_layerwise_is_compare_at_every_layer() -> None:
    curves = [[0.1, 0.5, 0.9], [0.1, 0.15, 0.1]]
    parts = [sweep(hits(curves, seed=s), ("text ICL", "control: random"), UNITS, TASKS) for s in range(3)]
    pooled_sweep = Transfer.concat(parts)
    prompt = Answers.concat([answers(hits([[0.4]], seed=s)[0, 0], UNITS, TASKS) for s in range(3)])
    for baseline, sides in (
        (prompt, [prompt] * 3),
        (None, [pooled_sweep.clean] * 3),
        ("control: random", [answers_at(pooled_sweep, "control: random", layer) for layer in (10, 11, 12)]),
    ):
        found = layerwise(pooled_sweep, "text ICL", baseline)
        assert (found.layers, found.n, found.a) == ((10, 11, 12), 30, "text ICL")
        for k, side in enumerate(sides):
            alone = compare(answers_at(pooled_sweep, "text ICL", 10 + k), side)
            assert found.difference[k] == pytest.approx(alone.difference)
            assert (found.low[k], found.high[k]) == pytest.approx((alone.low, alone.high))
            assert found.p[k] == pytest.approx(alone.p)
        assert (found.corrected >= found.p).all()
    against = layerwise(pooled_sweep, "text ICL", "control: random")
    assert against.b == "control: random"
    assert against.corrected[0] > 0.5 > 0.05 > against.corrected[2], (
        "layers that differ are told from those that do not"
    )
    one = sweep(hits([[0.5]]), ("only",), UNITS, TASKS)
    assert layerwise(one).b == "no context"
    with pytest.raises(KeyError, match="control: other"):
        layerwise(one, "only", "control: other")
    with pytest.raises(KeyError, match="No source None"):
        layerwise(pooled_sweep)
    with pytest.raises(ValueError, match="'only' was not asked"):
        layerwise(one, "only", answers([True] * 31, [*UNITS, "c/99"], [*TASKS, "c"]))


def test_answers_at_is_that_slice_of_the_sweep() -> None:
    transfer = sweep(hits([[0.2, 0.5], [0.7, 0.9]]), ("x", "y"), UNITS, TASKS, written="x and more")
    found = answers_at(transfer, "y", 11)
    for score in ("paper", "strict", "whole"):
        assert found.accuracy(score) == transfer.accuracy("y", 11, score)
    assert found.predicted == transfer.predicted[1][1]
    assert found.prompts == transfer.clean.prompts
    for wrong in (("z", 11), ("y", 7)):
        with pytest.raises(KeyError):
            answers_at(transfer, *wrong)


def test_majority_is_learned_from_training_labels() -> None:
    asked = answers([False] * 5, ["p", "q", "r", "s", "t"], ["fruit"] * 3 + ["food"] * 2,
                    labels=["red", "green", "red", "blue", "red"])  # fmt: skip
    training = {"fruit": ["green", "red", "red", "red"], "food": ["blue", "red"]}
    found = majority_answers(asked, training)
    assert found.predicted == ("red", "red", "red", "blue", "blue"), "test labels must not choose; ties go to the first"
    assert list(found.paper) == list(found.strict) == [True, False, True, True, False]
    assert found.accuracy().mean == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert found.accuracy("whole").mean == found.accuracy().mean
    np.testing.assert_allclose(np.exp(found.log_probability), [3 / 4, 1 / 4, 3 / 4, 1 / 2, 1 / 2])
    assert list(found.rank) == [0, 1, 0, 0, 1]
    further = replace(asked, alternatives=((), ("red",), (), (), ("blue", "pink")))
    assert list(majority_answers(further, training).strict) == [True, True, True, True, True], "any label counts"
    unseen = majority_answers(asked, {"fruit": ["black"], "food": ["black"]})
    assert unseen.accuracy().mean == 0
    assert np.isneginf(unseen.log_probability).all()
    with pytest.raises(ValueError, match=r"\['food'\]"):
        majority_answers(asked, {"fruit": ["red"]})
    as_sweep = sweep(np.zeros((1, 1, 5)), ("s",), asked.units, asked.tasks)
    assert majority_answers(as_sweep, {"fruit": ["x"], "food": ["y"]}).accuracy().mean == 0.5


SOURCES = (
    "text ICL", "image ICL", "instruction", "text ICL + instruction", "base LLM text ICL", "base LLM other",
    "control: random vector", "control: another task",
)  # fmt: skip


def study() -> tuple[dict[str, Answers], dict[str, Transfer]]:
    """Image queries of every source; text queries without validation.

    On validation items layer 11 is best but for the instruction, on test items layer 12 for text ICL.
    """
    curve = np.array([0.1, 0.8, 0.3])
    rates = [curve, curve * 0.8, np.array([0.7, 0.3, 0.1]), curve * 1.1, curve * 0.9, curve, curve * 0, curve * 0.2]
    transfers, cells = {}, {}
    for split, seed in (("validation", 5), ("test", 6)):
        rates[0] = curve if split == "validation" else np.array([0.1, 0.7, 0.9])
        parts = [
            sweep(np.array([hits([list(r) for r in rates], seed=10 * seed + s)])[0], SOURCES, UNITS, TASKS)
            for s in range(3)
        ]
        transfers[f"image.{split}"] = Transfer.concat(parts)
    transfers["text.test"] = transfers["image.test"]
    for name, chance in {"text ICL": 0.4, "image ICL": 0.9, "no context": 0.0, "majority": 0.2}.items():
        cells[f"{name} > image"] = pooled(chance, len(name))
    return cells, transfers


def test_contrasts_of_a_study() -> None:
    cells, transfers = study()
    table = comparisons(cells, transfers)
    pairs = {(r.contrast, r.a, r.b) for r in table.itertuples()}
    patch = "{}: patch".format
    expected = {
        ("xPatch vs xBase", patch("text ICL"), "text ICL: prompt"),
        ("patch vs prompt", patch("image ICL"), "image ICL: prompt"),
        ("ensemble vs part", patch("text ICL + instruction"), patch("text ICL")),
        ("ensemble vs part", patch("text ICL + instruction"), patch("instruction")),
        ("base LLM vs own", patch("base LLM text ICL"), patch("text ICL")),
        ("instruction vs examples", patch("instruction"), patch("text ICL")),
        ("instruction vs examples", patch("instruction"), patch("image ICL")),
    } | {
        ("patch vs control", patch(source), control)
        for source in ("text ICL", "image ICL", "instruction")
        for control in (patch("control: random vector"), patch("control: another task"), "no context", "majority")
    }
    assert pairs == expected, "no side is invented: 'base LLM other' has no counterpart, text queries no layer"
    assert len(table) == len(expected)
    assert set(table["target"]) == {"image"}
    np.testing.assert_allclose(table["p_holm"], holm(table["p"]))
    np.testing.assert_allclose(table["p_bh"], benjamini_hochberg(table["p"]))
    np.testing.assert_allclose(table["difference"], table["accuracy_a"] - table["accuracy_b"])
    assert set(table["n"]) == {30}
    assert set(table["seeds"]) == {3}


def test_layers_come_from_validation_and_controls_stand_at_the_same_one() -> None:
    cells, transfers = study()
    validation, test = transfers["image.validation"], transfers["image.test"]
    table = comparisons(cells, transfers).set_index(["a", "b"])
    assert validation.best_layer_of("text ICL") != test.best_layer_of("text ICL")
    told = table.loc[("instruction: patch", "control: another task: patch")]
    assert validation.best_layer_of("instruction") != validation.best_layer_of("text ICL")
    assert (told["layer_a"], told["layer_b"]) == (validation.best_layer_of("instruction"),) * 2
    assert told["accuracy_b"] == pytest.approx(test.accuracy("control: another task", told["layer_b"]).mean)
    row = table.loc[("instruction: patch", "text ICL: patch")]
    assert row["layer_b"] == validation.best_layer_of("text ICL")
    assert row["accuracy_b"] == pytest.approx(test.accuracy("text ICL", row["layer_b"]).mean)
    prompt = table.loc[("text ICL: patch", "text ICL: prompt")]
    assert prompt["layer_b"] is pd.NA
    alone = compare(answers_at(test, "text ICL", prompt["layer_a"]), cells["text ICL > image"])
    assert (prompt["difference"], prompt["low"], prompt["high"], prompt["p"]) == pytest.approx(
        (alone.difference, alone.low, alone.high, alone.p)
    )


def test_layers_are_chosen_by_the_score_that_is_asked_for() -> None:
    cells, transfers = study()
    validation, test = transfers["image.validation"], transfers["image.test"]
    assert validation.best_layer_of("text ICL") != validation.best_layer_of("text ICL", "strict")
    for chosen_by in ("paper", "strict"):
        table = comparisons(cells, transfers, score="strict", chosen_by=chosen_by).set_index(["a", "b"])
        row = table.loc[("text ICL: patch", "text ICL: prompt")]
        assert row["layer_a"] == validation.best_layer_of("text ICL", chosen_by)
        assert row["accuracy_a"] == pytest.approx(test.accuracy("text ICL", row["layer_a"], "strict").mean)
    same = comparisons(cells, transfers, score="strict").set_index(["a", "b"])
    pd.testing.assert_frame_equal(same, table)


def test_nothing_to_contrast() -> None:
    cells, transfers = study()
    for empty in (
        comparisons(cells, {}),
        comparisons({}, {}),
        comparisons({}, {"image.test": transfers["image.test"]}),
    ):
        assert empty.empty
        assert list(empty.columns) == list(comparisons(cells, transfers).columns)


def test_results_round_trip(tmp_path: Path) -> None:
    found = compare(pooled(0.7, 1), pooled(0.3, 2))
    layers = layerwise(sweep(hits([[0.5, 0.7]]), ("only",), UNITS, TASKS))
    for result in (found, layers):
        again = type(result).load(result.save(tmp_path / "r.json"))
        np.testing.assert_equal(encode(again), encode(result))
    assert len(layers.to_frame()) == 2
    assert str(found).startswith("a - b: +0.")
    assert isinstance(found, Comparison)
    assert isinstance(layers, LayerComparison)
