"""Who calls: a user, whose arguments are checked and whose line a warning names, or xmi itself."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])
LIBRARIES = {"functools", "dataclasses", "copy", "contextlib"}
"""Modules that call on behalf of another."""
_FORWARDING: set[types.CodeType] = set()
"""Functions of xmi that do."""
_CALLS = f"{__package__}.calls"
"""The module whose functions stand between a call and what is called."""


def forwarding(function: F) -> F:
    """Marks a function of xmi that hands its arguments on: they are checked where they arrive."""
    _FORWARDING.add(getattr(function, "__code__"))  # noqa: B009 (a callable need not have one)
    return function


def caller() -> Any:
    """The frame that called the function which asks; None where a greenlet of xmi begins with that function."""
    try:
        return sys._getframe(2)
    except ValueError:
        return None


def from_outside(frame: Any) -> bool:
    """Whether a frame is of code that is not xmi's, nor of a library that calls on behalf of xmi."""
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if name not in LIBRARIES and name != _CALLS and frame.f_code not in _FORWARDING:
            return not _is_inner(name)
        frame = frame.f_back
    return False  # only xmi begins greenlets with its own functions; threads begin with one of threading


def _is_inner(module: str) -> bool:
    return module in LIBRARIES or module == "xmi" or module.startswith("xmi.")


def outside() -> int:
    """The `stacklevel` of a warning that shall name the line of the user's call, for the function that warns."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and _is_inner(frame.f_globals.get("__name__", "")):
        level, frame = level + 1, frame.f_back
    return level
