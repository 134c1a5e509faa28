"""What TransformerLens and nnterp promise their users, and xmi says it shares: one table, tried on xmi.

A row names the peer, the test file there that states the claim, and the claim; the code is our own, and what xmi gives
is compared with the plain Hugging Face model. TransformerLens is tried at 4cd36aa (July 2026), nnterp at 3099e51
(December 2025). `docs/transformerlens.md` says which calls differ on purpose; what xmi does not have is not listed.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch

import xmi
from tests.zoo.family import build
from tests.zoo.models import gemma2, gpt2, llama, llava
from tests.zoo.oracle import plain, prompts_for
from xmi.prompt import Prompts
from xmi.vlm import VLM

FAMILIES = {"gpt2": gpt2, "llama": llama, "gemma2": gemma2, "llava": llava}


@dataclass(frozen=True)
class Claim:
    """One promise of a peer."""

    peer: str
    source: str
    says: str
    holds: Callable[[VLM, Prompts], None]


CLAIMS: dict[str, Claim] = {}


def claim(peer: str, source: str, says: str) -> Callable[[Callable[[VLM, Prompts], None]], None]:
    """Adds a row to the table."""

    def add(holds: Callable[[VLM, Prompts], None]) -> None:
        CLAIMS[holds.__name__] = Claim(peer, source, says, holds)

    return add


TL, NNTERP = "TransformerLens", "nnterp"


@cache
def loaded(name: str) -> tuple[VLM, Prompts]:
    """One model per family for the whole table, and three prompts of mixed length, with images where it sees."""
    model, tool = build(FAMILIES[name])
    return xmi.load(model, processor=tool), prompts_for("many" if name == "llava" else "none")


def blocks(vlm: VLM) -> list[torch.nn.Module]:
    return list(vlm.model.get_submodule(vlm.backbone.layers).children())


def double(value: torch.Tensor, hook: Any) -> torch.Tensor:
    return 2 * value


def nothing(value: torch.Tensor, hook: Any) -> None:
    return None


def switched(vlm: VLM) -> AbstractContextManager[Any]:
    """Patterns exist only in eager attention; a call that switches to it says so."""
    return nullcontext() if vlm.engine.attention == "eager" else pytest.warns(UserWarning, match="eager attention")


def real(vlm: VLM, prompts: Prompts) -> torch.Tensor:
    return vlm.encode(prompts).inputs["attention_mask"].bool()


# Caches


@claim(TL, "compatibility/test_run_with_cache.py", "caching leaves the logits as they are")
def caching_changes_nothing(vlm: VLM, prompts: Prompts) -> None:
    expected, _ = plain(vlm, vlm.encode(prompts))
    logits, _ = vlm.run_with_cache(prompts)
    assert torch.equal(logits, expected)


@claim(TL, "compatibility/test_run_with_cache.py", "cached values are those of the forward")
def cached_values_are_the_forwards(vlm: VLM, prompts: Prompts) -> None:
    _, kept = plain(vlm, vlm.encode(prompts))
    _, cache = vlm.run_with_cache(prompts)
    for layer, value in enumerate(kept):
        assert torch.equal(cache["resid_post", layer], value)


@claim(TL, "test_run_with_cache_batch.py", "a batch caches what each prompt caches alone")
def a_batch_caches_what_each_caches(vlm: VLM, prompts: Prompts) -> None:
    mask = real(vlm, prompts)
    _, whole = vlm.run_with_cache(prompts, names="resid_post")
    for row, prompt in enumerate(prompts):
        _, alone = vlm.run_with_cache(prompt, names="resid_post")
        torch.testing.assert_close(
            whole.stack("resid_post")[:, row, mask[row]], alone.stack("resid_post")[:, 0], atol=2e-5, rtol=1e-4
        )


@claim(TL, "test_run_with_cache_batch.py", "a batch with hooks gives what each prompt gives alone")
def a_batch_with_hooks_gives_what_each_gives(vlm: VLM, prompts: Prompts) -> None:
    hooks = [("blocks.1.hook_resid_post", double)]
    whole = vlm.run_with_hooks(prompts, fwd_hooks=hooks)
    for row, prompt in enumerate(prompts):
        alone = vlm.run_with_hooks(prompt, fwd_hooks=hooks)
        torch.testing.assert_close(whole[row, -1], alone[0, -1], atol=5e-5, rtol=1e-4)


@claim(TL, "test_cache_pos_slice.py", "one position kept equals that position of everything kept")
def one_position_equals_its_slice(vlm: VLM, prompts: Prompts) -> None:
    logits, whole = vlm.run_with_cache(prompts)
    last, cache = vlm.run_with_cache(prompts, positions="last")
    torch.testing.assert_close(last[:, -1], logits[:, -1], atol=2e-5, rtol=1e-5)
    for name in ("resid_post", "q", "z", "mlp_out"):
        torch.testing.assert_close(cache[name, 1][:, -1], whole[name, 1][:, -1], atol=2e-5, rtol=1e-5)


@claim(TL, "test_cache_hook_names.py", "a cache lists its activations in the order in which they arise")
def a_cache_is_in_order(vlm: VLM, prompts: Prompts) -> None:
    _, cache = vlm.run_with_cache(prompts, names=["resid_post", "z", "mlp_out", "embed"])
    held = [n for n in vlm.hook_names if n in set(cache)]
    assert list(cache) == held and len(held) == 3 * vlm.backbone.n_layers + 1


@claim(TL, "test_activation_cache.py", "keys, values and items are those of a mapping")
def a_cache_is_a_mapping(vlm: VLM, prompts: Prompts) -> None:
    _, cache = vlm.run_with_cache(prompts, names="z")
    assert len(cache) == len(list(cache.keys())) == len(list(cache.values()))
    assert all(cache[name] is value for name, value in cache.items())


@claim(TL, "test_activation_cache.py", "short names, full names and negative layers name the same tensors")
def keys_name_the_same_tensors(vlm: VLM, prompts: Prompts) -> None:
    _, cache = vlm.run_with_cache(prompts, names=["resid_post", "q"])
    last = vlm.backbone.n_layers - 1
    assert cache["resid_post", -1] is cache["resid_post", last] is cache[f"blocks.{last}.hook_resid_post"]
    assert cache["q", 0] is cache["blocks.0.attn.hook_q"]


@claim(TL, "test_activation_cache.py", "names filter by text, list and function alike")
def names_filter_alike(vlm: VLM, prompts: Prompts) -> None:
    name = "blocks.2.hook_mlp_out"
    for names in (name, [name], lambda n: n == name):
        _, cache = vlm.run_with_cache(prompts, names=names)
        assert list(cache) == [name]


@claim(TL, "test_activation_cache.py", "stacked layers are the layers")
def stacked_layers_are_the_layers(vlm: VLM, prompts: Prompts) -> None:
    _, cache = vlm.run_with_cache(prompts, names="attn_out")
    stacked = cache.stack("attn_out")
    assert all(torch.equal(stacked[i], cache["attn_out", i]) for i in range(vlm.backbone.n_layers))


@claim(TL, "test_activation_cache.py", "accumulated_resid is the stream before each layer and at the end")
def accumulated_is_the_stream(vlm: VLM, prompts: Prompts) -> None:
    _, kept = plain(vlm, vlm.encode(prompts))
    _, cache = vlm.run_with_cache(prompts)
    found, labels = cache.accumulated_resid(return_labels=True)
    assert labels == [*(f"{i}_pre" for i in range(len(kept))), "final_post"]
    for part, value in zip(found[1:], kept, strict=True):
        assert torch.equal(part, value)


@claim(TL, "test_activation_cache.py", "accumulated_resid up to a layer, and with the middle of each block")
def accumulated_up_to_a_layer(vlm: VLM, prompts: Prompts) -> None:
    _, cache = vlm.run_with_cache(prompts)
    found, labels = cache.accumulated_resid(2, incl_mid=True, return_labels=True)
    assert labels == ["0_pre", "0_mid", "1_pre", "1_mid", "2_pre"] and len(found) == 5
    assert torch.equal(found[3], cache["resid_mid", 1])


@claim(TL, "test_activation_cache.py", "the last state, normed and unembedded, is the logits")
def the_last_state_is_the_logits(vlm: VLM, prompts: Prompts) -> None:
    logits, cache = vlm.run_with_cache(prompts)
    head = vlm.model.get_submodule(vlm.backbone.head)
    with torch.no_grad():
        found = head(cache["ln_final"]) * vlm.backbone.scale
    if cap := vlm.backbone.softcap:
        found = cap * torch.tanh(found / cap)
    torch.testing.assert_close(found, logits, atol=1e-5, rtol=1e-5)


@claim(TL, "test_activation_cache.py", "the stream is the sum of what was written into it")
def the_stream_is_a_sum(vlm: VLM, prompts: Prompts) -> None:
    _, cache = vlm.run_with_cache(prompts)
    for layer in range(vlm.backbone.n_layers):
        total = cache["resid_pre", layer] + cache["attn_out", layer] + cache["mlp_out", layer]
        torch.testing.assert_close(total, cache["resid_post", layer], atol=2e-5, rtol=1e-5)


@claim(TL, "test_hook_shape_compatibility.py", "activations have the documented shapes")
def shapes_are_documented(vlm: VLM, prompts: Prompts) -> None:
    with switched(vlm):
        _, cache = vlm.run_with_cache(prompts, names=["resid_mid", "q", "z", "pattern"])
    batch, length = vlm.encode(prompts).inputs["input_ids"].shape
    assert cache["resid_mid", 0].shape == (batch, length, vlm.backbone.d_model)
    assert cache["q", 0].shape == cache["z", 0].shape == (batch, length, 4, 16)
    assert cache["pattern", 0].shape == (batch, 4, length, length)


@claim(TL, "test_bridge_run_with_cache_device.py", "where a cache is kept does not move the model")
def a_caches_device_moves_nothing(vlm: VLM, prompts: Prompts) -> None:
    before = next(vlm.model.parameters()).device
    _, cache = vlm.run_with_cache(prompts, names="resid_post", device="cpu")
    assert next(vlm.model.parameters()).device == before and cache["resid_post", 0].device.type == "cpu"


# Hooks


@claim(TL, "test_hooks.py", "hooks inside a with block are active there and gone afterwards")
def hooks_end_with_their_block(vlm: VLM, prompts: Prompts) -> None:
    clean, _ = plain(vlm, vlm.encode(prompts))
    with vlm.hooks([("blocks.1.hook_resid_post", double)]):
        inside, _ = vlm.run_with_cache(prompts, names="resid_post")
    after, _ = vlm.run_with_cache(prompts, names="resid_post")
    assert not torch.equal(inside, clean) and torch.equal(after, clean)


@claim(TL, "test_hooks.py", "hooks of nested blocks act together, and the inner ones end first")
def nested_hooks_act_together(vlm: VLM, prompts: Prompts) -> None:
    one, two = ("blocks.0.hook_mlp_out", double), ("blocks.1.hook_mlp_out", double)
    both = vlm.run_with_hooks(prompts, fwd_hooks=[one, two])
    only = vlm.run_with_hooks(prompts, fwd_hooks=[one])
    with vlm.hooks([one]):
        with vlm.hooks([two]):
            assert torch.equal(vlm.run_with_cache(prompts, names="embed")[0], both)
        assert torch.equal(vlm.run_with_cache(prompts, names="embed")[0], only)


@claim(TL, "test_hooks.py", "hooks are gone after an error inside, also from nested blocks")
def hooks_end_with_an_error(vlm: VLM, prompts: Prompts) -> None:
    clean, _ = plain(vlm, vlm.encode(prompts))
    modules = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in vlm.model.modules())
    with suppress(ZeroDivisionError), vlm.hooks([("resid_post", double)]), vlm.hooks([("z", double)]):
        raise ZeroDivisionError
    assert torch.equal(plain(vlm, vlm.encode(prompts))[0], clean)
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in vlm.model.modules()) == modules


@claim(TL, "test_hooks.py", "a cache taken inside hooks holds what they wrote")
def a_cache_holds_what_hooks_wrote(vlm: VLM, prompts: Prompts) -> None:
    _, clean = vlm.run_with_cache(prompts, names="resid_pre")
    with vlm.hooks([("blocks.0.hook_resid_pre", double)]):
        _, cache = vlm.run_with_cache(prompts, names="resid_pre")
    assert torch.equal(cache["resid_pre", 0], 2 * clean["resid_pre", 0])


@claim(TL, "test_hooks.py", "a hook that returns nothing changes nothing")
def a_hook_that_returns_nothing(vlm: VLM, prompts: Prompts) -> None:
    clean, _ = plain(vlm, vlm.encode(prompts))
    found = vlm.run_with_hooks(prompts, fwd_hooks=[(lambda name: not name.endswith("pattern"), nothing)])
    assert torch.equal(found, clean)


@claim(TL, "test_main_demo_pattern_hooks.py", "a name filter picks hooks, each called once per forward")
def a_filter_picks_hooks(vlm: VLM, prompts: Prompts) -> None:
    called: list[str] = []
    with switched(vlm):
        vlm.run_with_hooks(
            prompts, fwd_hooks=[(lambda n: n.endswith("pattern"), lambda _v, hook: called.append(hook.name))]
        )
    assert called == [f"blocks.{i}.attn.hook_pattern" for i in range(vlm.backbone.n_layers)]


@claim(TL, "test_main_demo_pattern_hooks.py", "a hook knows its name and layer")
def a_hook_knows_its_layer(vlm: VLM, prompts: Prompts) -> None:
    found: list[tuple[str, int]] = []
    vlm.run_with_hooks(prompts, fwd_hooks=[("resid_post", lambda _v, hook: found.append((hook.name, hook.layer())))])
    assert found == [(f"blocks.{i}.hook_resid_post", i) for i in range(vlm.backbone.n_layers)]


@claim(TL, "test_hooks.py", "several functions on one hook run in the order given")
def functions_on_one_hook_run_in_order(vlm: VLM, prompts: Prompts) -> None:
    name = "blocks.1.hook_resid_post"
    one = vlm.run_with_hooks(prompts, fwd_hooks=[(name, double), (name, lambda v, hook: v + 1)])
    other = vlm.run_with_hooks(prompts, fwd_hooks=[(name, lambda v, hook: 2 * v + 1)])
    swapped = vlm.run_with_hooks(prompts, fwd_hooks=[(name, lambda v, hook: v + 1), (name, double)])
    assert torch.equal(one, other) and not torch.equal(one, swapped)


@claim(TL, "test_bridge_vs_hooked_transformer_patching.py", "patching one run's residual into another gives its end")
def patching_carries_a_run_over(vlm: VLM, prompts: Prompts) -> None:
    [source, target] = [vlm.encode([p]) for p in prompts[:2]]
    _, kept = plain(vlm, source)
    state = kept[-1][:, -1]

    def patch(value: torch.Tensor, hook: Any) -> torch.Tensor:
        return torch.cat([value[:, :-1], state[:, None]], 1)

    layer = vlm.backbone.n_layers - 1
    found = vlm.run_with_hooks(target, fwd_hooks=[(f"blocks.{layer}.hook_resid_post", patch)])
    torch.testing.assert_close(found[:, -1], plain(vlm, source)[0][:, -1], atol=2e-5, rtol=1e-5)


@claim(TL, "test_bridge_vs_hooked_transformer_mlp_in_patching.py", "what is written into a part's output is added")
def ablating_a_part_takes_its_share_away(vlm: VLM, prompts: Prompts) -> None:
    _, clean = vlm.run_with_cache(prompts)
    with vlm.hooks([("blocks.1.hook_mlp_out", lambda v, hook: v * 0)]):
        _, cache = vlm.run_with_cache(prompts)
    expected = clean["resid_pre", 1] + clean["attn_out", 1]
    torch.testing.assert_close(cache["resid_post", 1], expected, atol=2e-5, rtol=1e-5)


@claim(TL, "compatibility/test_legacy_hooked_transformer_coverage.py", "an ablated head no longer counts")
def an_ablated_head_does_not_count(vlm: VLM, prompts: Prompts) -> None:
    def drop(value: torch.Tensor, hook: Any) -> torch.Tensor:
        return torch.cat([value[:, :, :1] * 0, value[:, :, 1:]], 2)

    clean, _ = plain(vlm, vlm.encode(prompts))
    seen: list[torch.Tensor] = []
    changed = vlm.run_with_hooks(
        prompts, fwd_hooks=[("blocks.0.attn.hook_z", drop), ("blocks.0.attn.hook_z", lambda v, hook: seen.append(v))]
    )
    assert not torch.equal(changed, clean) and not seen[0][:, :, 0].any() and seen[0][:, :, 1].any()


# Tokens and padding


@claim(TL, "test_left_padding.py", "padding on either side leaves each prompt's numbers as they are alone")
def padding_changes_nothing(vlm: VLM, prompts: Prompts) -> None:
    alone = [vlm.run_with_cache(p, names="resid_post", positions="last")[1].stack("resid_post") for p in prompts]
    for side in ("left", "right"):
        _, cache = vlm.run_with_cache(prompts, names="resid_post", positions="last", padding_side=side)
        torch.testing.assert_close(cache.stack("resid_post"), torch.cat(alone, 1), atol=5e-5, rtol=1e-4)


@claim(TL, "test_tokenizer_padding_side.py", "a tokenizer's padding side is as before after every call")
def the_padding_side_is_kept(vlm: VLM, prompts: Prompts) -> None:
    before = vlm.encoder.tokenizer.padding_side
    vlm.run_with_cache(prompts, names="embed", padding_side="right")
    assert vlm.encoder.tokenizer.padding_side == before


@claim(TL, "test_prepend_bos.py", "one BOS where the tokenizer adds one, also where the text brings it along")
def one_bos(vlm: VLM, prompts: Prompts) -> None:
    plainly, brought = vlm.encode("Greece is"), vlm.encode("<s>Greece is")
    bos = vlm.encoder.tokenizer.bos_token_id
    assert plainly.inputs["input_ids"].tolist() == brought.inputs["input_ids"].tolist()
    assert plainly.inputs["input_ids"][0].tolist().count(bos) == 1


@claim(TL, "test_tokenization_methods.py", "tokens spell the text that they came from")
def tokens_spell_their_text(vlm: VLM, prompts: Prompts) -> None:
    batch = vlm.encode("The city of Greece is")
    spelled = "".join(t for t, r in zip(batch.tokens[0], batch.roles(0), strict=True) if r == "text")
    assert spelled == "The city of Greece is"


# Generation


@claim(TL, "test_generate_batch.py", "a batch continues as each prompt does alone")
def a_batch_continues_as_each_alone(vlm: VLM, prompts: Prompts) -> None:
    whole = vlm.generate(prompts, max_new_tokens=4)
    assert list(whole.texts) == [vlm.generate(p, max_new_tokens=4).texts[0] for p in prompts]


@claim(TL, "test_generate_batch.py", "the cache of keys and values does not change what is written")
def keys_and_values_do_not_matter(vlm: VLM, prompts: Prompts) -> None:
    for prompt in prompts:
        with_cache = vlm.generate(prompt, max_new_tokens=4)
        without = vlm.generate(prompt, max_new_tokens=4, use_cache=False)
        assert torch.equal(with_cache.ids, without.ids)


@claim(TL, "test_bridge_generation.py", "greedy generation repeats, ends in time, and is what step by step gives")
def greedy_is_step_by_step(vlm: VLM, prompts: Prompts) -> None:
    inputs = {k: v for k, v in vlm.encode(prompts[0]).inputs.items() if k != "position_ids"}
    made = vlm.generate(prompts[0], max_new_tokens=5)
    assert torch.equal(made.ids, vlm.generate(prompts[0], max_new_tokens=5).ids) and made.ids.shape[1] <= 5
    for step in made.ids[0]:
        with torch.no_grad():
            assert int(vlm.model(**inputs, use_cache=False).logits[0, -1].argmax()) == int(step)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], step.reshape(1, 1)], 1)
        for name in ("attention_mask", "mm_token_type_ids", "token_type_ids"):
            if name in inputs:
                more = torch.full((1, 1), int(name == "attention_mask"), dtype=inputs[name].dtype)
                inputs[name] = torch.cat([inputs[name], more], 1)


@claim(TL, "test_bridge_generation.py", "sampling with a seed repeats, without greedy answers only")
def sampling_repeats_with_its_seed(vlm: VLM, prompts: Prompts) -> None:
    def sampled(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return vlm.generate(prompts[0], max_new_tokens=8, do_sample=True, temperature=3.0).ids

    assert torch.equal(sampled(0), sampled(0))
    assert any(not torch.equal(sampled(0), sampled(seed)) for seed in range(1, 6))


@claim(TL, "test_hooks.py", "hooks act on every step of a generation")
def hooks_act_while_generating(vlm: VLM, prompts: Prompts) -> None:
    lengths: list[int] = []
    with vlm.hooks([("blocks.0.hook_resid_post", lambda v, hook: lengths.append(v.shape[1]))]):
        made = vlm.generate(prompts[0], max_new_tokens=3, min_new_tokens=3)
    assert lengths == [vlm.encode(prompts[0]).inputs["input_ids"].shape[1], 1, 1] and made.ids.shape[1] == 3


# Traces


@claim(NNTERP, "test_model_renaming.py", "a trace through the library gives the untouched model's logits")
def a_trace_gives_the_models_logits(vlm: VLM, prompts: Prompts) -> None:
    expected, _ = plain(vlm, vlm.encode(prompts))
    with vlm.trace(prompts):
        found = vlm.engine.envoy.output.logits.save()
    assert torch.equal(found, expected)


@claim(NNTERP, "test_model_renaming.py", "the same accessor reads every architecture's blocks")
def one_accessor_reads_every_block(vlm: VLM, prompts: Prompts) -> None:
    _, kept = plain(vlm, vlm.encode(prompts))
    resid = vlm.resid_post
    with vlm.trace(prompts):
        first, last = resid[0].save(), resid[len(kept) - 1].save()
    assert torch.equal(first, kept[0]) and torch.equal(last, kept[-1])


@claim(NNTERP, "test_model_renaming.py", "sizes are found: layers and width")
def sizes_are_found(vlm: VLM, prompts: Prompts) -> None:
    assert vlm.backbone.n_layers == len(blocks(vlm)) == 4 and vlm.backbone.d_model == 64


@claim(NNTERP, "test_interventions.py", "adding a vector to the stream is what a plain hook that adds it gives")
def steering_is_adding(vlm: VLM, prompts: Prompts) -> None:
    vector = torch.randn(vlm.backbone.d_model, generator=torch.Generator().manual_seed(0))

    def adds(_module: Any, _args: Any, output: Any) -> Any:
        return (output[0] + vector, *output[1:]) if isinstance(output, tuple) else output + vector

    handle = blocks(vlm)[1].register_forward_hook(adds)
    expected, _ = plain(vlm, vlm.encode(prompts))
    handle.remove()
    found = vlm.run_with_hooks(prompts, fwd_hooks=[("blocks.1.hook_resid_post", lambda v, hook: v + vector)])
    assert torch.equal(found, expected)


@claim(NNTERP, "test_interventions.py", "interventions at several layers act together")
def several_layers_act_together(vlm: VLM, prompts: Prompts) -> None:
    together = vlm.run_with_hooks(prompts, fwd_hooks=[("resid_post", double)])
    handles = [
        block.register_forward_hook(lambda _m, _a, o: (2 * o[0], *o[1:]) if isinstance(o, tuple) else 2 * o)
        for block in blocks(vlm)
    ]
    expected, _ = plain(vlm, vlm.encode(prompts))
    for handle in handles:
        handle.remove()
    assert torch.equal(together, expected)


@claim(NNTERP, "test_interventions.py", "the logit lens of the last layer is the model's own next token")
def the_last_lens_is_the_model(vlm: VLM, prompts: Prompts) -> None:
    logits, _ = plain(vlm, vlm.encode(prompts))
    frame = vlm.lens(prompts, k=1).to_frame()
    last = frame[frame["depth"] == str(vlm.backbone.n_layers - 1)].sort_values("prompt")
    expected = [vlm.encoder.decode(int(i)) for i in logits[:, -1].argmax(-1)]
    assert last["token"].tolist() == expected


@claim(NNTERP, "test_probabilities.py", "attention patterns are rows of probabilities, and zero ahead and on padding")
def patterns_are_probabilities(vlm: VLM, prompts: Prompts) -> None:
    with switched(vlm):
        _, cache = vlm.run_with_cache(prompts, names="pattern")
    mask = real(vlm, prompts)
    pattern = cache["pattern", 1]
    for row in range(len(prompts)):
        own = pattern[row][:, mask[row]]
        torch.testing.assert_close(own.sum(-1), torch.ones(own.shape[:-1]), atol=1e-5, rtol=0)
        assert not own[:, :, ~mask[row]].any() and not own[:, :, mask[row]].triu(1).any()


@claim(NNTERP, "test_probabilities.py", "a written pattern is what attention uses")
def a_written_pattern_counts(vlm: VLM, prompts: Prompts) -> None:
    def first_only(value: torch.Tensor, hook: Any) -> torch.Tensor:
        changed = torch.zeros_like(value)
        changed[..., -1, -1] = 1.0
        return changed

    with switched(vlm):
        _, cache = vlm.run_with_cache(prompts[0], names=["v", "pattern"])
        seen: list[torch.Tensor] = []
        hooks = [("blocks.0.attn.hook_pattern", first_only), ("blocks.0.attn.hook_z", lambda v, hook: seen.append(v))]
        vlm.run_with_hooks(prompts[0], fwd_hooks=hooks)
    value = cache["v", 0][0, -1]
    expected = value.repeat_interleave(4 // value.shape[0], 0)
    torch.testing.assert_close(seen[0][0, -1], expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("family", list(FAMILIES))
@pytest.mark.parametrize("name", list(CLAIMS))
def test_claim(name: str, family: str) -> None:
    """Every claim on every family."""
    CLAIMS[name].holds(*loaded(family))


def test_the_table_names_its_sources() -> None:
    assert {c.peer for c in CLAIMS.values()} == {TL, NNTERP}
    assert all(c.source.endswith(".py") and c.says for c in CLAIMS.values())
