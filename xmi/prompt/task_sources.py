"""Reading tasks: ours and the user's own, from any of the sources that docs/data.md lists."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from types import NoneType
from typing import Any

from xmi.errors import TaskError
from xmi.faults import kind, listing, short
from xmi.names import TASK_FOLDERS
from xmi.prompt.hf_datasets import SCHEME, fetch_dataset, image_home, is_dataset, read_dataset
from xmi.prompt.items import COLUMNS, Row, make_items
from xmi.prompt.prompt import Template
from xmi.prompt.records import is_records, read_records
from xmi.prompt.tables import TABLES, Table, pick, read_folder, read_list, read_table, split_cells
from xmi.prompt.task import Task
from xmi.prompt.task_sheet import Sheet, Wording, check_sheet, read_sheet
from xmi.structured import parse_json, read_text

SHEETS = (".yaml", ".yml")
PUBLISHED = {"val": "validation", "test": "test"}


class _TaskFile(Wording):
    """A task file of ours: the wording and the items; `domain` and `note` are for people."""

    items: list[Any]
    domain: Any = None
    note: Any = None


def task_names(of: str = "organism") -> tuple[str, ...]:
    """Returns the names of the tasks that come with xmi.

    Args:
        of: The model that they are for: `organism` (and any other large enough), or `pretrained`, whose tasks are easy
            enough for a small language model.

    Raises:
        TaskError: xmi has no tasks for that.

    Examples:
        >>> xmi.task_names()
        ('animal-latin', 'animal-young', 'country-capital', 'country-currency', 'food-color', 'food-flavor')
    """
    if of not in TASK_FOLDERS:
        raise TaskError(f"xmi has no tasks for {short(repr(of))}, but for: {', '.join(TASK_FOLDERS)}.")
    return tuple(sorted(p.name.removesuffix(".json") for p in _home(of).iterdir() if p.name.endswith(".json")))


def _home(of: str) -> Path:
    return Path(str(files("xmi") / "data" / TASK_FOLDERS[of]))


def _own(name: str) -> Path | None:
    """The file of a task that comes with xmi."""
    return next((_home(of) / f"{name}.json" for of in TASK_FOLDERS if name in task_names(of)), None)


def load_task(
    source: Any,
    *,
    template: Template | None = None,
    name: str | None = None,
    sheet: str | Path | Mapping[str, Any] | None = None,
    columns: Mapping[str, str] | None = None,
    root: str | Path | None = None,
    examples: str | None = None,
) -> Task:
    r"""Loads one of xmi's tasks by name, or a task of the user's own.

    Args:
        source: A name such as `country-capital`; a task file (JSON); a task sheet (YAML) that names its source; a
            CSV, TSV or JSON lines file with columns input, output, image, split; published annotations
            (`root/annotations/country-capital`, for `country-capital_val.json` and `_test.json`); an image folder; a
            Hugging Face dataset (`hf://owner/name`, a `Dataset`, or a mapping of them by split); a pandas DataFrame; or
            a list of dicts.
        template: How its prompts are written, by default as its file says, or as in the paper.
        name: The task's name, by default as its file says, or the file's.
        sheet: Instruction, paraphrases, task words, template and columns, as a YAML file or a mapping; by default the
            sheet beside the source (`own.yaml` for `own.csv`, `task.yaml` in a folder), if there is one.
        columns: Which column is `input`, `output`, `image`, `split`; all others are left aside.
        root: Folder that image paths are relative to and must not leave; by default that of the file, for published
            annotations the folder above, for a DataFrame and a list the current folder.
        examples: Split that examples are drawn from: `train`, or `validation` as in the paper.

    Returns:
        The task. Every image was opened once, so that a broken one shows now and not hours later. Splits that the
        source lacks are dealt by a hash of the input.

    Raises:
        TaskError: Unknown name, unreadable file, or faulty items; all faults are listed at once, with their places.

    Examples:
        >>> task = xmi.task("country-capital")
        >>> task.name, len(task.items), task.items[0].input, task.items[0].output
        ('country-capital', 95, 'France', 'Paris')
        >>> rows = [{"input": f"{n}", "output": f"{n + 1}"} for n in range(20)]
        >>> xmi.task(rows, name="successor").icl("text", shots=2, n=1)[0].text
        'Q:14\nA:15\n\nQ:5\nA:6\n\nQ:19\nA:'
    """
    if columns is not None:
        if not isinstance(columns, Mapping):
            raise TaskError(f"columns is a mapping from xmi's names to those of the source; found {kind(columns)}.")
        columns = check_sheet(Sheet, {"columns": dict(columns)}, "What is given as columns").columns
    if is_dataset(source):
        return _finish(*_dataset(source, "dataset", sheet, columns, root), template, name, examples)
    if is_records(source):
        told = _told(sheet, None)
        table, home = read_records(source, columns or told.columns, root)
        return _finish(table, told, "table", home, template, name, examples)
    if not isinstance(source, (str, Path)):
        raise TaskError(
            f"A task is a name, a file, a folder, a dataset, a DataFrame or a list of dicts; found {kind(source)}."
        )
    if "\0" in str(source):
        raise TaskError(f"{short(str(source))!r} is not the name of a file: it holds a NUL character.")
    if str(source).startswith(SCHEME):
        named = str(source).partition("@")[0].rpartition("/")[2]
        found = _dataset(fetch_dataset(str(source)), named, sheet, columns, root)
        return _finish(*found, template, name, examples)
    path = Path(source).expanduser()
    path = _own(str(source)) or path
    if path.suffix.lower() in SHEETS:
        inner, fixed, base = _sheet(path, root)
        return load_task(
            inner, template=template, name=name, sheet=fixed, columns=columns, root=base, examples=examples
        )
    return _finish(*_read(path, sheet, columns, root), template, name, examples)


Found = tuple[Table, Wording, str, str | Path]
"""Rows, wording, a name and the data root."""


def _dataset(
    dataset: Any,
    named: str,
    sheet: str | Path | Mapping[str, Any] | None,
    columns: Mapping[str, str] | None,
    root: str | Path | None,
) -> Found:
    """What a Hugging Face dataset holds."""
    told = _told(sheet, None)
    return read_dataset(dataset, columns or told.columns, root), told, named, image_home()


def _sheet(path: Path, root: str | Path | None) -> tuple[str | Path, dict[str, Any], str | Path | None]:
    """The source that a task sheet names, what else it says, and the data root.

    Raises:
        TaskError: It names none, or one outside of its folder.
    """
    given = read_sheet(path)
    if given.source is None or given.source.lower().endswith(SHEETS):
        raise TaskError(f"{path} names no source: put `source: items.csv` (a file, folder or dataset) into it.")
    inner: str | Path
    if given.source.startswith(SCHEME) or _own(given.source):
        inner = given.source
    else:
        inner = path.parent / given.source if root is not None else _inside(path.parent, given.source, "source")
    base = root or (_inside(path.parent, given.root, "root") if given.root else None)
    fixed = {"name": path.stem, **given.model_dump(exclude={"source", "root"}, exclude_unset=True)}
    return inner, fixed, base


def _read(
    path: Path, sheet: str | Path | Mapping[str, Any] | None, columns: Mapping[str, str] | None, root: str | Path | None
) -> Found:
    """What a file or folder holds."""
    if path.suffix.lower() in TABLES:
        told = _told(sheet, path.with_suffix(""))
        table = pick(read_table(path, columns or told.columns), columns or told.columns)
        return (
            (table if path.suffix.lower() == ".jsonl" else split_cells(table)),
            told,
            path.stem,
            root or _root(told, path.parent),
        )
    stem = _published(path)
    if stem is not None:
        told = _told(sheet, stem)
        if told == Sheet() and stem.name in task_names():
            ours = load_task(stem.name)  # its instruction and first task word are the paper's
            told = Sheet(instruction=ours.instructions[0], task_words=ours.task_words)
        home = stem.parent.parent if stem.parent.name == "annotations" else stem.parent
        return _annotations(stem), told, stem.name, root or _root(told, home)
    if path.is_dir():
        told = _told(sheet, path / "task")
        return read_folder(path, columns or told.columns), told, path.resolve().name, root or path
    if path.suffix.lower() == ".json":
        return _items(path, sheet, columns, root)
    if path.suffix or len(path.parts) > 1:
        raise TaskError(
            f"Cannot read the task {path}: no such file or folder, or of an unknown kind (.json, .yaml, "
            f"{', '.join(TABLES)}, a folder of images, or annotations without their _val.json)."
        )
    known = ", ".join(name for of in TASK_FOLDERS for name in task_names(of))
    raise TaskError(f"No task {str(path)!r}. xmi has: {known}; or give a file, a folder or a dataset.")


def _items(
    path: Path, sheet: str | Path | Mapping[str, Any] | None, columns: Mapping[str, str] | None, root: str | Path | None
) -> Found:
    """What a JSON file holds: a task, or a list of items."""
    content = _json(path)
    if isinstance(content, dict):
        file = check_sheet(_TaskFile, content, str(path))
        table = pick(read_list(file.items, f"{path.name} items"), columns)
        # Where some items of a task file have a split, the others are train.
        named = any(row.values.get("split") for row in table.rows)
        rows = [Row(r.place, {**({"split": "train"} if named else {}), **r.values}) for r in table.rows]
        told = file if sheet is None else _told(sheet, None)
        return Table(rows, table.faults), told, path.stem, root or path.parent
    wording = _told(sheet, path.with_suffix(""))
    table = pick(read_list(content, path.name), columns or wording.columns)
    return table, wording, path.stem, root or _root(wording, path.parent)


def _finish(
    table: Table,
    told: Wording,
    named: str,
    root: str | Path,
    template: Template | None,
    name: str | None,
    examples: str | None,
) -> Task:
    if not isinstance(template, (Template, NoneType)) or not isinstance(root, (str, Path)):  # type: ignore[redundant-expr]
        raise TaskError(f"Expected a Template and a path as root, found {kind(template)} and {kind(root)}.")
    drawn = examples or told.examples
    if drawn not in ("train", "validation"):
        raise TaskError(f"Examples are drawn from train or validation, not from {drawn!r}.")
    items, faults = make_items(table.rows, Path(root).expanduser(), drawn)
    faults = table.faults + (faults if table.rows or not table.faults else [])
    name = name or told.name or named
    if faults:
        raise TaskError(f"The task {short(name)} has {len(faults)} fault(s):\n{listing(faults)}")
    return Task(name, items, told.instructions, told.task_words, template or told.make_template(), drawn)


def _told(sheet: str | Path | Mapping[str, Any] | None, beside: Path | None) -> Sheet:
    """The sheet that was given, or the one that lies beside the source."""
    if isinstance(sheet, Mapping):
        return check_sheet(Sheet, dict(sheet), "The sheet")
    if isinstance(sheet, (str, Path)):
        return read_sheet(Path(sheet).expanduser())
    if sheet is not None:
        raise TaskError(f"A sheet is a file or a mapping; found {kind(sheet)}.")
    for suffix in SHEETS if beside is not None else ():
        path = beside.with_name(beside.name + suffix) if beside is not None else Path()
        if path.is_file():
            return read_sheet(path)
    return Sheet()


def _root(told: Sheet, folder: Path) -> Path:
    return _inside(folder, told.root, "root") if told.root else folder


def _inside(folder: Path, given: str, key: str) -> Path:
    """A path of a sheet, which is data: it leads nowhere outside of the sheet's own folder.

    Raises:
        TaskError: It does.
    """
    try:
        path = (folder / given).resolve()
        fine = path.is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError) as error:
        raise TaskError(f"The sheet's {key} {short(given)!r} is not a path that can be read ({error}).") from error
    if not fine:
        raise TaskError(
            f"The sheet's {key} {short(given)!r} leads outside of its folder {folder}. A sheet reads nothing there "
            "unless you say so: pass root=..., or put the data next to the sheet."
        )
    return folder / given


def _json(path: Path) -> Any:
    try:
        return parse_json(read_text(path, TaskError))
    except ValueError as error:
        raise TaskError(f"{path} is not a task file: {error}.") from error


def _published(path: Path) -> Path | None:
    """`folder/task` if `folder/task_val.json` or `_test.json` is there, be it given with or without this ending."""
    stem = path
    for ending in PUBLISHED:
        if path.name.endswith(f"_{ending}.json"):
            stem = path.with_name(path.name.removesuffix(f"_{ending}.json"))
    there = [stem.with_name(f"{stem.name}_{ending}.json").is_file() for ending in PUBLISHED] if stem.name else []
    return stem if any(there) and (stem != path or not path.exists()) else None


def _annotations(stem: Path) -> Table:
    """Rows of the published format; columns of its own are left aside."""
    found = Table()
    for ending, split in PUBLISHED.items():
        path = stem.with_name(f"{stem.name}_{ending}.json")
        if not path.is_file():
            continue
        content = _json(path)
        label = path.name
        if isinstance(content, dict):
            content, label = content.get("data"), f"{label} data"
        table = read_list(content, label)
        found += Table(
            [Row(r.place, {k: r.values.get(k) for k in COLUMNS} | {"split": split}) for r in table.rows], table.faults
        )
    return found
