"""Values and annotations in words, for errors."""

from __future__ import annotations

import collections.abc
import reprlib
import types
import typing
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from xmi.arguments.annotations import MAPPINGS, SEQUENCES, SEVERAL, ArrayLike

_WORDS: dict[Any, str] = {
    ArrayLike: "an array",
    int: "an integer",
    float: "a number",
    bool: "True or False",
    str: "a string",
}


def wanted(kind: Any) -> str:
    """An annotation in words."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return wanted(inner[0])
    if origin in (Union, types.UnionType):
        words = list(dict.fromkeys(wanted(part) for part in inner))
        return " or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]
    if kind is None or kind is type(None):
        return "None"
    if origin is Literal:
        return "one of " + ", ".join(repr(word) for word in inner)
    if kind in _WORDS:
        return _WORDS[kind]
    base = origin or kind
    if base in (collections.abc.Callable, typing.Callable):
        return "a function"
    if base is tuple and inner and inner[-1] is not Ellipsis:
        return f"{len(inner)} of ({', '.join(wanted(part) for part in inner)})"
    if base in MAPPINGS:
        return f"a mapping to ({wanted(inner[1])})" if inner else "a mapping"
    if base in (*SEQUENCES, *SEVERAL):
        return f"a sequence of ({wanted(inner[0])})" if inner else "a sequence"
    if kind is Any or isinstance(kind, (str, TypeVar)):
        return "anything"
    return getattr(kind, "__name__", str(kind))


def told(value: Any) -> str:
    """A value as an error shows it."""
    kind = type(value).__name__
    shape = getattr(value, "shape", None)
    if shape is not None and not isinstance(value, type):
        return f"{kind} of shape {list(shape) if isinstance(shape, tuple) else shape}"
    if value is None or isinstance(value, (bool, int, float)):
        return reprlib.repr(value)
    try:
        shown = reprlib.repr(value)
    except Exception:  # its own fault
        shown = "..."
    return f"{shown} ({kind})"
