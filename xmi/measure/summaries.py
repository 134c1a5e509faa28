"""Reading a study's summary table: a row for each method, source and modality of the query."""

from __future__ import annotations

from typing import Any

import pandas as pd

from xmi.measure.stats import Proportion
from xmi.names import NO_CONTEXT, RANDOM

RUNGS = (NO_CONTEXT, "random vector", "prompt", "patch")
"""From what should do nothing to what should do the task."""


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


def rungs(table: pd.DataFrame, source: str, target: str) -> dict[str, Proportion]:
    """The four accuracies of a summary table that tell whether a task vector works.

    Args:
        table: A summary table, with method, source, target, accuracy, low, high and n.
        source: What the vector is read from, and the examples of the prompt.
        target: Modality of the queries.

    Returns:
        An accuracy for each of `RUNGS` that the table holds, in this order.
    """
    wanted = zip(RUNGS, (NO_CONTEXT, "patch", "prompt", "patch"), (None, RANDOM, source, source), strict=True)
    found = {}
    for rung, method, of in wanted:
        value = cell(table, method, of, target)
        if value is not None:
            found[rung] = value
    return found
