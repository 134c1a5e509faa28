"""The tree of errors as it is drawn, and the page that lists them: every message there is what the code says today."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import xmi
from tests.remote.hostile import answer, hostile
from tests.remote.meta import meta, reading
from xmi import errors
from xmi.remote import Host, Jobs, model_key

PAGE = Path(__file__).parents[1] / "docs" / "errors.md"
CLASSES = [value for value in vars(errors).values() if inspect.isclass(value) and value.__module__ == "xmi.errors"]
TEXT = PAGE.read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## `(\w+)`\n(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE))


def drawn(kind: type, depth: int = 0) -> Iterator[str]:
    """A class with all below it, a line each."""
    others = [base.__name__ for base in kind.__bases__ if base not in CLASSES and base is not Exception]
    yield "  " * (depth - 1) + "- " * bool(depth) + kind.__name__ + (f" ({', '.join(others)})" if others else "")
    for below in CLASSES:
        if kind in below.__bases__:
            yield from drawn(below, depth + 1)


def test_the_docstring_draws_the_tree() -> None:
    roots = [kind for kind in CLASSES if not set(kind.__bases__) & set(CLASSES)]
    tree = "\n".join(f"    {line}" for root in roots for line in drawn(root))
    assert f"\n\n{tree}\n" in str(errors.__doc__), f"The tree is:\n{tree}"


def test_every_class_is_exported_and_has_a_section() -> None:
    names = [kind.__name__ for kind in CLASSES]
    assert set(names) <= set(xmi.__all__)
    assert list(SECTIONS) == names, "in the order of xmi/errors.py"


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What the page's examples begin with; the host is one that fails every job."""
    with hostile() as evil:
        reply = {"id": "job-1", "status": "ERROR", "description": "CUDA out of memory", "data": None, "meta": {}}
        evil.script = lambda path, headers: answer(reply)
        jobs = Jobs(Host(evil.url, "key"), model_key(meta()), meta(), tmp_path_factory.mktemp("jobs"))
        names = {"xmi": xmi, "Host": Host, "jobs": jobs, "calls": [reading()]}
        (begin,) = re.findall(r"```python\n(.*?)```", TEXT.partition("\n## ")[0], re.DOTALL)
        exec(begin, names)
        yield names


@pytest.mark.parametrize("name", [name for name in SECTIONS if name != "XmiError"])
def test_the_example_raises_the_message_on_the_page(name: str, given: dict[str, Any]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", SECTIONS[name], re.DOTALL)
    (said,) = re.findall(r"```text\n(.*?)```", SECTIONS[name], re.DOTALL)
    kind = getattr(xmi, name)
    with pytest.raises(kind) as caught, warnings.catch_warnings():
        warnings.simplefilter("error", errors.XmiWarning)
        exec(code, dict(given))
    assert type(caught.value) is kind or name == "RemoteError", (
        "a kind of RemoteError that only xmi.remote distinguishes"
    )
    assert str(caught.value) == " ".join(said.splitlines()) or str(caught.value) == said.removesuffix("\n")
