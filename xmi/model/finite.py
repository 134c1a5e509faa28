"""NaN and infinite values are called what they are, where they begin: in a weight, or in a block's residual."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from xmi.errors import ModelError

ADVICE = (
    "Load the model with dtype='float32' (or bfloat16 in place of float16); if that does not help, its weights are "
    "damaged."
)


def require_finite(model: torch.nn.Module) -> None:
    """Refuses weights that are not numbers.

    Args:
        model: The model, with weights.

    Raises:
        ModelError: A parameter holds NaN or infinite values, or a buffer NaN (masks may be infinite).
    """
    bad = [name for name, value in model.named_parameters() if not _is_finite(value)]
    bad += [name for name, value in model.named_buffers() if value.is_floating_point() and bool(value.isnan().any())]
    if not bad:
        return
    first = {**dict(model.named_parameters()), **dict(model.named_buffers())}[bad[0]]
    lost = int((~torch.isfinite(first)).sum())
    more = f", and so do {len(bad) - 1} more of its weights" if len(bad) > 1 else ""
    raise ModelError(
        f"{type(model).__name__}: {bad[0]} holds NaN or infinite values ({lost} of {first.numel()}, "
        f"{_short(first.dtype)}){more}. The files are damaged, the training diverged, or the values do not fit into "
        "this precision: load it with dtype='float32', or get the weights again."
    )


def overflow(residuals: Mapping[int, torch.Tensor], real: torch.Tensor | None = None) -> str:
    """Says in which block the residual stream stops being finite.

    Args:
        residuals: What each block returned, by its number, in the order of execution.
        real: Which tokens are not padding [batch, position]; by default all.

    Returns:
        A sentence and what to do, or nothing if all is finite.
    """
    largest = 0.0
    for layer, state in residuals.items():
        seen = state[real.to(state.device)] if real is not None and state.shape[:2] == real.shape else state
        if not bool(torch.isfinite(seen).all()):
            return (
                f"the residual stream is NaN or infinite from block {layer} on (blocks.{layer}.hook_resid_post; before "
                f"it the largest value is {largest:.3g}, and {_short(state.dtype)} ends at "
                f"{torch.finfo(state.dtype).max:.3g}). {ADVICE}"
            )
        largest = max(largest, float(seen.abs().max()))
    return ""


def holds_nan(found: Any) -> bool:
    """Whether a tensor in nested tuples, lists and mappings holds NaN."""
    if isinstance(found, torch.Tensor):
        return found.is_floating_point() and bool(torch.isnan(found).any())
    parts = found.values() if isinstance(found, Mapping) else found if isinstance(found, (tuple, list)) else ()
    return any(holds_nan(part) for part in parts)


def _is_finite(value: torch.Tensor) -> bool:
    if not value.is_floating_point() or value.is_meta or not value.numel():
        return True
    try:
        ends = torch.aminmax(value.detach())  # one pass, no copy
    except (RuntimeError, NotImplementedError):  # a quantised kind that has no order
        return True
    return bool(torch.isfinite(ends.min)) and bool(torch.isfinite(ends.max))


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
