"""The look of every figure: colours, symbols, dashes and small helpers.

Colours are those of Okabe and Ito, told apart with every common colour vision; symbols and dashes say the same again,
so that a figure can be read in grey. Backgrounds are transparent and lines of the frame are half-transparent grey, so
that a figure sits on a light or a dark page; only the font colour is the page's to set.

Source of the palette: M. Okabe and K. Ito, "Color Universal Design", 2008.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from html import escape
from typing import Any
from unicodedata import bidirectional

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
# The palette's yellow is darkened, since it must be seen on white.
PURPLE, SKY, YELLOW = "#CC79A7", "#56B4E9", "#B3A500"
GREY = "#8A8F98"
PALETTE = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, YELLOW)
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star", "cross", "triangle-down")
GRID = "rgba(128,132,140,0.22)"
FRAME = "rgba(128,132,140,0.55)"
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif'
TITLE_HEIGHT = 52  # pixels; not automargin, which leaves a figure with a slider half drawn
_RIGHT_TO_LEFT = ("R", "AL", "RLE", "RLO", "RLI")
LAYER_AXIS = "layer (residual after block)"

_AXIS = {
    "gridcolor": GRID,
    "zerolinecolor": GRID,
    "linecolor": FRAME,
    "tickcolor": FRAME,
    "showline": True,
    "ticks": "outside",
    "ticklen": 4,
    "automargin": True,
    "spikecolor": FRAME,
    "spikethickness": 1,
    "spikedash": "dot",
    "title": {"standoff": 10, "font": {"size": 13}},
}

TEMPLATE = go.layout.Template(
    layout={
        "colorway": list(PALETTE),
        "font": {"family": FONT, "size": 12},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "xaxis": {**_AXIS, "unifiedhovertitle": {"text": "layer %{x}"}},
        "yaxis": _AXIS,
        "margin": {"l": 56, "r": 16, "t": TITLE_HEIGHT, "b": 40},
        "title": {"x": 0, "xref": "container", "xanchor": "left", "y": 1, "yref": "container", "yanchor": "top",
                  "pad": {"l": 12, "t": 12}, "font": {"size": 15}},
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 0, "yref": "container",
                   "yanchor": "bottom", "font": {"size": 12}, "itemsizing": "trace"},
        "hoverlabel": {"font": {"size": 12, "family": FONT}, "align": "left", "namelength": -1},
    }
)  # fmt: skip


def text(value: object) -> str:
    """Returns a string as plotly should show it: the markup it would interpret is shown as it was written."""
    # Direction isolates keep a right-to-left token from reordering the words around it.
    shown = escape(str(value).replace("\n", "⏎").replace("\t", "⇥"), quote=False)
    return f"\u2068{shown}\u2069" if any(bidirectional(c) in _RIGHT_TO_LEFT for c in shown) else shown


def colour(index: int) -> str:
    """Returns the colour of the index-th series; beyond the palette it starts again (symbols still differ)."""
    return PALETTE[index % len(PALETTE)]


def faint(hex_colour: str, alpha: float) -> str:
    """Returns a `#rrggbb` colour as `rgba(...)` of the given opacity."""
    red, green, blue = (int(hex_colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


def numbers(values: ArrayLike) -> list[Any]:
    """Returns (nested) lists of floats with four significant digits, NaN as None: what a figure needs to store."""
    array = np.asarray(values, dtype=float)
    if array.ndim != 1:
        return [numbers(row) for row in array]
    return [float(f"{v:.4g}") if np.isfinite(v) else None for v in array]


def finish(
    figure: go.Figure, title: str, *, height: int, subtitle: str = "", above: int = 0, **layout: Any
) -> go.Figure:
    """Gives a figure the common look and its headings.

    Args:
        figure: The figure.
        title: Its title.
        height: Its height in pixels.
        subtitle: A line below the title, wrapped so that it fits a narrow figure.
        above: Pixels to keep free between the subtitle and the plot.
        **layout: More of the layout.

    Returns:
        The same figure.
    """
    lines = textwrap.wrap(subtitle, 46)
    figure.update_layout(template=TEMPLATE, title_text=text(title), height=height)
    figure.update_layout(margin_t=TITLE_HEIGHT + above + 16 * len(lines), meta={"subtitle": text(subtitle)}, **layout)
    if lines:
        # An annotation: plotly moves a title of several lines out of the figure when the margin is large.
        figure.add_annotation(
            name="subtitle", text="<br>".join(map(text, lines)), showarrow=False, align="left", font={"size": 12},
            x=0, xref="paper", xanchor="left", y=1, yref="paper", yanchor="bottom", yshift=above + 2,
        )  # fmt: skip
    return figure


def slider(steps: Sequence[tuple[str, list[Any]]], *, active: int, below: int = 56) -> dict[str, Any]:
    """A slider below the figure.

    Args:
        steps: Per step its label and the arguments of plotly's `update` (trace changes, layout changes).
        active: Index of the step that the figure shows at first.
        below: Distance from the plot in pixels, which leaves room for its axis labels.

    Returns:
        The entry for `layout.sliders`.
    """
    return {
        "active": active,
        "steps": [{"label": label, "method": "update", "args": args} for label, args in steps],
        "currentvalue": {"prefix": "layer ", "xanchor": "left", "font": {"size": 13}},
        "pad": {"t": below, "b": 8},
        "x": 0,
        "len": 1,
        "bgcolor": GRID,
        "bordercolor": FRAME,
        "tickcolor": FRAME,
        "activebgcolor": FRAME,
        "font": {"size": 11},
    }


def first_layer(layer: int | None, layers: Sequence[int]) -> int:
    """Returns the position of the layer to show at first, the middle one by default.

    Raises:
        ValueError: The result lacks that layer.
    """
    if layer is None:
        return len(layers) // 2
    if layer not in layers:
        raise ValueError(f"Layer {layer} is not in the result; its layers are {list(layers)}.")
    return layers.index(layer)


def layer_tick(layers: Sequence[int]) -> int:
    """Returns the distance of ticks on an axis of layers: every one if few, a dozen if many."""
    return max(1, len(layers) // 12)
