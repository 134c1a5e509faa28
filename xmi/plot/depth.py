"""One measure of several models over relative depth, on which models of any number of layers can be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import plotly.graph_objects as go

from xmi.numerals import estimate
from xmi.plot.looks import named
from xmi.plot.theme import SHARES, band, finish, numbers, span, text

BANDED = 4
"""With more models than this, bands on top of each other would tell nothing."""


def by_depth(
    curves: Mapping[str, pd.DataFrame], *, axis: str = "accuracy (share of items)", shares: bool = True, title: str = ""
) -> go.Figure:
    """A line per model over relative depth: 0 is the embedding, 1 the last layer.

    Args:
        curves: For each model a table with the columns depth, value, low and high; NaN where there is no interval.
        axis: What the values are.
        shares: Whether they are shares, so that the axis goes from 0 to 1; otherwise it fits the data.
        title: Title of the figure.

    Returns:
        The lines; intervals on hover, and as bands where models are few.
    """
    figure, looks = go.Figure(), named(curves)
    for name, curve in curves.items():
        places, colour = numbers(curve["depth"]), looks[name].colour
        if len(curves) <= BANDED and curve["low"].notna().all():
            figure.add_trace(band(places, curve["low"], curve["high"], colour, group=name))
    for name, curve in curves.items():
        rows = zip(curve["value"], curve["low"], curve["high"], strict=True)
        figure.add_scatter(
            x=numbers(curve["depth"]), y=numbers(curve["value"]), name=text(name), legendgroup=name,
            legendrank=looks[name].rank, mode="lines+markers", line=looks[name].line,
            marker={"symbol": looks[name].symbol, "size": 6}, customdata=[estimate(*row) for row in rows],
            hovertemplate=f"{text(name)}<br>relative depth %{{x:.2f}}: %{{customdata}}<extra></extra>",
        )  # fmt: skip
    finish(figure, title, height=520, hovermode="closest", showlegend=True)
    figure.update_xaxes(range=[-0.02, 1.02], tickformat=".1f", title_text="relative depth (0 embedding, 1 last layer)")
    return figure.update_yaxes(title_text=axis, range=_reach(list(curves.values()), shares))


def _reach(curves: Sequence[pd.DataFrame], shares: bool) -> Sequence[float]:
    return SHARES if shares else span(*(curve[name] for curve in curves for name in ("value", "low", "high")))
