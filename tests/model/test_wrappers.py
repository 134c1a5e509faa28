"""What others put around a model: wrapped projections, compilers, parallel wrappers, pipelines."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf

import xmi
from tests.zoo.models import TEXT, build, gpt2, ids, llama, tokenizer
from tests.zoo.oracle import prompts_for
from xmi.model.unwrap import unwrap


class Around(torch.nn.Module):
    """A wrapper that no library knows; what it does not have is what it is around has."""

    def __init__(self, held: torch.nn.Module) -> None:
        super().__init__()
        self.held = held

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("held"), name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.held(*args, **kwargs)


class Scaled(Around):
    """Scales what goes in, as IA3 does."""

    def __init__(self, held: torch.nn.Module, width: int) -> None:
        super().__init__(held)
        self.scale = torch.nn.Parameter(torch.linspace(0.5, 1.5, width))

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        return self.held(state * self.scale)


class Bottleneck(Around):
    """Adds to what comes out, through a few dimensions and an activation function."""

    def __init__(self, held: torch.nn.Module, width: int) -> None:
        super().__init__(held)
        self.down, self.act, self.up = torch.nn.Linear(width, 8), torch.nn.SiLU(), torch.nn.Linear(8, width)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        found = self.held(*args, **kwargs)
        state = found[0] if isinstance(found, tuple) else found
        state = state + self.up(self.act(self.down(state)))
        return (state, *found[1:]) if isinstance(found, tuple) else state


def replaced(paths: dict[str, Callable[[torch.nn.Module], torch.nn.Module]]) -> tuple[torch.nn.Module, Any]:
    """A Llama with wrapped parts, by their path within a block."""
    torch.manual_seed(1)
    model, tool = build(llama)
    for block in range(4):
        for path, wrapper in paths.items():
            owner, _, name = f"model.layers.{block}.{path}".rpartition(".")
            module = model.get_submodule(owner)
            setattr(module, name, wrapper(getattr(module, name)))
    return model.eval(), tool


PROJECTIONS = [f"self_attn.{x}_proj" for x in "qkvo"] + [f"mlp.{x}_proj" for x in ("gate", "up", "down")]
WIDTHS = dict.fromkeys(PROJECTIONS, 64) | {"mlp.down_proj": 96}
OUT = dict.fromkeys(PROJECTIONS, 64) | {"mlp.gate_proj": 96, "mlp.up_proj": 96}
OUT |= {"self_attn.k_proj": 32, "self_attn.v_proj": 32}
WRAPPED: dict[str, dict[str, Any]] = {
    "nothing": {},
    "projections, twice": {p: lambda m: Around(Around(m)) for p in PROJECTIONS},
    "projections, scaled": {p: lambda m, w=WIDTHS[p]: Scaled(m, w) for p in PROJECTIONS},
    "projections, with bottlenecks": {p: lambda m, w=OUT[p]: Bottleneck(m, w) for p in PROJECTIONS},
    "attention and MLP": {"self_attn": Around, "mlp": Around},
    "attention and MLP, with bottlenecks": {
        "self_attn": lambda m: Bottleneck(m, 64), "mlp": lambda m: Bottleneck(m, 64),
    },
    "norms": {"input_layernorm": Around, "post_attention_layernorm": Around},
}  # fmt: skip


@pytest.mark.parametrize("kind", [pytest.param(k, marks=pytest.mark.fault("B1") if "," in k else ()) for k in WRAPPED])
def test_wrapped_parts_keep_all_hooks(kind: str) -> None:
    """Each at the outermost module with the wanted input and output, which plain forward hooks see."""
    model, tool = replaced(WRAPPED[kind])
    vlm = xmi.load(model, processor=tool)
    assert vlm.hook_names == xmi.load(*build(llama)[:1], processor=tool).hook_names
    seen: dict[str, torch.Tensor] = {}

    def keep(name: str, side: str) -> Any:
        def hook(_module: Any, args: Any, kwargs: Any, output: Any) -> None:
            value = (args[0] if args else next(iter(kwargs.values()))) if side == "in" else output
            seen[name] = (value[0] if isinstance(value, tuple) else value).clone()

        return hook

    places = {
        "attn.hook_q": ("self_attn.q_proj", "out"), "attn.hook_k": ("self_attn.k_proj", "out"),
        "attn.hook_v": ("self_attn.v_proj", "out"), "attn.hook_z": ("self_attn.o_proj", "in"),
        "hook_attn_out": ("self_attn", "out"), "hook_mlp_out": ("mlp", "out"),
        "mlp.hook_pre": ("mlp.act_fn", "in"), "mlp.hook_post": ("mlp.down_proj", "in"),
    }  # fmt: skip
    block = model.model.layers[2]
    handles = []
    for name, (path, side) in places.items():
        module: Any = block
        for part in path.split("."):
            module = getattr(module, part)
        handles.append(module.register_forward_hook(keep(name, side), with_kwargs=True))
    batch = vlm.encode(prompts_for("none")[1:2])
    with torch.no_grad():
        model(**batch.inputs)
    for handle in handles:
        handle.remove()
    _, cache = vlm.run_with_cache(batch)
    for name, value in seen.items():
        assert torch.equal(cache[f"blocks.2.{name}"].flatten(2), value), name


@pytest.mark.parametrize("wrapper", [Around, lambda m: Bottleneck(m, 64)])
def test_a_wrapped_block_keeps_its_parts(wrapper: Any) -> None:
    model, tool = build(llama)
    for number in range(4):
        model.model.layers[number] = wrapper(model.model.layers[number]).eval()
    report = xmi.load(model, processor=tool).report
    assert list(report.anatomy.points) == list(xmi.load(build(llama)[0], processor=tool).report.anatomy.points)
    said = " ".join(report.anatomy.deviations)
    assert ("changes the residual stream after hook_mlp_out" in said) == (wrapper is not Around)


def compiled_parts(model: Any) -> Any:
    for number, block in enumerate(model.model.layers):
        if number % 2:
            model.model.layers[number] = torch.compile(block, backend="eager")
        else:
            block.mlp.compile(backend="eager")
    model.lm_head = torch.compile(model.lm_head, backend="eager")
    return model


def compiled_forward(model: Any) -> Any:
    model.forward = torch.compile(model.forward, backend="eager")
    return model


def compiled_in_place(model: Any) -> Any:
    model.compile(backend="eager")
    return model


COMPILED: dict[str, Callable[[Any], Any]] = {
    "whole": lambda m: torch.compile(m, backend="eager"),
    "twice": lambda m: torch.compile(torch.nn.DataParallel(torch.compile(m, backend="eager")), backend="eager"),
    "in place": compiled_in_place,
    "parts": compiled_parts,
    "its forward": compiled_forward,
}


def same_as_plain(wrapped: Any, tool: Any) -> None:
    plain = xmi.load(build(llama)[0], processor=tool)
    vlm = xmi.load(wrapped, processor=tool)
    prompts = prompts_for("none")
    assert vlm.hook_names == plain.hook_names
    assert vlm.revision == plain.revision
    hook = [("blocks.1.hook_resid_post", lambda state, hook: state * 0)]
    for one, two in (
        (vlm.residuals(prompts).values, plain.residuals(prompts).values),
        (vlm.run_with_hooks(prompts, fwd_hooks=hook), plain.run_with_hooks(prompts, fwd_hooks=hook)),
    ):
        assert torch.equal(one, two)


@pytest.mark.parametrize("ran", [pytest.param(False, marks=pytest.mark.fault("B3")), True])
@pytest.mark.parametrize("kind", ["whole", "in place", "parts"])
def test_compiled_models_are_unwrapped(kind: str, ran: bool) -> None:
    model, tool = build(llama)
    wrapped = COMPILED[kind](copy.deepcopy(model))
    if ran:  # what is compiled in it was made without hooks
        wrapped(input_ids=tool("Q:Oslo\nA:", return_tensors="pt")["input_ids"])
    same_as_plain(wrapped, tool)
    names = {type(m).__name__ for m in wrapped.modules()}
    assert kind == "in place" or "OptimizedModule" in names, "what was given stays as it is"


@pytest.mark.parametrize("kind", ["twice", "its forward"])
def test_so_are_those_compiled_in_other_ways(kind: str) -> None:
    model, tool = build(llama)
    same_as_plain(COMPILED[kind](copy.deepcopy(model)), tool)


class DistributedDataParallel(torch.nn.Module):
    """Stands for torch's own, which needs a group of processes."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)


class FullyShardedDataParallel(DistributedDataParallel):
    pass


@pytest.mark.fault("B4")
@pytest.mark.parametrize("wrapper", [torch.nn.DataParallel, DistributedDataParallel])
def test_models_wrapped_for_training_are_unwrapped(wrapper: Any) -> None:
    model, tool = build(llama)
    same_as_plain(torch.compile(wrapper(model), backend="eager"), tool)


@pytest.mark.fault("B4")
def test_what_cannot_be_unwrapped_is_refused_by_name() -> None:
    model, tool = build(llama)
    spread = copy.deepcopy(model)
    spread.lm_head.weight.ds_id = 7
    pipeline = hf.pipeline("text-generation", model=model, tokenizer=tool)
    cases: list[tuple[Any, str]] = [
        (FullyShardedDataParallel(model), "FullyShardedDataParallel spreads its weights"),
        (spread, "LlamaForCausalLM are spread over processes"),
        (torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(2)), "compiled by torch.jit"),
        (torch.nn.Sequential(model), r"Sequential is not a model of transformers.*0 \(LlamaForCausalLM\)"),
        (torch.nn.Linear(2, 2), "Linear is not a model of transformers"),
        (pipeline, r"TextGenerationPipeline.*xmi\.load\(x\.model, processor=x\.processor\)"),
        (xmi.load(model, processor=tool, check=False).engine.envoy, "of nnsight"),
        (model.state_dict(), "OrderedDict|dict"),
        (model.config, "LlamaConfig"),
        (None, "NoneType"),
        (7, "int: 7"),
        (b"organism", "bytes"),
    ]
    for source, said in cases:
        with pytest.raises(xmi.ModelError, match=said):
            xmi.load(source, processor=tool)


def test_a_model_that_was_not_wrapped_is_taken_as_it_is() -> None:
    model, _ = build(gpt2)
    assert unwrap(model) is model


def change_length(model: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    real = model.model.forward

    def forward(input_ids: Any = None, attention_mask: Any = None, **kwargs: Any) -> Any:
        ids = change(input_ids)
        kwargs.pop("position_ids", None)
        return real(input_ids=ids, attention_mask=torch.ones_like(ids), **kwargs)

    model.model.forward = forward


@pytest.mark.fault("A14")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda ids: torch.cat([ids[:, :1]] * 3 + [ids], 1), "lengthens its input: 8 tokens went in, .* 11 positions"),
        (lambda ids: torch.cat([ids, ids[:, :1]], 1), "lengthens its input"),
        (lambda ids: ids[:, 1:], "shortens its input: 8 tokens went in, .* 7 positions"),
        (lambda ids: ids[:, ::2], "shortens"),
    ],
)
def test_a_model_that_changes_its_inputs_length_is_refused(change: Any, said: str) -> None:
    model, tool = build(llama)
    change_length(model, change)
    with pytest.raises(xmi.ModelError, match=said):
        xmi.load(model, processor=tool)


@pytest.mark.fault("A14")
def test_so_is_one_that_drops_tokens_on_the_way() -> None:
    model, tool = build(llama)
    for number in (2, 3):
        real = model.model.layers[number].forward

        def forward(hidden: torch.Tensor, *args: Any, real: Any = real, number: int = number, **kwargs: Any) -> Any:
            if number == 2:
                hidden = hidden[:, 2:]
            cut = {"position_embeddings": tuple(t[:, -hidden.shape[1] :] for t in kwargs.pop("position_embeddings"))}
            return real(hidden, *args, **{**kwargs, **cut, "attention_mask": None})

        model.model.layers[number].forward = forward
    with pytest.raises(xmi.ModelError, match=r"shortens its input: 8 tokens went in, and block 2 has 6"):
        xmi.load(model, processor=tool)


def test_attention_without_a_norm_before_it_is_not_taken_for_a_wrapped_block() -> None:
    """Even where it is most of the block."""
    tok = tokenizer()
    small = {**TEXT, "intermediate_size": 16}
    torch.manual_seed(0)
    vlm = xmi.load(hf.Olmo2ForCausalLM(hf.Olmo2Config(**small, **ids(tok))).eval(), processor=tok)
    points = vlm.report.anatomy.points
    assert points["blocks.1.attn.hook_z"].module == "model.layers.1.self_attn.o_proj"
    assert points["blocks.1.mlp.hook_post"].module == "model.layers.1.mlp.down_proj"
    assert {"blocks.1.hook_resid_mid", "blocks.1.hook_mlp_out", "blocks.1.attn.hook_q"} <= set(points) | {
        "blocks.1.attn.hook_q"
    }
