"""The lists of prompts and answers, and the addresses by which numbers of the page lead to them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any
from urllib.parse import urlencode

from xmi.errors import RunError
from xmi.measure.summaries import row_of
from xmi.names import NO_CONTEXT
from xmi.report.answers import Blocks
from xmi.study.folder import RECORDS
from xmi.study.records_file import RecordsFile
from xmi.study.results import StudyResults

KEYS = ("model", "task", "method", "source", "target", "split")
"""What a list of answers is known by."""

TEST = "test"
"""The split that tables speak of."""


@dataclass
class List:
    """One list of answers.

    Attributes:
        number: Which one it is, in the order of the records.
        key: Its model, task, method, source, target and split.
        layer: The layer that validation items chose, if it is of a patch.
        hits: Right answers, at that layer.
        size: Answers.
    """

    number: int
    key: tuple[str, ...]
    layer: int | None
    hits: int = 0
    size: int = 0


class Drilldown:
    """The lists of a study's answers.

    Attributes:
        lists: All lists, in the order of the records.
        blocks: Their answers, packed.
    """

    def __init__(self, lists: list[List], blocks: Blocks) -> None:
        """Keeps what `drill` has read."""
        self.lists = lists
        self.blocks = blocks

    @cached_property
    def values(self) -> dict[str, list[str]]:
        """What the lists can be chosen by: per key the values that there are."""
        return {name: list(dict.fromkeys(one.key[i] for one in self.lists)) for i, name in enumerate(KEYS)}

    @cached_property
    def models(self) -> list[dict[str, Any]]:
        """Per model `{"model", "tasks", "lists"}`, per task `{"task", "cells"}`, per list what the page says of it.

        Its `place` says, for each of `KEYS`, which of `values` it has.
        """
        tree: dict[str, dict[str, list[dict[str, Any]]]] = {}
        for one in self.lists:
            tree.setdefault(one.key[0], {}).setdefault(one.key[1], []).append(self._said(one))
        return [
            {
                "model": model,
                "tasks": [{"task": task, "cells": cells} for task, cells in tasks.items()],
                "lists": sum(map(len, tasks.values())),
            }
            for model, tasks in tree.items()
        ]

    def link(self, **chosen: str) -> str:
        """The address of the lists of answers behind a number of a table.

        Args:
            **chosen: Value by key, of `KEYS`.

        Returns:
            The address, such as `#prompts?model=organism&method=patch`; empty if the page lists no such answers.
        """
        wanted = chosen | ({"split": TEST} if TEST in self.values["split"] else {})
        at = tuple(KEYS.index(name) for name in wanted)
        return f"#prompts?{urlencode(wanted)}" if tuple(wanted.values()) in self._known(at) else ""

    def _known(self, at: tuple[int, ...]) -> set[tuple[str, ...]]:
        """What lists there are, by some of their keys."""
        if at not in self._found:
            self._found[at] = {tuple(one.key[i] for i in at) for one in self.lists}
        return self._found[at]

    @cached_property
    def _found(self) -> dict[tuple[int, ...], set[tuple[str, ...]]]:
        return {}

    def _said(self, one: List) -> dict[str, Any]:
        _, _, method, source, target, split = one.key
        label = NO_CONTEXT if method == NO_CONTEXT else f"{source}: {method}"
        return {
            "number": one.number,
            "place": [self.values[name].index(value) for name, value in zip(KEYS, one.key, strict=True)],
            "label": f"{label} → {target} query" + (f" ({split})" if len(self.values["split"]) > 1 else ""),
            "layer": one.layer,
            "hits": one.hits,
            "size": one.size,
        }


def drill(results: StudyResults) -> Drilldown:
    """Reads which lists a study has, and what is in each; its records are never held together.

    Args:
        results: The study.
    """
    lists: dict[tuple[str, ...], List] = {}
    file = RecordsFile(results.path / RECORDS)
    blocks = Blocks(file.at)
    layer_of = cache(lambda *source: _chosen(results, *source))  # of all tasks and splits: one layer
    for place, record in file if file.path.is_file() else ():
        key = tuple(str(record.get(name, "")) for name in KEYS)
        if key not in lists:
            lists[key] = List(len(lists), key, layer_of(key[0], *key[2:5]))
        one = lists[key]
        blocks.add(one.number, one.size, place)
        one.size += 1
        one.hits += _hit(record, one.layer)
    order = defaultdict(list)
    for one in lists.values():
        order[one.key[0]].append(one)
    return Drilldown([one for model in (*results.models, *order) for one in order.pop(model, [])], blocks)


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
    return any(paper) if layer is None else layer in layers and bool(paper[layers.index(layer)])
