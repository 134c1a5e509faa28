"""Prompts without a label are answered; what is right or wrong is counted over those that have one."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import xmi
from tests.zoo.models import build, llama
from tests.zoo.oracle import prompts_for
from xmi.measure import Answers, Transfer, compare, layerwise, majority_answers
from xmi.measure.result import encode
from xmi.prompt import Prompts
from xmi.vlm import VLM


@pytest.fixture(scope="module")
def vlm() -> VLM:
    model, tool = build(llama)
    return xmi.load(model, processor=tool)


@pytest.fixture(scope="module")
def labelled() -> Prompts:
    return prompts_for("none")


def without(prompts: Prompts, *which: int) -> Prompts:
    bare = tuple(replace(p, answer=None) if i in which else p for i, p in enumerate(prompts))
    return replace(prompts, prompts=bare)


def both(vlm: VLM, prompts: Prompts) -> tuple[Answers, Transfer]:
    vector = vlm.task_vector(prompts)
    return vlm.answers(prompts, max_new_tokens=2), vlm.transfer(vector, to=prompts, max_new_tokens=2)


@pytest.mark.fault("B10")
def test_some_without_a_label_change_nothing_for_the_others(vlm: VLM, labelled: Prompts) -> None:
    for result, full in zip(both(vlm, without(labelled, 1)), both(vlm, labelled), strict=True):
        assert result.labelled.tolist() == [True, False, True]
        assert result.predicted == full.predicted and result.continuations == full.continuations
        np.testing.assert_array_equal(result.paper[..., [0, 2]], full.paper[..., [0, 2]])
        np.testing.assert_array_equal(result.log_probability[..., [0, 2]], full.log_probability[..., [0, 2]])
        assert np.isnan(result.log_probability[..., 1]).all() and (result.rank[..., 1] == -1).all()
        assert not result.paper[..., 1].any() and not result.strict[..., 1].any()
    answers, sweep = both(vlm, without(labelled, 1))
    one, other = vlm.answers(labelled[:1]), vlm.answers(labelled[2:])
    expected = (one.accuracy().mean + other.accuracy().mean) / 2
    for score in ("paper", "strict", "whole"):
        assert answers.accuracy(score).n == sweep.accuracy(layer=0, score=score).n == 2
    assert answers.accuracy().mean == expected
    assert sweep.best_layer == vlm.transfer(vlm.task_vector(labelled), to=replace_prompts(labelled, 0, 2)).best_layer
    frame = answers.to_frame()
    assert frame["paper"].isna().tolist() == frame["answer"].isna().tolist() == [False, True, False]
    assert frame["rank"].isna().tolist() == [False, True, False]
    assert sweep.to_frame()["n"].unique().tolist() == [2]
    assert compare(answers, answers).n == layerwise(sweep).n == 2
    assert len(majority_answers(answers, {"capital": ["Rome"]}).answers) == 2


def replace_prompts(prompts: Prompts, *which: int) -> Prompts:
    return replace(prompts, prompts=tuple(prompts[i] for i in which))


@pytest.mark.fault("B10")
def test_none_with_a_label_are_answered_and_have_no_accuracy(vlm: VLM, labelled: Prompts, tmp_path: Path) -> None:
    bare, ids = without(labelled, 0, 1, 2), []
    for prompt in bare:
        with torch.no_grad():
            inputs = vlm.encode(prompt).inputs
            ids.append(int(vlm.model(**inputs).logits[0, -1].argmax()))
    answers, sweep = both(vlm, bare)
    assert list(answers.predicted) == [vlm.encoder.decode(i) for i in ids]
    for result, found in ((answers, answers.accuracy()), (sweep, sweep.accuracy(layer=1))):
        assert np.isnan(found.mean) and found.n == 0
        again = type(result).load(result.save(tmp_path / "x.json"))
        np.testing.assert_equal(encode(again), encode(result))
        assert result.figure().data
        assert isinstance(result.to_frame(), pd.DataFrame)
        assert not result.tied().any()
    assert sweep.to_frame()["accuracy"].isna().all()
    assert answers.of_task("capital").accuracy().n == 0
    for asked in (lambda: sweep.best_layer, lambda: sweep.accuracy(), lambda: compare(answers, answers)):
        with pytest.raises(ValueError, match=r"No (query|prompt) has a label"):
            asked()


@pytest.mark.fault("B10")
def test_labelled_and_unlabelled_results_are_pooled(vlm: VLM, labelled: Prompts) -> None:
    several = replace(labelled, prompts=tuple(replace(p, alternatives=("x",)) for p in labelled))
    parts = [both(vlm, without(several, 0)), both(vlm, without(labelled, 0, 1, 2))]
    for kind, results in zip((Answers, Transfer), zip(*parts, strict=True), strict=True):
        pooled = kind.concat(results)
        assert pooled.labelled.tolist() == [False, True, True, False, False, False]
        assert pooled.accepted[0] == pooled.accepted[3] == ()
        assert pooled.accepted[1] == (labelled[1].answer, "x")
        assert (pooled.accuracy() if kind is Answers else pooled.accuracy(layer=0)).n == 2


def test_free_prompts_with_labels_are_units_of_their_own(vlm: VLM) -> None:
    made = [replace(xmi.free_prompt(f"Q:{word}\nA:")[0], answer="Rome") for word in ("Italy", "France", "Peru", "Peru")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert vlm.answers(Prompts(tuple(made), "free")).accuracy().n == 3


def test_phases_still_need_labels(vlm: VLM, labelled: Prompts) -> None:
    with pytest.raises(xmi.PromptError, match="Prompt 1 has no answer"):
        vlm.phases(without(labelled, 1))
