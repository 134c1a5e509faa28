"""What the report says follows from what the numbers allow, whatever the numbers are."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from tests.plot.gallery import aligned
from xmi.measure import Phases, Proportion, Silhouette, wilson
from xmi.measure.judgement import EFFECT, FEW, LEAST, effect
from xmi.report import wording
from xmi.report.sections.alignment import carried, together
from xmi.report.sections.geometry import cluster_sentence
from xmi.report.sections.phases import phase_sentences

NAN = math.nan
SIZES = (0, 1, 2, 3, 4, 5, 8, 20, 29, 30, 96, 1000)
SHARES = (0.0, 0.05, 0.2, 0.5, 0.8, 1.0)
GRID = [wilson(round(m * n) / n if n else 0.0, n) for n, m in product(SIZES, SHARES)]
GRID += [Proportion(0.5, 40, NAN, NAN), Proportion(NAN, 40, 0.1, 0.2)]
MINUS_ZERO = re.compile(r"[-\u2212]0(\.0+)?(?![.\d])")


def sound(said: str) -> str:
    """The words with plain spaces, once they hold no number that is none."""
    assert not re.search(r"\bnan\b|\binf\b", said), said
    assert not MINUS_ZERO.search(said), said
    return said.replace("\u00a0", " ")


@pytest.mark.fault("A16")
def test_what_a_patch_does_is_said_only_as_far_as_intervals_go() -> None:
    for patch, clean in product(GRID, [*GRID, None]):
        said = sound(effect(patch, clean))
        n = min(patch.n, patch.n if clean is None else clean.n)
        known = not any(math.isnan(v) for p in (patch, clean) if p for v in (p.mean, p.low, p.high))
        if n < LEAST or not known:
            assert f"too few items to tell (n = {n})" in said
            continue
        if clean is None:
            assert said == "gives"
            continue
        works = said.startswith("makes the model do the task")
        not_ = said.startswith("does not make")
        assert works == (patch.low > clean.high)
        if said == "makes the model do the task:":
            assert patch.low >= 0.5
        if not_:
            assert patch.high - clean.mean <= EFFECT or patch.high < clean.low, "an effect would have been seen"
        if "too few" in said:
            assert n < FEW
        if "not shown" in said:
            assert n >= FEW
        assert works + not_ + ("too few" in said) + ("not shown" in said) == 1


@pytest.mark.fault("A16")
def test_three_items_prove_nothing_either_way() -> None:
    for mean in (0.0, 1 / 3, 1.0):
        said = sound(effect(wilson(mean, 3), wilson(0.0, 3)))
        assert said == "cannot be judged, too few items to tell (n = 3):"
    assert "too few items to tell (n = 3)" in sound(wording.better(wilson(1, 3), wilson(0, 3)))
    assert "too few items to tell (n = 3)" in sound(wording.elsewhere(wilson(1, 3), wilson(0, 96), "m"))


@pytest.mark.fault("A16")
def test_two_methods_or_models_differ_only_where_intervals_are_apart() -> None:
    for a, b in product(GRID, GRID):
        said, other = sound(wording.better(a, b)), sound(wording.elsewhere(a, b, "m"))
        n = min(a.n, b.n)
        known = n >= LEAST and not any(math.isnan(v) for p in (a, b) for v in (p.mean, p.low, p.high))
        apart = known and (a.low > b.high or b.low > a.high)
        assert ("is better," in said) == apart == ("with disjoint intervals" in other)
        if apart:
            assert said.startswith("the patch" if a.mean > b.mean else "the prompt")
            assert ("less than" in other) == (b.mean < a.mean)
        elif n < FEW or not known:
            assert f"too few items to tell (n = {n})" in said
        else:
            assert "neither" in said
            assert "cannot be distinguished" in other


@pytest.mark.fault("A16", "D1")
def test_tested_differences_say_what_the_test_says() -> None:
    differences = (-1.0, -0.3, -0.004, 0.0, 0.004, 0.0139, 0.3, 1.0, NAN)
    for d, p, n, width in product(differences, (0.0001, 0.049, 0.05, 1.0, NAN), SIZES, (0.0, 0.1, NAN)):
        row = {"difference": d, "low": d - width, "high": d + width, "p_holm": p, "n": n}
        said = sound(wording.tested(row))
        if n < LEAST or math.isnan(d) or math.isnan(p):
            assert said == f"too few items to tell (n = {n})"
            continue
        verdict, numbers = said.split(": ", 1)
        assert ("is better" in verdict) == (p < 0.05)
        if p < 0.05:
            assert verdict == f"the {'patch' if d > 0 else 'prompt'} is better"
        else:
            assert ("too few" in verdict) == (n < FEW)
        shown = re.match(r"([-+]?\d+) points?", numbers)
        assert shown
        assert int(shown[1]) == round(100 * d)
        assert shown[1][0] in ("+" if round(100 * d) > 0 else "-" if round(100 * d) < 0 else "0")


@pytest.mark.fault("A16")
def test_what_is_added_follows_its_interval() -> None:
    for d, half, n in product((-0.5, -0.01, 0.0, 0.01, 0.5, NAN), (0.0, 0.03, 0.6, NAN), SIZES):
        said = sound(wording.adds(d, d - half, d + half, n))
        if n < LEAST or math.isnan(d) or math.isnan(half):
            assert f"too few items to tell (n = {n})" in said
        elif d - half > 0:
            assert said.startswith("adds +")
        elif d + half < 0:
            assert said.startswith("takes away -")
        else:
            assert said.startswith("adds nothing that could be shown")
            assert ("too few" in said) == (n < FEW)


@pytest.mark.fault("A16")
def test_no_more_than_without_context_needs_an_interval_that_says_so() -> None:
    for there, clean in product(GRID, GRID):
        said = sound(wording.against_clean(there, clean))
        if said == ", no more than without context":
            assert there.high - clean.mean <= EFFECT
        if said == ", more than without context":
            assert there.low > clean.high
        if min(there.n, clean.n) < LEAST:
            assert said == ""


# --- phases ---
DEPTH = ("embed", "0", "1", "2")


def phases(leader: str, n: int, *, known: bool = True, words: tuple[str, ...] = (), scale: float = 1.0) -> Phases:
    """Phases in which one set leads at every layer: `input`, `task`, `answer`, `other labels`, or none."""
    rng = np.random.default_rng(0)
    sets = ("input", "task", "answer", "other labels")
    mass = rng.random((n, 4, 4)) * (0.02 if leader else 0.2)
    if leader:
        mass[..., sets.index(leader)] += 0.5
    mass *= scale
    rank = np.where(mass == mass.max(-1, keepdims=True, initial=0), 0, 5)
    others = {"other_labels": mass[..., 3], "other_labels_rank": rank[..., 3]} if known else {}
    units = tuple(f"u{i}" for i in range(n))
    return Phases(
        "x", DEPTH, mass[..., :3], rank[..., :3], ((("t", 1.0),),) * 4, units, ("t",) * n, label_words=words, **others
    )


@pytest.mark.fault("A16")
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("n", [1, 3, 5, 20])
@pytest.mark.parametrize("leader", ["input", "task", "answer", "other labels", ""])
def test_the_task_word_leads_only_where_nothing_else_does(leader: str, n: int, known: bool) -> None:
    said = sound(phase_sentences({"text ICL": phases(leader, n, known=known)}))
    if n < LEAST:
        assert (
            said == "Which of input, task word and answer leads cannot be determined "
            f"(text ICL: too few items to tell (n = {n}))."
        )
        return
    where = "at layers embed to 2 (text ICL)"
    assert ("The task word outweighs" in said and f"{where}, with" in said.split(". ")[0]) == (leader == "task")
    if leader != "task":
        assert "at no layer (text ICL)" in said
    assert (f"Other labels of the task lead {where}" in said) == (known and leader == "other labels")
    if leader:
        assert ("mostly a label of the task, not a word for it" in said) == (known and leader == "other labels")
    assert ("was not measured" in said) == (not known)
    assert ("input and answer " in said) == (not known)


@pytest.mark.fault("A16")
def test_the_probability_that_the_task_word_has_is_said() -> None:
    assert "with 50 % to 52 % of the probability" in sound(
        phase_sentences({"a": phases("task", 20)})
    ) or "51 %" in sound(phase_sentences({"a": phases("task", 20)}))
    assert "with 0 % of the probability" in sound(phase_sentences({"a": phases("task", 20, scale=1e-4)}))


@pytest.mark.fault("A16")
def test_labels_among_the_task_words_are_named() -> None:
    said = sound(phase_sentences({"a": phases("task", 20, words=(" red", "blue"))}))
    assert "Labels of the task are among its task words (“red”, “blue”)" in said
    assert phase_sentences({}) == ""


@pytest.mark.fault("A16")
def test_broken_numbers_of_phases_lead_nowhere() -> None:
    whole = phases("task", 20)
    whole.probability[0, 2] = np.nan
    assert whole.leading() == ("",) * 4
    same = phases("", 8)
    same.probability[:] = 0.2
    assert phases("task", 20).leading() == ("task",) * 4
    assert set(same.leading()) <= {"", "input", "other labels"}
    assert "task" not in same.leading()


@pytest.mark.fault("A16")
def test_clusters_are_claimed_only_where_they_pass_their_test() -> None:
    task, modality = np.array([0.5, 0.6, NAN, -0.001]), np.array([0.1, -0.001, 0.2, -0.5])
    tested = Silhouette((0, 1, 2, 3), task, modality, np.array([0.3, 0.01, 0.01, NAN]), np.full(4, 1.0))
    said = sound(cluster_sentence(tested))
    assert "at layer 1; most clearly at layer 1 (silhouette 0.60 against 0.00;" in said
    none = Silhouette((0, 1), task[:2], modality[:2], np.array([0.3, 0.3]), np.full(2, 1.0))
    assert sound(cluster_sentence(none)).startswith("At no layer are prompts shown to cluster by task")
    plain = Silhouette((0, 1), -task[:2], modality[:2])
    assert sound(cluster_sentence(plain)).startswith("At no layer do prompts cluster by task")
    assert cluster_sentence(Silhouette((0,), np.array([NAN]), np.array([0.1]))) == ""


@pytest.mark.fault("D2")
@pytest.mark.parametrize("margin", [1.1, 0.4, -0.2, NAN])
def test_a_margin_of_cosines_is_called_a_difference(margin: float) -> None:
    """A cosine is 1 at most, a difference of two is not; and a margin below zero is nearer to nothing."""
    result = aligned()
    values, corrected = np.full_like(result.values, margin), np.full_like(result.corrected, 0.001)
    said = sound(together(replace(result, values=values, low=values - 0.1, high=values + 0.1, corrected=corrected)))
    assert not re.search(r"cosine of -?\d", said)
    if margin > 0:
        assert f"their cosines differ by {margin:.2f} [{margin - 0.1:.2f}, {margin + 0.1:.2f}] (a difference" in said
    else:
        assert "at no layer shown to lie nearer" in said
    sound(carried(replace(result, values=values)))


@pytest.mark.fault("D1", "D3")
def test_percentages_and_gains_are_sound_over_the_grid() -> None:
    for value, digits in product(GRID, (0, 1)):
        sound(wording.percent(value, digits))
        sound(wording.gain(value.mean - 0.5, value.low - 0.5, value.high - 0.5, digits))
    assert wording.percent(wilson(0, 0)) == "not\u00a0defined"
    assert sound(wording.gain(-0.001, -0.004, 0.03)) == "0 points [0, +3]"
