"""What a lens reads from one prompt, depth by depth."""

from __future__ import annotations

import plotly.graph_objects as go

from xmi.errors import ArgumentError
from xmi.measure import LensReading
from xmi.numerals import decimal
from xmi.plot.registry import draws
from xmi.plot.theme import LAYER_AXIS, finish, numbers, text

# Faint enough for the page's own ink to be read on it, on a light page and on a dark one.
_SCALE = [[0.0, "rgba(86,180,233,0.05)"], [1.0, "rgba(86,180,233,0.6)"]]
_WIDEST = 9


@draws(LensReading)
def reading(result: LensReading, *, prompt: int = 0, title: str = "What the lens reads") -> go.Figure:
    """The top tokens of one prompt at each depth, shaded by their probability.

    Args:
        result: What the lens read.
        prompt: Which prompt.
        title: Title of the figure.

    Returns:
        A table-like heat map: the embedding at the bottom, the last layer on top, the best token on the left.

    Raises:
        ArgumentError: There is no such prompt.
    """
    if not 0 <= prompt < len(result.tokens):
        raise ArgumentError(f"There is no prompt {prompt}: the reading holds {len(result.tokens)}, counted from 0.")
    tokens = result.tokens[prompt]
    places = [f"top {i + 1}" for i in range(len(tokens[0]))]
    figure = go.Figure(
        go.Heatmap(
            x=places,
            y=list(result.depth),
            z=numbers(result.probabilities[prompt]),
            zmin=0,
            zmax=1,
            colorscale=_SCALE,
            showscale=False,
            xgap=2,
            ygap=2,
            customdata=[
                [[text(token), decimal(share, 3)] for token, share in zip(*rows, strict=True)]
                for rows in zip(tokens, result.probabilities[prompt], strict=True)
            ],
            hovertemplate="“%{customdata[0]}”<br>layer %{y}, %{x}<br>probability %{customdata[1]}<extra></extra>",
        )
    )
    figure.add_scatter(
        x=places * len(tokens),
        y=[depth for depth in result.depth for _ in places],
        text=[text(_short(token)) for row in tokens for token in row],
        mode="text",
        textfont={"size": 11},
        hoverinfo="skip",
        showlegend=False,
    )
    finish(
        figure,
        title,
        height=130 + 26 * len(result.depth),
        subtitle=f"at {result.slot}; the stronger the shade, the more probable",
    )
    figure.update_xaxes(title_text="tokens, the most probable first", type="category", showgrid=False)
    return figure.update_yaxes(title_text=LAYER_AXIS, type="category", showgrid=False)


def _short(token: str) -> str:
    return token if len(token) <= _WIDEST else token[: _WIDEST - 1] + "…"
