"""Proportions with Wilson's interval."""

from __future__ import annotations

import math

from torch import Tensor


def wilson(hits: Tensor, z: float = 1.96) -> dict[str, float | int]:
    """Return the share of hits, Wilson's 95 % interval and n.

    The interval takes the answers as independent; several share a pair, so it is somewhat too narrow.
    """
    n = int(hits.numel())
    if n == 0:
        return {"value": math.nan, "low": math.nan, "high": math.nan, "n": 0}
    p = float(hits.mean())
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return {"value": p, "low": middle - half, "high": middle + half, "n": n}
