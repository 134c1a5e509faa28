"""What runs on the host around the kernels. It travels by value: the host has no xmi."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from nnsight import save

from xmi.remote.pytree import join


def run_calls(
    model: Any,
    kernels: list[Callable[..., Any]],
    arguments: list[Any],
    tensors: list[Any],
    pools: list[list[torch.Tensor]],
) -> list[Any]:
    """Runs the calls of a job one after another.

    Args:
        model: nnsight model.
        kernels: One function per call.
        arguments: The shape of each call's arguments, as `split` gives it.
        tensors: What the shapes refer to: tensors, or `[pool, rows]` for one that is made of a pool's rows.
        pools: Rows that are sent once however often they occur, as they are or as `[numbers, places]`.

    Returns:
        What each kernel returned.
    """
    rows = [pool[0][pool[1].long()] if len(pool) > 1 else pool[0] for pool in pools]
    whole = [rows[part[0]][part[1]] if isinstance(part, list) else part for part in tensors]
    results = []
    for kernel, shape in zip(kernels, arguments, strict=True):
        results.append(kernel(model, *join(shape, whole)))
    return results


def facts_kernel(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """One forward, and what the host's own process says of the model and its libraries.

    Imports only what NDIF's sandbox lets through.

    Args:
        model: nnsight model.
        inputs: What the model's forward takes, one row.

    Returns:
        Strings by name (`dtype`, `device`, `accelerator`, `attention`, `torch`, `transformers`), and `finite`: whether
        the last token's logits are.
    """
    import transformers

    with torch.no_grad(), model.trace(**inputs):
        finite = save(model.output.logits[:, -1].float().isfinite().all().item())
    weight = next(model._module.parameters())
    return {
        "dtype": str(weight.dtype).removeprefix("torch."),
        "device": str(weight.device),
        "accelerator": torch.cuda.get_device_name(weight.device) if weight.is_cuda else "",
        "attention": str(getattr(model._module.config, "_attn_implementation", "")),
        "torch": str(torch.__version__),
        "transformers": str(transformers.__version__),
        "finite": bool(finite),
    }
