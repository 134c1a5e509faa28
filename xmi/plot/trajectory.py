"""How the output comes about: cross-entropy, entropy and divergence through the layers."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from xmi.measure.trajectory import MEASURES, Trajectory
from xmi.plot.looks import TRAJECTORY
from xmi.plot.registry import draws
from xmi.plot.theme import LAYER_AXIS, band, finish, layer_tick, numbers, span


@draws(Trajectory)
def trajectory(result: Trajectory, *, title: str = "From the input to the output") -> go.Figure:
    """Mean over prompts of each measure at each depth, with the middle half of the prompts as a band.

    Args:
        result: What was measured; prompts without a label have no cross-entropy.
        title: Title of the figure.

    Returns:
        One line per measure, in nats; the embedding is layer -1.
    """
    figure, layers = go.Figure(), list(range(-1, len(result.depth) - 1))
    shown = []
    for measure, (name, look) in zip(MEASURES, TRAJECTORY.items(), strict=True):
        values = getattr(result, measure)
        values = values[np.isfinite(values).all(1)]
        if not len(values):
            continue
        low, high = np.percentile(values, [25, 75], axis=0)
        shown += [low, high, values.mean(0)]
        figure.add_trace(band(layers, low, high, look.colour, group=name))
        figure.add_scatter(
            x=layers,
            y=numbers(values.mean(0)),
            name=name,
            legendgroup=name,
            legendrank=look.rank,
            mode="lines",
            line=look.line,
            hovertemplate="%{y:.3g} nats, n = " + str(len(values)) + f"<extra>{name}</extra>",
        )
    finish(
        figure,
        title,
        height=430,
        subtitle=f"{result.lens} at {result.slot}; mean over prompts, band: middle half of them",
        hovermode="x unified",
    )
    figure.update_xaxes(title_text=LAYER_AXIS, dtick=layer_tick(layers))
    return figure.update_yaxes(title_text="nats", range=span(*shown))
