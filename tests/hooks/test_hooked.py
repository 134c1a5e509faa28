"""Hooks as they are given, gradients through them, layers counted from the end, and what can be pickled."""

from __future__ import annotations

import copy
import dataclasses
import functools
import multiprocessing
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import xmi
from tests.night import times
from tests.zoo.family import build
from tests.zoo.models import gpt2, llama, llava
from tests.zoo.oracle import prompts_for
from xmi.hooks import ActivationCache
from xmi.vlm import VLM

pytestmark = pytest.mark.filterwarnings("ignore:Attention patterns exist only")
made: dict[Any, VLM] = {}
NAME = "blocks.1.hook_resid_post"


def of(make: Any) -> VLM:
    if make not in made:
        model, tool = build(make)
        made[make] = xmi.load(model, processor=tool)
    return made[make]


def keep(value: torch.Tensor, hook: xmi.Hook) -> None:
    """A right hook function."""


def swapped(hook: xmi.Hook) -> None:
    """One argument short."""


def longer(value: torch.Tensor, hook: xmi.Hook, more: int) -> None:
    """One argument too many."""


WRONG = [
    ((NAME, keep), "this is one pair alone: put brackets around it"),
    ([NAME, keep], "this is one pair alone"),
    (("resid_post", keep), "this is one pair alone"),
    ((["resid_post"], keep), "this is one pair alone"),
    ({NAME: keep}, r"is a list of pairs, not the dict"),
    (keep, "is a list of pairs, not the function"),
    (NAME, "is a list of pairs, not the str"),
    (None, "is a list of pairs, not the NoneType"),
    (3, "is a list of pairs, not the int"),
    ([keep], r"\[0\] is the function .* not a pair"),
    ([NAME], r"\[0\] is the str 'blocks.1.hook_resid_post', not a pair"),
    ([(NAME,)], r"\[0\] is the tuple .* not a pair"),
    ([(NAME, keep), None], r"\[1\] is the NoneType None, not a pair"),
    ([(NAME, keep, keep)], r"\[0\] is the tuple .* not a pair"),
    ([(keep, NAME)], r"they are in the wrong order"),
    ([(NAME, "keep")], r"\[0\] is the tuple .* not a pair"),
    ([(NAME, swapped)], r"\[0\]: swapped\(hook.*two arguments.*def swapped\(value, hook\)"),
    ([(NAME, longer)], r"\[0\]: longer\(value.*two arguments"),
    ([(NAME, lambda: None)], r"two arguments.*def function\(value, hook\)"),
    ([("blocks.9.hook_resid_post", keep)], "No hook 'blocks.9.hook_resid_post'"),
    ([("resid_pots", keep)], "Nearest: .*resid_post"),
    ([(lambda name: False, keep)], "chooses none"),
    ([([], keep)], r"\[\] names no hooks"),
    ([((NAME, 3), keep)], "names no hooks: write a name"),
    ([(3, keep)], "3 names no hooks"),
    ([(None, keep)], "None names no hooks"),
    ([({NAME: 1}, keep)], "names no hooks"),
]


@pytest.mark.fault("C4")
@pytest.mark.parametrize(("hooks", "said"), WRONG, ids=map(str, range(len(WRONG))))
def test_what_is_no_list_of_hooks_is_refused(hooks: Any, said: str) -> None:
    vlm, prompts = of(llama), prompts_for("none")[:1]
    with pytest.raises(xmi.HookError, match=said):
        vlm.run_with_hooks(prompts, fwd_hooks=hooks)
    with pytest.raises(xmi.HookError, match=said), vlm.hooks(hooks):
        pass
    with pytest.raises(xmi.HookError, match=said):
        vlm.run_with_hooks(prompts, bwd_hooks=hooks)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in vlm.model.modules())


@pytest.mark.fault("C4")
@settings(max_examples=times(40))
@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5) | st.just(keep) | st.just(NAME) | st.floats(),
        lambda part: st.lists(part, max_size=3) | st.tuples(part, part) | st.dictionaries(st.text(max_size=3), part),
        max_leaves=6,
    )
)
def test_anything_is_hooks_or_a_hook_error(hooks: Any) -> None:
    vlm = of(llama)
    try:
        with vlm.hooks(hooks):
            pass
    except xmi.HookError:
        pass
    else:
        assert all(names == NAME or names == [NAME] or set(names) == {NAME} for names, _ in hooks), hooks


@pytest.mark.fault("C4")
@pytest.mark.parametrize(
    "names", [3, None, [], [3], {"resid_post": 1}, [None, "resid_post"], [["resid_post"]]], ids=repr
)
def test_names_of_activations_alike(names: Any) -> None:
    if names is None:  # means all
        return
    with pytest.raises(xmi.HookError, match="names no hooks"):
        of(llama).run_with_cache(prompts_for("none")[:1], names=names)


class Callable_:
    """An object that is called."""

    def __call__(self, value: torch.Tensor, hook: xmi.Hook) -> torch.Tensor:
        return value * 2


def by_name(value: torch.Tensor, *, hook: xmi.Hook) -> torch.Tensor:
    assert hook.name == NAME
    return value * 2


def with_factor(value: torch.Tensor, hook: xmi.Hook, factor: float) -> torch.Tensor:
    return value * factor


def test_functions_of_every_kind_are_called() -> None:
    vlm, prompts = of(llama), prompts_for("none")
    expected = vlm.run_with_hooks(prompts, fwd_hooks=[(NAME, lambda value, hook: value * 2)])
    functions: list[Any] = [Callable_(), by_name, functools.partial(with_factor, factor=2.0), lambda *both: both[0] * 2]
    for function in functions:
        assert torch.equal(vlm.run_with_hooks(prompts, fwd_hooks=[(NAME, function)]), expected)
        assert torch.equal(vlm.run_with_hooks(prompts, fwd_hooks=[[{NAME}, function]]), expected)  # type: ignore[list-item]
        assert torch.equal(vlm.run_with_hooks(prompts, fwd_hooks=iter([(NAME, function)])), expected)  # type: ignore[arg-type]
    assert torch.equal(vlm.run_with_hooks(prompts), vlm.run_with_cache(prompts, names="embed")[0])


def parts(vlm: VLM) -> dict[str, torch.nn.Parameter]:
    return {n: p for n, p in vlm.model.named_parameters() if p.requires_grad and "vision" not in n}


def oracle(vlm: VLM, prompts: Any, steer: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Logits of plain Hugging Face with a vector added after block 1, its gradient, and the parameters' ones."""
    inputs, states = vlm.encode(prompts).inputs, []

    def add(_module: Any, _args: Any, output: Any) -> Any:
        state = (output[0] if isinstance(output, tuple) else output) + steer
        state.retain_grad()
        states.append(state)
        return (state, *output[1:]) if isinstance(output, tuple) else state

    handle = vlm.model.get_submodule(f"{vlm.backbone.layers}.1").register_forward_hook(add)
    logits = vlm.model(**inputs, use_cache=False).logits
    handle.remove()
    logits[:, -1].log_softmax(-1)[:, 5].sum().backward()
    found = {n: p.grad.clone() for n, p in parts(vlm).items() if p.grad is not None}
    vlm.model.zero_grad()
    return logits, states[0].grad, found


@pytest.mark.fault("B7")
@pytest.mark.parametrize("make", [llama, gpt2, llava])
def test_gradients_are_those_of_plain_autograd(make: Any) -> None:
    vlm, prompts = of(make), prompts_for("many" if make is llava else "none")
    steer = torch.randn(vlm.backbone.d_model, generator=torch.Generator().manual_seed(0)).requires_grad_()
    logits, state, weights = oracle(vlm, prompts, steer)
    expected, steer.grad = steer.grad.clone(), None
    found = vlm.run_with_hooks(prompts, fwd_hooks=[(NAME, lambda value, hook: value + steer)], grad=True)
    assert torch.equal(found, logits)
    found[:, -1].log_softmax(-1)[:, 5].sum().backward()
    assert torch.equal(steer.grad, expected)
    assert all(torch.equal(parts(vlm)[n].grad, value) for n, value in weights.items()) and weights
    vlm.model.zero_grad()
    steer.grad = None
    # The gradient with respect to what is cached, and what a hook on gradients is told.
    with vlm.hooks([(NAME, lambda value, hook: value + steer)]):
        again, cache = vlm.run_with_cache(prompts, grad=True)
    loss = again[:, -1].log_softmax(-1)[:, 5].sum()
    assert torch.equal(torch.autograd.grad(loss, cache[NAME])[0], state)
    told: dict[str, torch.Tensor] = {}
    heard = vlm.run_with_hooks(
        prompts,
        fwd_hooks=[(NAME, lambda value, hook: value + steer)],
        bwd_hooks=[(["resid_post", "z"], lambda gradient, hook: told.__setitem__(hook.name, gradient.clone()))],
    )
    heard[:, -1].log_softmax(-1)[:, 5].sum().backward()
    assert torch.equal(told[NAME], state)
    assert list(told) == [f"blocks.{i}.{h}" for i in (3, 2, 1, 0) for h in ("hook_resid_post", "attn.hook_z")]
    vlm.model.zero_grad()


@pytest.mark.fault("B7")
@pytest.mark.parametrize("make", [llama, gpt2])
def test_every_cached_activation_has_its_gradient(make: Any) -> None:
    """Against finite differences of double precision, for every kind of hook, heads and patterns among them."""
    model, tool = build(make)
    vlm = xmi.load(model.double(), processor=tool)
    prompts = prompts_for("none")[:1]

    def loss(logits: torch.Tensor) -> torch.Tensor:
        return logits[:, -1].log_softmax(-1)[:, 5].sum()

    names = [name for name in vlm.hook_names if name.startswith("blocks.1.") or not name.startswith("blocks.")]
    for name in names:
        logits, cache = vlm.run_with_cache(prompts, names=name, grad=True)
        [gradient] = torch.autograd.grad(loss(logits), cache[name])
        push = torch.randn(cache[name].shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

        def pushed(value: torch.Tensor, hook: xmi.Hook, by: torch.Tensor) -> torch.Tensor:
            return value + by

        values = [
            loss(vlm.run_with_hooks(prompts, fwd_hooks=[(name, functools.partial(pushed, by=step * push))]))
            for step in (1e-3, -1e-3)
        ]  # norms compute in single precision
        torch.testing.assert_close((values[0] - values[1]) / 2e-3, (gradient * push).sum(), atol=1e-2, rtol=1e-3)
        told: list[torch.Tensor] = []
        loss(
            vlm.run_with_hooks(prompts, bwd_hooks=[(name, lambda value, hook, told=told: told.append(value))])
        ).backward()
        torch.testing.assert_close(told, [gradient])
    vlm.model.zero_grad()


def test_a_hook_on_gradients_may_replace_them() -> None:
    vlm, prompts = of(llama), prompts_for("none")
    weight = vlm.model.model.layers[0].mlp.down_proj.weight
    logits = vlm.run_with_hooks(prompts, bwd_hooks=[(NAME, lambda gradient, hook: torch.zeros_like(gradient))])
    logits.sum().backward()
    assert weight.grad is not None and not weight.grad.any()
    assert vlm.model.model.layers[2].mlp.down_proj.weight.grad.any()
    vlm.model.zero_grad()
    logits = vlm.run_with_hooks(prompts, bwd_hooks=[(NAME, lambda gradient, hook: gradient[:, :1])])
    with pytest.raises(xmi.HookError, match="return the same shape"):
        logits.sum().backward()
    vlm.model.zero_grad()


@pytest.mark.fault("B7")
def test_without_asking_there_are_none() -> None:
    vlm, prompts = of(llama), prompts_for("none")
    with torch.enable_grad():
        assert not vlm.run_with_hooks(prompts, fwd_hooks=[(NAME, lambda value, hook: value * 2)]).requires_grad
        logits, cache = vlm.run_with_cache(prompts)
    assert not logits.requires_grad and not any(value.requires_grad for value in cache.values())
    with torch.no_grad():
        assert vlm.run_with_hooks(prompts, grad=True).requires_grad
    with torch.inference_mode(), pytest.raises(xmi.HookError, match="inference_mode"):
        vlm.run_with_hooks(prompts, grad=True)
    frozen = xmi.load(copy.deepcopy(vlm.model).requires_grad_(False), processor=vlm.encoder.tokenizer)
    with pytest.raises(xmi.HookError, match="nothing in this forward has a gradient"):
        frozen.run_with_hooks(prompts, grad=True)
    steer = torch.zeros(64, requires_grad=True)
    frozen.run_with_hooks(prompts, fwd_hooks=[(NAME, lambda value, hook: value + steer)], grad=True).sum().backward()
    assert steer.grad is not None and steer.grad.any()


def test_slots_keep_their_graph() -> None:
    vlm, prompts = of(llama), prompts_for("none")
    _, cache = vlm.run_with_cache(prompts, positions="last", names="resid_post", grad=True)
    cache["resid_post", 2].sum().backward()
    layers = vlm.model.model.layers
    assert layers[2].mlp.down_proj.weight.grad.any() and layers[3].mlp.down_proj.weight.grad is None
    vlm.model.zero_grad()


@pytest.mark.fault("B8")
@settings(max_examples=times(40))
@given(layer=st.integers(-12, 12) | st.sampled_from([True, 1.0, "1", np.int64(-2), np.float32(2), None]))
def test_layers_are_counted_as_in_a_list(layer: Any) -> None:
    """Of activations, of the stream's points (one more than layers), and of layers to patch: what a list does."""
    vlm, prompts = of(llama), prompts_for("none")
    if "cache" not in made:
        made["cache"] = vlm.run_with_cache(prompts)[1]  # type: ignore[assignment]
        made["vector"] = vlm.task_vector(prompts)  # type: ignore[assignment]
    cache: Any = made["cache"]
    whole = isinstance(layer, (int, np.integer)) and not isinstance(layer, bool)
    layers, points = range(4), [*(f"{i}_pre" for i in range(4)), "final_post"]
    if whole and -4 <= layer < 4:
        assert cache["resid_post", layer] is cache[f"blocks.{layers[layer]}.hook_resid_post"]
        assert vlm.transfer(made["vector"], to=prompts, layers=[layer]).layers == (layers[layer],)  # type: ignore[arg-type]
    else:
        if layer is not None:
            with pytest.raises(xmi.HookError, match="No layer"):
                cache["resid_post", layer]
        with pytest.raises(xmi.VectorError, match="Cannot patch layers"):
            vlm.transfer(made["vector"], to=prompts, layers=[layer])  # type: ignore[arg-type]
    if layer is None or (whole and -5 <= layer < 5):
        stream, labels = cache.accumulated_resid(layer, return_labels=True)
        end = 5 if layer is None else list(range(5))[layer] + 1
        assert labels == points[:end]
        assert torch.equal(stream[-1], cache["resid_post", 3] if end == 5 else cache["resid_pre", end - 1])
    else:
        with pytest.raises(xmi.HookError, match="Cannot accumulate up to layer"):
            cache.accumulated_resid(layer)


@pytest.mark.fault("B8")
def test_minus_one_is_the_end_as_in_transformerlens() -> None:
    cache = of(llama).run_with_cache(prompts_for("none"))[1]
    assert torch.equal(cache.accumulated_resid(-1), cache.accumulated_resid(4))
    assert torch.equal(cache.accumulated_resid(-1, incl_mid=True), cache.accumulated_resid(incl_mid=True))
    with of(llama).trace(prompts_for("none")):
        last = of(llama).resid_post[-1].save()
    assert torch.equal(last, cache["resid_post", -1])


@pytest.mark.fault("C5")
@pytest.mark.parametrize(
    "act",
    [
        pickle.dumps,
        copy.copy,
        copy.deepcopy,
        lambda vlm: pickle.dumps({"model": [vlm]}),
        lambda vlm: pickle.dumps(vlm.run_with_cache),
        lambda vlm: pickle.dumps(vlm.engine),
        lambda vlm: copy.deepcopy(vlm.engine),
        lambda vlm: multiprocessing.get_context("spawn").Process(target=print, args=(vlm,)).start(),
    ],
)
def test_a_loaded_model_is_neither_pickled_nor_copied(act: Callable[[VLM], Any]) -> None:
    with pytest.raises(xmi.ModelError, match=r"neither pickled nor copied.*xmi\.load in the other process"):
        act(of(llama))


def equal(one: Any, two: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, np.ndarray):
        return np.array_equal(one, two, equal_nan=one.dtype.kind == "f")
    if dataclasses.is_dataclass(one):
        return type(one) is type(two) and all(
            equal(getattr(one, f.name), getattr(two, f.name)) for f in dataclasses.fields(one)
        )
    if isinstance(one, dict):
        return list(one) == list(two) and all(equal(one[k], two[k]) for k in one)
    if isinstance(one, (tuple, list)):
        return len(one) == len(two) and all(map(equal, one, two))
    return bool(one == two)


@pytest.mark.fault("C5")
def test_what_it_takes_and_gives_is_pickled() -> None:
    vlm, prompts = of(llama), prompts_for("none")
    vector = vlm.task_vector(prompts)
    results = [
        prompts, vlm.encode(prompts), vector, vlm.residuals(prompts), vlm.run_with_cache(prompts)[1],
        vlm.generate(prompts, max_new_tokens=2), vlm.answers(prompts), vlm.transfer(vector, to=prompts),
        vlm.phases(prompts), vlm.lens(prompts), vlm.report, xmi.Hook("hook_embed"), vlm.backbone,
        xmi.similarity([vector, vector]),
    ]  # fmt: skip
    for result in results:
        assert equal(pickle.loads(pickle.dumps(result)), result), type(result)
        assert equal(copy.deepcopy(result), result), type(result)
    assert isinstance(pickle.loads(pickle.dumps(results[4])), ActivationCache)
    for error in (xmi.HookError("a"), xmi.ModelError("b"), xmi.PromptError("c"), xmi.RemoteError("d")):
        assert str(pickle.loads(pickle.dumps(error))) == str(error)
