"""The specification x modality table, over all tasks and task by task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool

from xmi.measure import Answers, Transfer, accuracy
from xmi.measure.answers import hits_of
from xmi.names import ASKED, LEVELS, MODALITIES, SCORES, cell_parts, sweep_name


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


def on_split(table: pd.DataFrame, sweeps: Mapping[str, Transfer], score: str) -> pd.DataFrame:
    """The patches of a summary, at its layers, on the items of other sweeps.

    Args:
        table: What `summary` or `by_task` returned.
        sweeps: By the modality of the query.
        score: `paper`, `strict` or `whole`.

    Returns:
        A row for each of the table's patches: method, source, target, task (if the table has it), layer, accuracy, low,
        high, n.
    """
    rows = []
    for row in table[table["method"] == "patch"].to_dict("records"):
        sweep = sweeps[row["target"]]
        one = sweep.of_task(row["task"]) if "task" in row else sweep
        found = one.accuracy(row["source"], int(row["layer"]), score)
        head = {name: row[name] for name in ("method", "source", "target", "task", "layer") if name in row}
        rows.append(head | {"accuracy": found.mean, "low": found.low, "high": found.high, "n": found.n})
    return pd.DataFrame(rows)


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
