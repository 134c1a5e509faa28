"""Tables as CSV files: the one place where they are written and read.

A spreadsheet takes a cell that begins with = + - @ (or a tab or line end before one) for a formula and runs it, and
tasks are named by whoever made them. Such text gets an apostrophe in front, as spreadsheets themselves mark text;
numbers stay numbers. `read_table` takes the apostrophe away again.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd

_FORMULA = re.compile(r"'*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
"""How text begins that is taken for a formula, or would be once an apostrophe was taken away."""


def table_text(table: pd.DataFrame) -> str:
    """A table as the content of a CSV file without an index, in which no text is a formula."""
    return _texts(table, _guarded).to_csv(index=False)


def read_table(path: Path | StringIO) -> pd.DataFrame:
    """Reads what `table_text` wrote, or an earlier xmi; a task may be called NA or 1.

    Raises:
        OSError, ValueError: It cannot be read.
    """
    table = pd.read_csv(path, dtype={"task": str}, keep_default_na=False, na_values=[""])
    return _texts(table, _restored)


def _texts(table: pd.DataFrame, change: Callable[[Any], Any]) -> pd.DataFrame:
    """A table whose texts are changed, heads of columns too."""
    columns = {
        name: values if pd.api.types.is_numeric_dtype(values) else values.map(change) for name, values in table.items()
    }
    return pd.DataFrame(columns, index=table.index).rename(columns=change)


def _guarded(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def _restored(value: Any) -> Any:
    return value[1:] if isinstance(value, str) and value[:1] == "'" and _FORMULA.match(value) else value
