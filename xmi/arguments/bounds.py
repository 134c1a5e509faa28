"""What a number must lie between, and what else a parameter means that its type does not say."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Any

from xmi.arguments.annotations import ArrayLike


@dataclass(frozen=True)
class Bounds:
    """What a number must lie between, both ends included.

    Attributes:
        low: The least.
        high: The largest.
    """

    low: float = -math.inf
    high: float = math.inf

    def __str__(self) -> str:
        """Returns the bounds in words."""
        if self.high == math.inf:
            return f"of at least {self.low:g}"
        return f"of at most {self.high:g}" if self.low == -math.inf else f"between {self.low:g} and {self.high:g}"


LEFT = object()
"""Stands in `Annotated[..., LEFT]` of a type that is refused, with an error of its own, where it is understood."""

_MEANT: dict[str, Bounds] = {
    **dict.fromkeys(("seed", "permutations", "keep", "rate", "decay", "token"), Bounds(0)),
    **dict.fromkeys(("resamples", "k", "batch_size", "max_new_tokens", "limit", "new"), Bounds(1)),
    "confidence": Bounds(0, 1),
    "held_out": Bounds(0, 1),
}
"""Parameters that mean the same everywhere, and what they lie between."""
_NUMBERS = {"hits", "p"}
"""Parameters that are arrays of numbers, where others may be of texts."""
_SOME = {"slots", "concat.parts"}
"""Parameters of which there must be one at least."""


def meaning(place: str, value: Any, kind: Any) -> str | None:
    """What a value of the right type must be besides, if it is not."""
    name = place.rpartition(".")[2]
    building = place[0].isupper() and place.count(".") == 1  # results may hold NaN; functions and methods take none
    if isinstance(value, float) and math.isnan(value) and not building:
        return "a number"
    bounds = _MEANT.get(name)
    if bounds and isinstance(value, (int, float)) and not bounds.low <= value <= bounds.high:
        return f"a number {bounds}"
    if any(place.endswith(f".{some}") for some in _SOME) and isinstance(value, (list, tuple)) and not value:
        return "at least one"
    if name in _NUMBERS and kind is ArrayLike and sys.modules["numpy"].asarray(value).dtype.kind == "U":
        return "numbers"
    if name == "device" and isinstance(value, str) and "torch" in sys.modules:
        try:
            sys.modules["torch"].device(value)
        except RuntimeError:
            return "a device such as 'cpu', 'cuda' or 'cuda:1'"
    return None
