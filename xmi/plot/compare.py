"""Differences between methods: as a forest of intervals, and layer by layer."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from xmi.measure import Comparison, LayerComparison
from xmi.plot.theme import (
    BLUE,
    GREY,
    LAYER_AXIS,
    SYMBOLS,
    VERMILION,
    colour,
    faint,
    finish,
    layer_tick,
    numbers,
    text,
)

DIFFERENCE_AXIS = "difference of accuracy"
LEVEL = 0.05


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
        are the kind of contrast.

    Raises:
        ValueError: The table has no such column.
    """
    if isinstance(result, Comparison):
        result, p = result.to_frame().assign(contrast="comparison"), "p"
    if p not in result.columns:
        raise ValueError(f"The table has no column {p!r}; its columns are {list(result.columns)}.")
    one_target = "target" in result.columns and result["target"].nunique() == 1
    figure = go.Figure()
    for i, (contrast, rows) in enumerate(result.groupby("contrast", sort=False)):
        figure.add_trace(_forest(str(contrast), rows, p, i, one_target))
    asked = f"{result['target'].iloc[0]} queries; " if one_target else ""
    note = {"p_holm": ", Holm-corrected", "p_bh": ", Benjamini-Hochberg-corrected"}.get(p, "")
    finish(
        figure, title, height=170 + 36 * max(len(result), 3), above=8,
        subtitle=f"{asked}the first method minus the second; filled: p < {LEVEL}{note}",
    )  # fmt: skip
    figure.add_vline(x=0, line={"color": GREY, "width": 1.5, "dash": "dot"})
    figure.update_xaxes(title_text=DIFFERENCE_AXIS, range=[-1.1, 1.1], tickvals=[-1, 0, 1], ticktext=["-1", "0", "+1"])
    order = [_label(row, one_target) for _, row in result.iterrows()]
    return figure.update_yaxes(autorange="reversed", categoryorder="array", categoryarray=order)


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
    figure.add_scatter(
        x=layers + layers[::-1], y=numbers(result.high) + numbers(result.low)[::-1], fill="toself",
        fillcolor=faint(BLUE, 0.12), mode="lines", line={"width": 0}, showlegend=False, hoverinfo="skip",
    )  # fmt: skip
    symbols = ["circle" if q < LEVEL else "circle-open" for q in result.corrected]
    figure.add_scatter(
        x=layers, y=numbers(result.difference), name=text(f"{result.a} - {result.b}"), mode="lines+markers",
        line={"color": BLUE, "width": 2.2}, marker={"symbol": symbols, "size": 9},
        customdata=[[*numbers(row)] for row in zip(result.low, result.high, result.p, result.corrected, strict=True)],
        hovertemplate="%{y:+.2f} [%{customdata[0]:+.2f}, %{customdata[1]:+.2f}], "
        "p = %{customdata[2]:.2g}, corrected %{customdata[3]:.2g}",
    )  # fmt: skip
    figure.add_hline(y=0, line={"color": VERMILION, "width": 1.5, "dash": "dot"})
    finish(
        figure, title or f"{result.a} minus {result.b}", height=420, hovermode="x unified", showlegend=False,
        subtitle=f"n = {result.n} items; filled: p < {LEVEL}, corrected for {len(layers)} layers",
    )  # fmt: skip
    figure.update_xaxes(title_text=LAYER_AXIS, dtick=layer_tick(layers))
    return figure.update_yaxes(title_text=DIFFERENCE_AXIS, range=[-1.05, 1.05])


def _forest(contrast: str, rows: pd.DataFrame, p: str, i: int, one_target: bool) -> go.Scatter:
    symbol, level = SYMBOLS[i % len(SYMBOLS)], numbers(rows[p])
    shown = [[*numbers((r["low"], r["high"], r["accuracy_a"], r["accuracy_b"], r["p"], r[p])), int(r["n"])]
             for _, r in rows.iterrows()]  # fmt: skip
    return go.Scatter(
        x=numbers(rows["difference"]),
        y=[_label(row, one_target) for _, row in rows.iterrows()],
        orientation="h",
        name=text(contrast),
        mode="markers",
        marker={
            "color": colour(i),
            "symbol": [symbol if q is not None and q < LEVEL else f"{symbol}-open" for q in level],
            "size": 10,
            "line": {"width": 1.5, "color": colour(i)},
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
        hovertemplate="%{y}<br>%{x:+.2f} [%{customdata[0]:+.2f}, %{customdata[1]:+.2f}], n = %{customdata[6]}"
        "<br>%{customdata[2]:.2f} against %{customdata[3]:.2f}"
        "<br>p = %{customdata[4]:.2g}, corrected %{customdata[5]:.2g}",
    )


def _label(row: Any, one_target: bool) -> str:
    """The two methods on two lines, for narrow figures; a patch is what goes without saying."""
    target = row.get("target")
    asked = "" if target is None or one_target else f" → {target} query"
    one, two = (name.removesuffix(": patch").removeprefix("control: ") for name in (row["a"], row["b"]))
    if two == f"{one}: prompt":
        two = "the prompt"
    return f"{text(one)}{text(asked)}<br>- {text(two)}"
