"""The language backbone, found without a table of models.

One rule for every family: the decoder is what `get_decoder()` returns, its blocks are the list of
`num_hidden_layers` modules under it, the final norm is the norm beside that list, and the unembedding is
`get_output_embeddings()`. The self-check proves the finding right on the model itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from xmi.errors import ModelError
from xmi.shown import Shown


@dataclass(frozen=True)
class Backbone(Shown):
    """Where the parts of a model's language backbone live, as module paths from the model's root.

    Attributes:
        decoder: The module that owns the blocks and the final norm.
        layers: The list of decoder blocks.
        norm: The final norm.
        embed: The token embedding.
        head: The unembedding.
        n_layers: Number of blocks.
        d_model: Width of the residual stream.
        scale: Factor on the unembedding's output (Cohere's `logit_scale`, the inverse of Granite's `logits_scaling`).
        softcap: Soft-capping of the final logits (Gemma 2), or None.
        keeps_logits: Whether the model's forward takes `logits_to_keep`.
    """

    decoder: str
    layers: str
    norm: str
    embed: str
    head: str
    n_layers: int
    d_model: int
    scale: float = 1.0
    softcap: float | None = None
    keeps_logits: bool = True


def find_backbone(model: torch.nn.Module) -> Backbone:
    """Finds the backbone of a Hugging Face causal or image-text-to-text model.

    Args:
        model: The loaded (or meta) model.

    Returns:
        The paths and sizes.

    Raises:
        ModelError: The model has no decoder, or its blocks or final norm cannot be determined.
    """
    kind = type(model).__name__
    config = model.config.get_text_config()  # type: ignore[operator,union-attr]
    if any(getattr(c, "is_encoder_decoder", False) for c in (model.config, config)):
        raise ModelError(f"{kind} is an encoder-decoder: xmi studies autoregressive decoders that read their prompt.")
    names = {id(module): name for name, module in model.named_modules()}
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None  # type: ignore[operator]
    if not isinstance(decoder, torch.nn.Module):
        raise ModelError(f"{kind} has no decoder (get_decoder gives {decoder!r}): xmi studies autoregressive decoders.")
    count = int(config.num_hidden_layers)
    owner, layers = _blocks(decoder, count, kind)
    head = model.get_output_embeddings()  # type: ignore[operator]
    embed = model.get_input_embeddings()  # type: ignore[operator]
    if head is None or embed is None:
        raise ModelError(f"{kind} has no {'unembedding' if head is None else 'token embedding'}: it cannot be decoded.")
    width = int(config.hidden_size)
    # A VLM may ignore what its text configuration says of the logits: what the code on the way to them reads, counts.
    owners = [m for m in model.modules() if m is not head and any(part is head for part in m.modules())]
    code = "".join(_source(type(m).forward) for m in owners)

    def mentioned(option: str) -> bool:
        return getattr(config, option, None) is not None and (option in code or not code)

    return Backbone(
        decoder=names[id(owner)],
        layers=names[id(layers)],
        norm=names[id(_final_norm(owner, width, kind))],
        embed=names[id(embed)],
        head=names[id(head)],
        n_layers=count,
        d_model=width,
        scale=_scale(config, mentioned),
        softcap=config.final_logit_softcapping if mentioned("final_logit_softcapping") else None,
        keeps_logits="logits_to_keep" in inspect.signature(model.forward).parameters,
    )


def module_at(model: torch.nn.Module, path: str) -> torch.nn.Module:
    """Returns the submodule at a path; the empty path is the model itself."""
    return model.get_submodule(path)


def _blocks(decoder: torch.nn.Module, count: int, kind: str) -> tuple[torch.nn.Module, torch.nn.ModuleList]:
    """The shallowest list of `count` modules under the decoder, and the module that owns it."""
    found = [
        (name.count("."), name, child)
        for name, child in decoder.named_modules()
        if isinstance(child, torch.nn.ModuleList) and len(child) == count
    ]
    if not found:
        raise ModelError(f"{kind}: no list of {count} blocks under its decoder {type(decoder).__name__}.")
    depth = min(d for d, _, _ in found)
    shallow = [(name, child) for d, name, child in found if d == depth]
    if len(shallow) > 1:
        names = ", ".join(name for name, _ in shallow)
        raise ModelError(f"{kind}: which of several lists of {count} blocks is meant cannot be determined ({names}).")
    name, layers = shallow[0]
    owner = decoder.get_submodule(name.rpartition(".")[0])
    return owner, layers


def _final_norm(owner: torch.nn.Module, width: int, kind: str) -> torch.nn.Module:
    """The last direct child of the decoder that is a norm over the residual's width, or is wrapped around one."""
    norms = [child for child in owner.children() if _is_norm(child) and _norm_width(child) in (width, None)]
    if not norms:
        children = ", ".join(f"{n} ({type(c).__name__})" for n, c in owner.named_children())
        raise ModelError(f"{kind}: no final norm of width {width} among {children}.")
    return norms[-1]


def _is_norm(module: torch.nn.Module) -> bool:
    named = any("norm" in type(part).__name__.lower() for part in module.modules())
    return named and all(p.dim() <= 1 for p in module.parameters())


def _norm_width(norm: torch.nn.Module) -> int | None:
    weight = getattr(norm, "weight", None)
    return int(weight.shape[-1]) if isinstance(weight, torch.Tensor) and weight.dim() == 1 else None


def _scale(config: Any, mentioned: Callable[[str], bool]) -> float:
    if mentioned("logit_scale"):
        return float(config.logit_scale)
    return 1.0 / float(config.logits_scaling) if mentioned("logits_scaling") else 1.0


def _source(function: Any) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):  # compiled, or typed into a notebook
        return ""
