"""Numbers as a reader meets them: in sentences, tables, hover texts and on the terminal.

One rule for all: a number is rounded first and then gets the sign of what it was rounded to, so that nothing is printed
as minus zero; what is not a number is said to be missing, never printed as `nan`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

MISSING = "\u2013"
"""Stands in a table where there is no number."""

SPACE = "\u00a0"
"""A space at which no line breaks."""

LEAST_P = 0.001
"""P-values below it are not spelled out."""


def defined(value: Any) -> bool:
    """Returns whether a value is a finite number."""
    return value is not None and math.isfinite(float(value))


def decimal(value: Any, digits: int = 2, *, missing: str = MISSING) -> str:
    """Returns a number with so many decimals, as `0.97`; `missing` if it is not a number."""
    if not defined(value):
        return missing
    return f"{_rounded(value, digits):.{digits}f}"


def signed(value: Any, digits: int = 2, *, missing: str = MISSING) -> str:
    """Returns a difference with its sign, as `+0.03`; what is rounded to zero has none."""
    if not defined(value):
        return missing
    rounded = _rounded(value, digits)
    return f"{rounded:+.{digits}f}" if rounded else f"{rounded:.{digits}f}"


def percent(value: Any, digits: int = 0, *, missing: str = "not defined") -> str:
    """Returns a share as `97 %`, with a space at which no line breaks."""
    return f"{decimal(100 * float(value), digits)}{SPACE}%" if defined(value) else missing


def share(value: Any, low: Any, high: Any, digits: int = 0) -> str:
    """Returns a share with its interval, as `97 % [91, 99]`; the share alone if the interval is not known."""
    known = defined(low) and defined(high)
    between = interval(100 * low, 100 * high, lambda v: decimal(v, digits)) if known else ""
    return f"{percent(value, digits)} {between}".strip()


def points(value: Any, digits: int = 0, *, missing: str = "not defined") -> str:
    """Returns a difference of shares in percentage points, as `+3 points`, `-1 point`, `0 points`."""
    if not defined(value):
        return missing
    shown = signed(100 * float(value), digits)
    return f"{shown}{SPACE}{'point' if shown in ('+1', '-1') else 'points'}"


def interval(low: Any, high: Any, show: Callable[[Any], str] = decimal) -> str:
    """Returns an interval as `[0.91, 0.99]`, nothing if it is not known."""
    return f"[{show(low)}, {show(high)}]" if defined(low) and defined(high) else ""


def estimate(value: Any, low: Any, high: Any, show: Callable[[Any], str] = decimal) -> str:
    """Returns a number with its interval, as `0.97 [0.91, 0.99]`; the number alone if the interval is not known."""
    return f"{show(value)} {interval(low, high, show)}".strip()


def p_value(p: Any) -> str:
    """Returns `p = 0.034`, with two significant digits; `p < 0.001` below that."""
    if not defined(p):
        return "p not defined"
    if float(p) < LEAST_P:
        return f"p < {LEAST_P}"
    return f"p = {float(p):.2g}"


def digits_that_add_up(a: Any, b: Any, difference: Any, most: int = 2) -> int:
    """Returns how many decimals two percentages and their difference need to agree when they stand side by side.

    With no decimals 96.7 and 95.3 would be 97 and 95, and their difference of 1.4 would be 1.

    Args:
        a: A share.
        b: Another.
        difference: The first minus the second.
        most: Most decimals.

    Returns:
        The least number of decimals at which the rounded percentages differ by the rounded difference; 1 if there is
        none up to `most`.
    """
    if not all(map(defined, (a, b, difference))):
        return 0
    for digits in range(most + 1):
        first, second, gap = (_rounded(100 * float(v), digits) for v in (a, b, difference))
        if abs(first - second - gap) < 0.1 * 10**-digits:
            return digits
    return 1


def _rounded(value: Any, digits: int) -> float:
    """Rounds as formatting does; adding zero takes the sign from a negative zero."""
    return float(f"{float(value):.{digits}f}") + 0.0
