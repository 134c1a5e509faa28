"""Values in the form that an annotation asks for, or refused.

Plain differences of form are taken: numpy's numbers, a list for a tuple, a generator or an array for a sequence. A text
is not a sequence of texts, True is not 1, and NaN is not a number.
"""

from __future__ import annotations

import collections.abc
import numbers
import sys
import types
import typing
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from xmi.arguments.annotations import MAPPINGS, SEQUENCES, SEVERAL, ArrayLike
from xmi.arguments.words import told


class Misfit(Exception):
    """A value that an annotation does not allow."""


def fit(value: Any, kind: Any) -> Any:
    """A value in the form that an annotation asks for.

    Raises:
        Misfit: It has none; the text says more where a part of it is wrong.
    """
    if kind is Any or kind is object or isinstance(kind, (str, TypeVar)):
        return value
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return fit(value, inner[0])
    if origin in (Union, types.UnionType):
        return _fit_one(value, inner)
    if kind is None or kind is type(None):
        return _if(value is None, value)
    if origin is Literal:
        return _if(any(type(value) is type(word) and value == word for word in inner), value)
    if origin is type or kind is type:
        return _if(isinstance(value, type), value)
    if kind is ArrayLike:
        return _fit_array(value)
    if kind in _SCALARS:
        return _SCALARS[kind](value)
    base = origin or kind
    if base in (collections.abc.Callable, typing.Callable):
        return _if(callable(value), value)
    if isinstance(base, type) and base in _CONTAINERS:
        return _CONTAINERS[base](value, base, inner)
    if hasattr(kind, "array_type"):
        return _if(isinstance(value, kind) or _is_whole_array(value, kind), value)
    if isinstance(base, type):
        return _if(_is_a(value, base), value)
    return value


def _is_whole_array(value: Any, kind: Any) -> bool:
    """Whether an array of integers would fit where one of floats is asked for."""
    if not isinstance(value, kind.array_type):
        return False
    name = str(value.dtype)
    if not ("int" in name or "bool" in name or "float" in name):
        return False
    if hasattr(value, "numpy"):
        return isinstance(value.new_zeros((), dtype=sys.modules["torch"].float32).expand(value.shape), kind)
    numpy = sys.modules["numpy"]
    return isinstance(numpy.broadcast_to(numpy.float32(0), value.shape), kind)


def _fit_array(value: Any) -> Any:
    import numpy as np

    try:
        kind = np.asarray(value).dtype.kind
    except Exception:  # its own fault
        raise Misfit from None
    return _if(kind in "biufU" and not isinstance(value, (str, type(None))), value)


def _fit_one(value: Any, kinds: Sequence[Any]) -> Any:
    """The first of several annotations that a value fits."""
    said = ""
    for kind in kinds:
        try:
            return fit(value, kind)
        except Misfit as misfit:
            said = said or str(misfit)
    raise Misfit(said)


def _if(holds: bool, value: Any) -> Any:
    if not holds:
        raise Misfit
    return value


def _is_a(value: Any, kind: type) -> bool:
    if getattr(kind, "_is_protocol", False):
        asked = [name for name in dir(kind) if not name.startswith("_")]
        return not isinstance(value, type) and all(hasattr(value, name) for name in asked)
    with suppress(TypeError):
        return isinstance(value, kind)
    return True


def _whole(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise Misfit
    return int(value)


def _real(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float, numbers.Real)):
        raise Misfit
    return value


def _truth(value: Any) -> Any:
    if not isinstance(value, bool) and type(value).__name__ not in ("bool", "bool_"):
        raise Misfit
    return bool(value)


_SCALARS: dict[Any, Callable[[Any], Any]] = {
    int: _whole,
    float: _real,
    bool: _truth,
    str: lambda value: _if(isinstance(value, str), value),
}


def _fit_sequence(value: Any, base: type, inner: tuple[Any, ...]) -> Any:
    parts = _parts(value)
    if base is tuple and inner and inner[-1] is not Ellipsis:
        if len(parts) != len(inner):
            raise Misfit(f"it has {len(parts)}")
        kinds: Sequence[Any] = inner
    else:
        kinds = [inner[0] if inner else Any] * len(parts)
    fitted = [_fit_part(part, kind, place) for place, (part, kind) in enumerate(zip(parts, kinds, strict=True))]
    if base is tuple:
        return tuple(fitted)
    if isinstance(value, base) and all(a is b for a, b in zip(parts, fitted, strict=True)):
        return value
    return fitted if base is list or not isinstance(value, tuple) else tuple(fitted)


def _parts(value: Any) -> Sequence[Any]:
    """The parts of what is taken for a sequence."""
    if isinstance(value, (str, bytes, bytearray, collections.abc.Mapping, collections.abc.Set)):
        if isinstance(value, collections.abc.KeysView):
            return list(value)
        raise Misfit
    if hasattr(value, "tolist") and getattr(value, "ndim", 0) == 1:  # arrays, tensors, columns of tables
        return list(value.tolist())
    if hasattr(value, "ndim"):
        raise Misfit
    if isinstance(value, (collections.abc.Iterator, collections.abc.ValuesView)):
        return list(value)
    if isinstance(value, collections.abc.Sequence):
        return value
    if not isinstance(value, type) and hasattr(value, "__len__") and hasattr(value, "__getitem__"):
        return [value[place] for place in range(len(value))]
    raise Misfit


def _fit_part(value: Any, kind: Any, place: Any) -> Any:
    try:
        return fit(value, kind)
    except Misfit as misfit:
        inner = f": {misfit}" if str(misfit) else ""
    raise Misfit(f"at {place!r:.40}: {told(value)}{inner}")


def _fit_mapping(value: Any, base: type, inner: tuple[Any, ...]) -> Any:
    if not isinstance(value, collections.abc.Mapping):
        raise Misfit
    if inner:
        for key, part in value.items():
            _fit_part(key, inner[0], key)
            _fit_part(part, inner[1], key)
    return value


def _fit_iterable(value: Any, base: type, inner: tuple[Any, ...]) -> Any:
    """Several of something in any order of kinds; what can be read once only is left to the reader."""
    if isinstance(value, (str, bytes, bytearray, type)) or not isinstance(value, collections.abc.Iterable):
        raise Misfit
    if isinstance(value, collections.abc.Iterator):
        return value
    parts = value if isinstance(value, (collections.abc.Set, collections.abc.Mapping)) else _parts(value)
    for place, part in enumerate(parts if inner else ()):
        _fit_part(part, inner[0], place)
    return value


_CONTAINERS: dict[type, Callable[[Any, type, tuple[Any, ...]], Any]] = {
    **dict.fromkeys(SEQUENCES, _fit_sequence),
    **dict.fromkeys(MAPPINGS, _fit_mapping),
    **dict.fromkeys(SEVERAL, _fit_iterable),
}
