"""Names that stand beside their lines, so that no legend need be searched."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from xmi.plot.looks import Look
from xmi.plot.theme import SHARES, text

_LEAST = 0.07  # of the axis' range: a line of text in a figure of usual height, on a telephone
_SIGNS = {"circle": "●", "square": "■", "diamond": "◆", "triangle-up": "▲", "star": "★", "x": "✖", "cross": "✚"}


def beside(figure: go.Figure, x: float, ends: Sequence[tuple[str, float, Look]]) -> go.Figure:
    """Writes the name of each line at its right end; ends that lie close are pushed apart.

    Args:
        figure: The figure, its y axis from 0 to 1.
        x: Where the lines end.
        ends: Name (which is the legend group of its line, too), last value and look of each line.

    Returns:
        The same figure; a name is hidden with its line.
    """
    known = sorted((end for end in ends if end[1] == end[1]), key=lambda end: end[1])
    for (name, _, look), at in zip(known, apart([end[1] for end in known]), strict=True):
        sign = _SIGNS.get(look.symbol, "▬")
        figure.add_scatter(
            x=[x], y=[at], mode="text", text=[f'  <span style="color:{look.colour}">{sign}</span> {text(name)}'],
            textposition="middle right", cliponaxis=False, legendgroup=name, showlegend=False, hoverinfo="skip",
        )  # fmt: skip
    return figure


def apart(values: Sequence[float], least: float = _LEAST) -> list[float]:
    """Pushes values apart that lie too close, and keeps them on an axis from 0 to 1 if there is room.

    Args:
        values: In ascending order.
        least: Distance that two of them need.

    Returns:
        As many values, in the same order, at least that far apart.

    Examples:
        >>> from xmi.plot.labels import apart
        >>> apart([0.0, 0.0, 1.0], 0.25)
        [0.0, 0.25, 1.0]
    """
    found: list[float] = []
    for value in values:
        found.append(max(value, found[-1] + least) if found else value)
    top = SHARES[1]
    for i in reversed(range(len(found))):
        found[i] = min(found[i], top)
        top = found[i] - least
    return [round(value, 4) for value in found]
