"""Rows that are in memory already: a pandas table, or a list of dicts."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from xmi.prompt.hf_datasets import image_home, keep_image
from xmi.prompt.items import Row
from xmi.prompt.tables import Table, pick, read_list, split_cells


def is_records(source: object) -> bool:
    """Whether something is a DataFrame, or a list that may be one of dicts."""
    return _is_frame(source) or isinstance(source, (list, tuple))


def read_records(
    source: Any, columns: Mapping[str, str] | None = None, root: str | Path | None = None
) -> tuple[Table, Path]:
    """Rows of a table or a list.

    Missing cells of a table (NaN, None) count as absent, and `|` separates labels in its cells, as in a CSV file; a
    list of dicts has lists of labels, as JSON has.

    Args:
        source: A DataFrame, or a list of dicts.
        columns: Which column is `input`, `output`, `image`, `split`.
        root: Folder that image paths are relative to and must not leave; by default the current one. Images that are
            no paths (PIL images, bytes) are kept in xmi's cache.

    Returns:
        The rows, and the folder in which all images lie.
    """
    home = Path(root) if root is not None else Path()
    table = split_cells(pick(_of_frame(source), columns)) if _is_frame(source) else pick(_of_list(source), columns)
    if all(isinstance(row.values.get("image"), (str, Path, type(None))) for row in table.rows):
        return table, home
    rows = []
    for row in table.rows:
        values = dict(row.values)
        try:
            values["image"] = keep_image(values.get("image") or None, home)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            table.faults.append(f"{row.place}: the image cannot be read ({error}).")
            values["image"] = None
        rows.append(Row(row.place, values))
    return Table(rows, table.faults), image_home()


def _is_frame(source: object) -> bool:
    pandas = sys.modules.get("pandas")  # nobody has a table without it
    return pandas is not None and isinstance(source, pandas.DataFrame)


def _of_list(source: Sequence[Any]) -> Table:
    return read_list(list(source), "item")


def _of_frame(frame: Any) -> Table:
    names = [str(name) for name in frame.columns]
    found = Table(faults=[f"the column {name!r} occurs twice." for name in sorted(set(names)) if names.count(name) > 1])
    for label, cells in zip(frame.index, frame.itertuples(index=False, name=None), strict=True):
        values = {name: None if _missing(cell) else cell for name, cell in zip(names, cells, strict=True)}
        found.rows.append(Row(f"row {label}", values))
    return found


def _missing(cell: Any) -> bool:
    import pandas as pd

    return cell is None or cell is pd.NA or cell is pd.NaT or (isinstance(cell, float) and cell != cell)
