"""Verbs stand once, in their rooms; what VLM binds is the same function, checked once, shown as a method."""

from __future__ import annotations

import inspect
import pydoc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import xmi
from xmi.session import Session
from xmi.vlm import VLM

ROOT = Path(__file__).parents[1]
VERBS = {
    name: function
    for name, function in vars(VLM).items()
    if inspect.isfunction(function) and function.__module__ != VLM.__module__ and not name.startswith("_")
}


@pytest.fixture(scope="module")
def vlm() -> VLM:
    return xmi.load("organism", device="cpu", dtype="float32")


def test_verbs_come_from_the_rooms() -> None:
    rooms = {function.__module__.split(".")[1] for function in VERBS.values()}
    assert rooms == {"answer", "hooks", "lens", "steering", "vector"}
    assert len(VERBS) == 24


@pytest.mark.parametrize("name", VERBS)
def test_a_verb_is_the_rooms_function_checked_once(name: str, vlm: VLM) -> None:
    bound, own = VERBS[name], inspect.unwrap(VERBS[name])
    assert own.__name__ == name
    assert bound is not own and hasattr(bound, "__guarded__")
    inner: Callable[..., Any] = bound.__wrapped__
    assert not hasattr(inner, "__guarded__")
    room = inspect.getmodule(own)
    assert getattr(room, name) is inner, "rooms call one another unchecked"
    first, *rest = inspect.signature(own).parameters
    assert first == "session"
    assert [*inspect.signature(getattr(vlm, name)).parameters] == rest
    assert inspect.signature(getattr(VLM, name)) == inspect.signature(own)


@pytest.mark.parametrize("name", VERBS)
def test_help_of_a_verb_shows_its_own_words(name: str, vlm: VLM) -> None:
    shown = pydoc.plain(pydoc.render_doc(getattr(vlm, name)))
    assert inspect.getdoc(VERBS[name]) and str(inspect.getdoc(VERBS[name])).splitlines()[0] in shown
    assert "session" not in shown.splitlines()[2], "a method has no session to be given"


def test_errors_name_what_was_called(vlm: VLM) -> None:
    class Mine(VLM):
        pass

    with pytest.raises(xmi.ArgumentError, match=r"^VLM\.transfer: foreign must be True or False"):
        vlm.transfer([], "x", foreign="no")  # type: ignore[arg-type]
    with pytest.raises(xmi.ArgumentError, match=r"^VLM\.transfer: vectors must be TaskVector"):
        vlm.transfer(3, "x")  # type: ignore[arg-type]
    with pytest.raises(xmi.ArgumentError, match=r"^VLM\.check: again must be"):
        vlm.check(again=3)  # type: ignore[arg-type]
    with pytest.raises(xmi.ArgumentError, match=r"^Mine\.check: again must be"):
        Mine(vlm.engine).check(again=3)  # type: ignore[arg-type]
    with pytest.raises(xmi.ArgumentError, match=r"^VLM\.lens: .* It takes prompts, slot, k, lens\.$"):
        vlm.lens("France :", depth=2)  # type: ignore[call-arg]
    with pytest.raises(xmi.ArgumentError, match=r"^VLM\.compare_base: base must be VLM"):
        vlm.compare_base("organism-llm")  # type: ignore[arg-type]


def test_each_gives_what_is_remembered_beside_the_result_one_batch_at_a_time(vlm: VLM) -> None:
    order: list[str] = []

    def kernel(_model: Any, number: int) -> torch.Tensor:
        order.append(f"run {number}")
        return torch.tensor(float(number))

    def calls() -> Iterator[tuple[str, tuple[int]]]:
        for number in range(3):
            order.append(f"make {number}")
            yield f"batch {number}", (number,)

    found = vlm.each(kernel, calls())
    assert [(note, float(value)) for note, value in found] == [("batch 0", 0), ("batch 1", 1), ("batch 2", 2)]
    assert order == ["make 0", "run 0", "make 1", "run 1", "make 2", "run 2"]


def test_a_session_without_verbs_does_what_verbs_share(vlm: VLM) -> None:
    session = Session(vlm.engine, batch_size=2)
    prompts = xmi.task("country-capital").icl("text", shots=1, n=3)
    with session.prepared(prompts, "reading") as (several, batches):
        assert several == prompts
        assert [len(batch) for batch in batches] == [2, 1]
    assert list(session.card(n=3)) == ["model", "revision", "dtype", "n", "versions"]
    from xmi.vector.extract import residuals

    assert torch.equal(residuals(session, prompts).values, VLM(vlm.engine, batch_size=2).residuals(prompts).values)


def test_the_documentation_shows_verbs_as_methods() -> None:
    griffe = pytest.importorskip("griffe")
    extensions = griffe.load_extensions(str(ROOT / "docs/griffe_verbs.py"))
    shown = griffe.load("xmi", search_paths=[ROOT], extensions=extensions)["vlm.VLM"].members
    for name in VERBS:
        assert shown[name].is_function and shown[name].docstring, name
        assert next(iter(shown[name].parameters)).name != "session"
