"""Accuracy against the number of examples behind a task vector."""

from __future__ import annotations

import plotly.graph_objects as go

from xmi.measure.ensembling import EnsembleCurve
from xmi.names import NO_CONTEXT
from xmi.numerals import decimal
from xmi.plot.looks import EXAMPLES, LEVELS
from xmi.plot.registry import draws
from xmi.plot.theme import SHARES, band, finish, numbers, proportions, text


@draws(EnsembleCurve)
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
    for kind, (name, look) in enumerate(EXAMPLES.items()):
        curve = [result.accuracy(e, instruction=bool(kind), score=score) for e in x]
        figure.add_trace(band(x, [p.low for p in curve], [p.high for p in curve], look.colour, group=name))
        figure.add_scatter(
            x=x, y=numbers([p.mean for p in curve]), name=name, legendgroup=name, legendrank=look.rank,
            mode="lines+markers", line=look.line, marker={"symbol": look.symbol, "size": 8},
            customdata=proportions(curve), hovertemplate="%{customdata}",
        )  # fmt: skip
    for level, name in (
        (result.instruction(score).mean, "instruction alone"),
        (result.no_context(score).mean, NO_CONTEXT),
    ):
        figure.add_scatter(
            x=[x[0], x[-1]], y=numbers([level, level]), name=f"{name} ({decimal(level)})",
            legendgroup=name, legendrank=LEVELS[name].rank, mode="lines", line=LEVELS[name].line, hoverinfo="skip",
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
    return figure.update_yaxes(title_text="accuracy (share of items)", range=SHARES)
