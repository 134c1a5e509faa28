"""What a patch is said to do, by its accuracy and that of no context alone.

There are three answers, not two: it is so, it is not so (the interval leaves no room for an effect worth the name), and
it is not known; the last is put down to too few items where there are few.
"""

from __future__ import annotations

from xmi import numerals
from xmi.measure.stats import Proportion
from xmi.numerals import SPACE

LEAST = 5
"""Fewer items than this allow no verdict at all."""
FEW = 30
"""Where fewer items than this show nothing, that is put down to their number."""
EFFECT = 0.2
"""An effect worth the name: where the interval leaves no room for it, there is said to be none."""


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
    n = behind(patch, clean)
    if n < LEAST or not known(patch, clean):
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
    return EFFECTS.get(judged(patch, clean)) or f"cannot be judged, {too_few(behind(patch, clean))}:"


def behind(*values: Proportion | None) -> int:
    """Returns how many items are behind the least known of several accuracies."""
    return min(int(v.n) for v in values if v is not None)


def known(*values: Proportion | None) -> bool:
    """Returns whether accuracies and their intervals are known."""
    return all(numerals.defined(x) for v in values if v is not None for x in (v.mean, v.low, v.high))
