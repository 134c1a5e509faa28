"""The terminal: the one place through which text leaves for it. Text of others is text, never a command or markup.

A label, a task or a file may be named by anyone, and a terminal obeys what it is shown: escape sequences recolour,
rewrite and rename, and marks of direction turn words around. They are shown escaped instead. Tables are drawn by rich,
whose square brackets mean nothing here.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any, TextIO
from unicodedata import category

from xmi.errors import StorageError

_TURNS = {*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C}
"""Characters that change the direction of what follows."""


def visible(text: object, *, lines: bool = True) -> str:
    r"""Text with all that a terminal would obey shown escaped: `\x1b[31m`.

    Args:
        text: The text, or what is to be printed as one.
        lines: Whether line ends and tabs stay what they are.
    """
    given = str(text)
    if given.isascii() and given.isprintable():
        return given
    kept = "\n\t" if lines else ""
    return "".join(c if c in kept or not _obeyed(c) else c.encode("unicode_escape").decode() for c in given)


def _obeyed(char: str) -> bool:
    return category(char) in ("Cc", "Cs", "Zl", "Zp") or ord(char) in _TURNS


def put(text: object) -> None:
    """Prints results on standard output."""
    _write(sys.stdout, visible(text))


def say(line: object) -> None:
    """Prints a line of progress, or an error, on standard error."""
    _write(sys.stderr, visible(line))


def put_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, width: int | None = None, first: str = "left"
) -> None:
    """Prints a table on standard output.

    Args:
        title: Above it.
        columns: Heads of the columns; the first column is that of names.
        rows: Cells.
        width: Characters in a line where standard output is not a terminal.
        first: Where the first column's cells stand: `left` or `right`.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    def text(value: str) -> Text:
        return Text(visible(value, lines=False))

    terminal = sys.stdout.isatty()
    _write(sys.stdout, visible(title, lines=False))
    table = Table()
    for number, column in enumerate(columns):
        table.add_column(text(column), justify="right" if first == "right" and not number else "left")
    for row in rows:
        table.add_row(*map(text, row))
    drawn = io.StringIO()
    options: dict[str, Any] = {"force_terminal": terminal, "width": None if terminal else width}
    Console(file=drawn, markup=False, highlight=False, emoji=False, **options).print(table)
    _write(sys.stdout, drawn.getvalue().removesuffix("\n"))


def _write(stream: TextIO, text: str) -> None:
    """Prints and flushes.

    Raises:
        BrokenPipeError: Who reads it went away.
        StorageError: It cannot be written for another reason; on standard error nothing can be said of that.
    """
    try:
        print(text, file=stream, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        if stream is not sys.stderr:
            raise StorageError(f"Cannot write to standard output: {error.strerror}.") from error


def quiet_libraries() -> None:
    """Keeps bars and notes of libraries out of the lines of progress; to be called before they are imported."""
    # The models named here are local or cached; a bar per weight file would drown the progress lines.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def open_streams() -> None:
    """Makes standard output and error writable: closed ones lead nowhere, others take any character."""
    for name, number in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest free number, so that no other file gets it
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))
        elif number and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def close_streams() -> bool:
    """Writes out what is still held back; returns whether that was possible.

    A reader that went away (`| head -1`) is not worth a message: what is left leads nowhere.
    """
    fine = True
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            fine = False
            with open(os.devnull, "w") as nowhere:  # noqa: PTH123 (not a path of ours)
                os.dup2(nowhere.fileno(), stream.fileno())
    return fine
