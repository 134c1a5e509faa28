"""Nested builtins and tensors, taken apart into a JSON-able shape and a list of tensors, and put together again.

One form serves a job's whole life: its fingerprint hashes it, its payload sends it, its result is stored in it. Nothing
here needs pickle, and what is neither a builtin nor a tensor is refused by name.
"""

from __future__ import annotations

from typing import Any

import torch

from xmi.errors import RemoteError


def split(value: Any, tensors: list[torch.Tensor], where: str) -> Any:
    """Takes a nesting apart.

    Args:
        value: Lists, tuples and dicts of tensors, numbers, strings, booleans and None.
        tensors: Gets every tensor in the order of reading: dense, contiguous, on the CPU, sharing no memory.
        where: How an error names the value.

    Returns:
        The shape: scalars as they are, lists as lists, `{"tensor": place}`, `{"tuple": [...]}`, and
        `{"dict": [[key, value], ...]}`, whose keys keep their order and type.

    Raises:
        RemoteError: Something else is in it.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, torch.Tensor):
        if value.is_meta or value.layout is not torch.strided or value.is_quantized:
            raise RemoteError(f"{where} is a tensor without plain numbers ({value.device}, {value.layout}).")
        tensors.append(value.detach().to("cpu", copy=True).contiguous())
        return {"tensor": len(tensors) - 1}
    if isinstance(value, (list, tuple)):
        parts = [split(part, tensors, f"{where}[{place}]") for place, part in enumerate(value)]
        return {"tuple": parts} if isinstance(value, tuple) else parts
    if isinstance(value, dict) and all(type(key) in (str, int) for key in value):
        return {"dict": [[key, split(part, tensors, f"{where}[{key!r}]")] for key, part in value.items()]}
    raise RemoteError(
        f"{where} is of type {type(value).__name__}, which cannot travel. Use tensors, numbers, strings, and lists, "
        "tuples and dicts of them (with strings or integers as keys)."
    )


def join(shape: Any, tensors: list[torch.Tensor]) -> Any:
    """Puts together what `split` took apart; runs here and on the host."""
    if isinstance(shape, list):
        return [join(part, tensors) for part in shape]
    if not isinstance(shape, dict):
        return shape
    ((kind, content),) = shape.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "tuple":
        return tuple(join(part, tensors) for part in content)
    return {key: join(part, tensors) for key, part in content}


def raw(tensor: torch.Tensor) -> bytes:
    """The bytes of a dense tensor on the CPU."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
