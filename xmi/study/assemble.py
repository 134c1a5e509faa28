"""From finished cells to tables and results."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from xmi.measure import (
    Answers,
    Proportion,
    Transfer,
    cosine_per_layer,
    merge,
    project,
    silhouette,
)
from xmi.measure.result import encode
from xmi.study.cell import RANDOM, Cell
from xmi.study.plan import SOURCES, TARGETS, Plan
from xmi.study.store import Store
from xmi.vector import TaskVector


def assemble(store: Store, plan: Plan, cells: Sequence[Cell], names: dict[str, str]) -> None:
    """Writes records, tables and results of a study whose cells are all finished.

    Args:
        store: The run folder.
        plan: The plan.
        cells: All cells, in the plan's order.
        names: Display name of each task of the plan.
    """
    content = {cell: store.get(cell) for cell in cells}
    lines = (json.dumps(r, ensure_ascii=False) for cell in cells for r in content[cell]["records"])
    store.write("records.jsonl", "\n".join(lines) + "\n")
    for model in dict.fromkeys(cell.model for cell in cells):
        own = [cell for cell in cells if cell.model == model]
        parts = [content[cell] for cell in own]
        answers = {name: Answers.concat([p["answers"][name] for p in parts]) for name in parts[0]["answers"]}
        transfers = {name: Transfer.concat([p["transfers"][name] for p in parts]) for name in parts[0]["transfers"]}
        results: dict[str, Any] = {f"answers.{name}": value for name, value in answers.items()}
        results |= {f"transfer.{name}": value for name, value in transfers.items()}
        results |= _phases(own, parts, names)
        results |= _geometry(store, plan, own, parts, names)
        for name, value in results.items():
            store.write(f"results/{model}.{name}.json", json.dumps(encode(value)))
        table = summary(answers, transfers)
        store.write(f"tables/{model}.summary.csv", table.to_csv(index=False))
        for name, transfer in transfers.items():
            store.write(f"tables/{model}.transfer.{name}.csv", transfer.to_frame().to_csv(index=False))


def summary(answers: dict[str, Answers], transfers: dict[str, Transfer]) -> pd.DataFrame:
    """The specification x modality table: one row per prompting cell and per patched source.

    Args:
        answers: Prompting cells by `source > target`.
        transfers: Sweeps by `target.split`; `validation` chooses the layer (one for all tasks), `test` is reported.

    Returns:
        Columns method, source, target, layer, accuracy, low, high, n, strict, and one per task.
    """
    rows = []
    for name, cell in answers.items():
        source, target = name.split(" > ")
        method = "no context" if source == "no context" else "prompt"
        shares = {t: _of_task(cell, t) for t in dict.fromkeys(cell.tasks)}
        rows.append(_row(method, source, target, None, cell.accuracy(), cell.accuracy("strict").mean, shares))
    for target in TARGETS:
        validation, test = transfers[f"{target}.validation"], transfers[f"{target}.test"]
        for source in test.sources:
            layer = validation.best_layer_of(source)
            at = test.accuracy(source, layer)
            strict = test.accuracy(source, layer, "strict").mean
            hits = test.paper[test.sources.index(source), test.layers.index(layer)]
            shares = {t: float(hits[np.array(test.tasks) == t].mean()) for t in dict.fromkeys(test.tasks)}
            rows.append(_row("patch", source, target, layer, at, strict, shares))
    return pd.DataFrame(rows)


def _row(
    method: str,
    source: str,
    target: str,
    layer: int | None,
    found: Proportion,
    strict: float,
    shares: dict[str, float],
) -> dict[str, Any]:
    head = {"method": method, "source": source, "target": target, "layer": layer}
    body = {"accuracy": found.mean, "low": found.low, "high": found.high, "n": found.n, "strict": strict}
    return head | body | shares


def _of_task(cell: Answers, task: str) -> float:
    return float(cell.paper[np.array(cell.tasks) == task].mean())


def _phases(cells: Sequence[Cell], parts: Sequence[dict[str, Any]], names: dict[str, str]) -> dict[str, Any]:
    """Phases of each specification pooled over tasks and seeds, then of each task pooled over seeds."""
    found: dict[str, Any] = {}
    for number, kind in enumerate(parts[0]["phases"]):
        found[f"phases.{number:02d}"] = merge(kind, [p["phases"][kind] for p in parts])
        for k, (task, name) in enumerate(names.items()):
            mine = [p["phases"][kind] for cell, p in zip(cells, parts, strict=True) if cell.task == task]
            found[f"phases.{number:02d}.{k:02d}"] = merge(f"{name} · {kind}", mine)
    return found


def _geometry(
    store: Store, plan: Plan, cells: Sequence[Cell], parts: Sequence[dict[str, Any]], names: dict[str, str]
) -> dict[str, Any]:
    """Similarity of the task vectors and the geometry of single-prompt vectors, from the first seed."""
    first = [(c, p) for c, p in zip(cells, parts, strict=True) if c.seed == plan.seeds[0]]
    labels, groups, vectors = [], [], []
    for source in SOURCES:
        for cell, _ in first:
            labels.append(f"{names[cell.task]} · {source}")
            groups.append(names[cell.task])
            vectors.append(TaskVector.load(store.vector_path(cell, source)).values.numpy())
    points = np.concatenate([p["points"][m] for _, p in first for m in TARGETS])
    tasks = [names[c.task] for c, p in first for m in TARGETS for _ in p["points"][m]]
    modalities = [m for _, p in first for m in TARGETS for _ in p["points"][m]]
    stack = np.stack(vectors)
    return {
        "similarity": cosine_per_layer(stack, labels, groups),
        "similarity.centred": cosine_per_layer(stack, labels, groups, centred=True),
        "projection.pca": project(points, tasks, modalities, method="pca"),
        "projection.tsne": project(points, tasks, modalities, method="tsne"),
        "silhouette": silhouette(points, tasks, modalities),
    }


__all__ = ["RANDOM", "assemble", "summary"]
