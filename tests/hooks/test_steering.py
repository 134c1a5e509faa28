"""Steering against plain Hugging Face with forward hooks, and what is refused under it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch

import xmi
from tests.zoo.models import gemma2, gpt2, idefics3, llava, qwen2_vl
from tests.zoo.oracle import prompts_for
from xmi.vlm import VLM

KINDS = {gpt2: "none", gemma2: "none", llava: "many", idefics3: "many", qwen2_vl: "many"}
made: dict[Any, VLM] = {}


def of(make: Any) -> VLM:
    from tests.zoo.family import build

    if make not in made:
        model, tool = build(make)
        made[make] = xmi.load(model, processor=tool)
    return made[make]


@contextmanager
def by_hand(vlm: VLM, writes: Sequence[tuple[int, torch.Tensor, float, bool]]) -> Iterator[None]:
    """Forward hooks on the model's own blocks: layer, direction, strength, and whether it is projected out."""
    with ExitStack() as stack:
        for layer, along, strength, out in writes:

            def write(
                _m: Any, _a: Any, output: Any, along: torch.Tensor = along, by: float = strength, out: bool = out
            ) -> Any:
                state = output[0] if isinstance(output, tuple) else output
                if out:
                    unit = along / along.norm()
                    state = state - by * torch.einsum("btd,d->bt", state, unit)[..., None] * unit
                else:
                    state = state + by * along
                return (state, *output[1:]) if isinstance(output, tuple) else state

            block = vlm.model.get_submodule(f"{vlm.backbone.layers}.{layer}")
            stack.callback(block.register_forward_hook(write).remove)
        yield


def logits(vlm: VLM, prompts: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = vlm.model(**vlm.encode(prompts).inputs, use_cache=False).logits[:, -1]
    return found


def written(vlm: VLM, prompts: Any, new: int) -> list[list[int]]:
    inputs = {k: v for k, v in vlm.encode(prompts).inputs.items() if k != "position_ids"}
    with torch.no_grad():
        ids = vlm.model.generate(**inputs, do_sample=False, pad_token_id=0, max_new_tokens=new)
    found: list[list[int]] = ids[:, inputs["input_ids"].shape[1] :].tolist()
    return found


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_steering_is_a_forward_hook_on_each_block(make: Any) -> None:
    """Added at two layers and projected out at a third; answers, logits, generation and activations."""
    vlm, prompts = of(make), prompts_for(KINDS[make])
    vector = 0.7 * vlm.task_vector(prompts)
    other = torch.randn(vlm.backbone.d_model, generator=torch.Generator().manual_seed(1))
    plain = logits(vlm, prompts)
    writes = [(1, vector.values[1], 2.0, False), (3, vector.values[3], 2.0, False), (2, other, 0.8, True)]
    with by_hand(vlm, writes):
        expected, said = logits(vlm, prompts), written(vlm, prompts, 3)
    answers = vlm.encoder.answer_ids(prompts.prompts, prompts.template)
    with vlm.steer(vector, [1, -1], 2.0), vlm.steer(other, 2, 0.8, mode="project out"):
        steered = vlm.answers(prompts, max_new_tokens=3)
        cached, cache = vlm.run_with_cache(prompts, names="resid_post", positions="last")
        torch.testing.assert_close(vlm.run_with_hooks(prompts)[:, -1], expected, atol=1e-4, rtol=1e-4)
        assert vlm.generate(prompts, max_new_tokens=3).ids.tolist() == said
    torch.testing.assert_close(cached[:, -1], expected, atol=1e-4, rtol=1e-4)
    wanted = expected.log_softmax(-1).gather(1, answers[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(steered.log_probability), wanted, atol=1e-4, rtol=1e-4)
    assert steered.predicted == tuple(vlm.encoder.decode(row[0]) for row in said)
    assert steered.continuations == tuple(vlm.encoder.text(row) for row in said)
    left = (cache["resid_post", 2][:, 0] @ (other / other.norm())).abs().max()
    assert not torch.allclose(expected, plain, atol=1e-2) and left > 1e-3
    torch.testing.assert_close(logits(vlm, prompts), plain)  # nothing is left behind


def test_a_direction_that_is_projected_out_is_gone() -> None:
    vlm, prompts = of(llava), prompts_for("many")
    vector = vlm.task_vector(prompts)
    with vlm.steer(vector, range(4), mode="project out"):
        _, cache = vlm.run_with_cache(prompts, names="resid_post", positions="last")
    for layer in range(4):
        unit = vector[layer] / vector[layer].norm()
        assert (cache["resid_post", layer][:, 0] @ unit).abs().max() < 1e-4


def test_what_reads_the_stream_in_a_trace_is_refused() -> None:
    vlm, prompts = of(llava), prompts_for("many")
    vector = vlm.task_vector(prompts)
    with vlm.steer(vector, 1):
        for verb in (vlm.task_vector, vlm.lens, vlm.phases, lambda p: vlm.transfer(vector, to=p)):
            with pytest.raises(xmi.HookError, match=r"cannot be mixed with vlm\.steer"):
                verb(prompts)
        with vlm.hooks([("resid_post", lambda value, hook: None)]), pytest.raises(xmi.HookError, match=r"vlm\.hooks"):
            vlm.answers(prompts)


BAD = [
    (lambda v: (v, 9), "Cannot steer after layer 9"),
    (lambda v: (v, [1, -3]), "distinct ones, from 0 to 3"),
    (lambda v: (v, []), "Cannot steer after layer"),
    (lambda v: (v, 1, float("inf")), "strength=inf"),
    (lambda v: (torch.ones(3), 1), r"shape \[3\]; .* takes one of shape \[64\]"),
    (lambda v: (xmi.TaskVector(v.values[:2], v.card), 1), "has 2 layers of width 64"),
    (lambda v: (v * float("inf"), 1), "times inf"),
    (lambda v: (xmi.TaskVector(v.values / 0, v.card), 1), "NaN or infinite"),
]


@pytest.mark.parametrize(("arguments", "said"), BAD, ids=map(str, range(len(BAD))))
def test_what_cannot_steer_is_refused(arguments: Any, said: str) -> None:
    vlm = of(gpt2)
    vector = vlm.task_vector(prompts_for("none"))
    with pytest.raises(xmi.VectorError, match=said), vlm.steer(*arguments(vector)):
        pass
    nothing = vlm.steer(0 * vector, 1, mode="project out")
    with pytest.raises(xmi.VectorError, match=r"length 0 at layers \[1\]"), nothing:
        pass
    with pytest.raises(xmi.ArgumentError, match="mode must be"), vlm.steer(vector, 1, mode="remove"):  # type: ignore[arg-type]
        pass
    assert not any(module._forward_hooks for module in vlm.model.modules())


def test_vectors_are_added_and_scaled_with_their_cards() -> None:
    vlm = of(gpt2)
    one, two = vlm.task_vector(prompts_for("none")), vlm.task_vector(prompts_for("none")[:2])
    two = xmi.TaskVector(two.values, two.card.model_copy(update={"task": "name", "specification": "instruction"}))
    found = (one - 2 * two) / 4
    torch.testing.assert_close(found.values, 0.25 * one.values - 0.5 * two.values)
    assert found.card.task == "capital minus name" and found.card.n == 5
    assert found.card.specification == "0.25 times (text ICL minus (2 times instruction))"
    assert (one + one).card.specification == "text ICL plus text ICL"  # a mean is called text ICL + text ICL
    torch.testing.assert_close((-one)[-1], -one.values[3])
    assert torch.equal(torch.stack(list(one)), one.values) and torch.equal(one[1:3], one.values[1:3])
    for wrong, said in (
        (lambda: one[4], "No layer 4"),
        (lambda: one + xmi.TaskVector(one.values[:2], one.card), "their shape differs"),
        (lambda: one - xmi.TaskVector(one.values, one.card.model_copy(update={"revision": "x"})), "model differs"),
        (lambda: one - xmi.TaskVector(one.values, one.card.model_copy(update={"template": "x"})), "template differs"),
        (lambda: one / 0, "divided by 0"),
    ):
        with pytest.raises(xmi.VectorError, match=said):
            wrong()
    for nonsense in (lambda: one + 1, lambda: one * one, lambda: one * True):
        with pytest.raises(TypeError):
            nonsense()
