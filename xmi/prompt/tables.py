"""Tables on disk as rows that know their place: CSV, TSV, JSON lines, JSON, and folders of images."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from xmi.errors import TaskError
from xmi.prompt.rows import COLUMNS, Row
from xmi.prompt.task import SPLITS

TABLES = (".csv", ".tsv", ".jsonl")
SEVERAL = "|"
"""Between several labels in one cell of a CSV or TSV file; JSON has lists."""


@dataclass
class Table:
    """Rows, and the faults found while they were read."""

    rows: list[Row] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def __iadd__(self, other: Table) -> Table:
        """Appends another table."""
        self.rows += other.rows
        self.faults += other.faults
        return self


def read_text(path: Path) -> str:
    """A text file as UTF-8, with or without a byte order mark; line ends are left as they are.

    Raises:
        TaskError: It cannot be read, or is in another encoding.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise TaskError(f"Cannot read {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise TaskError(
            f"Cannot read {path}: line {line} is not UTF-8 ({error.reason}); save the file as UTF-8."
        ) from None


def read_table(path: Path) -> Table:
    """Reads a CSV, TSV or JSON lines file.

    Raises:
        TaskError: The file cannot be read at all.
    """
    text = read_text(path)
    return _json_lines(text, path) if path.suffix.lower() == ".jsonl" else _separated(text, path)


def _separated(text: str, path: Path) -> Table:
    found = Table()
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True
    )
    header: list[str] | None = None
    line = 1
    try:
        for cells in reader:
            place, line = f"{path.name} line {line}", reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            cells = [cell.strip() for cell in cells]
            if header is None:
                header = cells
                found.faults += [
                    f"{place}: the column {c!r} occurs twice." for c in sorted({c for c in cells if cells.count(c) > 1})
                ]
            elif len(cells) != len(header):
                found.faults.append(f"{place}: {len(cells)} cells under {len(header)} columns; quote text with commas.")
            else:
                found.rows.append(Row(place, dict(zip(header, cells, strict=True))))
    except csv.Error as error:
        found.faults.append(f"{path.name} line {reader.line_num}: {error}.")
    if header is None:
        found.faults.append(f"{path.name}: no line with the names of the columns.")
    return found


def _json_lines(text: str, path: Path) -> Table:
    found = Table()
    for number, line in enumerate(text.split("\n"), 1):
        place = f"{path.name} line {number}"
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            found.faults.append(f"{place}: no JSON ({error.msg}, column {error.colno}).")
            continue
        found += _objects([values], [place])
    return found


def read_list(content: Any, label: str) -> Table:
    """Rows from a parsed JSON list of objects; `label` stands before their numbers."""
    if not isinstance(content, list):
        return Table(faults=[f"{label}: expected a list of objects, found {type(content).__name__}."])
    return _objects(content, [f"{label}[{k}]" for k in range(len(content))])


def _objects(values: Sequence[Any], places: Sequence[str]) -> Table:
    found = Table()
    for value, place in zip(values, places, strict=True):
        if isinstance(value, dict):
            found.rows.append(Row(place, value))
        else:
            found.faults.append(f"{place}: expected an object, found {type(value).__name__}.")
    return found


def pick(table: Table, columns: Mapping[str, str] | None, known: Sequence[str] = COLUMNS) -> Table:
    """Rows with xmi's columns only.

    Args:
        table: Rows under their own columns.
        columns: Which column is `input`, `output`, ...; what is not named is left aside. Without it, the columns must
            have xmi's names, and an unknown one is a fault.
        known: The names that there may be.

    Returns:
        The rows renamed, and the faults.
    """
    faults = list(table.faults)
    there = dict.fromkeys(column for row in table.rows for column in row.values)
    places = {column: next(r.place for r in table.rows if column in r.values) for column in there}
    if columns is None:
        wrong = [column for column in there if column not in known]
        faults += [
            f"{places[c]}: unknown column {c!r}; known are {', '.join(known)}. Name yours with columns." for c in wrong
        ]
        columns = {name: name for name in known}
    else:
        faults += [
            f"no column {c!r}; there are {', '.join(there)}." for c in columns.values() if c not in there and there
        ]
    rows = [Row(r.place, {k: r.values[c] for k, c in columns.items() if c in r.values}) for r in table.rows]
    return Table(rows, faults)


def split_cells(table: Table) -> Table:
    """Cells of `output` that hold several labels, separated by `|`, as lists."""
    rows = []
    for row in table.rows:
        cell = row.values.get("output")
        several = isinstance(cell, str) and SEVERAL in cell
        labels = {"output": [part.strip() for part in cell.split(SEVERAL)]} if several and cell else {}
        rows.append(Row(row.place, {**row.values, **labels}))
    return Table(rows, table.faults)


def read_folder(folder: Path, columns: Mapping[str, str] | None = None) -> Table:
    """Rows of an image folder: `label/name.png`, or `split/label/name.png`, as Hugging Face's ImageFolder has them.

    The folder is the label and the file's stem the input, unless a `metadata.csv` or `metadata.jsonl` (with a column
    `file_name`) beside the images tells them.
    """
    parts = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
    inside = [child for child in sorted(folder.iterdir()) if child.is_dir() and not child.name.startswith(".")]
    if not inside or any(child.name not in parts for child in inside):
        return _images(folder, folder, "", columns)
    found = Table()
    for child in inside:
        found += _images(folder, child, parts[child.name], columns)
    return found


def _images(root: Path, folder: Path, split: str, columns: Mapping[str, str] | None) -> Table:
    suffixes = Image.registered_extensions()
    files = [f for f in sorted(folder.rglob("*")) if f.suffix.lower() in suffixes and not f.name.startswith(".")]
    shown = {f: Row(str(f.relative_to(root)), _of_file(f, folder, root, split)) for f in files}
    metadata = [folder / f"metadata{s}" for s in TABLES if (folder / f"metadata{s}").is_file()]
    if not metadata:
        return Table(list(shown.values()), [] if shown or split else [f"{folder}: no images."])
    table = split_cells(
        pick(
            read_table(metadata[0]), {"file_name": "file_name", **columns} if columns else None, ("file_name", *COLUMNS)
        )
    )
    rows, told = [], set()
    for row in table.rows:
        file = folder / str(row.values.get("file_name") or "")
        told.add(file)
        defaults = _of_file(file, folder, root, split)
        rows.append(Row(row.place, defaults | {k: v for k, v in row.values.items() if k != "file_name"}))
        if not row.values.get("file_name"):
            table.faults.append(f"{row.place}: empty file_name.")
    faults = [f"{row.place}: not in {metadata[0].name}." for file, row in shown.items() if file not in told]
    return Table(rows, table.faults + faults)


def _of_file(file: Path, folder: Path, root: Path, split: str) -> dict[str, Any]:
    label = file.parent.name if file.parent != folder else ""
    values = {"input": file.stem, "output": label, "image": str(file.relative_to(root))}
    return values | ({"split": split} if split in SPLITS else {})
