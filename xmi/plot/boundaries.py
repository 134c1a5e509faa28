"""Where phases change, of several specifications and models side by side."""

from __future__ import annotations

import plotly.graph_objects as go

from xmi.errors import ArgumentError
from xmi.measure.boundaries import CHANGES, Boundaries
from xmi.numerals import estimate, percent
from xmi.plot.looks import CHANGES as LOOKS
from xmi.plot.registry import draws
from xmi.plot.theme import LAYER_AXIS, finish, numbers, text

_APART = 0.14


@draws(Boundaries)
def boundaries(result: Boundaries, *, x: str = "relative", title: str = "Where the phases change") -> go.Figure:
    """Both boundaries of each measurement, with their intervals.

    Args:
        result: The boundaries; one that does not exist is not drawn.
        x: `relative` depth (0 the embedding, 1 the last layer), or `layer`.
        title: Title of the figure.

    Returns:
        One row per measurement, one colour and symbol per change.

    Raises:
        ArgumentError: An unknown `x`.
    """
    if x not in ("layer", "relative"):
        raise ArgumentError(f"Unknown axis {x!r}; use 'layer' or 'relative'.")
    several = len(set(result.models)) > 1
    names = [
        f"{label} ({model})" if several else label for label, model in zip(result.labels, result.models, strict=True)
    ]
    layers = (result.layer, result.low, result.high)
    at, low, high = layers if x == "layer" else (result.relative(v) for v in layers)
    figure = go.Figure()
    for j, change in enumerate(CHANGES):
        figure.add_scatter(
            x=numbers(at[:, j]),
            y=[i + (j - 0.5) * 2 * _APART for i in range(len(names))],
            error_x={
                "type": "data",
                "array": numbers(high[:, j] - at[:, j]),
                "arrayminus": numbers(at[:, j] - low[:, j]),
                "symmetric": False,
                "thickness": 1.5,
                "width": 4,
            },
            mode="markers",
            name=change,
            legendgroup=change,
            legendrank=LOOKS[change].rank,
            marker={"color": LOOKS[change].colour, "symbol": LOOKS[change].symbol, "size": 9},
            customdata=[
                f"{text(name)}<br>{estimate(at[i, j], low[i, j], high[i, j])}<br>"
                f"in {percent(result.found[i, j])} of resamples, n = {result.n[i]}"
                for i, name in enumerate(names)
            ],
            hovertemplate="%{customdata}",
        )
    finish(
        figure,
        title,
        height=150 + 34 * len(names),
        subtitle=f"{percent(result.confidence)} bootstrap intervals over items",
    )
    if x == "relative":
        figure.update_xaxes(range=[-0.04, 1.04], tickvals=[0, 0.5, 1], title_text="relative depth")
    else:
        figure.update_xaxes(title_text=LAYER_AXIS, range=[-1.2, max(result.n_layers, default=1) - 0.8])
    # As numbers, so that the two marks of a row can stand apart.
    ticks = {"tickvals": list(range(len(names))), "ticktext": [text(name) for name in names]}
    return figure.update_yaxes(**ticks, range=[len(names) - 0.5, -0.5], zeroline=False)
