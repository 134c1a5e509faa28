"""Task vectors: what they are the mean of, their card, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import xmi
from tests.zoo.models import build, llama, llava
from xmi.errors import VectorError
from xmi.prompt import Prompts, Template, load_task
from xmi.vlm import VLM


@pytest.fixture(scope="module")
def vlm() -> VLM:
    model, tool = build(llama)
    return xmi.load(model, processor=tool)


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    return xmi.task("country-capital").icl("text", shots=2, n=5)


def test_mean_of_the_residuals(vlm: VLM, prompts: Prompts) -> None:
    residuals = vlm.residuals(prompts)
    vector = vlm.task_vector(prompts)
    torch.testing.assert_close(vector.values, residuals.values.mean(0), rtol=1e-5, atol=1e-6)
    assert (vector.n_layers, vector.d_model) == (4, 64)
    assert residuals[:2].card.n == 2
    card = vector.card
    assert (card.task, card.specification, card.shots, card.n, card.slot) == (
        "country-capital",
        "text ICL",
        2,
        5,
        "last",
    )
    assert card.template == Template().hash != Template(delimiter=" =>").hash
    assert card.versions["torch"] == torch.__version__.split("+")[0] or card.versions["torch"] == torch.__version__


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_means_are_those_of_the_rows_however_they_are_batched(
    vlm: VLM, prompts: Prompts, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {slot: vlm.residuals(prompts, slot=slot).values for slot in ("last", "query.delimiter")}
    monkeypatch.setattr(vlm, "batch_size", batch_size)
    for slot, (vector, some) in vlm.vectors_at(prompts, list(rows), keep=4).items():
        torch.testing.assert_close(vector.values, rows[slot].mean(0), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(some.values, rows[slot][:4], rtol=1e-5, atol=1e-5)
        assert (vector.card.n, some.card.n, vector.card.slot) == (len(prompts), 4, slot)
    sizes = [1, 2, 3, len(prompts)]
    for size, vector in zip(sizes, vlm.nested_vectors(prompts, sizes), strict=True):
        torch.testing.assert_close(vector.values, rows["last"][:size].mean(0), rtol=1e-5, atol=1e-5)
        assert vector.card.n == size
    assert len(vlm.nested_vectors(prompts, [2])) == 1


@pytest.mark.parametrize("sizes", [[], [0], [2, 2], [3, 1], [10**6]])
def test_numbers_of_prompts_that_mean_nothing_are_refused(vlm: VLM, prompts: Prompts, sizes: list[int]) -> None:
    with pytest.raises(VectorError, match="rise"):
        vlm.nested_vectors(prompts, sizes)


@pytest.mark.parametrize("new", [None, 1, 3])
def test_phases_and_answers_in_one_forward_are_the_same(vlm: VLM, prompts: Prompts, new: int | None) -> None:
    asked = replace(prompts, prompts=tuple(replace(p, answer="b") for p in prompts))
    phases, answers = vlm.phases_and_answers(asked, task_words=["a"], max_new_tokens=new)
    apart = vlm.phases(asked, task_words=["a"]), vlm.answers(asked, max_new_tokens=new)
    np.testing.assert_array_equal(phases.probability, apart[0].probability)
    assert (answers.predicted, answers.continuations) == (apart[1].predicted, apart[1].continuations)
    np.testing.assert_allclose(answers.log_probability, apart[1].log_probability, atol=1e-5)


def test_save_and_load(vlm: VLM, prompts: Prompts, tmp_path: Path) -> None:
    vector = vlm.task_vector(prompts)
    again = xmi.TaskVector.load(vector.save(tmp_path / "v.safetensors"))
    assert torch.equal(again.values, vector.values)
    assert again.card == vector.card
    for name, content in (("none", None), ("text", b"no tensors"), ("pickle", b"\x80\x04.")):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(xmi.VectorError, match=name):
            xmi.TaskVector.load(path)


def test_ensemble_is_the_mean(vlm: VLM, prompts: Prompts) -> None:
    text = vlm.task_vector(prompts)
    told = vlm.task_vector(xmi.task("country-capital").instruction())
    both = xmi.ensemble(text, told)
    torch.testing.assert_close(both.values, (text.values + told.values) / 2)
    assert both.card.specification == "text ICL + instruction"
    other = vlm.task_vector(xmi.task("food-color").instruction())
    with pytest.raises(xmi.VectorError, match="one task"):
        xmi.ensemble(text, other)
    with pytest.raises(xmi.VectorError, match="two"):
        xmi.ensemble(text)


def test_random_control_has_the_norm_and_nothing_else(vlm: VLM, prompts: Prompts) -> None:
    vector = vlm.task_vector(prompts)
    control = xmi.random_like(vector, seed=3)
    torch.testing.assert_close(control.values.norm(dim=-1), vector.values.norm(dim=-1))
    assert torch.nn.functional.cosine_similarity(control.values, vector.values, dim=-1).abs().max() < 0.5
    assert not torch.equal(control.values, xmi.random_like(vector, seed=4).values)


def test_similarity(vlm: VLM, prompts: Prompts) -> None:
    vector = vlm.task_vector(prompts)
    told = vlm.task_vector(xmi.task("food-color").instruction())
    found = xmi.similarity([vector, told])
    expected = torch.nn.functional.cosine_similarity(vector.values, told.values, dim=-1)
    torch.testing.assert_close(torch.tensor(found.values[:, 0, 1]).float(), expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(xmi.VectorError, match="two or more"):
        xmi.similarity([vector])


def test_vectors_that_do_not_fit_are_refused(vlm: VLM, prompts: Prompts) -> None:
    vector = vlm.task_vector(prompts)
    queries = xmi.task("country-capital").queries("text", n=2)
    model, tool = build(llava)
    narrow = xmi.TaskVector(vector.values[:, :32], vector.card)
    with pytest.raises(xmi.VectorError, match="4 layers of width 32"):
        xmi.load(model, processor=tool).transfer(narrow, to=queries)
    shallow = xmi.TaskVector(vector.values[:2], vector.card)
    with pytest.raises(xmi.VectorError, match="2 layers"):
        vlm.transfer(shallow, to=queries)
    other = load_task("country-capital", template=Template(delimiter=" =>")).queries("text", n=2)
    with pytest.raises(xmi.VectorError, match="template"):
        vlm.transfer(vector, to=other)
    broken = vector.values.clone()
    broken[2, 0] = torch.nan
    with pytest.raises(xmi.VectorError, match=r"layers \[2\]"):
        vlm.transfer(xmi.TaskVector(broken, vector.card), to=queries)
    for layers in ([], [4], [-5], [1, 1], [3, -1], [True], 3, [0.5]):
        with pytest.raises(xmi.VectorError, match="Cannot patch layers"):
            vlm.transfer(vector, to=queries, layers=layers)
    with pytest.raises(xmi.VectorError, match="share a name"):
        vlm.transfer([vector, vector], to=queries)
    with pytest.raises(xmi.VectorError, match="no vectors"):
        vlm.transfer([], to=queries)


def test_phases_need_words_and_labels(vlm: VLM, prompts: Prompts) -> None:
    with pytest.raises(xmi.PromptError, match="task words"):
        vlm.phases(xmi.free_prompt("Q:Greece\nA:"))
    with pytest.raises(xmi.PromptError, match="no answer"):
        vlm.phases(xmi.free_prompt("Q:Greece\nA:"), task_words=["capital"])
    with pytest.raises(xmi.SlotError, match="instruction"):
        vlm.residuals(prompts, slot="instruction")
