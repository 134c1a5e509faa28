"""A study at a glance: four accuracies, each with its interval and its n, the models side by side."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go

from xmi.errors import ArgumentError
from xmi.measure.summaries import RUNGS, rungs
from xmi.names import NO_CONTEXT, TEXT_ICL, modality_of
from xmi.numerals import percent
from xmi.plot.looks import named
from xmi.plot.theme import finish, numbers, proportions, text

_APART = 0.3  # of a row, between two models
_ROOM = 1.75  # the axis goes on beyond 1, where the number of items stands clear of the marks, on a telephone too


def glance(
    tables: Mapping[str, pd.DataFrame], *, source: str = TEXT_ICL, target: str = "image", title: str = "At a glance"
) -> go.Figure:
    """No context, a random vector, the prompt and the patch on one axis, each model in its colour and symbol.

    Args:
        tables: A summary table for each model, the main one first.
        source: What the vector is read from: `text ICL`, `image ICL` or another source of the tables.
        target: Modality of the queries.
        title: Title of the figure.

    Returns:
        A row for each of `RUNGS`, in it a point with its 95 % interval for each model; accuracy and n beside it.

    Raises:
        ArgumentError: No table holds the patch.

    Examples:
        >>> import pandas as pd
        >>> row = {"method": "patch", "source": "text ICL", "target": "image", "accuracy": 0.9, "n": 96}
        >>> from xmi import plot
        >>> plot.glance({"organism": pd.DataFrame([row | {"low": 0.8, "high": 0.95}])}).data[0].x
        (0.9,)
    """
    found = {model: rungs(table, source, target) for model, table in tables.items()}
    if not any("patch" in values for values in found.values()):
        raise ArgumentError(f"No table holds {source} patched into {target} queries; it is in none of {list(tables)}.")
    figure, looks = go.Figure(), named(found)
    for k, (model, values) in enumerate(found.items()):
        points, look = list(values.values()), looks[model]
        figure.add_scatter(
            x=numbers([p.mean for p in points]),
            y=numbers([RUNGS.index(rung) + _APART * (k - (len(found) - 1) / 2) for rung in values]),
            name=text(model), legendgroup=model, legendrank=k, mode="markers", customdata=proportions(points),
            marker={"color": look.colour, "symbol": look.symbol, "size": 11},
            error_x={"type": "data", "symmetric": False, "thickness": 2, "width": 5,
                     "array": numbers([p.high - p.mean for p in points]),
                     "arrayminus": numbers([p.mean - p.low for p in points])},
            hovertemplate=f"{text(model)}<br>%{{customdata}}<extra></extra>",
        )  # fmt: skip
    for k, (model, values) in enumerate(found.items()):
        figure.add_scatter(
            x=[_ROOM] * len(values), y=figure.data[k].y, mode="text", legendgroup=model, showlegend=False,
            text=[f"{percent(p.mean)} of {p.n}" for p in values.values()], textposition="middle left",
            textfont={"size": 11}, hoverinfo="skip",
        )  # fmt: skip
    finish(figure, title, height=190 + 26 * len(RUNGS) * max(len(found), 2), hovermode="closest", showlegend=True)
    ticks = {"tickvals": [0, 0.5, 1], "ticktext": ["0", "50 %", "100 %"]}  # three, for a telephone
    figure.update_xaxes(title_text="right answers, 95 % interval", range=[-0.03, _ROOM], **ticks)
    kind = modality_of(source)
    asked = f"{kind} examples" if kind else text(source)
    said = (NO_CONTEXT, "random vector<br>patched", f"{asked}<br>as a prompt", f"{asked}<br>as a patched vector")
    return figure.update_yaxes(tickvals=list(range(len(RUNGS))), ticktext=said, range=[len(RUNGS) - 0.45, -0.55])
