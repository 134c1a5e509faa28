"""A study in one sentence: what its main patch does, beside what it must be compared with."""

from __future__ import annotations

from typing import Any

import pandas as pd

from xmi.names import IMAGE_ICL, NO_CONTEXT, TEXT_ICL, is_control
from xmi.numerals import SPACE, share

_FIRST = ((TEXT_ICL, "image"), (IMAGE_ICL, "text"))
"""What a study is about, the first that was measured: a task that crosses from one modality to the other."""


def headline(model: str, table: pd.DataFrame) -> str:
    """One sentence with the main accuracies and their intervals.

    Args:
        model: Name of the model.
        table: Its summary.

    Returns:
        The patch from text ICL to image queries (else from image ICL to text queries, else the first there is), then
        the prompt with the same examples, no context and every control, on the same test items.
    """
    rows = table.to_dict("records")
    patches = [row for row in rows if row["method"] == "patch" and not is_control(row["source"])]
    ways = {(row["source"], row["target"]): row for row in reversed(patches)}
    main = next((ways[way] for way in _FIRST if way in ways), patches[0] if patches else None)
    if main is None:
        return f"This study of {model} holds no patches."
    source, target = main["source"], main["target"]
    beside = [row for row in rows if row["target"] == target and _compared(row, source)]
    against = "; ".join(f"{_name(row)} {_share(row)}" for row in beside)
    layer, n = int(main["layer"]), int(main["n"])
    return (
        f"{model}: {source} vectors patched into {target} queries at layer {layer} give {_share(main)} right (n = {n})"
        f"{f'; {against}' if against else ''}."
    )


def _compared(row: dict[Any, Any], source: str) -> bool:
    prompt = row["method"] == "prompt" and row["source"] == source
    return prompt or row["source"] == NO_CONTEXT or is_control(row["source"])


def _name(row: dict[Any, Any]) -> str:
    return f"{row['source']} as a prompt" if row["method"] == "prompt" else str(row["source"])


def _share(row: dict[Any, Any]) -> str:
    return share(row["accuracy"], row["low"], row["high"]).replace(SPACE, " ")
