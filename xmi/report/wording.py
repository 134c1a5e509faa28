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
from xmi.measure.judgement import EFFECT, FEW, LEAST, behind, known, too_few
from xmi.names import IMAGE_ICL, TEXT_ICL
from xmi.numerals import SPACE

LEVEL = 0.05

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


def against_clean(patch: Proportion, clean: Proportion | None) -> str:
    """What a patch does compared with no context, as a clause after its accuracy; empty if there is nothing to say."""
    if clean is None:
        return ""
    n = behind(patch, clean)
    if n < LEAST or not known(patch, clean):
        return ""
    if patch.apart(clean):
        return f", {'more' if patch.mean > clean.mean else 'less'} than without context"
    return ", no more than without context" if patch.high - clean.mean <= EFFECT else (
        ", not shown to be more than without context"
    )  # fmt: skip


def better(patch: Proportion, prompt: Proportion) -> str:
    """Which of two is better, where all there is are their intervals."""
    n = behind(patch, prompt)
    if n < LEAST or not known(patch, prompt):
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
    n = behind(here, there)
    if n < LEAST or not known(here, there):
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
