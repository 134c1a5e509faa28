"""What numbers allow to be said: every verdict of the report is a function here, of numbers alone.

A verdict knows how many items are behind it and what its interval leaves open. There are three answers, not two: it is
so, it is not so (the interval leaves no room for an effect worth the name), and it is not known; the last is put down
to too few items where there are few.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pandas as pd

from xmi import numerals
from xmi.measure import Proportion
from xmi.names import IMAGE_ICL, TEXT_ICL
from xmi.numerals import SPACE

LEVEL = 0.05
LEAST = 5
"""Fewer items than this allow no verdict at all."""
FEW = 30
"""Where fewer items than this show nothing, that is put down to their number."""
EFFECT = 0.2
"""An effect worth the name: where the interval leaves no room for it, there is said to be none."""

NAMES = {
    ("prompt", TEXT_ICL, "text"): "Base",
    ("prompt", IMAGE_ICL, "image"): "Base",
    ("prompt", TEXT_ICL, "image"): "xBase",
    ("prompt", IMAGE_ICL, "text"): "xBase",
    ("patch", TEXT_ICL, "text"): "Patch",
    ("patch", IMAGE_ICL, "image"): "Patch",
    ("patch", TEXT_ICL, "image"): "xPatch",
    ("patch", IMAGE_ICL, "text"): "xPatch",
}


def tasks_of(table: pd.DataFrame) -> list[str]:
    """Returns the names of the tasks of a table by task, in its order."""
    return [str(task) for task in table["task"].unique()]


def percent(value: Proportion, digits: int = 0) -> str:
    """Returns `92 % [85, 96]`, with spaces at which no line breaks; without the interval if it is not known."""
    return numerals.share(value.mean, value.low, value.high, digits).replace(" ", SPACE)


def gain(difference: Any, low: Any, high: Any, digits: int = 0) -> str:
    """Returns a difference of shares as `+23 points [+15, +31]`."""
    known = numerals.defined(low) and numerals.defined(high)
    between = numerals.interval(100 * low, 100 * high, lambda v: numerals.signed(v, digits)) if known else ""
    return f"{numerals.points(difference, digits)} {between}".strip().replace(", ", f",{SPACE}")


def too_few(n: int) -> str:
    """Returns the words for a question that the items do not answer because there are few of them."""
    return f"too few items to tell (n{SPACE}={SPACE}{n})"


def judged(patch: Proportion, clean: Proportion | None) -> str:
    """What a patch does to queries without context: the one rule behind the sentences and the verdict on transfer.

    Args:
        patch: Accuracy with the patch.
        clean: Accuracy of the same queries without context, if it was measured.

    Returns:
        `works` (its interval lies above that of no context, and above a half), `partly` (above that of no context
        alone), `harms` (below it), `no` (no room for an effect of 0.2), `not shown`, `not known` (too few items), or
        `alone` (nothing to compare with).
    """
    n = _behind(patch, clean)
    if n < LEAST or not _known(patch, clean):
        return "not known"
    if clean is None:
        return "alone"
    if patch.apart(clean):
        return "harms" if patch.mean < clean.mean else "works" if patch.low >= 0.5 else "partly"
    if patch.high - clean.mean <= EFFECT:
        return "no"
    return "not known" if n < FEW else "not shown"


EFFECTS = {
    "alone": "gives",
    "harms": "does not make the model do the task, which is done less often than without it:",
    "works": "makes the model do the task:",
    "partly": "makes the model do the task some of the time:",
    "no": "does not make the model do the task:",
    "not shown": "is not shown to make the model do the task:",
}
"""What stands before an accuracy, by `judged`."""


def effect(patch: Proportion, clean: Proportion | None) -> str:
    """What a patch does, as the words before its accuracy: `makes the model do the task:`.

    Args:
        patch: Accuracy with the patch.
        clean: Accuracy of the same queries without context, if it was measured.
    """
    return EFFECTS.get(judged(patch, clean)) or f"cannot be judged, {too_few(_behind(patch, clean))}:"


def against_clean(patch: Proportion, clean: Proportion | None) -> str:
    """What a patch does compared with no context, as a clause after its accuracy; empty if there is nothing to say."""
    if clean is None:
        return ""
    n = _behind(patch, clean)
    if n < LEAST or not _known(patch, clean):
        return ""
    if patch.apart(clean):
        return f", {'more' if patch.mean > clean.mean else 'less'} than without context"
    return ", no more than without context" if patch.high - clean.mean <= EFFECT else (
        ", not shown to be more than without context"
    )  # fmt: skip


def better(patch: Proportion, prompt: Proportion) -> str:
    """Which of two is better, where all there is are their intervals."""
    n = _behind(patch, prompt)
    if n < LEAST or not _known(patch, prompt):
        return too_few(n)
    if not patch.apart(prompt):
        return too_few(n) if n < FEW else "intervals overlap: neither is shown to be better"
    return f"the {'patch' if patch.mean > prompt.mean else 'prompt'} is better, with disjoint intervals"


def tested(row: Any, digits: int = 0) -> str:
    """Which of patch and prompt is better, by a row of the table of comparisons.

    Args:
        row: With difference, low, high, p_holm and n.
        digits: Decimals of the points.

    Returns:
        The verdict, the difference and its corrected p-value.
    """
    n = int(row["n"])
    difference, p = row["difference"], row["p_holm"]
    if n < LEAST or not (numerals.defined(difference) and numerals.defined(p)):
        return too_few(n)
    if p < LEVEL:
        verdict = f"the {'patch' if difference > 0 else 'prompt'} is better"
    else:
        verdict = too_few(n) if n < FEW else "neither is shown to be better"
    shown = gain(difference, row["low"], row["high"], digits)
    return f"{verdict}: {shown}, {numerals.p_value(p).replace(' ', SPACE)} after correction"


def elsewhere(here: Proportion, there: Proportion, main: str) -> str:
    """How the accuracy of another model compares with that of the main one, as the end of a sentence."""
    n = _behind(here, there)
    if n < LEAST or not _known(here, there):
        return f"; {too_few(n)} whether it differs from {main}."
    if here.apart(there):
        return f", and {'less' if there.mean < here.mean else 'more'} than in {main}, with disjoint intervals."
    few = f"{too_few(n)} whether it differs from {main}" if n < FEW else (
        f"it cannot be distinguished from {main}: the intervals overlap"
    )  # fmt: skip
    return f"; {few}."


def adds(difference: Any, low: Any, high: Any, n: int) -> str:
    """What one thing adds to another, by the interval of the paired difference."""
    said = gain(difference, low, high)
    if n < LEAST or not all(map(numerals.defined, (difference, low, high))):
        return f"adds an amount that cannot be judged, {too_few(n)}: {said}"
    if low > 0 or high < 0:
        return f"{'adds' if low > 0 else 'takes away'} {said}"
    return f"adds nothing that could be shown, {too_few(n)}: {said}" if n < FEW else (
        f"adds nothing that could be shown: {said}"
    )  # fmt: skip


def _behind(*values: Proportion | None) -> int:
    return min(int(v.n) for v in values if v is not None)


def _known(*values: Proportion | None) -> bool:
    return all(numerals.defined(x) for v in values if v is not None for x in (v.mean, v.low, v.high))


def layers(where: str) -> str:
    """Returns `layer 3` or `layers 0 to 2, 5` for a run of layers."""
    return f"layer {where}" if where.isdigit() else f"layers {where}"


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
