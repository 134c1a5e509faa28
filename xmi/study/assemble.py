"""From finished cells to tables and results."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool

from xmi.measure import (
    Answers,
    Transfer,
    accuracy,
    boundaries,
    comparisons,
    majority_answers,
    merge,
)
from xmi.measure.answers import hits_of
from xmi.measure.result import encode
from xmi.names import (
    ASKED,
    LEVELS,
    MAJORITY,
    MODALITIES,
    SCORES,
    TEXT_ICL,
    cell_name,
    cell_parts,
    label_of,
    of_base,
    sweep_name,
)
from xmi.prompt import Task
from xmi.study.folder import FINISHED, RECORDS
from xmi.study.grid import Cell, slug
from xmi.study.plan import Plan
from xmi.study.store import Store, Stored
from xmi.study.tables import table_text
from xmi.vector import base_similarity


def assemble(store: Store, cells: Sequence[Cell], tasks: Mapping[str, Task]) -> None:
    """Writes records, tables and results of a study whose cells are all finished.

    Args:
        store: The run folder.
        cells: All cells, in the plan's order.
        tasks: The tasks, by their name in the plan.
    """
    plan = store.plan
    (store.path / FINISHED).unlink(missing_ok=True)  # what it lists is about to be written over
    names = {key: task.name for key, task in tasks.items()}
    training = {task.name: [item.output for item in task.split("train")] for task in tasks.values()}
    content = {cell: store.get(cell) for cell in cells}
    store.write(RECORDS, "".join(stored.records for stored in content.values()))
    index: dict[str, Any] = {"tables": {}, "results": {}}
    for model in dict.fromkeys(cell.model for cell in cells):
        stem = slug(model, ".")
        own = [cell for cell in cells if cell.model == model and cell.kind == "ask"]
        parts = [content[cell].measured for cell in own]
        answers = {name: Answers.concat([p["answers"][name] for p in parts]) for name in parts[0]["answers"]}
        transfers = {name: Transfer.concat([p["transfers"][name] for p in parts]) for name in parts[0]["transfers"]}
        results: dict[str, Any] = {f"answers.{name}": value for name, value in answers.items()}
        results |= {f"transfer.{name}": value for name, value in transfers.items()}
        results |= _phases(own, parts, names)
        results |= _once({c.kind: content[c].measured["result"] for c in cells if c.model == model and c.task is None})
        results |= _base_similarity({c: s for c, s in content.items() if c.model == model}, plan)
        answers |= {
            cell_name(MAJORITY, t): majority_answers(transfers[sweep_name(t, "test")], training) for t in plan.targets
        }
        tables = {
            "summary": summary(answers, transfers, plan.score, plan.ties),
            "by_task": by_task(answers, transfers, plan.score, plan.ties),
            "comparisons": comparisons(answers, transfers, score=plan.score, ties=plan.ties),
            **{f"transfer.{name}": transfer.to_frame() for name, transfer in transfers.items()},
        }
        for kind, ending in (("results", "json"), ("tables", "csv")):
            index[kind][model] = {
                name: f"{kind}/{stem}.{name}.{ending}" for name in (results, tables)[kind == "tables"]
            }
        for name, value in results.items():
            store.write(index["results"][model][name], json.dumps(encode(value)))
        for name, table in tables.items():
            store.write(index["tables"][model][name], table_text(table))
    index["vectors"] = [
        {
            "model": c.model,
            "seed": c.seed,
            **vector,
            "task": names[vector["task"]],
            "digest": stored.digest(vector["file"]),
        }
        for c, stored in content.items()
        for vector in stored.head["parts"]["vectors"]
    ]
    index["made_with"] = _made_with(content.values())
    images = {name for stored in content.values() for name in stored.head["files"] if name.startswith("images/")}
    store.write_index({**index, "files": [RECORDS, *images]}, cells)


def _made_with(stored: Iterable[Stored]) -> list[dict[str, Any]]:
    """The different things that cells were made with, and how many cells each."""
    found = Counter(tuple(sorted(one.head["made_with"].items())) for one in stored)
    return [{"cells": count, "with": dict(what)} for what, count in found.items()]


def summary(
    answers: dict[str, Answers], transfers: dict[str, Transfer], score: str = "paper", ties: str = "likelihood"
) -> pd.DataFrame:
    """The specification x modality table: one row per prompting cell and per patched source.

    Args:
        answers: Prompting cells by `source > target`.
        transfers: Sweeps by `target.split`; `validation` chooses the layer, `test` is reported.
        score: What chooses the layer, and what `accuracy` and its interval are under.
        ties: Which of equally good layers, as in `Transfer.best_layer_of`.

    Returns:
        Columns method, source, target, layer (one for all tasks, as in the paper), accuracy, low, high, n, paper,
        strict, whole (NaN where labels were not read whole), by_task (the accuracy if every task has the layer that is
        best on its own validation items).
    """
    rows = []
    for row in _rows(answers, transfers, score, ties):
        own = [accuracy for _, accuracy in row.own.values()]
        rows.append(row.head | _scores(row, score) | ({"by_task": float(np.mean(own))} if own else {}))
    first = ["method", "source", "target", "layer", "accuracy", "low", "high", "n", *SCORES, "by_task"]
    return pd.DataFrame(rows).reindex(columns=first)


def by_task(
    answers: dict[str, Answers], transfers: dict[str, Transfer], score: str = "paper", ties: str = "likelihood"
) -> pd.DataFrame:
    """The same table task by task: one row per row of `summary` and task.

    Args:
        answers: As in `summary`.
        transfers: As in `summary`.
        score: As in `summary`.
        ties: As in `summary`.

    Returns:
        Columns method, source, target, task, layer (that of `summary`), accuracy, low, high, n, paper, strict, whole,
        own_layer (the best one on the task's own validation items) and own_accuracy (there); NaN for prompts.
    """
    rows = []
    for row in _rows(answers, transfers, score, ties):
        for task in dict.fromkeys(row.asked.tasks):
            own = dict(zip(("own_layer", "own_accuracy"), row.own.get(task, ()), strict=False))
            rows.append(row.head | {"task": task} | _scores(row, score, task) | own)
    first = ["method", "source", "target", "task", "layer", "accuracy", "low", "high", "n", *SCORES]
    return pd.DataFrame(rows).reindex(columns=[*first, "own_layer", "own_accuracy"])


@dataclass(frozen=True)
class _Row:
    """What a row of the summary is made from: its answers, hits by score, and layer and accuracy of each task alone."""

    head: dict[str, Any]
    asked: Answers | Transfer
    hits: dict[str, Bool[np.ndarray, " answer"] | None]
    own: dict[str, tuple[int, float]] = field(default_factory=dict)


def _rows(answers: dict[str, Answers], transfers: dict[str, Transfer], score: str, ties: str) -> Iterator[_Row]:
    for name, cell in answers.items():
        source, target = cell_parts(name)
        method = source if source in LEVELS else "prompt"
        yield _Row({"method": method, "source": source, "target": target}, cell, {n: _hits(cell, n) for n in SCORES})
    for target in [t for t in MODALITIES if sweep_name(t, "test") in transfers]:
        validation, test = (transfers[sweep_name(target, split)] for split in ASKED)
        hits: dict[str, Any] = {name: _hits(test, name) for name in SCORES}
        alone = {t: (validation.of_task(t), test.of_task(t)) for t in dict.fromkeys(test.tasks)}
        for number, source in enumerate(test.sources):
            layer = validation.best_layer_of(source, score, ties=ties)
            head = {"method": "patch", "source": source, "target": target, "layer": layer}
            found = {name: None if h is None else h[number, test.layers.index(layer)] for name, h in hits.items()}
            own = {}
            for task, (mine, asked) in alone.items():
                at = mine.best_layer_of(source, score, ties=ties)
                own[task] = at, asked.accuracy(source, at, score).mean
            yield _Row(head, test, found, own)


def _hits(result: Answers | Transfer, score: str) -> Bool[np.ndarray, ...] | None:
    return hits_of(result, score) if score != "whole" or result.continuations is not None else None


def _scores(row: _Row, score: str, task: str | None = None) -> dict[str, float]:
    """The chosen score with its interval and every score's mean, of one task or all."""
    tasks, units = np.array(row.asked.tasks), np.array(row.asked.units)
    own = np.full(len(tasks), True) if task is None else tasks == task
    found = {name: None if h is None else accuracy(h[own], units[own], tasks[own]) for name, h in row.hits.items()}
    chosen = found[score]
    assert chosen is not None  # noqa: S101 (a plan scores labels whole only if it reads them whole)
    body = {"accuracy": chosen.mean, "low": chosen.low, "high": chosen.high, "n": chosen.n}
    return body | {name: np.nan if p is None else p.mean for name, p in found.items()}


def _phases(cells: Sequence[Cell], parts: Sequence[dict[str, Any]], names: dict[str, str]) -> dict[str, Any]:
    """Phases of each specification pooled over tasks and seeds, then of each task pooled over seeds."""
    found: dict[str, Any] = {}
    for number, kind in enumerate(dict.fromkeys(kind for part in parts for kind in part["phases"])):
        having = [(cell, p["phases"][kind]) for cell, p in zip(cells, parts, strict=True) if kind in p["phases"]]
        found[f"phases.{number:02d}"] = merge(kind, [phases for _, phases in having])
        for k, (task, name) in enumerate(names.items()):
            if mine := [phases for cell, phases in having if cell.task == task]:
                found[f"phases.{number:02d}.{k:02d}"] = merge(label_of(name, kind), mine)
    pooled = [phases for name, phases in found.items() if name.count(".") == 1]
    return found | ({"boundaries": boundaries(pooled)} if pooled else {})


def _once(found: dict[str, Any]) -> dict[str, Any]:
    """What was done once for a model, by the kind of the cell."""
    results: dict[str, Any] = {
        kind: r for kind, r in found.items() if kind in ("words", "base_comparison", "overriding")
    }
    curves = {f"ensembling.{target}": curve for target, curve in found.get("ensembling", {}).items()}
    return {**results, **found.get("geometry", {}), **curves}


def _base_similarity(stored: Mapping[Cell, Stored], plan: Plan) -> dict[str, Any]:
    """Cosines between the text ICL vectors of a model and its base LLM, from the first seed."""
    first = [one for cell, one in stored.items() if cell.kind in ("read", "base") and cell.seed == plan.seeds[0]]
    vectors = {name: vector for one in first for name, vector in one.vectors().items()}
    sides = [[vectors.get((task, source)) for task in plan.tasks] for source in (TEXT_ICL, of_base(TEXT_ICL))]
    own, base = ([vector for vector in side if vector is not None] for side in sides)
    if len(own) < len(plan.tasks) or len(base) < len(plan.tasks):
        return {}
    centred = {"base_similarity.centred": base_similarity(own, base, centred=True)} if len(own) > 1 else {}
    return {"base_similarity": base_similarity(own, base), **centred}
