"""Answers, lens and sweeps against plain Hugging Face; what holds for every family is tested in tests/zoo.

The oracle knows neither nnsight nor packing: forward hooks on the model, one run per layer, vector and prompt.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf

import xmi
import xmi.measure
from tests.zoo import grids
from tests.zoo.models import VISION, ZOO, build
from tests.zoo.oracle import CITIES, brute_force, family_vlm, plain, prompts_for
from xmi.kernels import packing, swept
from xmi.kernels.packing import cut, spare_copies
from xmi.model.readout import readout
from xmi.prompt import Prompts
from xmi.vector import TaskVector, VectorCard, memory, versions
from xmi.vector import sweep as sweep_module
from xmi.vlm import VLM

TOLERANCE = 1e-5


@pytest.fixture(scope="module", params=ZOO)
def case(request: pytest.FixtureRequest) -> tuple[VLM, Prompts]:
    model, tool = build(ZOO[request.param])
    return xmi.load(model, processor=tool), prompts_for(seen(request.param))


def seen(name: str) -> str:
    return "many" if name in VISION else "none"


def last_logits(vlm: VLM, prompts: Prompts) -> tuple[torch.Tensor, list[torch.Tensor]]:
    logits, kept = plain(vlm, vlm.encode(prompts))
    return logits[:, -1], kept


def vectors(vlm: VLM, prompts: Prompts, count: int = 2) -> dict[str, TaskVector]:
    values = torch.randn(count, vlm.backbone.n_layers, vlm.backbone.d_model, generator=torch.Generator().manual_seed(1))
    card = VectorCard(
        model="x", revision="x", dtype="float32", task="capital", specification="random", shots=0, seed=0, n=1,
        slot="last", template=prompts.template.hash, versions=versions(),
    )  # fmt: skip
    return {f"v{i}": TaskVector(v * 3, card) for i, v in enumerate(values)}


def test_answers_equal_plain_forward(case: tuple[VLM, Prompts]) -> None:
    vlm, prompts = case
    logits, _ = last_logits(vlm, prompts)
    found = vlm.answers(prompts)
    ids = torch.tensor([vlm.encoder.tokenizer.convert_tokens_to_ids(a) for a in CITIES[1:]])
    expected = logits.log_softmax(-1).gather(-1, ids[:, None])[:, 0]
    np.testing.assert_allclose(found.log_probability, expected.numpy(), atol=TOLERANCE)
    assert list(found.predicted) == [vlm.encoder.tokenizer.decode([i]) for i in logits.argmax(-1).tolist()]
    order = logits.argsort(-1, descending=True)
    assert found.rank.tolist() == [order[i].tolist().index(ids[i]) for i in range(3)]


def test_lens_equals_readout_of_every_depth(case: tuple[VLM, Prompts]) -> None:
    vlm, prompts = case
    logits, kept = last_logits(vlm, prompts)
    found = vlm.phases(prompts)
    tok = vlm.encoder.tokenizer
    for depth, state in enumerate(kept, start=1):
        with torch.no_grad():
            expected = readout(vlm.model, vlm.backbone, state[:, -1]).softmax(-1)
        answer = [expected[i, tok.convert_tokens_to_ids(a)].item() for i, a in enumerate(CITIES[1:])]
        np.testing.assert_allclose(found.probability[:, depth, 2], answer, atol=TOLERANCE)
        task = expected[:, tok.convert_tokens_to_ids("capital")]
        np.testing.assert_allclose(found.probability[:, depth, 1], task.numpy(), atol=TOLERANCE)
    last = vlm.lens(prompts, k=1)
    assert [t[-1][0] for t in last.tokens] == [tok.decode([i]) for i in logits.argmax(-1).tolist()]


def expected_of(vlm: VLM, prompts: Prompts, named: dict[str, TaskVector]) -> np.ndarray[Any, Any]:
    values = torch.stack([v.values for v in named.values()])
    return brute_force(vlm, prompts, values, vlm.encoder.answer_ids(list(prompts), prompts.template)).numpy()


def test_sweep_equals_brute_force(case: tuple[VLM, Prompts]) -> None:
    vlm, prompts = case
    named = vectors(vlm, prompts)
    expected = expected_of(vlm, prompts, named)
    found = vlm.transfer(named, to=prompts)
    assert np.abs(found.log_probability - expected).max() <= TOLERANCE
    np.testing.assert_allclose(found.clean.log_probability, vlm.answers(prompts).log_probability, atol=TOLERANCE)
    assert np.ptp(expected, axis=1).min() > 1e-2, "the oracle's layers must differ, or the comparison proves nothing"


def test_sweep_of_some_layers_and_split_forwards(case: tuple[VLM, Prompts], monkeypatch: pytest.MonkeyPatch) -> None:
    vlm, prompts = case
    named = vectors(vlm, prompts, 5)
    whole = vlm.transfer(named, to=prompts)
    for budget in (3, 7):  # copies of one layer at a time, and of some sets at all layers
        monkeypatch.setattr(memory, "MOST_TOKENS", {"cpu": budget})
        some = vlm.transfer(named, to=prompts, layers=[3, 1])
        np.testing.assert_allclose(some.log_probability, whole.log_probability[:, [3, 1]], atol=TOLERANCE)
        np.testing.assert_allclose(some.clean.log_probability, whole.clean.log_probability, atol=TOLERANCE)


def test_a_sweep_that_does_not_fit_is_split(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tool = build(ZOO["llava"])
    vlm, prompts = xmi.load(model, processor=tool), prompts_for("many")
    named = vectors(vlm, prompts, 5)
    whole = vlm.transfer(named, to=prompts)
    real, asked = sweep_module.sweep_kernel, []

    def small(*args: Any) -> Any:
        asked.append(args[3].shape[0] * args[3].shape[1])
        if asked[-1] > 6:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return real(*args)

    monkeypatch.setattr(sweep_module, "sweep_kernel", small)
    split = vlm.transfer(named, to=prompts)
    assert asked[:3] == [20, 8, 4], "halved until it fits (two sets of four layers, then one)"
    assert max(asked[2:]) <= 6
    np.testing.assert_allclose(split.log_probability, whole.log_probability, atol=TOLERANCE)
    monkeypatch.setattr(sweep_module, "sweep_kernel", lambda *args: small(*args[:3], torch.zeros(9, 9, 64), *args[4:]))
    with pytest.raises(torch.cuda.OutOfMemoryError):
        vlm.transfer(named, to=prompts)


def test_a_batch_unlike_the_first_falls_back_too() -> None:
    """Qwen3-VL adds image features between blocks: an image behind the slot cannot be copied; text does not show it."""
    vlm, prompts = family_vlm(next(f for f in grids.FAMILIES if f.model_type == "qwen3_vl")), prompts_for("many")
    text = prompts_for("none")
    named = vectors(vlm, text, 1)
    vlm.transfer(named, to=text, slot="query.prefix")
    assert vlm.engine.ways["earlier, one, text"] == "growing"
    with pytest.warns(UserWarning, match="cannot share a forward"):
        found = vlm.transfer(named, to=prompts, slot="query.prefix")
    values, answers = named["v0"].values[None], vlm.encoder.answer_ids(list(prompts), prompts.template)
    expected = torch.cat(
        [brute_force(vlm, prompts[i : i + 1], values, answers[i : i + 1], "query.prefix") for i in range(3)], 2
    )
    assert np.abs(found.log_probability - expected.numpy()).max() <= TOLERANCE


def test_attention_that_takes_no_mask_is_switched_for_the_sweep() -> None:
    """Like FlashAttention, this one knows only whether it is causal."""

    def flash(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **kwargs: Any) -> Any:
        repeat = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(repeat, dim=1) for x in (key, value))
        out = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=query.shape[2] > 1)
        return out.transpose(1, 2), None

    hf.AttentionInterface.register("flash_like", flash)
    hf.AttentionMaskInterface.register("flash_like", lambda *args, **kwargs: None)
    model, tool = build(ZOO["llama"])
    model.config._attn_implementation = "flash_like"
    vlm, prompts = xmi.load(model, processor=tool), prompts_for("none")[1:2]
    named = vectors(vlm, prompts)
    with pytest.warns(UserWarning, match="flash_like does not take: sweeps run with sdpa"):
        found = vlm.transfer(named, to=prompts)
    assert vlm.engine.ways["last, one, text"] == "growing"
    assert vlm.engine.attention == "flash_like"
    assert np.abs(found.log_probability - expected_of(vlm, prompts, named)).max() <= TOLERANCE


@pytest.mark.parametrize(("mode", "strength"), [("add", 0.5), ("add", -2.0), ("interpolate", 0.3), ("overwrite", 1.0)])
@pytest.mark.parametrize("slot", ["last", "query.prefix"])
def test_modes_equal_a_hook_that_does_the_same(mode: str, strength: float, slot: str) -> None:
    model, tool = build(ZOO["llava"])
    vlm, prompts = xmi.load(model, processor=tool), prompts_for("many")
    named = vectors(vlm, prompts, 1)
    ids = vlm.encoder.answer_ids(list(prompts), prompts.template)
    columns = vlm.encode(prompts).columns(slot)
    found = vlm.transfer(named, to=prompts, mode=mode, strength=strength, slot=slot)
    for layer in range(4):
        vector = named["v0"].values[layer]

        def write(state: torch.Tensor, hook: xmi.Hook, vector: torch.Tensor = vector) -> torch.Tensor:
            state = state.clone()
            rows = torch.arange(3)
            old = state[rows, columns]
            mixed = {"add": old + strength * vector, "interpolate": old + strength * (vector - old)}
            state[rows, columns] = mixed.get(mode, vector.expand_as(old))
            return state

        logits = vlm.run_with_hooks(prompts, fwd_hooks=[(f"blocks.{layer}.hook_resid_post", write)])[:, -1]
        expected = logits.log_softmax(-1).gather(-1, ids[:, None])[:, 0]
        assert np.abs(found.log_probability[0, layer] - expected.numpy()).max() <= TOLERANCE


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mode": "replace"}, "Unknown mode 'replace'"),
        ({"max_new_tokens": 0}, "max_new_tokens=0: give a whole number of at least 1"),
        ({"layers": []}, "distinct layers from 0 to 3"),
        ({"layers": [9]}, "distinct layers from 0 to 3"),
        ({"slot": "example[0].answer"}, "Prompt 0: there is no slot"),
    ],
)
def test_sweeps_that_mean_nothing_are_refused(options: dict[str, Any], said: str) -> None:
    model, tool = build(ZOO["llama"])
    vlm, prompts = xmi.load(model, processor=tool), prompts_for("none")
    with pytest.raises(xmi.XmiError, match=said):
        vlm.transfer(vectors(vlm, prompts), to=prompts, **options)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "llava"])
def test_plain_models_share_forwards_at_every_slot_and_token(name: str) -> None:
    """Rows of their own would hide a broken packing: these models must not need them."""
    model, tool = build(ZOO[name])
    vlm, prompts = xmi.load(model, processor=tool), prompts_for(seen(name))
    for options in ({}, {"slot": "query.prefix"}, {"max_new_tokens": 3}, {"slot": "query.prefix", "max_new_tokens": 2}):
        vlm.transfer(vectors(vlm, prompts), to=prompts, **options)
    assert list(vlm.engine.ways.values()) == ["growing"] * 2 + ["growing, cached"] * 2


@pytest.mark.parametrize("growing", [True, False])
def test_later_residuals_of_every_copy_are_those_of_its_run(growing: bool) -> None:
    model, tool = build(ZOO["llava"])
    vlm, prompts = xmi.load(model, processor=tool), prompts_for("many")
    batch, named = vlm.encode(prompts), vectors(vlm, prompts)
    values = torch.stack([v.values for v in named.values()])
    layers, keep = [2, 0], [1, 3]
    found = swept(
        vlm.engine.envoy, vlm.engine.forward(batch.inputs, keep=5), vlm.engine.paths, values[:, layers], layers,
        torch.full((3,), -1), 1, torch.zeros(3, dtype=torch.long), 1, "overwrite", 1.0, None, None, keep, growing,
    )[4]  # fmt: skip
    names = [f"blocks.{layer}.hook_resid_post" for layer in keep]
    for entry, (source, layer) in enumerate([(None, 0), *((s, i) for s in range(2) for i in layers)]):

        def write(state: torch.Tensor, hook: xmi.Hook, source: int | None = source, layer: int = layer) -> torch.Tensor:
            state = state.clone()
            if source is not None:
                state[:, -1] = values[source, layer]
            return state

        with vlm.hooks([(f"blocks.{layer}.hook_resid_post", write)]):
            _, cache = vlm.run_with_cache(prompts, names=names)
        expected = torch.stack([cache[name][:, -1] for name in names], 1)
        assert (found[:, entry] - expected).abs().max() <= TOLERANCE


def test_a_packed_sequence_is_told_apart_by_its_length() -> None:
    """A growing sweep cuts masks and positions by their length, so no other dimension may have it."""
    config = hf.LlamaConfig(hidden_size=48, num_attention_heads=4, intermediate_size=60, num_hidden_layers=2)
    ids = torch.zeros(3, 40, dtype=torch.long)
    assert spare_copies((ids,), {}, 7, 1, config) == 0
    assert spare_copies((), {"input_ids": ids}, 8, 1, config) == 1, "the width is 48"
    assert spare_copies((ids,), {}, 20, 1, config) == 1, "the MLP's width is 60"
    block = {"mask": torch.zeros(3, 1, 47, 47), "rotary": (torch.zeros(3, 47, 12),), "size": 47, "nothing": None}
    found = cut(block, 47, 41)
    assert found["mask"].shape == (3, 1, 41, 41)
    assert found["rotary"][0].shape == (3, 41, 12)
    assert found["size"] == 47
    assert found["nothing"] is None


def test_whole_labels_are_scored_over_several_tokens() -> None:
    model, tool = build(ZOO["llama"])
    vlm, prompts = xmi.load(model, processor=tool), prompts_for("none")
    one = vlm.transfer(vectors(vlm, prompts), to=prompts)
    with pytest.raises(ValueError, match="max_new_tokens"):
        one.accuracy("v0", 0, score="whole")
    found = vlm.transfer(vectors(vlm, prompts), to=prompts, max_new_tokens=3)
    said = tuple(text[: len(text) // 2] or "-" for text in found.continuations[0][1])
    right = dataclasses.replace(found, answers=found.continuations[0][1])
    assert right.accuracy("v0", 1, score="whole").mean == 1.0
    cut = dataclasses.replace(found, answers=said)
    assert cut.accuracy("v0", 1, score="whole").mean < 1.0, "half a word is no label"
    both = xmi.measure.Transfer.concat([found, found])
    assert both.continuations[0][1] == found.continuations[0][1] * 2
    np.testing.assert_allclose(found.log_probability, one.log_probability, atol=TOLERANCE)


def break_mask(mask: Any, length: int, copies: int, width: int, device: Any) -> Any:
    """Leaks the real last token to the copies."""
    grown = original_mask(mask, length, copies, width, device)
    for part in grown.values() if isinstance(grown, dict) else [grown]:
        part[:, :, length:, length - 1] = True if part.dtype == torch.bool else 0.0
    return grown


original_mask = packing.pack_mask
original_repeat = packing.repeat_end


def shift_positions(value: torch.Tensor, copies: int, width: int, dim: int) -> torch.Tensor:
    grown = original_repeat(value, copies, width, dim)
    if not grown.is_floating_point() and dim == -1:
        grown[..., -copies * width :] += 3
    return grown


@pytest.mark.parametrize(
    ("name", "attribute", "broken"),
    [("llama", "pack_mask", break_mask), ("llava", "repeat_end", shift_positions)],
    ids=["leaked last token", "shifted positions"],
)
def test_negative_controls_fail(name: str, attribute: str, broken: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A packing that is wrong in a small way must not pass for exact."""
    model, tool = build(ZOO[name])
    vlm, prompts = xmi.load(model, processor=tool), prompts_for(seen(name))
    named = vectors(vlm, prompts)
    expected = expected_of(vlm, prompts, named)
    vlm.transfer(named, to=prompts)
    monkeypatch.setattr(packing, attribute, broken)
    found = vlm.transfer(named, to=prompts)
    assert np.abs(found.log_probability - expected).max() > 1e-3
    # The comparison that every model meets at its first sweep notices, and takes rows instead.
    with pytest.warns(UserWarning, match="a packed run differs from a plain one"):
        rows = xmi.load(model, processor=tool).transfer(named, to=prompts)
    assert np.abs(rows.log_probability - expected).max() <= TOLERANCE


def test_wrong_layers_vector_is_noticed() -> None:
    model, tool = build(ZOO["llava"])
    vlm, prompts = xmi.load(model, processor=tool), prompts_for("many")
    named = vectors(vlm, prompts)
    rolled = {k: TaskVector(v.values.roll(1, 0), v.card) for k, v in named.items()}
    found = vlm.transfer(rolled, to=prompts)
    assert np.abs(found.log_probability - expected_of(vlm, prompts, named)).max() > 1e-3


def test_mask_of_a_model_that_is_not_causal_is_refused() -> None:
    with pytest.raises(ValueError, match="not causal"):
        packing.pack_mask(torch.ones(1, 1, 4, 4, dtype=torch.bool), 4, 2, 1, "cpu")
