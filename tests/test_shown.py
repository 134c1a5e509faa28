"""Every public object shows itself: one short line in a terminal, escaped HTML in a notebook."""

from __future__ import annotations

import inspect
import re
import sys
from functools import cache
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import xmi
from tests.test_api import public, right
from xmi import measure
from xmi.lens import LensValues
from xmi.model import Block, Probes
from xmi.shown import LIMIT, Shown, brief
from xmi.study.identity import content_of

KINDS = {what.__name__: what for _, what, owner in public() if owner is None and inspect.isclass(what)}
MECHANICS = {"once", "Hooks"}
"""Classes of which nobody has an object in hand."""
VOID = {"img", "br", "hr", "meta", "link", "input", "col"}


class Page(HTMLParser):
    """Reads HTML strictly: every element is closed, in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.found: list[tuple[str, dict[str, Any]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert not self.opened, self.opened

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self.opened += [] if tag in VOID else [tag]

    def handle_endtag(self, tag: str) -> None:
        assert self.opened.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.opened[-1:] != ["script"]:
            self.text += data


@cache
def objects() -> dict[str, Any]:
    """An object of every public class: a class that is new fails below until it has one."""
    vlm, empty = right().vlm, np.zeros((1, 1, 1), np.float32)
    hooks = vlm.report.anatomy
    more = [vlm.generate("France :", max_new_tokens=1), hooks, next(iter(hooks.points.values()))]
    more += [vlm.guard, Block(vlm.guard), Probes(({}, {})), measure.Result()]
    more += [LensValues(empty, empty.astype(int), empty.astype(int), empty)]
    return right().instances | {type(one).__name__: one for one in more}


@pytest.mark.parametrize("name", sorted(KINDS.keys() - MECHANICS))
def test_every_public_class_shows_itself_in_one_way(name: str) -> None:
    assert issubclass(KINDS[name], Shown), f"{name} must derive from xmi.shown.Shown"
    assert KINDS[name].__repr__ is Shown.__repr__, f"{name} has a __repr__ of its own: say its facts with _facts"


@pytest.mark.parametrize("name", sorted(KINDS.keys() - MECHANICS))
def test_an_object_is_one_line_and_valid_html(name: str) -> None:
    shown = objects()[name]
    line = repr(shown)
    assert line.startswith(name)
    assert len(line) <= LIMIT
    assert len(line.splitlines()) == 1
    page = Page(shown._repr_html_())
    assert line in page.text
    assert "table" in {tag for tag, _ in page.found} or line == f"{name}()"


def test_what_is_hostile_stays_text() -> None:
    bad = '<script>alert(1)</script>"\n\u2028\x00\ud800' + "x" * 1000
    item = xmi.task("country-capital").items[0]
    prompt = xmi.free_prompt(bad + "<image>", [item.image])
    rank, hits = np.zeros(1, np.int64), np.ones(1, bool)
    answers = measure.Answers((bad,), (bad,), (bad,), (bad,), (bad,), np.zeros(1, np.float32), rank, hits, hits)
    for shown in (prompt, prompt[0], prompt[0].segments[0], xmi.Template(prefix=bad), answers, xmi.Hook(bad)):
        line = repr(shown)
        assert len(line) <= LIMIT
        assert len(line.splitlines()) == 1
        assert line.isprintable()
        html = shown._repr_html_()
        assert "<script>alert" not in html
        html.encode()


def test_a_prompt_shows_its_pictures_and_a_result_its_figure() -> None:
    task = xmi.task("country-capital")
    sources = [a["src"] for tag, a in Page(task.icl("image", shots=2, n=2)._repr_html_()).found if tag == "img"]
    assert len(sources) == 6  # two examples and a query, twice
    assert all(re.match("data:image/jpeg;base64,", source) for source in sources)
    assert sum(map(len, sources)) < 6 * 8_000
    there = right()
    assert "script" in {tag for tag, _ in Page(there.transfer._repr_html_()).found}
    gone = xmi.free_prompt("<image> is", ["/no/such/<file>.png"])
    assert "<image: /no/such/<file>.png>" in Page(gone._repr_html_()).text


def test_a_model_says_its_size_and_where_it_is() -> None:
    line = repr(right().vlm)
    assert line.startswith("VLM(name='organism', parameters='")
    assert "dtype='float32', device='cpu', depths=9, d_model=128" in line


def test_a_task_is_known_by_the_whole_of_its_template_not_by_its_line() -> None:
    one, other = (xmi.task("country-capital", template=xmi.Template("a" * 100 + middle + "a" * 100)) for middle in "bc")
    assert repr(one.template) == repr(other.template)
    assert content_of(one) != content_of(other)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.123456, "0.1235"), (3, "3"), (True, "True"), (10**99, "int"), (("a", 1), "('a', 1)"), (["a"] * 9, "9 x str"),
        (np.zeros((2, 3), np.float32), "float32[2, 3]"), ({"a": 1}, "1 entries"), (object(), "object"),
    ],
)  # fmt: skip
def test_a_value_in_brief(value: Any, said: str) -> None:
    assert brief(value) == said


def test_a_figure_asks_no_other_host_and_one_cell_carries_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = right().transfer._repr_html_()
    assert [a for tag, a in Page(alone).found if {"src", "href"} & a.keys()] == []
    ran = {"cell": "a"}
    shell = SimpleNamespace(kernel=1, get_parent=lambda: {"metadata": {"cellId": ran["cell"]}})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setattr("xmi.shown._carrier", {})
    carried = []
    for ran["cell"] in ("a", "b", "a", None):  # the first, another, the first run anew, a notebook that names none
        carried.append(len(right().transfer._repr_html_()) > len(alone) / 2)
    assert carried == [True, False, True, False]
