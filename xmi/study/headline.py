"""A study in one sentence: what its main patch does, beside what it must be compared with."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from xmi.measure.judgement import effect
from xmi.measure.summaries import cell, rungs
from xmi.names import IMAGE_ICL, INSTRUCTION, NO_CONTEXT, TEXT_ICL, is_control, modality_of
from xmi.numerals import SPACE, percent, share

_FIRST = ((TEXT_ICL, "image"), (IMAGE_ICL, "text"))
"""What a study is about, the first that was measured: a task that crosses from one modality to the other."""


def main_patch(table: pd.DataFrame) -> tuple[str, str] | None:
    """The patch that a study is about.

    Args:
        table: Summary of its main model.

    Returns:
        Source and modality of the queries: text ICL to image, else image ICL to text, else the first that was measured;
        None if nothing was patched.
    """
    patches = table[(table["method"] == "patch") & ~table["source"].map(str).map(is_control)]
    there = list(zip(patches["source"], patches["target"], strict=True))
    return next((way for way in (*_FIRST, *there) if way in there), None)


def headline(tables: Mapping[str, pd.DataFrame]) -> str:
    """The finding in one sentence.

    Args:
        tables: Summary of each model, the main one first.

    Returns:
        The main patch with its 95 % interval and number of items, then means on the same items: the prompt with the
        same examples, a random vector, no context, and the same patch in other models.
    """
    (main, table), *others = tables.items()
    way = main_patch(table)
    if way is None:
        return f"This study of {main} holds no patches."
    source, target = way
    found = rungs(table, source, target)
    patch, clean = found["patch"], found.get(NO_CONTEXT)
    kind, n = modality_of(source), f"n{SPACE}={SPACE}{found['patch'].n}"
    beside = {
        f"with the {'examples' if kind else 'same'} as a prompt": found.get("prompt"),
        "with a random vector": found.get("random vector"),
        "without context": clean,
        **{f"in {other}": cell(there, "patch", source, target) for other, there in others},
    }
    *most, last = [f"{percent(value.mean)} {of}" for of, value in beside.items() if value is not None] or [""]
    end = f", against {', '.join(most)}{' and ' if most else ''}{last}" if last else ""
    made_of = f"{kind} examples" if kind else "an instruction" if source == INSTRUCTION else source
    right = share(patch.mean, patch.low, patch.high).replace(" ", SPACE)
    return (
        f"In {main}, one vector read from {made_of} and patched into {target} queries "
        f"{effect(patch, clean)} {right} right ({n}){end}."
    )
