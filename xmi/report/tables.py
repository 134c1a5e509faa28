"""The specification x modality table, and the same accuracies task by task."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from xmi.measure.summaries import proportion, row_of
from xmi.names import MODALITIES, NO_CONTEXT, is_control, without_control
from xmi.numerals import decimal, interval
from xmi.plot import method_name
from xmi.report.wording import NAMES, tasks_of
from xmi.study.results import StudyResults
from xmi.study.tables import table_text

GROUPS = {
    "prompt": "Prompt: the specification stands in the context",
    "patch": "Patch: the task vector is written into a query without context",
    "control": "Controls",
}


def targets(results: StudyResults) -> tuple[str, ...]:
    """Modalities of the study's queries, in the order of `MODALITIES`."""
    asked = results.study.get("plan", {}).get("targets", MODALITIES)
    return tuple(target for target in MODALITIES if target in asked)


def overview(results: StudyResults) -> list[dict[str, Any]]:
    """The specification x modality table of all models.

    Returns:
        Groups of rows: `{"title", "rows"}`, each row `{"name", "method", "source", "cells"}` with one cell per
        model and query modality (in the order of `results.models`, then `targets`); a cell is None where the study
        holds no such answer.
    """
    tables, asked = {m: results.summary(m) for m in results.models}, targets(results)
    keys: dict[str, dict[tuple[str, str], None]] = {g: {} for g in GROUPS}
    for table in tables.values():
        for _, row in table.iterrows():
            keys[_group(row["method"], row["source"])][row["method"], row["source"]] = None
    groups = []
    for group, title in GROUPS.items():
        rows = [
            {
                "name": NO_CONTEXT if method == NO_CONTEXT else without_control(source),
                "method": method,
                "source": source,
                "cells": [_cell(row_of(tables[m], method, source, t)) for m in results.models for t in asked],
            }
            for method, source in keys[group]
        ]
        if rows:
            groups.append({"title": title, "rows": rows})
    return groups


def by_task(results: StudyResults) -> list[dict[str, Any]]:
    """Per model its accuracies by task.

    Returns:
        `{"model", "tasks", "rows"}`; a row holds name, method, source, target, layer, n, mean, strict and its
        accuracies in the order of tasks.
    """
    found = []
    for model in results.models:
        apart = results.by_task(model)
        tasks, shares = tasks_of(apart), apart.set_index(["method", "source", "target", "task"])["accuracy"]
        rows = [
            {
                "name": method_name(row),
                "method": row["method"],
                "source": row["source"],
                "target": row["target"],
                "layer": _layer(row),
                "n": int(row["n"]),
                "mean": _number(row["accuracy"]),
                "strict": _number(row.get("strict")),
                "whole": _number(row.get("whole")),
                "by_task": _number(row.get("by_task")),
                "tasks": [_number(shares.get((row["method"], row["source"], row["target"], t))) for t in tasks],
            }
            for _, row in results.summary(model).iterrows()
        ]
        found.append({"model": model, "tasks": tasks, "rows": rows})
    return found


def stored(results: StudyResults) -> dict[str, str]:
    """The tables of the run behind those of the page, as CSV with every digit, the models one below the other.

    Returns:
        `accuracy` (the summary tables) and `by-task`.
    """
    read = {"accuracy": results.summary, "by-task": results.by_task}
    parts = {name: [of(m).assign(model=m) for m in results.models] for name, of in read.items()}
    tables = {name: pd.concat(found) for name, found in parts.items()}
    return {n: table_text(t[["model", *(c for c in t.columns if c != "model")]]) for n, t in tables.items()}


def _group(method: str, source: str) -> str:
    return "control" if is_control(source) or method not in GROUPS else method


def _cell(row: dict[str, Any] | None) -> dict[str, Any] | None:
    if row is None:
        return None
    value = proportion(row)
    return {
        "mean": decimal(value.mean),
        "interval": interval(value.low, value.high),
        "n": value.n,
        "layer": _layer(row),
        "name": NAMES.get((row["method"], row["source"], row["target"]), ""),
        "at": round(100 * value.mean, 1),
        "low": round(100 * value.low, 1),
        "width": round(100 * (value.high - value.low), 1),
    }


def _layer(row: Any) -> int | None:
    layer = row.get("layer")
    return None if layer is None or (isinstance(layer, float) and math.isnan(layer)) else int(layer)


def _number(value: Any) -> str:
    return decimal(value)
