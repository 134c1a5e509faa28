"""Several labels per item, from the task through prompting and patching into stored results."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import xmi
from xmi.measure import Answers, Transfer
from xmi.measure.answers import hits_of
from xmi.measure.result import encode
from xmi.vlm import VLM

SCORES = ("paper", "strict", "whole")


@pytest.fixture(scope="module")
def vlm() -> VLM:
    return xmi.load("organism")


@pytest.fixture(scope="module")
def results(vlm: VLM) -> tuple[list[Answers], list[Transfer]]:
    """Five queries with their labels; with a wrong canonical label; and with the right one as an alternative to it."""
    task = xmi.task("country-capital")
    wrong = {i.input: "Paris" for i in task.items}
    wrongly = replace(task, items=tuple(replace(i, output=wrong[i.input]) for i in task.items))
    either = replace(task, items=tuple(replace(i, output=wrong[i.input], alternatives=(i.output,)) for i in task.items))
    vector = vlm.task_vector(task.icl("text", shots=3, n=5))
    said, swept = [], []
    for kind in (task, wrongly, either):
        queries = replace(kind.queries(), prompts=kind.queries().prompts[:5])
        told = replace(task.icl("text", n=None, split="test"), prompts=())
        asked = [
            replace(p, answer=q.answer, alternatives=q.alternatives)
            for p, q in zip(task.icl("text", n=None, split="test")[:5], queries, strict=True)
        ]
        said.append(vlm.answers(replace(told, prompts=tuple(asked)), max_new_tokens=2))
        swept.append(vlm.transfer(vector, to=queries, max_new_tokens=2))
    return said, swept


@pytest.mark.parametrize("score", SCORES)
def test_a_hit_on_any_label_is_a_hit(results: tuple[list[Answers], list[Transfer]], score: str) -> None:
    for right, wrong, either in results:
        hits = [hits_of(r, score) for r in (right, wrong, either)]
        np.testing.assert_array_equal(hits[2], hits[0] | hits[1])
        assert (hits[2] != hits[1]).any(), "the alternatives decide"
        np.testing.assert_array_equal(either.log_probability, wrong.log_probability)
        np.testing.assert_array_equal(either.rank, wrong.rank)


def test_alternatives_are_stored_pooled_and_selected(
    results: tuple[list[Answers], list[Transfer]], tmp_path: Path
) -> None:
    for (right, _, either), kind in zip(results, (Answers, Transfer), strict=True):
        again = kind.load(either.save(tmp_path / "r.json"))
        np.testing.assert_equal(encode(again), encode(either))
        pooled = kind.concat([right, either])
        assert pooled.accepted == (*right.accepted, *either.accepted)
        np.testing.assert_array_equal(
            hits_of(pooled, "whole"), np.concatenate([hits_of(r, "whole") for r in (right, either)], -1)
        )
        assert right.alternatives is None and either.accepted[0] == ("Paris", right.answers[0])
    swept = results[1][2]
    tasks = ("a", "b", "a", "b", "b")
    named = replace(swept, tasks=tasks, clean=replace(swept.clean, tasks=tasks))
    some = named.of_task("b")
    assert some.accepted == tuple(swept.accepted[i] for i in (1, 3, 4)) == some.clean.accepted
    np.testing.assert_array_equal(hits_of(some, "whole"), hits_of(swept, "whole")[..., [1, 3, 4]])


def test_results_without_the_field_are_read(results: tuple[list[Answers], list[Transfer]], tmp_path: Path) -> None:
    content = encode(results[0][0])
    del content["alternatives"]
    (tmp_path / "old.json").write_text(json.dumps(content), encoding="utf-8")
    assert Answers.load(tmp_path / "old.json").accepted == tuple((a,) for a in results[0][0].answers)
