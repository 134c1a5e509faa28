"""Several computations that share requests: each runs until it needs the host, then all that is needed goes at once.

Functions that compute are written as if every call were answered at once. Where calls are requests to a host, each
function runs in a coroutine of its own (greenlet) that stands still at its first call; when all stand still, their
calls make one request, and each goes on with its part of the results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextvars import copy_context
from typing import Any, TypeVar

from greenlet import getcurrent, greenlet

from xmi.backend.steps import Steps, finish

T = TypeVar("T")
Call = tuple[Callable[..., Any], tuple[Any, ...]]
"""A kernel and its arguments after the model."""
Run = Callable[[Sequence[Call]], Steps[list[Any]]]
"""Runs calls in one request; gives what each gave. Equal ones share requests."""


class Coroutine(greenlet):  # type: ignore[misc]
    """A function that stands still at each request, and goes on with what it brought; one of several.

    It is switched to, and gives `(run, calls)`, or what the function returns when it is dead.
    """

    def __init__(self, function: Callable[[], Any]) -> None:
        """The function sees the context variables of now, and changes its own."""
        super().__init__(function)
        self.gr_context = copy_context()


def request(run: Run, calls: Sequence[Call]) -> list[Any]:
    """Runs calls in a request, which is shared if this function is one of several that run `together`."""
    me = getcurrent()
    if not isinstance(me, Coroutine):
        return finish(run(calls))
    found: list[Any] = me.parent.switch((run, calls))
    return found


def together(functions: Iterable[Callable[[], T]], *, apart: bool = False) -> list[T]:
    """Runs functions that do not need one another's results, sharing requests.

    Args:
        functions: What to run.
        apart: Share requests among themselves only, at once, even if this is one of several that run together: an
            error is theirs alone then.

    Returns:
        What they return. The calls of a round go out in the order of the functions, one request per host and model.

    Raises:
        Exception: What any of them raises; the others are given up.
    """
    coroutines = [Coroutine(function) for function in functions]
    results: list[Any] = [None] * len(coroutines)
    waiting: dict[int, tuple[Run, Sequence[Call]]] = {}

    def go_on(number: int, *answer: Any) -> None:
        given = coroutines[number].switch(*answer)
        if coroutines[number].dead:
            results[number] = given
        else:
            waiting[number] = given

    for number in range(len(coroutines)):
        go_on(number)
    while waiting:
        round_, waiting = dict(waiting), {}
        answers: dict[int, list[Any]] = {}
        for run in dict.fromkeys(run for run, _ in round_.values()):
            mine = [number for number, (other, _) in round_.items() if other == run]
            calls = [call for number in mine for call in round_[number][1]]
            found = iter(finish(run(calls)) if apart else request(run, calls))
            answers |= {number: [next(found) for _ in round_[number][1]] for number in mine}
        for number in round_:
            go_on(number, answers[number])
    return results
