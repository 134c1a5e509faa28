"""Tables on disk as rows that know their place: CSV, TSV, JSON lines, JSON, and folders of images."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from xmi.errors import TaskError
from xmi.faults import kind, short, some
from xmi.names import SPLITS
from xmi.prompt.items import COLUMNS, Row
from xmi.structured import parse_json, read_text

TABLES = (".csv", ".tsv", ".jsonl")

NAMES = {",": "commas", ";": "semicolons", "\t": "tabs"}
"""What may separate columns. A bar does not: it stands between labels."""

_TOLD = re.compile(r"sep=(\\t|[^\r\n])\r?\n", re.IGNORECASE)
"""The first line by which spreadsheets are told what separates columns."""

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


def read_table(path: Path, columns: Mapping[str, str] | None = None, known: Sequence[str] = COLUMNS) -> Table:
    """Reads a CSV, TSV or JSON lines file.

    Args:
        path: The file.
        columns: As in `pick`; they tell how the columns of a CSV or TSV file are separated, if it is not by its kind.
        known: As in `pick`.

    Raises:
        TaskError: The file cannot be read at all.
    """
    text = read_text(path, TaskError)
    if path.suffix.lower() == ".jsonl":
        return _json_lines(text, path)
    return _separated(text, path, set((columns or {}).values()) or set(known))


def _separated(text: str, path: Path, wanted: set[str]) -> Table:
    found = Table()
    usual = "\t" if path.suffix.lower() == ".tsv" else ","
    text, before, separator = _separator(text, usual, wanted)
    if separator is None:
        head = short(next(line for line in text.splitlines() if line.strip()))
        found.faults.append(
            f"{path.name} line {before + 1}: the names of the columns, {head!r}, are not separated by "
            f"{NAMES[usual]}, and by several other signs they are: write {NAMES[usual]}."
        )
        return found
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    header: list[str] | None = None
    line = before + 1
    try:
        for cells in reader:
            place, line = f"{path.name} line {line}", before + reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            cells = [cell.strip() for cell in cells]
            if header is None:
                header = cells
                found.faults += [
                    f"{place}: the column {c!r} occurs twice." for c in sorted({c for c in cells if cells.count(c) > 1})
                ]
            elif len(cells) != len(header):
                found.faults.append(
                    f"{place}: {len(cells)} cells under {len(header)} columns; quote text with {NAMES[separator]}."
                )
            else:
                found.rows.append(Row(place, dict(zip(header, cells, strict=True))))
    except csv.Error as error:
        found.faults.append(f"{path.name} line {before + reader.line_num}: {error}.")
    if header is None:
        found.faults.append(f"{path.name}: no line with the names of the columns.")
    return found


def _separator(text: str, usual: str, wanted: set[str]) -> tuple[str, int, str | None]:
    """What separates columns, by the line with their names.

    Args:
        text: The file.
        usual: What separates them in files of its kind.
        wanted: Names of columns that are looked for.

    Returns:
        The text without a line `sep=`, how many lines that took, and the separator: the one that such a line names,
        the usual one if it separates anything, or the only other one that does; None if several others do.
    """
    if told := _TOLD.match(text):
        return text[told.end() :], 1, told[1].replace("\\t", "\t")
    head = next((line for line in text.splitlines() if line.strip()), "")
    cells = {sign: _cells(head, sign) for sign in NAMES}
    known = [sign for sign, names in cells.items() if len(names) > 1 and wanted & set(names)]
    able = known or [sign for sign, names in cells.items() if len(names) > 1]
    if usual in able or not able:
        return text, 0, usual
    return text, 0, able[0] if len(able) == 1 else None


def _cells(line: str, separator: str) -> list[str]:
    try:
        return [cell.strip() for cell in next(csv.reader([line], delimiter=separator))]
    except (csv.Error, StopIteration):
        return []


def _json_lines(text: str, path: Path) -> Table:
    found = Table()
    for number, line in enumerate(text.split("\n"), 1):
        place = f"{path.name} line {number}"
        if not line.strip():
            continue
        try:
            values = parse_json(line)
        except ValueError as error:
            found.faults.append(f"{place}: not JSON ({str(error).removeprefix('line 1, ')}).")
            continue
        found += _objects([values], [place])
    return found


def read_list(content: Any, label: str) -> Table:
    """Rows from a parsed JSON list of objects; `label` stands before their numbers."""
    if not isinstance(content, list):
        return Table(faults=[f"{label}: expected a list of objects, found {kind(content)}."])
    return _objects(content, [f"{label}[{k}]" for k in range(len(content))])


def _objects(values: Sequence[Any], places: Sequence[str]) -> Table:
    found = Table()
    for value, place in zip(values, places, strict=True):
        if isinstance(value, dict):
            found.rows.append(Row(place, value))
        else:
            found.faults.append(f"{place}: expected an object, found {kind(value)}.")
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
            f"{places[c]}: unknown column {short(c)!r}; known are {', '.join(known)}. Name yours with columns."
            for c in wrong
        ]
        columns = {name: name for name in known}
    else:
        faults += [f"no column {c!r}; there are {some(there)}." for c in columns.values() if c not in there and there]
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
    names = ("file_name", *COLUMNS)
    meant = {"file_name": "file_name", **columns} if columns else None
    table = split_cells(pick(read_table(metadata[0], meant, names), meant, names))
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
