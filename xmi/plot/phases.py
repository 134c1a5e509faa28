"""The phases of the last token: which of input, task and answer the residual stream decodes to, per depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from xmi.measure import PHASES, Phases
from xmi.plot.theme import FRAME, GREEN, GRID, SKY, VERMILION, finish, numbers, text

_STYLE = {
    "input": (SKY, "circle", "dot"),
    "task": (VERMILION, "square", "solid"),
    "answer": (GREEN, "diamond", "dash"),
}
SEPARATOR = " · "
ALL = "all tasks"
_ROW = 170


def phases(
    result: Phases | Sequence[Phases] | Mapping[str, Phases], *, title: str = "Input, task and answer phases"
) -> go.Figure:
    """Relative probability of the input, task and answer tokens at each depth; top tokens on hover.

    Args:
        result: One measurement or several. Labels written `task · specification` are grouped: one subplot per
            specification and a menu of the tasks; a label without a task is the specification pooled over tasks.
        title: Title of the figure.

    Returns:
        One row of three curves per specification, with a menu if there are several tasks.

    Raises:
        ValueError: No measurement, or measurements of different depth.
    """
    table = _by_task(_listed(result))
    rows = list(dict.fromkeys(spec for specs in table.values() for spec in specs))
    first = next(iter(table.values()))
    figure = make_subplots(
        rows=len(rows),
        shared_xaxes=True,
        vertical_spacing=0.32 / (len(rows) + 1),
        subplot_titles=[text(r) for r in rows],
    )
    for i, spec in enumerate(rows, start=1):
        for trace in _traces(first.get(spec), show_legend=i == 1):
            figure.add_trace(trace, row=i, col=1)
    figure.update_yaxes(range=[-0.03, 1.03], tickformat=".0%", nticks=5)
    figure.update_yaxes(title_text="relative probability (share)", row=(len(rows) + 1) // 2)
    figure.update_xaxes(type="category")
    figure.update_xaxes(title_text="layer (residual after block)", row=len(rows))
    figure.update_annotations(x=0, xanchor="left", yshift=2, font_size=13)
    if list(table) != [ALL] and len(table) == 1:
        title = f"{title}: {next(iter(table))}"
    finish(figure, title, height=130 + _ROW * len(rows), above=40, hovermode="x unified")
    if len(table) > 1:
        _add_menu(figure, table, rows)
    return figure


def _listed(result: Phases | Sequence[Phases] | Mapping[str, Phases]) -> list[Phases]:
    if isinstance(result, Phases):
        return [result]
    found = list(result.values()) if isinstance(result, Mapping) else list(result)
    if not found or any(p.depth != found[0].depth for p in found):
        raise ValueError("A figure of phases needs at least one Phases, all of the same depth.")
    return found


def _by_task(found: list[Phases]) -> dict[str, dict[str, Phases]]:
    """Phases by task and specification, pooled ones first."""
    table: dict[str, dict[str, Phases]] = {}
    for phases_ in found:
        task, _, spec = phases_.label.rpartition(SEPARATOR)
        table.setdefault(task or ALL, {})[spec] = phases_
    return dict(sorted(table.items(), key=lambda entry: entry[0] != ALL))


def _traces(measured: Phases | None, *, show_legend: bool) -> list[go.Scatter]:
    values = _values(measured)
    lines = [
        go.Scatter(
            x=list(measured.depth) if measured else [],
            y=y,
            name=phase,
            legendgroup=phase,
            showlegend=show_legend,
            mode="lines+markers",
            line={"color": _STYLE[phase][0], "dash": _STYLE[phase][2], "width": 2.2},
            marker={"symbol": _STYLE[phase][1], "size": 7},
            hovertemplate="%{y:.0%}",
        )
        for phase, y in zip(PHASES, values["y"][:3], strict=True)
    ]
    tokens = go.Scatter(
        x=list(measured.depth) if measured else [],
        y=values["y"][3],
        customdata=values["customdata"][3],
        name="top tokens",
        showlegend=False,
        mode="markers",
        marker={"opacity": 0, "color": FRAME},
        hovertemplate="<br>%{customdata}",
    )
    return [*lines, tokens]


def _values(measured: Phases | None) -> dict[str, list[Any]]:
    """The y values and hover texts of the four traces of one row."""
    if measured is None:
        return {"y": [[], [], [], []], "customdata": [None, None, None, []]}
    curves = numbers(measured.relative.T)
    tops = [
        "<br>".join(f"“{text(token)}” {share:.0%}" for token, share in at) or "none recorded"
        for at in measured.top_tokens
    ]
    # The invisible carrier of the tokens sits on the highest curve, so that its hover label is never off the plot.
    return {"y": [*curves, numbers(np.max(measured.relative, axis=1))], "customdata": [None, None, None, tops]}


def _add_menu(figure: go.Figure, table: dict[str, dict[str, Phases]], rows: list[str]) -> None:
    buttons = []
    for task, specs in table.items():
        parts = [_values(specs.get(spec)) for spec in rows]
        change = {k: [v for part in parts for v in part[k]] for k in ("y", "customdata")}
        buttons.append({"label": text(task), "method": "update", "args": [change, {}]})
    menu = {
        "buttons": buttons, "direction": "down", "x": 1, "xanchor": "right", "y": 1, "yanchor": "bottom",
        "pad": {"b": 6}, "bgcolor": GRID, "bordercolor": FRAME, "font": {"size": 12}, "showactive": False,
    }  # fmt: skip
    figure.update_layout(updatemenus=[menu])
