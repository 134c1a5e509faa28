"""Functions that share requests: nothing is lost, mixed up, or asked twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xmi.backend.gather import Call, request, together
from xmi.backend.steps import Steps


class Server:
    """Answers each call with its argument doubled, and counts requests."""

    def __init__(self) -> None:
        self.requests: list[list[int]] = []

    def run(self, calls: Sequence[Call]) -> Steps[list[Any]]:
        yield 0.0
        self.requests.append([args[0] for _, args in calls])
        return [2 * args[0] for _, args in calls]


def asker(server: Server, rounds: Sequence[Sequence[int]]) -> Callable[[], list[list[int]]]:
    """Asks some numbers in every round, one round after another."""
    return lambda: [request(server.run, [(abs, (n,)) for n in numbers]) for numbers in rounds]


@given(st.lists(st.lists(st.lists(st.integers(), max_size=3), max_size=4), max_size=5))
def test_each_gets_its_own_answers_in_as_few_requests_as_the_longest_needs(plans: list[list[list[int]]]) -> None:
    server = Server()
    found = together([asker(server, plan) for plan in plans])
    assert found == [[[2 * n for n in numbers] for numbers in plan] for plan in plans]
    assert len(server.requests) == max(map(len, plans), default=0)
    for number, asked in enumerate(server.requests):
        assert asked == [n for plan in plans if number < len(plan) for n in plan[number]]


def test_groups_within_groups_share_too() -> None:
    server = Server()
    inner = lambda base: lambda: together([asker(server, [[base]]), asker(server, [[base + 1]])])  # noqa: E731
    assert together([inner(10), inner(20)]) == [[[[20]], [[22]]], [[[40]], [[42]]]]
    assert server.requests == [[10, 11, 20, 21]]


def test_two_models_get_a_request_each() -> None:
    one, two = Server(), Server()
    found = together([asker(one, [[1]]), asker(two, [[2]]), asker(one, [[3]])])
    assert found == [[[2]], [[4]], [[6]]]
    assert (one.requests, two.requests) == ([[1, 3]], [[2]])


def test_alone_a_call_is_a_request() -> None:
    server = Server()
    assert request(server.run, [(abs, (4,))]) == [8]
    assert server.requests == [[4]]


def test_an_error_ends_all(capsys: pytest.CaptureFixture[str]) -> None:
    server = Server()

    def wrong() -> None:
        request(server.run, [(abs, (1,))])
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        together([asker(server, [[5], [6]]), wrong])
    assert server.requests == [[5, 1]]
    assert request(server.run, [(abs, (7,))]) == [14], "what comes afterwards is not in a coroutine"


def test_what_stands_apart_is_asked_at_once_and_fails_alone() -> None:
    server = Server()

    def failing(calls: Sequence[Call]) -> Steps[list[Any]]:
        yield 0.0
        raise ValueError("no")

    def tries(run: Any) -> Callable[[], Any]:
        def task() -> Any:
            try:
                found = together([lambda: request(run, [(abs, (1,))]), lambda: request(run, [(abs, (2,))])], apart=True)
            except ValueError:
                found = []
            return found, request(server.run, [(abs, (3,))])

        return task

    found = together([asker(server, [[5]]), tries(server.run), tries(failing)])
    assert found == [[[10]], ([[2], [4]], [6]), ([], [6])]
    assert server.requests == [[1, 2], [5, 3, 3]]
