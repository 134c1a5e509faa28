"""From finished cells to tables and results."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from xmi.measure.result import encode
from xmi.prompt import Task
from xmi.study.experiments import LISTED, registry
from xmi.study.experiments.experiment import Given
from xmi.study.folder import FINISHED, RECORDS
from xmi.study.grid import Cell, slug
from xmi.study.store import Store, Stored
from xmi.study.tables import table_text


def assemble(store: Store, cells: Sequence[Cell], tasks: Mapping[str, Task]) -> None:
    """Writes records, tables and results of a study whose cells are all finished.

    Args:
        store: The run folder.
        cells: All cells, in the plan's order.
        tasks: The tasks, by their name in the plan.
    """
    (store.path / FINISHED).unlink(missing_ok=True)  # what it lists is about to be written over
    content = {cell: store.get(cell) for cell in cells}
    store.write(RECORDS, "".join(stored.records for stored in content.values()))
    index: dict[str, Any] = {"tables": {}, "results": {}}
    for model in dict.fromkeys(cell.model for cell in cells):
        stem, found = slug(model, "."), _given(store, model, content, tasks)
        index["results"][model] = {name: f"results/{stem}.{name}.json" for name in found.results}
        index["tables"][model] = {name: f"tables/{stem}.{name}.csv" for name in found.tables}
        for name, value in found.results.items():
            store.write(index["results"][model][name], json.dumps(encode(value)))
        for name, table in found.tables.items():
            store.write(index["tables"][model][name], table_text(table))
    index["vectors"] = [
        {
            "model": c.model,
            "seed": c.seed,
            **vector,
            "task": tasks[vector["task"]].name,
            "digest": stored.digest(vector["file"]),
        }
        for c, stored in content.items()
        for vector in stored.head["parts"]["vectors"]
    ]
    index["made_with"] = _made_with(content.values())
    images = {name for stored in content.values() for name in stored.head["files"] if name.startswith("images/")}
    store.write_index({**index, "files": [RECORDS, *images]}, cells)


def _given(store: Store, model: str, content: Mapping[Cell, Stored], tasks: Mapping[str, Task]) -> Given:
    """What the cells of a model give, in the order in which the index lists it."""
    own = {cell: stored for cell, stored in content.items() if cell.model == model}
    kinds = {cell.kind for cell in own}
    having = [kind for kind in dict.fromkeys((*LISTED, *registry())) if kind in kinds]
    parts = [registry()[kind].gives(own, store.plan, tasks) for kind in having]
    results = {name: value for part in parts for name, value in part.results.items()}
    return Given(results, {name: table for part in parts for name, table in part.tables.items()})


def _made_with(stored: Iterable[Stored]) -> list[dict[str, Any]]:
    """The different things that cells were made with, and how many cells each."""
    found = Counter(tuple(sorted(one.head["made_with"].items())) for one in stored)
    return [{"cells": count, "with": dict(what)} for what, count in found.items()]
