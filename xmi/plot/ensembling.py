"""Accuracy against the number of examples behind a task vector."""

from __future__ import annotations

import plotly.graph_objects as go

from xmi.measure.ensembling import EnsembleCurve
from xmi.plot.theme import BLUE, GREY, ORANGE, faint, finish, numbers, text


def ensemble_curve(result: EnsembleCurve, *, score: str = "paper", title: str | None = None) -> go.Figure:
    """Accuracy of vectors of more and more examples, alone and averaged with the instruction's vector.

    Args:
        result: The curve.
        score: `paper` or `strict`.
        title: Title of the figure.

    Returns:
        Two lines with Wilson intervals, and levels for the instruction alone and for no context; the axis of examples
        is logarithmic.
    """
    x = list(result.examples)
    figure = go.Figure()
    looks = (("examples alone", BLUE, "circle", "solid"), ("examples + instruction", ORANGE, "square-open", "dash"))
    for kind, (name, tint, symbol, dash) in enumerate(looks):
        curve = [result.accuracy(e, instruction=bool(kind), score=score) for e in x]
        figure.add_scatter(
            x=x + x[::-1], y=numbers([p.high for p in curve]) + numbers([p.low for p in curve])[::-1], fill="toself",
            fillcolor=faint(tint, 0.1), mode="lines", line={"width": 0}, showlegend=False, hoverinfo="skip",
        )  # fmt: skip
        figure.add_scatter(
            x=x, y=numbers([p.mean for p in curve]), name=name, mode="lines+markers",
            line={"color": tint, "width": 2.2, "dash": dash}, marker={"symbol": symbol, "size": 8},
            customdata=[[round(p.low, 4), round(p.high, 4), p.n] for p in curve],
            hovertemplate="%{y:.2f} [%{customdata[0]:.2f}, %{customdata[1]:.2f}], n = %{customdata[2]}",
        )  # fmt: skip
    for level, name, dash in (
        (result.instruction(score).mean, "instruction alone", "dot"),
        (result.no_context(score).mean, "no context", "longdashdot"),
    ):
        figure.add_scatter(
            x=[x[0], x[-1]], y=numbers([level, level]), name=f"{name} ({level:.2f})", mode="lines",
            line={"color": GREY, "width": 1.5, "dash": dash}, hoverinfo="skip",
        )  # fmt: skip
    finish(
        figure, title or "Sample efficiency of task vectors", height=480, hovermode="x unified",
        subtitle=f"{text(result.source)} to {text(result.target)} queries at layer {result.layer} (validation), "
        f"{len(result.seeds)} seeds",
    )  # fmt: skip
    ticks = [x[0]]
    for value in x:  # labels closer than this meet on a narrow screen
        ticks += [value] if value >= 2.5 * ticks[-1] else []
    figure.update_xaxes(title_text="examples", type="log", tickvals=ticks, unifiedhovertitle={"text": "%{x} examples"})
    return figure.update_yaxes(title_text="accuracy (share of items)", range=[-0.03, 1.03])
