"""The look of every figure: frame, axes, titles and small helpers. What stands for what is in `looks`.

Backgrounds are transparent and lines of the frame are half-transparent grey, so that a figure sits on a light or a dark
page; only the font colour is the page's to set.

Axes say what they are: every axis has a type of its own. But plotly forgets the types of a figure's axes when a menu
or a slider exchanges its data, and guesses again; so where there are controls all axes are of numbers, of which nothing
else can be guessed. Layers are numbers everywhere, the embedding is -1. The range of an axis of shares is 0 to 1; any
other fits its data (`span`).
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any
from unicodedata import bidirectional

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from xmi.errors import ArgumentError
from xmi.measure.stats import Proportion
from xmi.numerals import estimate
from xmi.plot.looks import PALETTE

GRID = "rgba(128,132,140,0.22)"
FRAME = "rgba(128,132,140,0.55)"
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif'
TITLE_HEIGHT = 52  # pixels; not automargin, which leaves a figure with a slider half drawn
_RIGHT_TO_LEFT = ("R", "AL", "RLE", "RLO", "RLI")
LAYER_AXIS = "layer (residual after block)"
SHARES = (-0.03, 1.03)
"""Range of an axis of accuracies or shares: all that there can be, whatever the data."""
_PADDING = 0.05

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


def faint(hex_colour: str, alpha: float) -> str:
    """Returns a `#rrggbb` colour as `rgba(...)` of the given opacity."""
    red, green, blue = (int(hex_colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


class _Row(list[Any]):
    """Numbers that are written once: plotly copies what a slider or a menu holds again and again, but not these."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _Row:
        return self


def numbers(values: ArrayLike) -> list[Any]:
    """Returns (nested) lists of floats with four significant digits, NaN as None: what a figure needs to store."""
    array = np.asarray(values, dtype=float)
    if array.ndim != 1:
        return [numbers(row) for row in array]
    rounded = map(float, ("%.4g " * len(array) % tuple(array.tolist())).split())  # all at once: half the time
    finite = np.isfinite(array)
    if finite.all():
        return _Row(rounded)
    return _Row(v if known else None for v, known in zip(rounded, finite.tolist(), strict=True))


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
    for axes in (figure.for_each_xaxis, figure.for_each_yaxis):
        axes(lambda axis: axis.update(type=axis.type or "linear"))
    figure.update_layout(template=TEMPLATE, title_text=text(title), height=height)
    figure.update_layout(margin_t=TITLE_HEIGHT + above + 16 * len(lines), meta={"subtitle": text(subtitle)}, **layout)
    if lines:
        # An annotation: plotly moves a title of several lines out of the figure when the margin is large.
        figure.add_annotation(
            name="subtitle", text="<br>".join(map(text, lines)), showarrow=False, align="left", font={"size": 12},
            x=0, xref="paper", xanchor="left", y=1, yref="paper", yanchor="bottom", yshift=above + 2,
        )  # fmt: skip
    return figure


def span(*values: ArrayLike, around: Sequence[float] = (0.0,)) -> list[float]:
    """The range of an axis that is not of shares: it fits the data and always shows what they are read against.

    Args:
        *values: The data and the ends of their intervals; NaN is passed over.
        around: What the range shows in any case, such as no difference.

    Returns:
        Lower and upper end, with a margin of a twentieth.
    """
    flat = np.concatenate([np.asarray(v, dtype=float).ravel() for v in (*values, around)])
    flat = flat[np.isfinite(flat)]
    low, high = (float(flat.min()), float(flat.max())) if len(flat) else (0.0, 1.0)
    # Ends are rounded to four digits: values that are closer than that would leave a range of no width.
    margin = _PADDING * (max(high - low, 0.01 * max(abs(low), abs(high))) or 1.0)
    return numbers([low - margin, high + margin])


def rows_axis(figure: go.Figure, names: Sequence[str]) -> go.Figure:
    """Gives a figure one row per name, the first on top."""
    order = list(dict.fromkeys(names))
    return figure.update_yaxes(type="category", autorange="reversed", categoryorder="array", categoryarray=order)


def proportions(values: Iterable[Proportion]) -> list[str]:
    """What a hover text says of accuracies or shares: `0.97 [0.91, 0.99], n = 96`."""
    return [f"{estimate(p.mean, p.low, p.high)}, n = {p.n}" for p in values]


def band(
    x: Sequence[Any], low: ArrayLike, high: ArrayLike, colour: str, *, group: str = "", opacity: float = 0.12
) -> go.Scatter:
    """An area between two curves, without a legend entry; it goes with the line of the same group."""
    places = list(x)
    return go.Scatter(
        x=places + places[::-1], y=numbers(high) + numbers(low)[::-1], fill="toself", fillcolor=faint(colour, opacity),
        mode="lines", line={"width": 0}, showlegend=False, hoverinfo="skip", legendgroup=group or None,
    )  # fmt: skip


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
        ArgumentError: The result lacks that layer.
    """
    if layer is None:
        return len(layers) // 2
    if layer not in layers:
        raise ArgumentError(f"Layer {layer} is not in the result; its layers are {list(layers)}.")
    return layers.index(layer)


def layer_tick(layers: Sequence[int]) -> int:
    """Returns the distance of ticks on an axis of layers: every one if few, a dozen if many."""
    return max(1, len(layers) // 12)
