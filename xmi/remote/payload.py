"""A job's bytes: calls of kernels to an nnsight payload.

The kernels travel as source code, because the host cannot import xmi. Images make most of a payload, and the same ones
stand in many prompts and many calls, so equal rows of image-like tensors are sent once.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from nnsight import register, save
from nnsight.schema.config import CONFIG
from nnsight.schema.request import RequestModel
from nnsight.tracing.backend import Backend

from xmi.backend import Call
from xmi.backend.portions import Load
from xmi.errors import RemoteError
from xmi.remote.on_host import run_calls
from xmi.remote.pytree import raw, split

TRAVELLING = ("xmi.kernels", "xmi.remote")
"""Packages whose functions are sent as source code."""

for package in TRAVELLING:
    register(package)


class _Keep(Backend):  # type: ignore[misc]
    """Keeps the payload of a session instead of running it."""

    payload = b""

    def __call__(self, tracer: Any = None) -> None:
        self.payload = RequestModel.serialize(tracer, CONFIG.API.COMPRESS)


def build(envoy: Any, calls: Sequence[Call]) -> bytes:
    """The payload of one session that runs calls in order and saves what they return.

    Args:
        envoy: nnsight model, which may be on the meta device: it is named, not sent.
        calls: Functions of `xmi.kernels`, and their arguments after the model.

    Returns:
        What nnsight's server takes, compressed if nnsight's configuration says so.

    Raises:
        RemoteError: A function or an argument cannot travel.
    """
    kernels, arguments, tensors = [], [], list[torch.Tensor]()
    for kernel, args in calls:
        _check_kernel(kernel)
        kernels.append(kernel)
        arguments.append(split(list(args), tensors, kernel.__name__))
    sent, rows = pool_rows(tensors)
    pools = [coded(pool) for pool in rows]
    keep = _Keep()
    with envoy.session(backend=keep):
        results = save(run_calls(envoy, kernels, arguments, sent, pools))  # noqa: F841 (the host saves it by this name)
    return keep.payload


def _check_kernel(kernel: Any) -> None:
    home = getattr(kernel, "__module__", None) or ""
    name = getattr(kernel, "__qualname__", repr(kernel))
    inside = any(home == package or home.startswith(f"{package}.") for package in TRAVELLING)
    if not inside or getattr(sys.modules.get(home), name, None) is not kernel:
        raise RemoteError(
            f"{home}.{name} cannot be sent to a host: only functions on the top level of the modules of "
            f"{TRAVELLING[0]} can."
        )


def pool_rows(tensors: Sequence[torch.Tensor]) -> tuple[list[Any], list[torch.Tensor]]:
    """Finds equal rows (bit by bit, along the first dimension) of floating tensors with two dimensions or more.

    Rows are pictures, or the patches of which some models are given all in one axis.

    Args:
        tensors: Dense tensors on the CPU.

    Returns:
        For each tensor itself, or `[pool, rows]` if `pools[pool][rows]` is that tensor; and the pools, one per dtype
        and shape of a row, each with distinct rows, shape [row, ...].
    """
    pools: dict[tuple[torch.dtype, torch.Size], dict[bytes, tuple[int, torch.Tensor]]] = {}
    sent: list[Any] = []
    for tensor in tensors:
        if not tensor.is_floating_point() or tensor.dim() < 2 or not tensor.numel():
            sent.append(tensor)
            continue
        kind = (tensor.dtype, tensor.shape[1:])
        rows = pools.setdefault(kind, {})
        places = [rows.setdefault(hashlib.sha256(raw(row)).digest(), (len(rows), row))[0] for row in tensor]
        sent.append([list(pools).index(kind), places])
    return sent, [torch.stack([row for _, row in rows.values()]) for rows in pools.values()]


def load_of(call: Call) -> Load:
    """What a call brings: the pictures of its encoded prompts, and other tensors of floats."""
    kernel, (inputs, *others) = call
    return Load(_rows(inputs, kernel, picture=True), _rows(others, kernel, picture=False))


def _rows(value: Any, kernel: Any, *, picture: bool) -> dict[Hashable, int]:
    """Bytes of the distinct rows of tensors of floats; a picture's numbers are bytes."""
    tensors, found = list[torch.Tensor](), dict[Hashable, int]()
    split(value, tensors, kernel.__name__)
    for tensor in tensors:
        if tensor.is_floating_point() and tensor.numel():
            for row in tensor if tensor.dim() > 1 else [tensor]:
                size = row.numel() * (1 if picture else row.element_size())
                found[tensor.dtype, row.shape, hashlib.sha256(raw(row)).digest()] = size
    return found


def coded(pool: torch.Tensor) -> list[torch.Tensor]:
    """A tensor in fewer bytes, bit for bit: its distinct numbers and which of them is where, or itself.

    Pixels were bytes once, so a float of four bytes is one of a few hundred.
    """
    bits = pool.view({1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[pool.element_size()])
    numbers, places = torch.unique(bits, return_inverse=True)
    if len(numbers) > 2**15:
        return [pool]
    return [numbers.view(pool.dtype), places.to(torch.uint8 if len(numbers) <= 2**8 else torch.int16)]
