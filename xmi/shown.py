"""How objects show themselves: one line in a terminal, a table and a figure in a notebook.

A class that derives from `Shown` is shown by its fields; arrays, lists and models by what they are, never by what they
hold. It may say which facts, and which rows of a table, stand for it (`_facts`, `_rows`).
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import suppress
from html import escape
from itertools import islice
from pathlib import PurePath
from typing import Any

from xmi.errors import XmiError

LIMIT = 300
"""Characters of a line at most."""

ROWS = 8
"""Rows of a table at most."""

_TEXT, _FEW = 60, 3


class Html(str):
    """Text that is HTML already; any other is escaped where it is shown."""

    __slots__ = ()


class Shown:
    """Base of everything that a user may look at."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Keeps what is inherited: a dataclass would write a `__repr__` of its own, with all that its fields hold."""
        super().__init_subclass__(**options)
        if "__repr__" not in vars(cls):
            cls.__repr__ = cls.__repr__  # type: ignore[method-assign]

    def _facts(self) -> dict[str, Any]:
        """What is worth knowing of it, by name: its fields, or its public attributes."""
        kind: Any = type(self)
        if dataclasses.is_dataclass(kind):
            names = [f.name for f in dataclasses.fields(kind) if f.repr]
        else:
            names = getattr(kind, "model_fields", None) or [n for n in vars(self) if not n.startswith("_")]
        return {name: getattr(self, name, None) for name in names}  # half made, it still has a line

    def _lead(self) -> str:
        """A sentence that stands above its table in a notebook."""
        return ""

    def _rows(self) -> Iterable[Mapping[str, Any]]:
        """Rows of its table in a notebook, made as far as they are shown; if there are none, its frame or its facts."""
        return ()

    def __repr__(self) -> str:
        """Returns one line of at most 300 characters."""
        name, told = type(self).__name__, ""
        for key, value in self._facts().items():
            if value is None:
                continue
            more = f"{', ' if told else ''}{key}={brief(value)}"
            if len(name) + len(told) + len(more) + len("(, ...)") > LIMIT:
                return f"{name}({told}, ...)"
            told += more
        return f"{name}({told})"

    def _repr_html_(self) -> str:
        """Returns what a notebook shows: the line, a short table, and the figure if there is one."""
        lead = f"<p>{escape(said)}</p>" if (said := self._lead()) else ""
        html = f"<div><p><code>{escape(repr(self))}</code></p>{lead}{_tabled(self)}{_drawn(self)}</div>"
        return html.encode("utf-8", "replace").decode("utf-8")  # half a character would not reach the browser


def brief(value: Any) -> str:
    """A value in a few characters of one line: texts and numbers as they are, anything else by what it is.

    Args:
        value: Anything.

    Returns:
        `0.25`, `'France'`, `float32[8, 128]`, `('a', 'b')`, `24 x str`, `Template`, ...
    """
    if isinstance(value, float):
        return f"{value:.4g}"
    if value is None or isinstance(value, (bool, int)):
        return repr(value) if not isinstance(value, int) or value.bit_length() < 64 else "int"
    if isinstance(value, (str, PurePath)):
        text = str(value)
        return repr(text if len(text) <= _TEXT else f"{text[: _TEXT - 20]}...{text[-17:]}")
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if isinstance(value, Mapping):
        return f"{len(value)} entries"
    if isinstance(value, (tuple, list, Set)):
        several = list(value)
        if len(several) <= _FEW and all(isinstance(v, (str, int, float, PurePath)) for v in several):
            return f"({', '.join(map(brief, several))})"
        kinds = dict.fromkeys(type(v).__name__ for v in several)
        return f"{len(several)} x {' | '.join(list(kinds)[:_FEW])}"
    return type(value).__name__


def _tabled(shown: Shown) -> str:
    """The table: its own rows, else its frame, else its facts."""
    if rows := list(islice(shown._rows(), ROWS + 1)):
        return _table(rows[:ROWS]) + ("<p>...</p>" if len(rows) > ROWS else "")
    if hasattr(shown, "to_frame"):
        with suppress(NotImplementedError, XmiError):
            size = {"max_rows": ROWS, "max_cols": 12, "show_dimensions": True}
            return str(shown.to_frame().to_html(**size, border=0, float_format="{:.3g}".format))
    facts = [{"": name, "value": brief(value)} for name, value in shown._facts().items() if value is not None]
    return _table(facts) if facts else ""


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with the same columns as an HTML table; cells are escaped unless they are `Html`."""
    head = "".join(f"<th>{escape(str(name))}</th>" for name in rows[0])
    body = "".join(f"<tr>{''.join(f'<td>{_cell(v)}</td>' for v in row.values())}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: Any) -> str:
    return value if isinstance(value, Html) else escape(str(value))


def _drawn(shown: Shown) -> str:
    """The figure, which asks no other host for plotly.js; nothing where there is none."""
    if hasattr(shown, "figure"):
        with suppress(XmiError):
            figure = shown.figure()
            here = {"include_plotlyjs": _carries_library(), "include_mathjax": False}
            return str(figure.to_html(full_html=False, default_width="100%", validate=False, **here))
    return ""


def _carries_library() -> bool:
    """Whether a figure brings plotly.js along: always outside a notebook, in one the first cell that shows a figure.

    That cell does so again when it is run again, since its output is then written anew.
    """
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if shell is None or not hasattr(shell, "kernel"):
        return True
    cell = shell.get_parent().get("metadata", {}).get("cellId")
    there = "cell" in _carrier and (cell is None or cell != _carrier["cell"])
    _carrier.setdefault("cell", cell)
    return not there


_carrier: dict[str, str | None] = {}
"""Which cell of the notebook carries plotly.js."""
