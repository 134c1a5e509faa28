"""Where the tokens of a prompt look: an attention pattern as a heat map."""

from __future__ import annotations

import plotly.graph_objects as go

from xmi.errors import ArgumentError
from xmi.measure.attention import AttentionPattern
from xmi.plot.registry import draws
from xmi.plot.theme import finish, numbers, text

_SCALE = [[0.0, "rgba(74,94,221,0.03)"], [1.0, "rgba(74,94,221,1)"]]
_WIDEST = 22


@draws(AttentionPattern)
def attention(
    result: AttentionPattern, *, head: int | None = None, join_images: bool = True, title: str | None = None
) -> go.Figure:
    """Attention from each token (rows) to each token (columns), with a menu of the heads.

    Args:
        result: The pattern.
        head: The head that is shown at first; by default the mean over heads.
        join_images: Show the tokens of each image as one: attention to it is summed, from it averaged.
        title: Title of the figure.

    Returns:
        The heat map, colours from 0 to 1.

    Raises:
        ArgumentError: There is no such head.
    """
    shown = result.joined() if join_images else result
    heads = len(shown.values)
    if head is not None and not 0 <= head < heads:
        raise ArgumentError(f"There is no head {head}: the pattern holds {heads}, counted from 0.")
    maps = [shown.values.mean(0), *shown.values]
    active = 0 if head is None else 1 + head
    names = [text(_short(token)) for token in shown.tokens]
    figure = go.Figure(
        go.Heatmap(
            z=numbers(maps[active]),
            zmin=0,
            zmax=1,
            colorscale=_SCALE,
            colorbar={"title": {"text": "attention"}, "thickness": 8, "outlinewidth": 0},
            customdata=[[(query, key) for key in names] for query in names],
            hovertemplate="from %{customdata[0]}<br>to %{customdata[1]}<br>attention %{z:.3f}<extra></extra>",
        )
    )
    labels = ["mean over heads", *(f"head {number}" for number in range(heads))]
    buttons = [
        {"label": label, "method": "update", "args": [{"z": [numbers(z)]}, {}]}
        for label, z in zip(labels, maps, strict=True)
    ]
    finish(
        figure,
        title or f"Attention at layer {shown.layer}",
        height=max(420, 190 + 18 * len(names)),
        subtitle="rows look at columns",
        above=40,
    )
    menu = {"buttons": buttons, "active": active, "x": 1, "xanchor": "right", "y": 1, "yanchor": "bottom"}
    figure.update_layout(updatemenus=[{**menu, "pad": {"b": 4}}])
    ticks = {"tickvals": list(range(len(names))), "ticktext": names, "showgrid": False, "zeroline": False}
    figure.update_xaxes(title_text="key", tickangle=-90, constrain="domain", **ticks)
    return figure.update_yaxes(title_text="query", autorange="reversed", **ticks)


def _short(token: str) -> str:
    return token if len(token) <= _WIDEST else token[: _WIDEST - 1] + "…"
