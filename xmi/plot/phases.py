"""The phases of the last token: which of input, task and answer the residual stream decodes to, per depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from xmi.errors import ArgumentError
from xmi.measure import PHASES, Phases
from xmi.names import label_parts
from xmi.numerals import percent
from xmi.plot.looks import PHASES as LOOKS
from xmi.plot.registry import draws
from xmi.plot.theme import FRAME, GRID, LAYER_AXIS, SHARES, faint, finish, layer_tick, numbers, text

POOLED, ALL = "", "all tasks"
"""The key of what is pooled over tasks, which no task can have, and its label."""
OTHERS, TOGETHER = "other labels of this task", "all three together"
MEASURES = ("relative", "absolute")
_ROW = 170
_Row = tuple[str, str, str]  # specification, model and lens
_Values = dict[str, list[Any]]


@draws(Phases)
def phases(
    result: Phases | Sequence[Phases] | Mapping[str, Phases],
    *,
    x: str = "layer",
    measure: str = "relative",
    boundaries: bool = True,
    title: str = "Input, task and answer phases",
) -> go.Figure:
    """Probability of the input, task and answer tokens at each depth; top tokens on hover.

    Further curves show how much probability the three sets have (`all three together`, grey), and what the task's other
    labels have: a share of next to nothing says nothing, and where other labels outweigh the three the model does not
    hold the task's word but its answers.

    Args:
        result: One measurement or several. Labels written `task · specification` are grouped: one subplot per
            specification (and model and lens, if there are several) and a menu of the tasks; a label without a task is
            the specification pooled over tasks.
        x: `layer`, or `relative` for relative depth (0 the embedding, 1 the last layer), on which models of different
            depth can be laid side by side.
        measure: `relative` (the shares of the three sets) or `absolute` (their probabilities).
        boundaries: Mark where one phase gives way to the next, with 95 % bootstrap intervals.
        title: Title of the figure.

    Returns:
        One row of curves per specification, with a menu if there are several tasks. Layers are numbers, the embedding
        is -1.

    Raises:
        ArgumentError: No measurement, two of the same name, an unknown `x` or `measure`, or measurements of different
            depth by layer.
    """
    if x not in ("layer", "relative"):
        raise ArgumentError(f"Unknown axis {x!r}; use 'layer' or 'relative'.")
    if measure not in MEASURES:
        raise ArgumentError(f"Unknown measure {measure!r}; use one of {', '.join(MEASURES)}.")
    found = _listed(result, x)
    table = _by_task(found)
    rows = list(dict.fromkeys(row for parts in table.values() for row in parts))
    first = next(iter(table.values()))
    curves = _curves(found, measure)
    figure = make_subplots(
        rows=len(rows),
        shared_xaxes=True,
        vertical_spacing=0.32 / (len(rows) + 1),
        subplot_titles=[text(title_) for title_ in _titles(rows)],
    )
    for i, row in enumerate(rows, start=1):
        places = _places(next(parts[row] for parts in table.values() if row in parts), x)
        for trace in _traces(first.get(row), places, curves, show_legend=i == 1):
            figure.add_trace(trace, row=i, col=1)
    # The margin is fixed, so that no menu moves the axis of depths by the width of a label.
    figure.update_yaxes(automargin=False).update_xaxes(automargin="height").update_layout(margin_l=74)
    figure.update_yaxes(range=SHARES, tickvals=[0, 0.5, 1], ticktext=[percent(v) for v in (0, 0.5, 1)])
    named = "share of the three sets" if measure == "relative" else "probability"
    figure.update_yaxes(title_text=named, row=(len(rows) + 1) // 2)
    if x == "layer":
        depth = found[0].depth
        shown = range(0, len(depth) - 1, layer_tick(range(len(depth))))
        figure.update_xaxes(tickvals=[-1, *shown], ticktext=["embed", *map(str, shown)], range=[-1.3, len(depth) - 1.7])
        figure.update_xaxes(title_text=LAYER_AXIS, row=len(rows))
    else:
        figure.update_xaxes(range=[-0.02, 1.02], tickformat=".1f", unifiedhovertitle_text="relative depth %{x:.2f}")
        figure.update_xaxes(title_text="relative depth (0 embedding, 1 last layer)", row=len(rows))
    figure.update_annotations(x=0, xanchor="left", yshift=2, font_size=13)
    if list(table) != [POOLED] and len(table) == 1:
        title = f"{title}: {next(iter(table))}"
    finish(figure, title, height=130 + _ROW * len(rows), above=40, hovermode="x unified")
    marks = {task: _marks(parts, rows, x) if boundaries else [] for task, parts in table.items()}
    figure.update_layout(shapes=next(iter(marks.values())))
    if len(table) > 1:
        _add_menu(figure, table, rows, marks, curves)
    return figure


def _listed(result: Phases | Sequence[Phases] | Mapping[str, Phases], x: str) -> list[Phases]:
    if isinstance(result, Phases):
        return [result]
    found = list(result.values()) if isinstance(result, Mapping) else list(result)
    if not found or (x == "layer" and any(p.depth != found[0].depth for p in found)):
        raise ArgumentError(
            "A figure of phases needs at least one Phases, all of the same depth (or x='relative' for several depths)."
        )
    names = [(p.label, p.model, p.lens) for p in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ArgumentError(
            f"Two measurements are named {twice[0]!r} (model {twice[1]!r}, {twice[2]}): give one another label."
        )
    return found


def _titles(rows: Sequence[_Row]) -> list[str]:
    """The specifications, with the model and the lens where there are several."""
    told = [i for i in range(3) if i == 0 or len({row[i] for row in rows}) > 1]
    return [", ".join(row[i] or "unnamed model" for i in told) for row in rows]


def _by_task(found: list[Phases]) -> dict[str, dict[_Row, Phases]]:
    """Phases by task and then by specification, model and lens, pooled ones first."""
    table: dict[str, dict[_Row, Phases]] = {}
    for phases_ in found:
        task, spec = label_parts(phases_.label)
        table.setdefault(task, {})[spec, phases_.model, phases_.lens] = phases_
    return dict(sorted(table.items(), key=lambda entry: entry[0] != POOLED))


def _marks(parts: Mapping[_Row, Phases], rows: Sequence[_Row], x: str) -> list[dict[str, Any]]:
    """The boundaries of each row as lines, their intervals as bands; shapes, so that a menu can exchange them."""
    marks: list[dict[str, Any]] = []
    for number, row in enumerate(rows, start=1):
        if row not in parts:
            continue
        found = parts[row].boundaries()
        ends = {name: getattr(found, name) for name in ("layer", "low", "high")}
        place = {k: (v if x == "layer" else found.relative(v))[0] for k, v in ends.items()}
        axes = {"xref": f"x{number}" if number > 1 else "x", "yref": f"y{number} domain" if number > 1 else "y domain"}
        for j, phase in enumerate(PHASES[1:]):
            at, low, high = (numbers(place[name])[j] for name in ("layer", "low", "high"))
            colour = LOOKS[phase].colour
            if low is not None:
                band = {
                    "type": "rect",
                    "legendgroup": "change",
                    "x0": low,
                    "x1": high,
                    "fillcolor": faint(colour, 0.22),
                    "line": {"width": 0},
                }
                marks.append({**axes, **band, "y0": 0, "y1": 1, "layer": "below"})
            if at is not None:
                line = {**LOOKS["change"].line, "color": colour}
                marks.append(
                    {
                        **axes,
                        "type": "line",
                        "legendgroup": "change",
                        "x0": at,
                        "x1": at,
                        "y0": 0,
                        "y1": 1,
                        "line": line,
                    }
                )
    if bands := [mark for mark in marks if mark["type"] == "rect"]:
        bands[-1] |= {"name": "change, 95\u00a0% interval", "showlegend": True, "legendrank": LOOKS["change"].rank}
    return marks


def _curves(found: Sequence[Phases], measure: str) -> tuple[str, ...]:
    """Names of the curves to draw: the three, what the other labels have if that is known, and what all three have."""
    known = (OTHERS,) if any(p.other_labels is not None for p in found) else ()
    return (*PHASES, *known, *((TOGETHER,) if measure == "relative" else ()))


def _traces(
    measured: Phases | None, places: list[Any], curves: Sequence[str], *, show_legend: bool
) -> list[go.Scatter]:
    values = _values(measured, curves)
    lines = [
        go.Scatter(
            x=places,
            y=values["y"][i],
            name=name,
            legendgroup=name,
            legendrank=LOOKS[name].rank,
            showlegend=show_legend,
            mode="lines+markers" if LOOKS[name].symbol else "lines",
            line=LOOKS[name].line,
            marker={"symbol": LOOKS[name].symbol or None, "size": 7},
            fill="tozeroy" if name == TOGETHER else None,
            fillcolor=faint(LOOKS[name].colour, 0.12) if name == TOGETHER else None,
            hovertemplate="%{y:.2f}" if name in PHASES else "%{y:.2f} of the probability",
        )
        for i, name in enumerate(curves)
    ]
    tokens = go.Scatter(
        x=places,
        y=values["y"][-1],
        customdata=values["customdata"][-1],
        name="top tokens",
        showlegend=False,
        mode="markers",
        marker={"opacity": 0, "color": FRAME},
        hovertemplate="<br>%{customdata}",
    )
    return [*lines, tokens]


def _places(measured: Phases, x: str) -> list[Any]:
    return list(range(-1, len(measured.depth) - 1)) if x == "layer" else numbers(measured.relative_depth)


def _values(measured: Phases | None, curves: Sequence[str]) -> _Values:
    """Values and hover texts of the curves of one row, and of the invisible carrier of its top tokens.

    Their places on the axis of depths are the row's, whatever the task, so no menu need exchange them.
    """
    if measured is None:
        return {"y": [[]] * (len(curves) + 1), "customdata": [*[None] * len(curves), []]}
    three = measured.relative if TOGETHER in curves else measured.mass
    others = np.full(len(three), np.nan) if measured.other_labels is None else measured.other_labels.mean(0)
    drawn = dict(zip(PHASES, three.T, strict=True)) | {OTHERS: others, TOGETHER: measured.mass.sum(-1)}
    tops = [
        "<br>".join(f"“{text(token)}” {percent(share)}" for token, share in at) or "none recorded"
        for at in measured.top_tokens
    ]
    # The carrier of the tokens sits on the highest curve, so that its hover label is never off the plot.
    heights = [*(numbers(drawn[name]) for name in curves), numbers(np.max(three, axis=1))]
    return {"y": heights, "customdata": [*[None] * len(curves), tops]}


def _add_menu(
    figure: go.Figure,
    table: dict[str, dict[_Row, Phases]],
    rows: list[_Row],
    marks: dict[str, list[dict[str, Any]]],
    curves: Sequence[str],
) -> None:
    buttons = []
    for task, specs in table.items():
        parts = [_values(specs.get(row), curves) for row in rows]
        change = {k: [v for part in parts for v in part[k]] for k in ("y", "customdata")}
        buttons.append({"label": text(task or ALL), "method": "update", "args": [change, {"shapes": marks[task]}]})
    menu = {
        "buttons": buttons, "direction": "down", "x": 1, "xanchor": "right", "y": 1, "yanchor": "bottom",
        "pad": {"b": 6}, "bgcolor": GRID, "bordercolor": FRAME, "font": {"size": 12}, "showactive": False,
    }  # fmt: skip
    figure.update_layout(updatemenus=[menu])
