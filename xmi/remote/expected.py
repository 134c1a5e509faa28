"""What a kernel returns, known before it runs: the structure, dtypes, shapes and ranges that results must have.

The sizes also say how many bytes a result can have at most.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from xmi.backend import Call
from xmi.errors import RemoteError
from xmi.kernels import (
    cache_kernel,
    decode_kernel,
    generate_kernel,
    lens_kernel,
    next_token_kernel,
    proof_kernel,
    residual_kernel,
    rows_kernel,
    sight_kernel,
    stream_kernel,
    sweep_kernel,
    trajectory_kernel,
)
from xmi.remote.on_host import facts_kernel

SPARE = 2**20
"""Bytes beyond its numbers that a result may have."""
PER_PART = 2**12
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
Size = int | str | None
"""A number, the name of one (`d_model`, `vocab`: the same wherever it stands in a job), or any."""


@dataclass(frozen=True)
class Numbers:
    """A tensor.

    Attributes:
        shape: Its sizes.
        dtypes: What it may be held in.
        low: Its least number, if any; NaN is left to those who use it.
        high: Its largest, or the name of a size that is larger than all.
    """

    shape: tuple[Size, ...]
    dtypes: tuple[torch.dtype, ...] = FLOATS
    low: float | None = None
    high: float | str | None = None


@dataclass(frozen=True)
class Plain:
    """A builtin that is not a tensor.

    Attributes:
        kinds: Its type.
    """

    kinds: tuple[type, ...] = (int, float)


Expected = Numbers | Plain | tuple[Any, ...] | list[Any] | dict[str, Any] | None
"""What must come; None is anything."""

WHOLE = (torch.float32,)
"""What kernels return in full precision."""


def _ids(*shape: Size) -> Numbers:
    return Numbers(shape, (torch.int64,), 0, "vocab")


def _scored(new: int, *shape: Size) -> tuple[Numbers, Numbers, Numbers, Numbers]:
    """New tokens, log-probability and rank of an answer, and log-probability of each token."""
    nats = Numbers(shape, WHOLE, None, 1e-3)
    return _ids(*shape, new), nats, _ids(*shape), Numbers((*shape, new), WHOLE, None, 1e-3)


def _stream(inputs: Any, paths: Any, rows: Any, columns: Any) -> Expected:
    return Numbers((len(rows), int(paths["n_layers"]) + 1, "d_model"))


def _residual(inputs: Any, paths: Any, columns: Any, keep: int, ends: Sequence[int]) -> Expected:
    one = (columns.shape[1], int(paths["n_layers"]), "d_model")
    return Numbers((min(keep, len(columns)), *one), WHOLE), Numbers((len(ends), *one), WHOLE)


def _lens(
    inputs: Any, paths: Any, columns: Any, sets: Any, scale: Any, softcap: Any, k: int,
    weight: Any = None, bias: Any = None, answers: Any = None, new: int = 1, cached: bool = False,
) -> Expected:  # fmt: skip
    one = len(columns), int(paths["n_layers"]) + 1
    mass, top = (Numbers((*one, count), WHOLE, -1e-3, 1 + 1e-3) for count in (len(sets[0]), k))
    said = () if answers is None else _next_token(inputs, paths, answers, new)
    return (mass, _ids(*one, len(sets[0])), _ids(*one, k), top), said


def _decode(
    inputs: Any, paths: Any, states: Any, depths: Any, scale: Any, softcap: Any, k: int, *lens: Any
) -> Expected:
    return _ids(len(states), k), Numbers((len(states), k), WHOLE, -1e-3, 1 + 1e-3)


def _trajectory(inputs: Any, paths: Any, columns: Any, *rest: Any) -> Expected:
    one = Numbers((len(columns), int(paths["n_layers"]) + 1), WHOLE, -1e-3)
    return one, one, one


def _next_token(inputs: Any, paths: Any, answers: Any, new: int = 1, cached: bool = False) -> Expected:
    return _scored(new, len(answers))


def _sweep(inputs: Any, paths: Any, vectors: Any, layers: Any, slots: Any, answers: Any, *rest: Any) -> Expected:
    return _scored(rest[2], len(slots), 1 + vectors.shape[0] * vectors.shape[1])


def _rows(inputs: Any, paths: Any, vectors: Any, layers: Any, entries: Any, *rest: Any) -> Expected:
    return _scored(rest[-1], len(entries))


def _cache(inputs: Any, places: Any, columns: Any) -> Expected:
    rows, length = inputs["input_ids"].shape
    positions = length if columns is None else columns.shape[1]
    return Numbers((rows, positions, "vocab")), [Numbers((rows, positions, "d_model"))] * len(places)


def _generate(inputs: Any, options: Any) -> Expected:
    return Numbers((None, None), (torch.int64,), 0, "vocab")


def _proof(*arguments: Any) -> Expected:
    return dict.fromkeys(("readout", "causality", "dead", "positions"), Plain())


def _facts(*arguments: Any) -> Expected:
    texts = ("dtype", "device", "accelerator", "attention", "torch", "transformers")
    return {**dict.fromkeys(texts, Plain((str,))), "finite": Plain((bool,))}


_EXPECTED: dict[Callable[..., Any], Callable[..., Expected]] = {
    stream_kernel: _stream,
    residual_kernel: _residual,
    lens_kernel: _lens,
    decode_kernel: _decode,
    trajectory_kernel: _trajectory,
    next_token_kernel: _next_token,
    sweep_kernel: _sweep,
    rows_kernel: _rows,
    cache_kernel: _cache,
    generate_kernel: _generate,
    proof_kernel: _proof,
    sight_kernel: lambda *arguments: Plain(),
    facts_kernel: _facts,
}


def expected(calls: Sequence[Call]) -> list[Expected]:
    """What each call must return; None where that is not known beforehand."""
    return [None if kernel not in _EXPECTED else _EXPECTED[kernel](*given) for kernel, given in calls]


def sizes(envoy: Any) -> dict[str, int]:
    """The sizes of a model, as far as it tells them without its weights: `vocab` and `d_model`."""
    model = envoy._module
    head = getattr(model, "get_output_embeddings", lambda: None)()
    shape: Sequence[int] = getattr(getattr(head, "weight", None), "shape", ())
    width = getattr(model.config.get_text_config(), "hidden_size", None)
    found = {"vocab": shape[0] if len(shape) == 2 else None, "d_model": width}
    return {name: int(size) for name, size in found.items() if isinstance(size, int)}


def largest(wanted: Expected, sizes: Mapping[str, int]) -> int | None:
    """Bytes that a result has at most, or None if that is not known."""
    match wanted:
        case Numbers():
            named = [sizes.get(size) if isinstance(size, str) else size for size in wanted.shape]
            if None in named:
                return None
            return math.prod(named) * max(dtype.itemsize for dtype in wanted.dtypes) + PER_PART  # type: ignore[arg-type]
        case Plain():
            return PER_PART
        case None:
            return None
    parts = [largest(part, sizes) for part in (wanted.values() if isinstance(wanted, dict) else wanted)]
    return None if None in parts else sum(part for part in parts if part is not None) + PER_PART


def check(found: Any, wanted: Expected, known: dict[str, int], where: str) -> None:
    """Compares a result with what was asked for.

    Args:
        found: What came.
        wanted: What must come.
        known: Sizes by name; those that are met for the first time are added.
        where: What an error names.

    Raises:
        RemoteError: It differs; the message says where.
    """
    match wanted:
        case None:
            return
        case Plain():
            if type(found) not in wanted.kinds:
                raise _other(where, _told(found), f"a {wanted.kinds[-1].__name__}")
        case Numbers():
            _check_tensor(found, wanted, known, where)
        case dict():
            if type(found) is not dict or set(found) != set(wanted):
                raise _other(where, _told(found), f"a dict of {', '.join(wanted)}")
            for name, part in wanted.items():
                check(found[name], part, known, f"{where}[{name!r}]")
        case _:
            if type(found) is not type(wanted) or len(found) != len(wanted):
                raise _other(where, _told(found), f"a {type(wanted).__name__} of {len(wanted)}")
            for place, part in enumerate(wanted):
                check(found[place], part, known, f"{where}[{place}]")


def _check_tensor(found: Any, wanted: Numbers, known: dict[str, int], where: str) -> None:
    if not isinstance(found, torch.Tensor) or found.dtype not in wanted.dtypes or found.dim() != len(wanted.shape):
        raise _other(where, _told(found), _described(wanted, known))
    for have, size in zip(found.shape, wanted.shape, strict=True):
        want = known.setdefault(size, have) if isinstance(size, str) else size
        if want is not None and want != have:
            raise _other(where, _told(found), _described(wanted, known))
    high = known.get(wanted.high, math.inf) - 1 if isinstance(wanted.high, str) else wanted.high
    if found.numel() and (
        (wanted.low is not None and bool((found < wanted.low).any()))
        or (high is not None and bool((found > high).any()))
    ):
        raise _other(where, "a tensor with numbers that cannot be", _described(wanted, known))


def _described(wanted: Numbers, known: Mapping[str, int]) -> str:
    shape = ", ".join(str(known.get(size, size) if isinstance(size, str) else size or "any") for size in wanted.shape)
    kind = "a tensor of floats" if wanted.dtypes == FLOATS else str(wanted.dtypes[0]).removeprefix("torch.")
    return f"{kind} of shape [{shape}]"


def _told(found: Any) -> str:
    if isinstance(found, torch.Tensor):
        return f"{str(found.dtype).removeprefix('torch.')} of shape {list(found.shape)}"
    return f"a {type(found).__name__}" + (f" of {len(found)}" if isinstance(found, (list, tuple, dict)) else "")


def _other(where: str, found: str, wanted: str) -> RemoteError:
    return RemoteError(f"The host's result is not what was asked for: {where} is {found}, instead of {wanted}.")
