"""From rows of any source to the items of a task: every row is checked, every fault is named, splits are dealt."""

from __future__ import annotations

import hashlib
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

from xmi.faults import kind, no_text, short
from xmi.names import SPLITS
from xmi.prompt.task import BROKEN, Item, whole

COLUMNS = ("input", "output", "image", "split")
"""What a row may hold; only `input` and `output` are needed."""

_ALIASES = {"val": "validation"}


@dataclass(frozen=True)
class Row:
    """One row of a source.

    Attributes:
        place: Where it stands, for messages: file and line, or file and number.
        values: What it holds, by column.
    """

    place: str
    values: Mapping[str, Any]


def make_items(rows: Sequence[Row], root: Path, examples: str = "train") -> tuple[tuple[Item, ...], list[str]]:
    """Items from rows.

    Args:
        rows: The rows.
        root: Folder that image paths are relative to, and below which images must lie once links are resolved.
        examples: Split that examples are drawn from.

    Returns:
        The items, as far as rows are sound, with splits dealt where the source has none; and all faults.
    """
    faults: list[str] = []
    items: list[Item] = []
    places: dict[str, str] = {}
    pictures: dict[Path, tuple[str, str]] = {}
    root = root.resolve()
    for row in rows:
        item, found = _item(row, root)
        label = f"{row.place} ({short(item.input)})" if item.input.strip() else row.place
        faults += [f"{label}: {fault}" for fault in found]
        key = unicodedata.normalize("NFC", item.input.strip())
        if key and key in places:
            faults.append(f"{label}: the input occurs twice, first in {places[key]}; splits must be disjoint.")
        places.setdefault(key, row.place)
        if item.image is not None:
            place, split = pictures.setdefault(item.image, (row.place, item.split))
            if split != item.split:
                faults.append(f"{label}: its image stands in another split too ({place}).")
        items.append(item)
    if not rows:
        faults.append("no items.")
    named = {item.split for item in items}
    if "" in named and len(named) > 1:
        faults += [
            f"{r.place}: no split, though others have one." for r, i in zip(rows, items, strict=True) if not i.split
        ]
    return (tuple(items) if faults else deal(items, examples)), faults


def deal(items: Sequence[Item], examples: str = "train") -> tuple[Item, ...]:
    """Deals the splits that a source lacks, by the rank of SHA-256 of the input: the same items give the same splits.

    Without any split, a fifth becomes test, another fifth validation, the rest train. Without validation items, a
    fifth of the training items becomes validation. Without training items (the published data), half of the
    validation items becomes train, unless examples are drawn from validation.

    Args:
        items: Items of which all have a split, or none.
        examples: Split that examples are drawn from.

    Returns:
        The same items in the same order, each with one split.
    """
    named = {item.split for item in items}
    splits = {item.input: item.split or "train" for item in items}
    if "" in named:
        ranked = _ranked(items)
        fifth = round(len(items) / 5)
        splits |= dict.fromkeys(ranked[:fifth], "test") | dict.fromkeys(ranked[fifth : 2 * fifth], "validation")
    elif "validation" not in named and "train" in named and "test" in named:
        ranked = _ranked([item for item in items if item.split == "train"])
        splits |= dict.fromkeys(ranked[: round(len(ranked) / 5)], "validation")
    elif "validation" in named and "train" not in named and examples == "train":
        ranked = _ranked([item for item in items if item.split == "validation"])
        splits |= dict.fromkeys(ranked[: (len(ranked) + 1) // 2], "train")
    return tuple(Item(i.input, i.output, i.image, splits[i.input], i.alternatives) for i in items)


def _ranked(items: Sequence[Item]) -> list[str]:
    return sorted((i.input for i in items), key=lambda text: hashlib.sha256(text.encode()).digest())


def _item(row: Row, root: Path) -> tuple[Item, list[str]]:
    values, faults = row.values, []
    text = values.get("input")
    if not isinstance(text, str) or not text.strip() or not whole(text):
        empty = text is None or (isinstance(text, str) and not text.strip())
        faults.append("empty input." if empty else f"input: {_no_text(text)}")
        text = ""
    given = values.get("output")
    labels = list(given) if isinstance(given, (list, tuple)) else [given]
    if not labels or any(label is None or (isinstance(label, str) and not label.strip()) for label in labels):
        faults.append("empty output.")
    faults += [f"output: {_no_text(v)}" for v in labels if v is not None and not (isinstance(v, str) and whole(v))]
    words: list[str] = list(dict.fromkeys(v for v in labels if isinstance(v, str) and whole(v))) or [""]
    split = values.get("split") or ""
    split = _ALIASES.get(split, split) if isinstance(split, str) else kind(split)
    if split and split not in SPLITS:
        faults.append(f"unknown split {short(split)!r}; use one of {', '.join(SPLITS)}.")
    image, fault = _image(values.get("image"), root)
    faults += [fault] if fault else []
    return Item(text, words[0], image, split, tuple(words[1:])), faults


def _image(given: Any, root: Path) -> tuple[Path | None, str | None]:
    if given is None or given == "":
        return None, None
    if not isinstance(given, (str, Path)):
        return None, f"image: expected a path, found {kind(given)}."
    try:
        path = (root / given).resolve()
        fault = _image_fault(path, root)
    except (OSError, ValueError, RuntimeError) as error:  # a NUL, a name that is too long, a circle of links
        return None, f"image {short(str(given))!r} is not a path that can be read ({error})."
    return path, f"image {short(str(given))!r} {fault}" if fault else None


def _no_text(found: object) -> str:
    return BROKEN if isinstance(found, str) else no_text(found)


def _image_fault(path: Path, root: Path) -> str | None:
    if not path.is_relative_to(root):
        return f"lies outside the data root {root}."
    if not path.is_file():
        return "does not exist."
    state = path.stat()
    return _decoding_fault(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=4096)
def _decoding_fault(path: Path, _changed: int, _size: int) -> str | None:
    """Why a file cannot be decoded; decoding takes most of the time of loading a task, and tasks are loaded often."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                image.load()  # to its end: a cut JPEG has a sound head
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        return f"cannot be opened as an image ({type(error).__name__})."
    except Image.DecompressionBombWarning:
        return "is too large; scale it down."
    return None
