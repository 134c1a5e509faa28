"""Text, YAML and JSON that users give: bounded before anything is expanded, and nothing in them lost without a word.

YAML has aliases, by which a few hundred bytes become gigabytes, and both let a key stand twice, of which the last one
wins silently. Here either is a fault, as are depth and size beyond what any plan, sheet or task needs.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from xmi.errors import XmiError
from xmi.faults import short

PAGE = 1 << 18
"""Bytes of a plan or a sheet at most."""

TABLE = 1 << 29
"""Bytes of a file of items at most."""

DEPTH = 20
"""How deep lists and keys may lie within each other."""

ENCODINGS = {
    codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
"""Encodings by the mark at the beginning of a file; a file without one is UTF-8."""


def read_text(path: Path, error: type[XmiError], limit: int = TABLE) -> str:
    """A text file: UTF-8, or what its byte order mark says; line ends are left as they are.

    Args:
        path: The file.
        error: The class of the error.
        limit: Bytes that it may have.

    Raises:
        XmiError: It cannot be read, is too large, or is in another encoding; of the class that is asked for.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(limit + 1)
    except (OSError, ValueError) as problem:
        raise error(f"Cannot read {path}: {getattr(problem, 'strerror', None) or problem}.") from problem
    if len(data) > limit:
        most = f"{limit >> 20} MiB" if limit >= 1 << 20 else f"{limit >> 10} KiB"
        raise error(f"Cannot read {path}: it is larger than {most}, the limit for such a file.")
    encoding = next((name for mark, name in ENCODINGS.items() if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as problem:
        line = data[: problem.start].count(b"\n") + 1
        raise error(
            f"Cannot read {path}: line {line} is not {encoding.removesuffix('-sig').upper()} ({problem.reason}); save "
            "the file as UTF-8."
        ) from None
    if "\0" in text:
        raise error(f"Cannot read {path}: it holds NUL characters, as UTF-16 without a mark does; save it as UTF-8.")
    return text


def parse_yaml(text: str, path: Path, error: type[XmiError]) -> Any:
    """What a YAML document holds.

    Args:
        text: The document.
        path: Its file, for messages.
        error: The class of the error.

    Raises:
        XmiError: It is not YAML, refers to itself (anchors and aliases), is nested too deeply, or has a key twice.
    """
    depth = 0
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                line = event.start_mark.line + 1
                raise error(
                    f"Cannot read {path}: line {line} has an anchor or alias (& or *). Write out what it means."
                )
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEPTH:
                raise error(f"Cannot read {path}: lists and keys lie more than {DEPTH} deep in each other.")
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as problem:  # a date of the 99th month is a ValueError
        raise error(f"Cannot read {path}: {problem}") from problem


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """The safe loader, but for keys that occur twice, and for keys such as `on`, which stay the words they are."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """Makes a mapping.

        Raises:
            YAMLError: A key occurs twice, or cannot be a key.
        """
        seen = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:bool":
                key.tag = "tag:yaml.org,2002:str"
            value = self.construct_object(key, deep=True)
            if not isinstance(value, Hashable):
                raise yaml.constructor.ConstructorError(None, None, "a list cannot be a key", key.start_mark)
            if value in seen:
                what = f"the key {short(value)!r} occurs twice"
                raise yaml.constructor.ConstructorError(None, None, what, key.start_mark)
            seen.add(value)
        return super().construct_mapping(node, deep)


def parse_json(text: str) -> Any:
    """What a JSON text holds.

    Raises:
        ValueError: It is not JSON, is nested too deeply, or has a key twice; the message says where as far as it can.
    """
    try:
        content = json.loads(text, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError(f"lists and objects lie more than {DEPTH} deep in each other") from None
    except json.JSONDecodeError as problem:
        raise ValueError(f"line {problem.lineno}, column {problem.colno}: {problem.msg}") from None
    layer = [content]
    for _ in range(DEPTH):
        layer = [part for whole in layer for part in _parts(whole) if isinstance(part, (dict, list))]
        if not layer:
            return content
    raise ValueError(f"lists and objects lie more than {DEPTH} deep in each other")


def _parts(whole: Any) -> Any:
    return whole.values() if isinstance(whole, dict) else whole if isinstance(whole, list) else ()


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {short(twice)!r} occurs twice in one object")
    return found
