"""Task words found in a model's own decodings, and phases measured with them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import xmi
from tests.lens.test_tuned import random_lens
from tests.zoo.models import build, llama
from tests.zoo.oracle import prompts_for
from xmi.lens import TunedLens
from xmi.prompt import Prompts
from xmi.vlm import VLM


@pytest.fixture(scope="module")
def vlm() -> VLM:
    model, tool = build(llama)
    return xmi.load(model, processor=tool)


def two_tasks() -> list[Prompts]:
    """The same queries under two names, the second after another beginning."""
    first = prompts_for("none")
    other = tuple(replace(p, task="country", segments=p.segments[1:]) for p in first)
    return [first, replace(first, prompts=other, task="country", task_words=())]


def speaking(vlm: VLM, prompts: list[Prompts], words: list[str]) -> TunedLens:
    """A lens under which each task's prompts decode to its word after block 1: what a model with task words looks like.

    The residuals of the prompts there are mapped to the words' rows of the unembedding, by least squares.
    """
    tok = vlm.encoder.tokenizer
    residuals = [vlm.residuals(p).values[:, 1] for p in prompts]
    head = vlm.model.get_output_embeddings().weight.detach()
    lens = random_lens(vlm, 0.0)
    states = torch.cat(residuals)
    rows = head[[tok.convert_tokens_to_ids(w) for w, r in zip(words, residuals, strict=True) for _ in r]]
    lens.weight[2] = torch.linalg.lstsq(states, 30 * rows - states).solution.T
    return lens


def test_words_are_found_where_the_lens_reads_them(vlm: VLM) -> None:
    prompts = two_tasks()
    lens = speaking(vlm, prompts, ["city", "country"])
    found = vlm.find_task_words(prompts, lens=lens)
    table = found.to_frame().set_index("token")
    assert found.of("capital")[0] == "city"
    assert found.of("country")[0] == "country"
    assert table.loc["city", "depth"] == "1"
    assert table.loc["city", "share"] == 1.0
    assert (found.lens, found.slot, found.revision) == ("tuned lens", "last", vlm.revision)
    measured = vlm.phases(prompts[0], task_words=found, lens=lens)
    assert "city" in measured.task_words
    by_hand = vlm.phases(prompts[0], task_words=measured.task_words, lens=lens)
    np.testing.assert_array_equal(measured.probability, by_hand.probability)
    assert measured.probability[:, 2, 1].min() > 0.5


def test_excluded_words_and_answers_are_not_found(vlm: VLM) -> None:
    prompts = two_tasks()
    lens = speaking(vlm, prompts, ["city", "Paris"])
    assert vlm.find_task_words(prompts, lens=lens).of("country") == (), "an answer of its own prompts"
    assert "city" not in vlm.find_task_words(prompts, lens=lens, exclude=["City"]).of("capital")


def test_what_cannot_be_found_or_used_is_refused(vlm: VLM) -> None:
    prompts = two_tasks()
    with pytest.raises(xmi.PromptError, match="at least two named tasks"):
        vlm.find_task_words(prompts[:1])
    found = vlm.find_task_words(prompts, mass=1.0)
    assert found.tokens == ()
    with pytest.raises(xmi.PromptError, match=r"No task words were found for capital \(there are some for no task\)"):
        vlm.phases(prompts[0], task_words=found)
    other = replace(found, revision="of another model")
    with pytest.raises(xmi.PromptError, match="revision of another model"):
        vlm.phases(prompts[0], task_words=other)


def test_phases_keep_what_intervals_and_readers_need(vlm: VLM) -> None:
    prompts = prompts_for("none")
    found = vlm.phases(prompts)
    assert found.units == ("capital/Italy", "capital/France", "capital/Peru")
    assert found.tasks == ("capital",) * 3
    assert found.task_words == ("capital",)
    assert (found.lens, found.model, found.slot) == ("logit lens", vlm.name, "last")
    assert found.boundaries().n == (3,)
