"""Every prompt and answer of a study, packed small enough to travel inside the page.

Strings, prompts and images are stored once and referred to by index; the whole is gzipped, and the page unpacks it when
the reader opens the first list.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from PIL import Image, UnidentifiedImageError

from xmi.errors import RunError
from xmi.names import NO_CONTEXT
from xmi.report.wording import row_of
from xmi.study.results import StudyResults

IMAGE_BUDGET = 1_000_000
"""Bytes that all images together may take on the page; beyond it they are shrunk."""


KEYS = ("model", "task", "method", "source", "target", "split")
"""What a list of answers is known by."""

TEST = "test"
"""The split that tables speak of."""


@dataclass
class _Index:
    """Gives every distinct value a number."""

    values: list[Any] = field(default_factory=list)
    seen: dict[Hashable, int] = field(default_factory=dict)

    def of(self, value: Any, key: Hashable | None = None) -> int:
        name = value if key is None else key
        if name not in self.seen:
            self.seen[name] = len(self.values)
            self.values.append(value)
        return self.seen[name]


@dataclass(frozen=True)
class Drill:
    """The packed answers and what the page lists of them.

    Attributes:
        models: Per model `{"model", "tasks", "lists"}`, per task `{"task", "cells"}`, per cell its number, label, hits
            and size, and its `place`: for each of `KEYS` which of `values` it has.
        values: What the lists can be chosen by: per key the values that there are.
        payload: Base64 of the gzipped JSON.
        shown: Answers that the page holds.
        total: Answers that the study holds.
    """

    models: list[dict[str, Any]]
    values: dict[str, list[str]]
    payload: str
    shown: int
    total: int

    def link(self, **chosen: str) -> str:
        """The address of the lists of answers behind a number of a table.

        Args:
            **chosen: Value by key, of `KEYS`.

        Returns:
            The address, such as `#prompts?model=organism&method=patch`; empty if the page lists no such answers.
        """
        wanted = chosen | ({"split": TEST} if TEST in self.values["split"] else {})
        places = [(KEYS.index(k), self.values[k].index(v) if v in self.values[k] else -1) for k, v in wanted.items()]
        cells = (c["place"] for m in self.models for t in m["tasks"] for c in t["cells"])
        return f"#prompts?{urlencode(wanted)}" if any(all(c[i] == v for i, v in places) for c in cells) else ""


def drill(results: StudyResults, limit: int | None = None) -> Drill:
    """Packs the records of a study.

    Args:
        results: The study.
        limit: Most answers per cell to keep; None keeps all.

    Returns:
        The packed answers, in the order of the records.
    """
    records = _records(results)
    cells: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for record in records:
        key = tuple(str(record.get(k, "")) for k in KEYS)
        cells.setdefault(key, []).append(record)
    strings, images, prompts = _Index(), _Index(), _Index()
    packed: list[tuple[int | None, list[list[Any]]]] = []
    tree: dict[str, dict[str, list[dict[str, Any]]]] = {m: {} for m in results.models}
    values = {name: list(dict.fromkeys(key[i] for key in cells)) for i, name in enumerate(KEYS)}
    splits = values["split"]
    sources = dict.fromkeys((key[0], *key[2:5]) for key in cells)  # of all tasks and splits: one layer
    chosen = {source: _chosen(results, *source) for source in sources}
    for number, (key, found) in enumerate(cells.items()):
        model, task, method, source, target, split = key
        layer = chosen[model, method, source, target]
        packed.append((layer, [_entry(r, strings, images, prompts) for r in found[:limit]]))
        label = NO_CONTEXT if method == NO_CONTEXT else f"{source}: {method}"
        entry = {
            "number": number,
            "place": [values[name].index(v) for name, v in zip(KEYS, key, strict=True)],
            "label": f"{label} → {target} query" + (f" ({split})" if len(splits) > 1 else ""),
            "layer": layer,
            "hits": sum(_hit(r, layer) for r in found),
            "size": len(found),
        }
        tree.setdefault(model, {}).setdefault(task, []).append(entry)
    content = {
        "strings": strings.values,
        "images": _pictures(results.path / "images", images.values),
        "prompts": prompts.values,
        "cells": packed,
    }
    raw = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    listed = [
        {
            "model": m,
            "tasks": [{"task": t, "cells": c} for t, c in tasks.items() if c],
            "lists": sum(map(len, tasks.values())),
        }
        for m, tasks in tree.items()
    ]
    return Drill(
        models=[m for m in listed if m["tasks"]],
        values=values,
        payload=base64.b64encode(gzip.compress(raw, 9, mtime=0)).decode(),
        shown=sum(len(entries) for _, entries in packed),
        total=len(records),
    )


def _records(results: StudyResults) -> list[dict[str, Any]]:
    try:
        return results.records()
    except FileNotFoundError:
        return []


def _chosen(results: StudyResults, model: str, method: str, source: str, target: str) -> int | None:
    if method != "patch":
        return None
    try:
        row = row_of(results.summary(model), method, source, target)
    except FileNotFoundError as error:
        raise RunError(f"The study has no table {error.filename}: run it again to complete it.") from error
    return int(row["layer"]) if row is not None and row["layer"] == row["layer"] else None


def _hit(record: dict[str, Any], layer: int | None) -> bool:
    paper = record["paper"]
    if not isinstance(paper, list):
        return bool(paper)
    layers = record.get("layers", range(len(paper)))
    return any(hit for at, hit in zip(layers, paper, strict=True) if layer is None or at == layer)


def _entry(record: dict[str, Any], strings: _Index, images: _Index, prompts: _Index) -> list[Any]:
    def string(value: Any) -> Any:
        return [strings.of(str(v)) for v in value] if isinstance(value, list) else strings.of(str(value))

    def short(value: Any) -> Any:
        return [round(float(v), 2) for v in value] if isinstance(value, list) else round(float(value), 2)

    def flag(value: Any) -> Any:
        return [int(v) for v in value] if isinstance(value, list) else int(value)

    # A text is its index, an image the bitwise complement of its own.
    segments = [
        ~images.of(Path(str(s["image"])).name) if "image" in s else strings.of(str(s["text"])) for s in record["prompt"]
    ]
    return [
        prompts.of(segments, tuple(segments)),
        string(record["answer"]),
        string(record["predicted"]),
        short(record["log_probability"]),
        flag(record["rank"]),
        flag(record["paper"]),
        flag(record["strict"]),
        record.get("seed"),
        record.get("layers"),
    ]


def _pictures(folder: Path, names: list[str]) -> list[list[str]]:
    """Name and data URI of each image, shrunk until all fit the budget; an unreadable one has an empty URI."""
    uris: list[str] = []
    for size in (96, 64, 48, 32, 20):
        uris = [_uri(folder / name, size) for name in names]
        if sum(map(len, uris)) <= IMAGE_BUDGET:
            break
    return [[name, uri] for name, uri in zip(names, uris, strict=True)]


def _uri(path: Path, size: int) -> str:
    try:
        with Image.open(path) as image:
            if max(image.size) <= size and path.suffix.lower() == ".png" and path.stat().st_size < 6000:
                return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
            small = image.convert("RGBA" if image.mode in ("RGBA", "LA", "P") else "RGB")
    except (OSError, UnidentifiedImageError):
        return ""
    small.thumbnail((size, size))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=80, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
