"""Numbers as a reader should meet them: percentages, intervals, runs of layers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pandas as pd

from xmi.measure import Proportion

NAMES = {
    ("prompt", "text ICL", "text"): "Base",
    ("prompt", "image ICL", "image"): "Base",
    ("prompt", "text ICL", "image"): "xBase",
    ("prompt", "image ICL", "text"): "xBase",
    ("patch", "text ICL", "text"): "Patch",
    ("patch", "image ICL", "image"): "Patch",
    ("patch", "text ICL", "image"): "xPatch",
    ("patch", "image ICL", "text"): "xPatch",
}


def cell(table: pd.DataFrame, method: str, source: str | None, target: str) -> Proportion | None:
    """Returns the accuracy of one row of a summary table, None where the study lacks it."""
    row = row_of(table, method, source, target)
    return None if row is None else proportion(row)


def proportion(row: Any) -> Proportion:
    """Returns the accuracy that a row of a summary table holds."""
    return Proportion(float(row["accuracy"]), int(row["n"]), float(row["low"]), float(row["high"]))


def row_of(table: pd.DataFrame, method: str, source: str | None, target: str) -> dict[str, Any] | None:
    """Returns one row of a summary table as a dict, None where there is none; without a source any source will do."""
    chosen = table[(table["method"] == method) & (table["target"] == target)]
    if source is not None:
        chosen = chosen[chosen["source"] == source]
    return None if chosen.empty else {str(k): v for k, v in chosen.iloc[0].items()}


def tasks_of(table: pd.DataFrame) -> list[str]:
    """Returns the names of the tasks of a table by task, in its order."""
    return [str(task) for task in table["task"].unique()]


def percent(value: Proportion) -> str:
    """Returns `92 % [85, 96]`, with spaces at which no line breaks."""
    mean, low, high = (f"{100 * v:.0f}" for v in (value.mean, value.low, value.high))
    return f"{mean}\u00a0% [{low},\u00a0{high}]"


def runs(values: Sequence[str], wanted: Sequence[bool]) -> str:
    """Names the runs of consecutive values that are wanted.

    Args:
        values: Names of the positions, in order.
        wanted: Which of them to name.

    Returns:
        Text such as `3 to 5, 7`; empty if none is wanted.
    """
    edges = [0, *(i for i in range(1, len(wanted)) if wanted[i] != wanted[i - 1]), len(wanted)]
    spans = [(a, b - 1) for a, b in pairwise(edges) if b > a and wanted[a]]
    return ", ".join(values[a] if a == b else f"{values[a]} to {values[b]}" for a, b in spans)
