"""Which function draws which result: a function of this folder says so itself, with `draws`."""

from __future__ import annotations

from collections.abc import Callable
from functools import singledispatch
from typing import Any, TypeVar

import plotly.graph_objects as go

from xmi.arguments.calls import checked
from xmi.errors import ArgumentError

F = TypeVar("F", bound=Callable[..., go.Figure])


@singledispatch
def figure_of(result: Any, **options: Any) -> go.Figure:
    """Draws any result of `xmi.measure`.

    Args:
        result: A result; a table of a summary or of comparisons (DataFrame); a list or dict of Phases; a dict of
            Answers or of summary tables.
        **options: Options of the function that draws it.

    Returns:
        The plotly figure.

    Raises:
        ArgumentError: Nothing here draws that type.
    """
    raise ArgumentError(f"xmi.plot has no figure for {type(result).__name__}; it draws the results of xmi.measure.")


def draws(*kinds: type) -> Callable[[F], F]:
    """Declares a function as the figure of results: `figure_of` and `result.figure()` then call it.

    Args:
        kinds: Types of its first argument.

    Returns:
        A decorator, which gives the function with its arguments checked as those of all public calls are.
    """

    def declare(function: F) -> F:
        drawn = checked(function)
        for kind in kinds:
            figure_of.register(kind, drawn)
        return drawn

    return declare
