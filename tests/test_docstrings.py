"""Examples in docstrings run, and print what they say; every public verb has one."""

from __future__ import annotations

import ast
import doctest
import inspect
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xmi
from xmi import measure

ROOT = Path(__file__).parents[1]
OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
WITHOUT = {"VLM": "is what load returns", "StudyResults": "see run"}
"""What needs no example, and why."""
PLUMBING = {"accepted", "batches", "card", "each", "encoded", "prepared"}
"""What verbs are made of; `xmi.session` shows how."""


def examples() -> Iterator[doctest.DocTest]:
    """Every docstring of xmi with an example, read from the source: nothing is imported, and each stands once."""
    for file in sorted((ROOT / "xmi").rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        if ">>>" not in text:
            continue
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                continue
            doc = ast.get_docstring(node)
            if doc and ">>>" in doc:
                name = module if isinstance(node, ast.Module) else f"{module}.{node.name}"
                line = 0 if isinstance(node, ast.Module) else node.body[0].lineno - 1
                yield doctest.DocTestParser().get_doctest(doc, {}, name, str(file), line)


@cache
def given() -> dict[str, Any]:
    """What examples may use without saying where it comes from."""
    return {"xmi": xmi, "np": np, "measure": measure, "vlm": xmi.load("organism"), "task": xmi.task("country-capital")}


@pytest.mark.parametrize("example", [pytest.param(test, id=test.name) for test in examples()])
def test_an_example_prints_what_it_says(
    example: doctest.DocTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    example.globs = dict(given())
    said: list[str] = []
    doctest.DocTestRunner(optionflags=OPTIONS).run(example, out=said.append)
    assert not said, "".join(said)


def public() -> Iterator[tuple[str, Any]]:
    """What a user calls: functions and verbs."""
    for name in xmi.__all__:
        value = getattr(xmi, name)
        if not (inspect.isclass(value) and issubclass(value, Exception)):
            yield name, value
    for name in dir(xmi.VLM):
        value = inspect.getattr_static(xmi.VLM, name)
        if not name.startswith("_") and inspect.isfunction(value) and name not in PLUMBING:
            yield f"VLM.{name}", value
    for name in measure.__all__:
        if inspect.isfunction(getattr(measure, name)):
            yield f"measure.{name}", getattr(measure, name)


@pytest.mark.parametrize(("name", "value"), [pytest.param(*each, id=each[0]) for each in public()])
def test_what_users_call_has_an_example(name: str, value: Any) -> None:
    if name not in WITHOUT:
        assert ">>>" in str(inspect.getdoc(value)), "add an `Examples:` to its docstring"
