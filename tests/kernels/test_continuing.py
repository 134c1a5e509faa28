"""Tokens after the first, read from kept keys and values: equal to whole forwards, in fewer tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import transformers as hf

import xmi
from tests.kernels.test_exactness import seen, vectors
from tests.zoo import grids, text, towers
from tests.zoo.models import TEXT, ZOO, build, ids, tokenizer
from tests.zoo.oracle import greedy, prompts_for
from xmi.kernels import continuing, next_token_kernel, sweep_kernel
from xmi.kernels.continuing import for_copies
from xmi.prompt import Prompts
from xmi.proof import Answered, apart
from xmi.vector.sweep import Swept
from xmi.vlm import VLM

TOLERANCE = 1e-5
MADE = {
    **ZOO,
    "gemma3": towers.gemma3,
    "qwen3_vl": grids.qwen3_vl,
    "mllama": grids.mllama,
    "llama4": grids.llama4,
    "mistral": text.mistral,
    "gpt_oss": text.gpt_oss,
}
"""Sliding and chunked windows, multimodal positions, deepstack, cross-attention, sinks."""


@contextmanager
def tokens_of(vlm: VLM) -> Iterator[list[int]]:
    """How many tokens each forward had in its last block."""
    found: list[int] = []

    def count(_module: Any, args: Any, kwargs: Any) -> None:
        found.append((args[0] if args else kwargs["hidden_states"]).shape[1])

    layers = vlm.model.get_submodule(vlm.backbone.layers)
    handle = layers[-1].register_forward_pre_hook(count, with_kwargs=True)  # type: ignore[index]
    try:
        yield found
    finally:
        handle.remove()


@pytest.mark.parametrize("slot", ["last", "query.prefix"])
@pytest.mark.parametrize("name", MADE)
def test_every_token_of_every_copy_has_the_log_probability_of_a_whole_forward(name: str, slot: str) -> None:
    model, tool = build(MADE[name])
    vlm = xmi.load(model, processor=tool, check=False)
    batch = vlm.encode(prompts_for("none" if vlm.encoder.processor is None else "alike"))
    engine, layers = vlm.engine, list(range(vlm.backbone.n_layers))
    values = 3 * torch.randn(2, len(layers), vlm.backbone.d_model, generator=torch.Generator().manual_seed(1))
    back = batch.columns(slot) - batch.inputs["input_ids"].shape[1]
    if name == "qwen3_vl" and slot != "last":
        pytest.skip("an image behind the slot cannot be copied")
    fixed = values, layers[::-1], back, torch.tensor([5, 6, 7]), "overwrite", 1.0, 3, vlm.backbone.keeps_logits

    def run(growing: bool, cached: bool) -> Swept:
        given = engine.forward(batch.inputs), engine.paths, *fixed, growing, cached
        return Swept(*sweep_kernel(engine.envoy, *given))

    packed = run(False, True)
    if name not in ("idefics3", "qwen2_vl"):  # random weights that say the image token, which a whole forward refuses
        expected = run(False, False)
        assert apart(packed, expected) <= TOLERANCE
        assert torch.equal(packed.ids, expected.ids)
    if name not in ("qwen3_vl", "mllama"):  # what touches blocks from outside, and cross-attention, cannot grow
        growing = run(True, True)
        assert apart(growing, packed) <= TOLERANCE
        assert torch.equal(growing.ids, packed.ids)


def whole_and_cached(vlm: VLM, prompts: Prompts, new: int) -> list[Answered]:
    engine, answers = vlm.engine, torch.tensor([5, 6, 7])
    given = engine.forward(vlm.encode(prompts).inputs), engine.paths, answers, new
    return [Answered(*next_token_kernel(engine.envoy, *given, cached)) for cached in (False, True)]


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "llava", "qwen2_vl", "mllama"])
def test_answers_of_several_tokens_are_those_of_whole_forwards(name: str) -> None:
    model, tool = build(MADE[name])
    vlm = xmi.load(model, processor=tool)
    prompts = prompts_for("none" if vlm.encoder.processor is None else "alike")
    whole, cached = whole_and_cached(vlm, prompts, 4)
    assert apart(whole, cached) <= TOLERANCE
    assert torch.equal(whole.ids, cached.ids)
    found = vlm.answers(prompts, max_new_tokens=4)
    assert list(found.continuations or ()) == [vlm.encoder.text(row) for row in greedy(vlm, prompts, None, 4)]
    assert "cached" in vlm.engine.ways.values()
    _, both = vlm.phases_and_answers(prompts, max_new_tokens=4)
    assert both.continuations == found.continuations


def test_later_forwards_have_one_token_of_each_copy() -> None:
    model, tool = build(ZOO["llava"])
    vlm, prompts = xmi.load(model, processor=tool), prompts_for("many")
    named, length = vectors(vlm, prompts), vlm.encode(prompts).inputs["input_ids"].shape[1]
    for _ in range(2):  # the first proves the way
        with tokens_of(vlm) as found:
            vlm.transfer(named, to=prompts, max_new_tokens=3)
    copies = 2 * vlm.backbone.n_layers
    # Copies of the last layer join behind it.
    assert found == [length + copies - 2, 1 + copies, 1 + copies]
    for _ in range(2):
        with tokens_of(vlm) as found:
            vlm.answers(prompts, max_new_tokens=3)
    assert found == [length, 1, 1]
    with tokens_of(vlm) as found:
        vlm.phases_and_answers(prompts, max_new_tokens=3)
    assert found == [length, 1, 1]


def test_layers_that_hand_on_a_state_are_answered_by_whole_forwards() -> None:
    model, tool = build(towers.lfm2_vl)
    vlm, prompts = xmi.load(model, processor=tool), prompts_for("many")
    found = vlm.answers(prompts, max_new_tokens=3)
    assert vlm.engine.ways == {"answers, images": "whole"}
    assert list(found.continuations or ()) == [vlm.encoder.text(row) for row in greedy(vlm, prompts, None, 3)]


def leak(mask: Any, length: int, width: int, copies: int, step: int) -> Any:
    """Lets copies see the prompt's own last token."""
    made = right_masks(mask, length, width, copies, step)
    for part in made.values() if isinstance(made, dict) else [made]:
        part[..., length - 1] = True
    return made


right_masks = for_copies


def test_a_cache_that_is_read_wrongly_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the greedy tokens hardly one may differ: log-probabilities show it."""
    model, tool = build(ZOO["llama"])
    vlm, prompts = xmi.load(model, processor=tool), prompts_for(seen("llama"))
    named = vectors(vlm, prompts)
    right = vlm.transfer(named, to=prompts, max_new_tokens=3)
    monkeypatch.setattr(continuing, "for_copies", leak)
    again = xmi.load(model, processor=tool)
    found = again.transfer(named, to=prompts, max_new_tokens=3)
    assert again.engine.ways == {"last, more, text": "growing"}
    assert found.continuations == right.continuations


def test_prompts_keys_and_values_that_do_not_fit_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    from xmi.vector import sweep as sweep_module

    model, tool = build(ZOO["llama"])
    vlm, prompts = xmi.load(model, processor=tool), prompts_for("none")
    named = vectors(vlm, prompts)
    right = vlm.transfer(named, to=prompts, max_new_tokens=2)
    real = sweep_module.sweep_kernel

    def small(*args: Any) -> Any:
        if args[-1]:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return real(*args)

    monkeypatch.setattr(sweep_module, "sweep_kernel", small)
    assert vlm.transfer(named, to=prompts, max_new_tokens=2).continuations == right.continuations
    assert vlm.engine.ways["last, more, text"] == "growing"


def test_what_a_model_does_to_its_logits_when_it_generates_is_left_out() -> None:
    """Rows of their own use `generate`, which obeys the model's settings; a sweep reads what the model says."""
    tok = tokenizer()
    model = hf.LlamaForCausalLM(hf.LlamaConfig(**TEXT, **ids(tok))).eval()
    vlm, prompts = xmi.load(model, processor=tok), prompts_for("none")
    named = vectors(vlm, prompts)
    packed = vlm.transfer(named, to=prompts, max_new_tokens=4)
    model.generation_config.repetition_penalty = 50.0
    vlm.engine.ways.update(dict.fromkeys(vlm.engine.ways, "rows"))
    rows = vlm.transfer(named, to=prompts, max_new_tokens=4)
    assert rows.continuations == packed.continuations
    assert model.generation_config.repetition_penalty == 50.0


def test_a_mask_that_the_model_leaves_out_is_made_where_it_computes() -> None:
    mask = for_copies(None, 4, 1, 3, 2, torch.device("meta"))
    assert (mask.device.type, mask.shape) == ("meta", (1, 1, 4, 4 + 3 + 2 * 4))
