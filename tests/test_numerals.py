"""Numbers in text: rounded first, then signed; nothing printed as minus zero or nan; what stands together adds up."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xmi import numerals
from xmi.measure import Proportion
from xmi.measure.compare import Comparison

MINUS_ZERO = re.compile(r"[-\u2212]0(\.0*)?(?!\.?\d)")
SHOWS = (numerals.decimal, numerals.signed, numerals.percent, numerals.points)
anything = st.floats(allow_nan=True, allow_infinity=True, width=32) | st.floats(-1.1, 1.1) | st.floats(-1e-3, 1e-3)
digits = st.integers(0, 4)


@pytest.mark.fault("D3")
@given(anything, digits)
def test_nothing_is_printed_as_minus_zero_or_nan(value: float, decimals: int) -> None:
    for show in SHOWS:
        said = show(value, decimals)
        assert not MINUS_ZERO.search(said), said
        assert not re.search("nan|inf", said.replace("points", "")), said
    assert "nan" not in numerals.p_value(value)
    assert "nan" not in numerals.estimate(value, math.nan, value)


@pytest.mark.fault("D1")
@given(st.floats(-1, 1), digits)
def test_a_difference_has_the_sign_of_what_is_printed(value: float, decimals: int) -> None:
    said = numerals.signed(value, decimals)
    shown = float(said)
    assert said[0] == ("+" if shown > 0 else "-" if shown < 0 else "0")
    assert shown == pytest.approx(value, abs=0.5 * 10**-decimals + 1e-9)


def test_points_are_counted() -> None:
    said = [numerals.points(v).replace("\u00a0", " ") for v in (0.0, 0.004, -0.004, 0.01, -0.01, 0.23, math.nan)]
    assert said == ["0 points", "0 points", "0 points", "+1 point", "-1 point", "+23 points", "not defined"]
    assert numerals.points(0.0139, 1) == "+1.4\u00a0points"


@pytest.mark.fault("D1")
@given(st.integers(1, 400), st.data())
def test_two_percentages_and_their_difference_add_up(n: int, data: st.DataObject) -> None:
    a, b = (data.draw(st.integers(0, n)) / n for _ in range(2))
    decimals = numerals.digits_that_add_up(a, b, a - b)
    one, two, gap = (float(s.split("\u00a0")[0]) for s in (
        numerals.percent(a, decimals), numerals.percent(b, decimals), numerals.points(a - b, decimals)
    ))  # fmt: skip
    assert one - two == pytest.approx(gap, abs=0.101 if decimals == 1 else 1e-6)
    if (a > b) != (one > two) and a != b:
        assert abs(one - two) < 0.11, "a difference is not hidden unless it is a tenth of a point"


def test_97_against_95_is_not_one_point() -> None:
    a, b = 0.9661, 0.9520
    decimals = numerals.digits_that_add_up(a, b, a - b)
    assert [numerals.percent(a, decimals), numerals.points(a - b, decimals)] == ["96.6\u00a0%", "+1.4\u00a0points"]


def test_p_values_are_never_zero() -> None:
    assert [numerals.p_value(p) for p in (1.0, 0.034, 0.0068, 1e-4, 0.0, math.nan)] == [
        "p = 1", "p = 0.034", "p = 0.0068", "p < 0.001", "p < 0.001", "p not defined"
    ]  # fmt: skip


@pytest.mark.fault("D3")
def test_results_print_themselves_by_the_same_rules() -> None:
    assert str(Proportion(math.nan, 0, math.nan, math.nan)) == numerals.MISSING
    assert str(Proportion(0.5, 8, 0.25, 0.75)) == "0.50 [0.25, 0.75]"
    none = np.zeros(0)
    one = Comparison("a", "b", "paper", 1.0, 1.0, -0.001, -0.2, 0.0, 1.0, 4, (4, 4), 1, (), none, none)
    assert str(one) == "a - b: 0.00 [-0.20, 0.00], p = 1, n = 4"
