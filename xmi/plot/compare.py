"""Differences between methods: as a forest of intervals, and layer by layer."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from xmi.errors import ArgumentError
from xmi.measure import Comparison, LayerComparison
from xmi.names import without_control
from xmi.numerals import decimal, estimate, p_value, signed
from xmi.plot.looks import DIFFERENCE, LEVELS, Look, contrasts
from xmi.plot.registry import draws
from xmi.plot.theme import LAYER_AXIS, band, finish, layer_tick, numbers, rows_axis, span, text

DIFFERENCE_AXIS = "difference of accuracy"
LEVEL = 0.05


@draws(Comparison)
def comparisons(
    result: pd.DataFrame | Comparison, *, p: str = "p_holm", title: str = "Methods compared on the same items"
) -> go.Figure:
    """A forest plot: the difference of each contrast with its interval, filled if it holds after correction.

    Args:
        result: A table of comparisons, or one comparison (whose p-value needs no correction).
        p: The column of the table that decides which markers are filled: `p_holm`, `p_bh` or `p`.
        title: Title of the figure.

    Returns:
        One row per contrast, the first method before the second; right of zero the first is better. Colour and symbol
        are the kind of contrast. The axis fits the data and shows zero.

    Raises:
        ArgumentError: The table has no such column.
    """
    if isinstance(result, Comparison):
        result, p = result.to_frame().assign(contrast="comparison"), "p"
    if p not in result.columns:
        raise ArgumentError(f"The table has no column {p!r}; its columns are {list(result.columns)}.")
    one_target = "target" in result.columns and result["target"].nunique() == 1
    figure = go.Figure()
    looks = contrasts(map(str, result["contrast"]))
    for contrast, rows in result.groupby("contrast", sort=False):
        figure.add_trace(_forest(str(contrast), rows, p, looks[str(contrast)], one_target))
    asked = f"{result['target'].iloc[0]} queries; " if one_target else ""
    note = {"p_holm": ", Holm-corrected", "p_bh": ", Benjamini-Hochberg-corrected"}.get(p, "")
    finish(
        figure, title, height=170 + 36 * max(len(result), 3), above=8,
        subtitle=f"{asked}the first method minus the second; filled: p < {LEVEL}{note}",
    )  # fmt: skip
    figure.add_vline(x=0, line=LEVELS["zero"].line)
    reach = span(result["difference"], result["low"], result["high"])
    figure.update_xaxes(title_text=DIFFERENCE_AXIS, range=reach, nticks=6)
    order = [_label(row, one_target) for _, row in result.iterrows()]
    return rows_axis(figure, order)


@draws(LayerComparison)
def layer_comparison(result: LayerComparison, *, title: str | None = None) -> go.Figure:
    """The difference between a patch and a baseline at each layer, with its interval.

    Args:
        result: The comparison.
        title: Title of the figure.

    Returns:
        A line with a band; markers are filled where p < 0.05 after correction for the number of layers.
    """
    layers = list(result.layers)
    figure = go.Figure()
    figure.add_trace(band(layers, result.low, result.high, DIFFERENCE.colour))
    shown = [
        f"{estimate(d, low, high, signed)}, {p_value(p)}, corrected {p_value(q)}"
        for d, low, high, p, q in zip(
            result.difference, result.low, result.high, result.p, result.corrected, strict=True
        )
    ]
    figure.add_scatter(
        x=layers, y=numbers(result.difference), name=text(f"{result.a} - {result.b}"), mode="lines+markers",
        legendgroup="difference", legendrank=DIFFERENCE.rank,
        line=DIFFERENCE.line, marker={"symbol": DIFFERENCE.marks(result.corrected < LEVEL), "size": 9},
        customdata=shown, hovertemplate="%{customdata}",
    )  # fmt: skip
    figure.add_hline(y=0, line=LEVELS["zero"].line)
    finish(
        figure, title or f"{result.a} minus {result.b}", height=420, hovermode="x unified", showlegend=False,
        subtitle=f"n = {result.n} items; filled: p < {LEVEL}, corrected for {len(layers)} layers",
    )  # fmt: skip
    figure.update_xaxes(title_text=LAYER_AXIS, dtick=layer_tick(layers))
    return figure.update_yaxes(title_text=DIFFERENCE_AXIS, range=span(result.difference, result.low, result.high))


def _forest(contrast: str, rows: pd.DataFrame, p: str, look: Look, one_target: bool) -> go.Scatter:
    shown = [
        f"{estimate(r['difference'], r['low'], r['high'], signed)}, n = {int(r['n'])}"
        f"<br>{decimal(r['accuracy_a'])} against {decimal(r['accuracy_b'])}"
        f"<br>{p_value(r['p'])}, corrected {p_value(r[p])}"
        for _, r in rows.iterrows()
    ]
    return go.Scatter(
        x=numbers(rows["difference"]),
        y=[_label(row, one_target) for _, row in rows.iterrows()],
        orientation="h",
        name=text(contrast),
        legendgroup=contrast,
        legendrank=look.rank,
        mode="markers",
        marker={
            "color": look.colour,
            "symbol": look.marks(rows[p] < LEVEL),
            "size": 10,
            "line": {"width": 1.5, "color": look.colour},
        },
        error_x={
            "type": "data",
            "symmetric": False,
            "array": numbers(rows["high"] - rows["difference"]),
            "arrayminus": numbers(rows["difference"] - rows["low"]),
            "thickness": 1.5,
            "width": 4,
        },
        customdata=shown,
        hovertemplate="%{y}<br>%{customdata}",
    )


def _label(row: Any, one_target: bool) -> str:
    """The two methods on two lines, for narrow figures; a patch is what goes without saying."""
    target = row.get("target")
    asked = "" if target is None or one_target else f" → {target} query"
    one, two = (without_control(name.removesuffix(": patch")) for name in (row["a"], row["b"]))
    if two == f"{one}: prompt":
        two = "the prompt"
    return f"{text(one)}{text(asked)}<br>- {text(two)}"
