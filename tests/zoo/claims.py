"""What xmi claims of every family it supports; each claim is a function that raises AssertionError if it is false.

The tests run every claim on every family of the zoo, and the table of models in the docs is made from the same runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

import torch

from tests.zoo.oracle import brute_force, greedy, keep_last, own_encodings, plain
from xmi.prompt import Prompt, Prompts
from xmi.vector import TaskVector, VectorCard, versions
from xmi.vlm import VLM

Claim = Callable[[VLM, Prompts], None]

ROUNDING = {"qwen3_5": 5e-5}
"""What rounding alone explains where it is more than 1e-5: on some processors linear attention's float32 sums differ by
2e-5 between one row and several; in float64 the difference is 4e-7 (the recurrence itself stays in float32)."""


def trace(vlm: VLM, prompts: Prompts) -> None:
    """An untouched nnsight trace gives the plain forward's logits, exactly."""
    with vlm.trace(prompts):
        traced = vlm.engine.envoy.output.logits.save()
    expected, _ = plain(vlm, vlm.encode(prompts))
    assert torch.equal(traced, expected)


def inputs(vlm: VLM, prompts: Prompts) -> None:
    """A prompt alone is encoded to what the model's own processor makes of it (one BOS, where that would give two)."""
    for prompt in prompts:
        expected, _ = plain(vlm, vlm.encode([prompt]))
        assert any(torch.equal(logits, expected) for logits in own_logits(vlm, prompt))


def own_logits(vlm: VLM, prompt: Prompt) -> Iterator[torch.Tensor]:
    for raw in own_encodings(vlm, prompt):
        with torch.no_grad(), suppress(RuntimeError, ValueError):  # a form that the model cannot mean
            yield vlm.model(**raw, use_cache=False).logits


def residuals(vlm: VLM, prompts: Prompts) -> None:
    """Every residual equals a forward hook's value, exactly."""
    _, kept = plain(vlm, vlm.encode(prompts), **keep_last(vlm))
    assert torch.equal(vlm.residuals(prompts).values, torch.stack([h[:, -1] for h in kept], 1))


def batching(vlm: VLM, prompts: Prompts) -> None:
    """A left-padded batch of mixed lengths and image counts gives what each prompt gives alone."""
    single = torch.cat([vlm.residuals(prompts[i : i + 1]).values for i in range(len(prompts))])
    torch.testing.assert_close(vlm.residuals(prompts).values, single, atol=1e-4, rtol=1e-4)


def roles(vlm: VLM, prompts: Prompts) -> None:
    """Every token knows its segment: text segments are spelled by their tokens, images have tokens of their own."""
    batch = vlm.encode(prompts)
    for row, prompt in enumerate(prompts):
        names, tokens = batch.roles(row), batch.tokens[row]
        assert [r == "padding" for r in names] == (batch.inputs["attention_mask"][row] == 0).tolist()
        for segment in prompt.segments:
            spelled = "".join(t for r, t in zip(names, tokens, strict=True) if r == segment.name)
            assert spelled if segment.image is not None else spelled == segment.text, (segment.name, spelled)
        order = [s.name for s in prompt.segments]
        assert list(dict.fromkeys(r for r in names if r not in ("special", "padding"))) == order
        images = {m for m in batch.modalities(row) if m.startswith("image")}
        assert len(images) == len(prompt.images)
        assert tokens[int(batch.columns("query.delimiter")[row])] == ":"


def sweep(vlm: VLM, prompts: Prompts) -> None:
    """Every patched run of a layer sweep equals brute force to 1e-5 in log-probability."""
    swept(vlm, prompts, "last")


def slots(vlm: VLM, prompts: Prompts) -> None:
    """So does a sweep at an earlier token."""
    swept(vlm, prompts, "query.prefix")


def swept(vlm: VLM, prompts: Prompts, slot: str) -> None:
    generator = torch.Generator().manual_seed(1)
    values = 3 * torch.randn(1, vlm.backbone.n_layers, vlm.backbone.d_model, generator=generator)
    found = vlm.transfer(vector_of(values[0], prompts), to=prompts, slot=slot, foreign=True)
    for part in runs_of(vlm, prompts, "last" if slot == "last" else "earlier", "one"):
        answers = vlm.encoder.answer_ids(list(prompts[part]), prompts.template)
        expected = brute_force(vlm, prompts[part], values, answers, slot)
        bound = ROUNDING.get(vlm.model.config.model_type, 1e-5)
        assert abs(found.log_probability[:, :, part] - expected.numpy()).max() <= bound


def continued(vlm: VLM, prompts: Prompts) -> None:
    """Several tokens after every patch equal brute force with the patch made again for each token."""
    generator = torch.Generator().manual_seed(5)
    values = 3 * torch.randn(vlm.backbone.n_layers, vlm.backbone.d_model, generator=generator)
    found = vlm.transfer(vector_of(values, prompts), to=prompts, max_new_tokens=3, foreign=True)
    for part in runs_of(vlm, prompts, "last", "more"):
        for layer in range(vlm.backbone.n_layers):
            expected = [vlm.encoder.text(ids) for ids in greedy(vlm, prompts[part], (layer, values[layer]), 3)]
            assert list(found.continuations[0][layer][part]) == expected
        expected = [vlm.encoder.text(ids) for ids in greedy(vlm, prompts[part], None, 3)]
        assert list(found.clean.continuations[part]) == expected
        with suppress(ValueError, IndexError):  # a random model said its image token, which cannot be read again
            assert list(vlm.answers(prompts[part], max_new_tokens=3).continuations or ()) == expected


def runs_of(vlm: VLM, prompts: Prompts, *kind: str) -> list[slice]:
    """What to compare at once: the batch where runs were packed, else each prompt alone, as xmi ran it."""
    alone = vlm.engine.ways[", ".join((*kind, "images" if prompts[0].images else "text"))] == "rows"
    return [slice(i, i + 1) for i in range(len(prompts))] if alone else [slice(None)]


def vector_of(values: torch.Tensor, prompts: Prompts) -> TaskVector:
    card = VectorCard(
        model="x", revision="x", dtype="float32", task="capital", specification="random", shots=0, seed=0, n=1,
        slot="last", template=prompts.template.hash, versions=versions(),
    )  # fmt: skip
    return TaskVector(values, card)


def cache(vlm: VLM, prompts: Prompts) -> None:
    """`run_with_cache` gives the plain forward's logits and every residual, exactly; selected slots are the same."""
    logits, kept = plain(vlm, vlm.encode(prompts))
    found, whole = vlm.run_with_cache(prompts, names="resid_post")
    assert torch.equal(found, logits)
    assert torch.equal(whole.stack("resid_post"), torch.stack(kept))
    chosen, last = vlm.run_with_cache(prompts, names="resid_post", positions="last")
    torch.testing.assert_close(last.stack("resid_post"), torch.stack(kept)[:, :, -1:], atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(chosen, logits[:, -1:], atol=2e-5, rtol=1e-5)


def hooks(vlm: VLM, prompts: Prompts) -> None:
    """Writing a residual in `run_with_hooks` gives what a plain forward with a forward hook gives, exactly."""
    value = torch.randn(vlm.backbone.d_model, generator=torch.Generator().manual_seed(2))

    def write(state: torch.Tensor, hook: object) -> torch.Tensor:
        state = state.clone()
        state[:, -1] = value
        return state

    for layer in range(vlm.backbone.n_layers):
        expected, _ = plain(vlm, vlm.encode(prompts), (layer, value))
        found = vlm.run_with_hooks(prompts, fwd_hooks=[(f"blocks.{layer}.hook_resid_post", write)])
        assert torch.equal(found, expected), layer
    clean, _ = plain(vlm, vlm.encode(prompts))
    assert not torch.equal(expected, clean), "writing must matter, or the comparison proves nothing"


def generate(vlm: VLM, prompts: Prompts) -> None:
    """`generate` gives the tokens of the model's own `generate`."""
    inputs = {k: v for k, v in vlm.encode(prompts).inputs.items() if k != "position_ids"}
    pad = vlm.encoder.tokenizer.pad_token_id
    with torch.no_grad():
        made = vlm.model.generate(**inputs, max_new_tokens=4, do_sample=False, pad_token_id=pad)
    ids = inputs["input_ids"]
    expected = made[:, ids.shape[1] :] if torch.equal(made[:, : ids.shape[1]], ids) else made
    assert torch.equal(vlm.generate(prompts, max_new_tokens=4).ids, expected)


def padding(vlm: VLM, prompts: Prompts) -> None:
    """Padded on the right, the last real token has the residuals that it has alone."""
    _, right = vlm.run_with_cache(prompts, names="resid_post", positions="last", padding_side="right")
    alone = [vlm.run_with_cache([p], names="resid_post", positions="last")[1].stack("resid_post") for p in prompts]
    torch.testing.assert_close(right.stack("resid_post"), torch.cat(alone, 1), atol=1e-4, rtol=1e-4)


EVERY = (inputs, trace, residuals, batching, padding, roles, sweep, slots, continued, cache, hooks, generate)
CLAIMS: dict[str, Claim] = {f.__name__: f for f in EVERY}
