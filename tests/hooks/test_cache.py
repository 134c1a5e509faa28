"""The TransformerLens dialect against what the model itself computes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import xmi
from tests.zoo.family import build
from tests.zoo.models import gemma2, gpt2, llama, llava
from tests.zoo.oracle import plain, prompts_for
from tests.zoo.text import cohere
from xmi.prompt import Prompts
from xmi.vlm import VLM


@pytest.fixture(scope="module")
def text() -> VLM:
    model, tool = build(llama)
    return xmi.load(model, processor=tool)


@pytest.fixture(scope="module")
def seeing() -> VLM:
    model, tool = build(llava)
    return xmi.load(model, processor=tool)


@pytest.fixture
def prompts() -> Prompts:
    return prompts_for("none")


def recorded(model: torch.nn.Module, path: str, side: str) -> tuple[list[torch.Tensor], Any]:
    """What goes into or comes out of a module, seen by a hook of the test's own."""
    kept: list[torch.Tensor] = []

    def tensor(value: Any) -> torch.Tensor:
        return (value[0] if isinstance(value, tuple) else value).clone()

    module = model.get_submodule(path)
    if side == "in":
        return kept, module.register_forward_pre_hook(lambda _m, args: kept.append(tensor(args)))
    return kept, module.register_forward_hook(lambda _m, _a, output: kept.append(tensor(output)))


LLAMA = {
    "hook_attn_out": ("self_attn", "out", None),
    "hook_mlp_out": ("mlp", "out", None),
    "hook_resid_post": ("", "out", None),
    "hook_resid_mid": ("post_attention_layernorm", "in", None),
    "attn.hook_q": ("self_attn.q_proj", "out", 4),
    "attn.hook_k": ("self_attn.k_proj", "out", 2),
    "attn.hook_v": ("self_attn.v_proj", "out", 2),
    "attn.hook_z": ("self_attn.o_proj", "in", 4),
    "mlp.hook_pre": ("mlp.act_fn", "in", None),
    "mlp.hook_post": ("mlp.down_proj", "in", None),
}
"""Where a Llama has its parts: the test knows, xmi finds out."""


@pytest.mark.parametrize("hook", list(LLAMA))
def test_every_hook_is_what_its_module_computes(text: VLM, prompts: Prompts, hook: str) -> None:
    path, side, heads = LLAMA[hook]
    kept, handle = recorded(text.model, f"model.layers.2.{path}".rstrip("."), side)
    plain(text, text.encode(prompts))
    handle.remove()
    expected = kept[0].unflatten(-1, (heads, -1)) if heads else kept[0]
    _, cache = text.run_with_cache(prompts)
    assert torch.equal(cache[f"blocks.2.{hook}"], expected)


def test_embedding_final_norm_and_image_path(seeing: VLM) -> None:
    prompts = prompts_for("many")
    embeds: list[torch.Tensor] = []
    handles = [
        seeing.model.model.language_model.register_forward_pre_hook(
            lambda _m, _a, kwargs: embeds.append(kwargs["inputs_embeds"].clone()), with_kwargs=True
        )
    ]
    paths = {
        "ln_final.hook_normalized": ("model.language_model.norm", "out"),
        "projector.hook_out": ("model.multi_modal_projector", "out"),
        "vision.hook_out": ("model.multi_modal_projector", "in"),
    }
    kept = {}
    for name, (path, side) in paths.items():
        kept[name], handle = recorded(seeing.model, path, side)
        handles.append(handle)
    plain(seeing, seeing.encode(prompts))
    for handle in handles:
        handle.remove()
    _, cache = seeing.run_with_cache(prompts)
    assert torch.equal(cache["hook_embed"], embeds[0])
    for name, values in kept.items():
        assert torch.equal(cache[name], values[0]), name


def test_keys_as_in_transformerlens(text: VLM, prompts: Prompts) -> None:
    _, cache = text.run_with_cache(prompts, names=["resid_post", "z", "embed"])
    assert cache["blocks.3.hook_resid_post"] is cache["resid_post", 3]
    assert cache["blocks.1.attn.hook_z"] is cache["z", 1]
    assert cache["hook_embed"] is cache["embed"]
    assert list(cache)[:3] == ["hook_embed", "blocks.0.attn.hook_z", "blocks.0.hook_resid_post"]
    assert ("resid_post", 3) in cache
    assert ("resid_pre", 3) not in cache
    assert cache["resid_post", -1] is cache["resid_post", 3]
    with pytest.raises(xmi.HookError, match="Cannot read the key"):
        cache["z", 1, "attn"]  # type: ignore[index]
    assert len(cache) == 9
    assert cache.stack("z").shape == (4, 3, *cache["hook_embed"].shape[1:2], 4, 16)
    chosen = text.run_with_cache(prompts, names=lambda name: name.endswith("resid_mid"))[1]
    assert list(chosen) == [f"blocks.{i}.hook_resid_mid" for i in range(4)]
    with pytest.raises(xmi.HookError, match=r"blocks\.3\.hook_resid_pre was not kept; this cache holds"):
        cache["resid_pre", 3]


def test_unknown_and_missing_hooks_say_what_there_is(text: VLM, prompts: Prompts) -> None:
    with pytest.raises(xmi.HookError, match=r"Nearest: .*resid_post"):
        text.run_with_cache(prompts, names="resid_pots")
    with pytest.raises(xmi.HookError, match=r"No hook 'blocks\.9\.hook_resid_post'"):
        text.run_with_cache(prompts, names="blocks.9.hook_resid_post")
    with pytest.raises(xmi.HookError, match="chooses none"):
        text.run_with_cache(prompts, names=lambda name: False)
    model, tool = build(cohere)
    with pytest.raises(xmi.HookError, match="no resid_mid: attention and MLP read the same input"):
        xmi.load(model, processor=tool).run_with_cache(prompts, names="resid_mid")


def test_patterns_switch_to_eager_attention_and_say_so(text: VLM, prompts: Prompts) -> None:
    with pytest.warns(UserWarning, match="eager attention"):
        logits, cache = text.run_with_cache(prompts, names=["pattern", "z", "v", "attn_out"])
    assert cache.card["attention"] == "eager"
    assert text.engine.attention == "sdpa", "the switch is for that call only"
    pattern, v = cache["pattern", 1], cache["v", 1].repeat_interleave(2, dim=2)
    torch.testing.assert_close(pattern.sum(-1), torch.ones_like(pattern[..., 0]))
    torch.testing.assert_close(torch.einsum("bhqk,bkhd->bqhd", pattern, v), cache["z", 1])
    batch = text.encode(prompts)
    padded = batch.inputs["attention_mask"] == 0
    assert float(pattern[2, :, -1][:, padded[2]].sum()) == 0.0, "no attention to padding"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        at_last = text.run_with_cache(prompts, names="pattern", positions="last")[1]
    assert torch.equal(at_last["pattern", 1][:, :, 0], pattern[:, :, -1])
    torch.testing.assert_close(logits[~padded], plain(text, batch)[0][~padded], atol=1e-5, rtol=1e-5)


def test_a_written_pattern_is_used(text: VLM, prompts: Prompts) -> None:
    """Attention knocked out to the own token only: the heads' outputs are the own values."""

    def only_self(pattern: torch.Tensor, hook: xmi.Hook) -> torch.Tensor:
        return torch.eye(pattern.shape[-1]).expand_as(pattern)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cut = text.run_with_hooks(prompts, fwd_hooks=[("blocks.2.attn.hook_pattern", only_self)])
    _, cache = text.run_with_cache(prompts, names="blocks.2.attn.hook_v")
    own = cache["v", 2].repeat_interleave(2, dim=2)
    expected = text.run_with_hooks(prompts, fwd_hooks=[("blocks.2.attn.hook_z", lambda z, hook: own)])
    torch.testing.assert_close(cut[:, -1], expected[:, -1], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(cut[:, -1], plain(text, text.encode(prompts))[0][:, -1], atol=1e-3)


def test_resid_mid_is_written_for_both_branches(text: VLM, prompts: Prompts) -> None:
    value = torch.randn(64, generator=torch.Generator().manual_seed(0))
    fwd_hooks = [("blocks.1.hook_resid_mid", lambda state, hook: value.expand_as(state))]
    with text.hooks(fwd_hooks):
        _, cache = text.run_with_cache(prompts, names=["resid_mid", "mlp_out", "resid_post"])
    assert torch.equal(cache["resid_mid", 1], value.expand_as(cache["resid_mid", 1]))
    assert torch.equal(cache["resid_post", 1], value + cache["mlp_out", 1])


@pytest.mark.parametrize("make", [llama, gemma2, llava])
def test_the_stream_is_the_sum_of_its_parts(make: Any) -> None:
    model, tool = build(make)
    vlm = xmi.load(model, processor=tool)
    _, cache = vlm.run_with_cache(prompts_for("many" if make is llava else "none"))
    for i in range(4):
        torch.testing.assert_close(cache["resid_pre", i] + cache["attn_out", i], cache["resid_mid", i])
        torch.testing.assert_close(cache["resid_mid", i] + cache["mlp_out", i], cache["resid_post", i])
    accumulated, labels = cache.accumulated_resid(incl_mid=True, return_labels=True)
    assert labels == [f"{i}_{s}" for i in range(4) for s in ("pre", "mid")] + ["final_post"]
    assert torch.equal(accumulated[-1], cache["resid_post", 3])
    assert torch.equal(cache.accumulated_resid(2)[-1], cache["resid_pre", 2])
    with pytest.raises(xmi.HookError, match="layers 0 to 3"):
        cache.accumulated_resid(7)


def test_slots_keep_one_position_and_no_more_memory(text: VLM, prompts: Prompts) -> None:
    slots = ["query.prefix", "last"]
    logits, cache = text.run_with_cache(prompts, names=["resid_post", "z"], positions=slots)
    full_logits, full = text.run_with_cache(prompts, names=["resid_post", "z"])
    batch = text.encode(prompts)
    for number, slot in enumerate(slots):
        columns = batch.columns(slot)
        rows = torch.arange(3)
        torch.testing.assert_close(cache["resid_post", 3][:, number], full["resid_post", 3][rows, columns])
        torch.testing.assert_close(cache["z", 2][:, number], full["z", 2][rows, columns])
        torch.testing.assert_close(logits[:, number], full_logits[rows, columns])
    for value in cache.activations.values():
        assert value.untyped_storage().nbytes() == value.numel() * value.element_size(), "a view holds the whole"
    with pytest.raises(xmi.PromptError, match="name the slots"):
        text.run_with_cache(prompts, positions=-1)  # type: ignore[arg-type]
    with pytest.raises(xmi.SlotError, match="there is no slot 'instruction'"):
        text.run_with_cache(prompts, positions="instruction")


def test_right_padding(text: VLM, prompts: Prompts) -> None:
    left, kept = text.run_with_cache(prompts, names="resid_post", positions="last")
    right, other = text.run_with_cache(prompts, names="resid_post", positions="last", padding_side="right")
    torch.testing.assert_close(left, right, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(kept.stack("resid_post"), other.stack("resid_post"), atol=1e-4, rtol=1e-4)
    whole, _ = text.run_with_cache(prompts, names="embed", padding_side="right")
    columns = text.encode(prompts, padding_side="right").columns("last")
    assert columns.tolist() != [whole.shape[1] - 1] * 3
    torch.testing.assert_close(whole[torch.arange(3), columns], right[:, 0], atol=1e-5, rtol=1e-5)


def test_saved_and_loaded(text: VLM, prompts: Prompts, tmp_path: Path) -> None:
    _, cache = text.run_with_cache(prompts, names=["resid_post", "pattern"], positions="last")
    found = xmi.ActivationCache.load(cache.save(tmp_path / "a.safetensors"))
    assert list(found) == list(cache)
    assert found.card == cache.card
    assert found.card["model"] == "LlamaForCausalLM"
    assert torch.equal(found["resid_post", 2], cache["resid_post", 2])
    assert found.to(dtype=torch.float16)["resid_post", 2].dtype == torch.float16
    (tmp_path / "b.safetensors").write_bytes(b"nothing")
    for name in ("b.safetensors", "c.safetensors"):
        with pytest.raises(xmi.HookError, match="holds no activations"):
            xmi.ActivationCache.load(tmp_path / name)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda state, hook: state[:, :1], r"returned \[3, 1, 64\] float32 in place of \[3, \d+, 64\]"),
        (lambda state, hook: state.half(), "returned .* float16 in place of .* float32"),
        (lambda state, hook: state.tolist(), "returned list"),
        (lambda state, hook: state * float("nan"), "NaN"),
    ],
    ids=["shape", "dtype", "list", "nan"],
)
def test_hooks_that_return_something_else_are_refused(text: VLM, prompts: Prompts, wrong: Any, said: str) -> None:
    before = plain(text, text.encode(prompts))[0]
    with pytest.raises(xmi.HookError, match=said):
        text.run_with_hooks(prompts, fwd_hooks=[("blocks.1.hook_resid_post", wrong)])
    assert torch.equal(plain(text, text.encode(prompts))[0], before), "no hook outlives the error"


def test_nan_in_an_activation_is_refused(prompts: Prompts) -> None:
    model, tool = build(llama)
    vlm = xmi.load(model, processor=tool)
    with torch.no_grad():
        model.model.layers[2].mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(xmi.HookError, match=r"blocks\.2\.hook_resid_post holds NaN .* rows \[0, 1, 2\]"):
        vlm.run_with_cache(prompts, names="resid_post")


@pytest.mark.parametrize("hook", ["attn.hook_q", "attn.hook_z", "hook_resid_mid", "hook_resid_post"])
def test_a_change_in_place_counts(hook: str, prompts: Prompts) -> None:
    """Also where the hook sees a copy: GPT-2 makes queries, keys and values at once."""
    model, tool = build(gpt2)
    vlm = xmi.load(model, processor=tool)

    def in_place(value: torch.Tensor, hook: xmi.Hook) -> None:
        value.mul_(0.5)

    name = f"blocks.1.{hook}"
    found = vlm.run_with_hooks(prompts, fwd_hooks=[(name, in_place)])
    assert torch.equal(found, vlm.run_with_hooks(prompts, fwd_hooks=[(name, lambda value, hook: value * 0.5)]))
    assert not torch.equal(found, plain(vlm, vlm.encode(prompts))[0])


def test_generation_refuses_padding_on_the_right(text: VLM, prompts: Prompts) -> None:
    with pytest.raises(xmi.PromptError, match="padded on the right"):
        text.generate(text.encode(prompts, padding_side="right"))


def test_a_hook_is_told_where_it_is(text: VLM, prompts: Prompts) -> None:
    told = []
    text.run_with_hooks(prompts, fwd_hooks=[("resid_mid", lambda state, hook: told.append((hook.name, hook.layer())))])
    assert told == [(f"blocks.{i}.hook_resid_mid", i) for i in range(4)]
    with pytest.raises(xmi.HookError, match="belongs to no layer"):
        xmi.Hook("hook_embed").layer()


def test_a_trace_computes_the_last_logits_alone_where_it_is_told_to(text: VLM, prompts: Prompts) -> None:
    model, resid = text.engine.envoy, text.resid_post
    with text.trace(prompts):
        before, every = resid[1].save(), model.output.logits.save()
    with text.trace(prompts, logits="last"):
        after, last = resid[1].save(), model.output.logits.save()
    assert every.shape[1] == text.encode(prompts).inputs["input_ids"].shape[1]
    assert last.shape[1] == 1
    torch.testing.assert_close(last, every[:, -1:], atol=2e-5, rtol=1e-5)
    assert torch.equal(before, after)
    with pytest.raises(xmi.ArgumentError, match="logits must be one of 'all', 'last'"):
        text.trace(prompts, logits="first")  # type: ignore[arg-type]
    with pytest.raises(xmi.PromptError, match="padded on the right"):
        text.trace(text.encode(prompts, padding_side="right"), logits="last")


def test_traces_are_refused_inside_hooks(text: VLM, prompts: Prompts) -> None:
    with text.hooks([("resid_post", lambda state, hook: None)]), pytest.raises(xmi.HookError, match="nnsight trace"):
        text.residuals(prompts)
    assert text.residuals(prompts).values.shape == (3, 4, 64)


def zero_last(state: torch.Tensor, hook: xmi.Hook) -> torch.Tensor:
    state = state.clone()
    state[:, -1] = 0
    return state


@pytest.mark.parametrize("make", [llama, llava])
def test_generation_with_hooks(make: Any) -> None:
    model, tool = build(make)
    vlm = xmi.load(model, processor=tool)
    prompts = prompts_for("many" if make is llava else "none")
    with vlm.hooks([("blocks.0.hook_resid_post", zero_last)]):
        found = vlm.generate(prompts, max_new_tokens=5)
    block = vlm.model.get_submodule(f"{vlm.backbone.layers}.0")
    handle = block.register_forward_hook(lambda _m, _a, output: zero_last(output, None))  # type: ignore[arg-type]
    inputs = {k: v for k, v in vlm.encode(prompts).inputs.items() if k != "position_ids"}
    with torch.no_grad():
        made = model.generate(**inputs, max_new_tokens=5, do_sample=False, pad_token_id=0)
    handle.remove()
    assert torch.equal(found.ids, made[:, inputs["input_ids"].shape[1] :])
    assert not torch.equal(found.ids, vlm.generate(prompts, max_new_tokens=5).ids)
    assert found.texts == tuple(tool.batch_decode(found.ids, skip_special_tokens=True))


def test_the_stream_in_nnsights_dialect(text: VLM, prompts: Prompts) -> None:
    value = torch.randn(64, generator=torch.Generator().manual_seed(3))
    expected, kept = plain(text, text.encode(prompts), (1, value))
    with text.trace(prompts):
        text.resid_post[1][:, -1] = value
        in_place = text.resid_post[2].save()
        one = text.engine.envoy.output.logits.save()
    with text.trace(prompts):
        state = text.resid_post[1].clone()
        state[:, -1] = value
        text.resid_post[1] = state
        two = text.engine.envoy.output.logits.save()
    assert torch.equal(one, expected)
    assert torch.equal(two, expected)
    assert torch.equal(in_place, kept[2])
    assert len(text.resid_post) == 4


def test_by_default_all_that_runs_is_kept(seeing: VLM) -> None:
    """Text alone brings no image features; asked for by name they are missed."""
    _, cache = seeing.run_with_cache("Q:Greece\nA:")
    eye = {n for n in seeing.hook_names if "vision" in n or "projector" in n}
    assert set(seeing.hook_names) - set(cache) == eye | {f"blocks.{i}.attn.hook_pattern" for i in range(4)}
    with pytest.raises(xmi.HookError, match=r"vision\.hook_out did not run"):
        seeing.run_with_cache("Q:Greece\nA:", names="vision")


def test_an_encoded_batch_is_taken_as_it_is(text: VLM, prompts: Prompts) -> None:
    batch = text.encode(prompts)
    assert text.encode(batch) is batch
    assert torch.equal(text.run_with_cache(batch, names="z")[0], text.run_with_cache(prompts, names="z")[0])


def test_prompts_may_be_plain_text(text: VLM) -> None:
    logits, _ = text.run_with_cache("Q:Greece\nA:", names="embed")
    both, _ = text.run_with_cache(["Q:Greece\nA:", "Q:Italy\nA:"], names="embed")
    torch.testing.assert_close(both[:1], logits)
    for wrong in (["Q:", 3], [], ""):
        with pytest.raises(xmi.PromptError):
            text.run_with_cache(wrong)  # type: ignore[arg-type]


@pytest.fixture
def meta(tmp_path: Path) -> Iterator[VLM]:
    model, tool = build(llava)
    model.save_pretrained(tmp_path)
    tool.save_pretrained(tmp_path)
    yield xmi.load(tmp_path, device="meta")


def test_a_model_without_weights_can_be_looked_at(meta: VLM) -> None:
    assert all(p.is_meta for p in meta.model.parameters())
    assert "weights not loaded" in meta.describe()
    prompts = prompts_for("many")
    assert meta.encode(prompts).columns("last").shape == (3,)
    for act in (meta.residuals, meta.run_with_cache, meta.generate, meta.trace):
        with pytest.raises(xmi.ModelError, match="without its weights"):
            act(prompts)
