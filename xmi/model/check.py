"""The self-check: does what xmi found in a model really compute the model's logits?

A few tiny text forwards in plain Hugging Face prove, before anything is measured, that
- the final norm and unembedding of the last block's residual give the model's own logits (readout identity),
- writing into any block's residual moves the logits (liveness),
- changing the last token moves no earlier residual (causality), on which the packed layer sweep rests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from xmi.errors import ModelError
from xmi.model.backbone import Backbone, module_at
from xmi.model.readout import readout

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}
"""Largest allowed difference, relative to the largest logit; half precision gets 5e-2."""


@dataclass(frozen=True)
class CheckReport:
    """Outcome of the self-check.

    Attributes:
        readout_error: Largest difference of the readout to the model's logits, relative to the largest logit.
        dead_layers: Blocks whose output can be overwritten without any effect on the logits.
        causal: Whether no earlier residual moved when the last token changed.
        causality_error: By how much the earlier residuals moved at most, relative to their size.
    """

    readout_error: float
    dead_layers: tuple[int, ...]
    causal: bool
    causality_error: float


@torch.no_grad()
def check_model(model: torch.nn.Module, backbone: Backbone, vocabulary: int, avoid: set[int]) -> CheckReport:
    """Runs the self-check.

    Args:
        model: The model, on a real device.
        backbone: What was found.
        vocabulary: Size of the vocabulary to draw probe tokens from.
        avoid: Token ids that must not appear in a text probe (image placeholders and other special tokens).

    Returns:
        The report.

    Raises:
        ModelError: The readout differs from the model's logits, or blocks are dead; it says where and by how much.
    """
    device = next(module_at(model, backbone.embed).parameters()).device
    usable = [i for i in range(vocabulary) if i not in avoid] or list(range(vocabulary))
    generator = torch.Generator().manual_seed(0)
    draw = torch.randint(len(usable), (1, 8), generator=generator)
    ids = torch.tensor([[usable[i] for i in draw[0].tolist()]], device=device)
    clean, residuals = _run(model, backbone, ids)

    read = readout(model, backbone, residuals[-1])
    error = float((read - clean).abs().max() / clean.abs().max().clamp(min=1e-6))
    bound = TOLERANCE.get(residuals[-1].dtype, 5e-2)
    if not error <= bound:  # also catches NaN
        raise ModelError(
            f"{type(model).__name__}: the final norm ({backbone.norm}) and unembedding ({backbone.head}) of the last "
            f"residual differ from the model's logits by {error:.1e} of the largest logit (allowed {bound:.0e}). "
            "A logit lens on it would be wrong, so xmi refuses this model."
        )
    dead = tuple(layer for layer in range(backbone.n_layers) if not _moves(model, backbone, ids, layer, clean))
    if dead:
        raise ModelError(f"{type(model).__name__}: overwriting blocks {list(dead)} does not move the logits.")

    gap = max(_leak(model, backbone, ids, usable, padding) for padding in (0, 3))
    return CheckReport(error, dead, gap <= bound, gap)


def _leak(model: torch.nn.Module, backbone: Backbone, ids: torch.Tensor, usable: list[int], padding: int) -> float:
    """How far earlier residuals move, relative to their size, when the last token changes; with padding or without.

    Both are tried, because some models build no mask at all for an unpadded input.
    """
    other = ids.clone()
    other[0, -1] = next(i for i in usable if i != int(ids[0, -1]))
    pad = ids[:, :1].expand(-1, padding)
    mask = torch.cat([torch.zeros_like(pad), torch.ones_like(ids)], 1)
    before, after = (_run(model, backbone, torch.cat([pad, x], 1), mask=mask)[1] for x in (ids, other))
    size = max(float(state[:, padding:].abs().max()) for state in before)
    moved = max(float((a - b)[:, padding:-1].abs().max()) for a, b in zip(before, after, strict=True))
    return moved / max(size, 1e-6)


def _run(
    model: torch.nn.Module,
    backbone: Backbone,
    ids: torch.Tensor,
    write: tuple[int, torch.Tensor] | None = None,
    mask: torch.Tensor | None = None,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Logits and every block's output of a plain forward, optionally with one block's last token overwritten."""
    kept: list[torch.Tensor] = []

    def hook(layer: int) -> Any:
        def keep(_module: Any, _args: Any, output: Any) -> Any:
            hidden = output[0] if isinstance(output, tuple) else output
            if write is not None and write[0] == layer:
                hidden = hidden.clone()
                hidden[:, -1] = write[1]
                output = (hidden, *output[1:]) if isinstance(output, tuple) else hidden
            kept.append(hidden.clone())
            return output

        return keep

    blocks = list(module_at(model, backbone.layers).children())
    handles = [block.register_forward_hook(hook(i)) for i, block in enumerate(blocks)]
    try:
        seen = torch.ones_like(ids) if mask is None else mask
        logits = model(input_ids=ids, attention_mask=seen, use_cache=False).logits
    finally:
        for handle in handles:
            handle.remove()
    return logits, kept


def _moves(model: torch.nn.Module, backbone: Backbone, ids: torch.Tensor, layer: int, clean: torch.Tensor) -> bool:
    dtype = next(model.parameters()).dtype
    noise = torch.randn(backbone.d_model, generator=torch.Generator().manual_seed(layer)).to(clean.device, dtype)
    logits, _ = _run(model, backbone, ids, (layer, noise))
    return bool((logits[:, -1] - clean[:, -1]).abs().max() > 0)
