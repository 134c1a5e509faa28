"""A model in memory without what others put around it: compilers, parallel wrappers, adapters' own classes.

What a wrapper merely calls is taken out of it, exactly as it is; what would not be the same model is refused by name.
"""

from __future__ import annotations

from typing import Any

import torch

from xmi.errors import ModelError

PARALLEL = {"DataParallel", "DistributedDataParallel", "DeepSpeedEngine"}
"""Wrappers that call `module` on pieces of the batch."""


def unwrap(source: torch.nn.Module) -> torch.nn.Module:
    """The Hugging Face model in a module that was given.

    Args:
        source: A model, maybe compiled, wrapped for training in parallel, or with adapters of PEFT. It is left as it
            is: compiled parts are left out of a copy that shares its weights.

    Returns:
        The model that computes the same.

    Raises:
        ModelError: What is around it changes what it computes, or its weights are not all here.
    """
    module = source
    while (inner := _inner(module)) is not None:
        module = inner
    plain = _plain(module, {})
    kind = type(plain).__name__
    if any(_spread(p) for p in plain.parameters()):
        raise ModelError(
            f"The weights of this {kind} are spread over processes (FSDP, tensor parallelism or ZeRO): none has the "
            "whole model. Save it whole and load the folder."
        )
    if not hasattr(getattr(plain, "config", None), "get_text_config"):
        held = next((f"{n} ({type(m).__name__})" for n, m in plain.named_children() if hasattr(m, "config")), None)
        hint = f"Pass what it holds as {held}, if it adds nothing to it." if held else "Pass a model of transformers."
        raise ModelError(f"{kind} is not a model of transformers, so what it computes is not known. {hint}")
    return plain


def _inner(module: torch.nn.Module) -> torch.nn.Module | None:
    """What a wrapper holds, if it is known to add nothing."""
    names = {c.__name__ for c in type(module).__mro__}
    kind = type(module).__name__
    if isinstance(module, torch.jit.ScriptModule):
        raise ModelError(f"{kind} is compiled by torch.jit, which leaves no modules to look into: pass the original.")
    if "FullyShardedDataParallel" in names:
        raise ModelError(
            f"{kind} spreads its weights over processes: none has the whole model. Save it whole (a full state dict) "
            "and load the folder."
        )
    if "OptimizedModule" in names:
        return _held(module, "_orig_mod")
    if names & PARALLEL:
        return _held(module, "module")
    if names & {"PeftModel", "PeftMixedModel"}:
        wrapped: Any = module
        refuse_prompts(wrapped.peft_config, kind)
        return _held(_held(module, "base_model"), "model")
    return _held(module, "model") if "BaseTuner" in names else None


def refuse_prompts(configs: dict[str, Any], kind: str) -> None:
    """Refuses adapters that put tokens of their own before a prompt.

    Raises:
        ModelError: One of them does.
    """
    for config in configs.values():
        if getattr(config, "is_prompt_learning", False):
            raise ModelError(
                f"{kind} learns its prompt ({str(config.peft_type).rpartition('.')[2]}): it puts positions of its own "
                "before every input, so no residual belongs to the token it is read at. xmi refuses it; adapters that "
                "change weights (LoRA, DoRA, IA3, ...) are welcome."
            )


def _held(module: torch.nn.Module, name: str) -> torch.nn.Module:
    held: torch.nn.Module = getattr(module, name)
    return held


def _plain(module: torch.nn.Module, known: dict[int, torch.nn.Module]) -> torch.nn.Module:
    """The module with nothing compiled in it; itself, or a copy that shares all but what was compiled.

    Compiled code need not run hooks, and a compiled part stands between a module's name and the module.
    """
    while type(module).__name__ == "OptimizedModule":
        module = _held(module, "_orig_mod")
    if id(module) in known:
        return known[id(module)]
    own = vars(module)
    parts = {name: part if part is None else _plain(part, known) for name, part in module._modules.items()}
    same = all(part is module._modules[name] for name, part in parts.items())
    original = getattr(own.get("forward"), "_torchdynamo_orig_callable", None)
    if not same or own.get("_compiled_call_impl") is not None or original is not None:
        copy = object.__new__(type(module))
        copy.__dict__.update({k: v.copy() if "_hooks" in k and isinstance(v, dict) else v for k, v in own.items()})
        copy.__dict__.update(_modules=parts, _compiled_call_impl=None)
        if original is not None:
            copy.__dict__.pop("forward")
            if getattr(original, "__func__", None) is not type(module).forward:
                copy.__dict__["forward"] = original
        known[id(module)] = copy
    else:
        known[id(module)] = module
    return known[id(module)]


def _spread(parameter: torch.nn.Parameter) -> bool:
    names = {c.__name__ for c in type(parameter).__mro__} | {type(parameter.data).__name__}
    return bool(names & {"DTensor", "FlatParameter"}) or hasattr(parameter, "ds_id")
