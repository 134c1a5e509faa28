"""Accuracies: of every patched vector at every layer, and of methods side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from xmi import names
from xmi.measure import Answers, Proportion, Transfer, accuracy
from xmi.names import MAJORITY, NO_CONTEXT, SPECIFICATIONS, TASKLESS, is_control
from xmi.numerals import decimal
from xmi.plot.labels import beside
from xmi.plot.looks import LEVELS, PALETTE, Look, named, sources
from xmi.plot.registry import draws
from xmi.plot.theme import LAYER_AXIS, SHARES, band, finish, layer_tick, numbers, proportions, rows_axis, text

ACCURACY_AXIS = "accuracy (share of items)"


@draws(Transfer)
def transfer(
    result: Transfer,
    *,
    score: str = "paper",
    chosen: Mapping[str, int] | None = None,
    always: float | None = None,
    prompt: float | None = None,
    title: str = "Task vectors patched into context-free queries",
) -> go.Figure:
    """Accuracy of each patched vector per layer, with Wilson intervals (on hover; of the plain lines also as bands).

    Text ICL, image ICL and instruction are named beside their lines, where sources have other names all of them; one
    grey band spans the controls that hold nothing of the task. Everything else is drawn at a click on its legend entry.
    Colour is the specification; a source that adds an instruction is dashed, one from the base LLM dotted. Controls
    are grey and differ by symbol and dash.

    Args:
        result: The layer sweep.
        score: `paper` or `strict`.
        chosen: A layer per source, such as the one chosen on validation items; it is marked large.
        always: Accuracy of always giving a task's most frequent label, if the labels of its training items are known;
            by default the most frequent label of the items asked.
        prompt: Accuracy of the same queries with examples as a prompt, drawn as a line.
        title: Title of the figure.

    Returns:
        One line per source; a band from the lowest to the highest interval of no context, a random vector, another
        task's vector and an unrelated slot; horizontal lines for the prompt, for no context, and for always giving a
        task's most frequent label.
    """
    figure = go.Figure()
    layers = list(result.layers)
    curves = {source: result.curve(source, score) for source in result.sources}
    clean = result.clean.accuracy(score)
    looks = sources(result.sources)
    own = [s for s in curves if not is_control(s)]
    shown = {s for s in own if s in SPECIFICATIONS} or set(own)
    figure.add_trace(_controls([curve for s, curve in curves.items() if s in TASKLESS], clean, layers))
    # Bands come first, so that none dims a line; nine of them on top of each other would tell nothing.
    for source in [s for s in curves if looks[s].dash == "solid" or is_control(s)]:
        curve = curves[source]
        ends = [p.low for p in curve], [p.high for p in curve]
        figure.add_trace(band(layers, *ends, looks[source].colour, group=source, opacity=0.1))
    for source, curve in curves.items():
        look, mark = looks[source], (chosen or {}).get(source)
        figure.add_scatter(
            x=layers, y=numbers([p.mean for p in curve]), name=text(source), legendgroup=source,
            legendrank=look.rank, mode="lines+markers", line=look.line, customdata=proportions(curve),
            marker={"symbol": look.symbol, "size": [14 if at == mark else 7 for at in layers], "opacity": 1,
                    "line": {"width": 1.5 if "-open" in look.symbol else 0}},
            hovertemplate="%{customdata}",
        )  # fmt: skip
    _add_level(figure, result.layers, clean.mean, NO_CONTEXT, LEVELS[NO_CONTEXT])
    if prompt is not None:
        _add_level(figure, result.layers, prompt, "prompt", LEVELS["prompt"])
    _add_level(
        figure, result.layers, majority(result).mean if always is None else always, "majority label", LEVELS[MAJORITY]
    )
    for trace in figure.data:  # what is named beside its line needs no legend, which would be too long for a telephone
        at_first = trace.legendgroup in {*shown, "controls", "prompt"}
        trace.update(visible=True, showlegend=False) if at_first else trace.update(visible="legendonly")
    labels = [(s, curves[s][-1].mean, looks[s]) for s in curves if s in shown]
    labels += [("prompt", prompt, LEVELS["prompt"])] if prompt is not None else []
    beside(figure, layers[-1], [*labels, ("controls", clean.mean, LEVELS[NO_CONTEXT])])
    note = "large marker: layer chosen on validation items" if chosen else ""
    finish(figure, title, height=600, subtitle=note, hovermode="x unified")
    figure.update_layout(margin_r=96)
    span = [layers[0] - 0.3, layers[-1] + 0.3]
    figure.update_xaxes(title_text=LAYER_AXIS, dtick=layer_tick(layers), range=span)
    return figure.update_yaxes(title_text=ACCURACY_AXIS, range=SHARES)


def _controls(curves: Sequence[Sequence[Proportion]], clean: Proportion, layers: Sequence[int]) -> go.Scatter:
    """One band from the lowest to the highest end of the intervals of the controls and of no context."""
    everything = [*curves, [clean] * len(layers)]
    low = np.min([[p.low for p in curve] for curve in everything], axis=0)
    high = np.max([[p.high for p in curve] for curve in everything], axis=0)
    trace = band(layers, low, high, LEVELS[NO_CONTEXT].colour, group="controls", opacity=0.3)
    return trace.update(name="controls, all together")


def majority(result: Transfer | Answers) -> Proportion:
    """Accuracy of always giving the most frequent label of each task, mean over tasks (the paper's `Random`)."""
    asked = result.answers, result.tasks, result.units
    labels, tasks, units = (np.array(values, dtype=object)[result.labelled] for values in asked)
    hits = np.zeros(len(labels))
    for task in set(tasks):
        own = tasks == task
        names, counts = np.unique(labels[own].astype(str), return_counts=True)
        hits[own] = labels[own] == names[counts.argmax()]
    return accuracy(hits, units.astype(str), tasks.astype(str))


@draws(Answers)
def accuracies(
    result: Mapping[str, Answers | Proportion] | Answers, *, score: str = "paper", title: str = "Accuracy by method"
) -> go.Figure:
    """Accuracies of several methods with their intervals, as points on one axis.

    Args:
        result: Answers or accuracies by name; one `Answers` alone is drawn per task.
        score: `paper` or `strict`.
        title: Title of the figure.

    Returns:
        One row per method.
    """
    if isinstance(result, Answers):
        result = {task: result.of_task(task).accuracy(score) for task in dict.fromkeys(result.tasks)}
    found = {k: v.accuracy(score) if isinstance(v, Answers) else v for k, v in result.items()}
    figure = go.Figure(_points("accuracy", list(found), list(found.values()), Look(PALETTE[0])))
    return rows_axis(_rows_layout(figure, title, len(found)), [_label(n) for n in found]).update_layout(
        showlegend=False
    )


def summary(result: pd.DataFrame | Mapping[str, pd.DataFrame], *, title: str = "Accuracy by method") -> go.Figure:
    """The summary table of a study, or of several models, as points with intervals.

    Args:
        result: Rows with method, source, target, accuracy, low, high, n; or such a table per model.
        title: Title of the figure.

    Returns:
        One row per method, source and target; models differ in colour and symbol.
    """
    tables = {"": result} if isinstance(result, pd.DataFrame) else dict(result)
    figure = go.Figure()
    names: list[str] = []
    looks = named(tables)
    for model, table in tables.items():
        rows = [
            (method_name(r), Proportion(r["accuracy"], int(r["n"]), r["low"], r["high"])) for _, r in table.iterrows()
        ]
        names += [name for name, _ in rows if name not in names]
        figure.add_trace(_points(model or "accuracy", [n for n, _ in rows], [p for _, p in rows], looks[model]))
    figure = rows_axis(_rows_layout(figure, title, len(names)), [_label(n) for n in names])
    return figure.update_layout(showlegend=len(tables) > 1)


def method_name(row: Any) -> str:
    """Returns the name of a summary row, as `text ICL: patch → image query`."""
    if row["method"] in names.LEVELS:
        return f"{row['method']} → {row['target']} query"
    return f"{row['source']}: {row['method']} → {row['target']} query"


def _label(name: str) -> str:
    """A name on two lines, for narrow figures."""
    source, _, way = name.rpartition(": ")
    return f"{text(source)}:<br>{text(way)}" if source else text(name)


def _add_level(figure: go.Figure, layers: tuple[int, ...], value: float, name: str, look: Look) -> None:
    if np.isnan(value):  # no query has a label
        return
    figure.add_scatter(
        x=[layers[0], layers[-1]], y=numbers([value, value]), name=f"{name} ({decimal(value)})", mode="lines",
        legendgroup=name, legendrank=look.rank, line=look.line, hoverinfo="skip",
    )  # fmt: skip


def _points(name: str, rows: list[str], values: list[Proportion], look: Look) -> go.Scatter:
    return go.Scatter(
        x=numbers([p.mean for p in values]),
        y=[_label(r) for r in rows],
        orientation="h",
        name=text(name),
        mode="markers",
        legendgroup=name,
        legendrank=look.rank,
        marker={"color": look.colour, "symbol": look.symbol, "size": 9},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": numbers([p.high - p.mean for p in values]),
            "arrayminus": numbers([p.mean - p.low for p in values]),
            "thickness": 1.5,
            "width": 4,
        },
        customdata=proportions(values),
        hovertemplate="%{y}<br>%{customdata}",
    )


def _rows_layout(figure: go.Figure, title: str, rows: int) -> go.Figure:
    finish(figure, title, height=150 + 34 * max(rows, 3), scattermode="group", scattergap=0.4)
    return figure.update_xaxes(title_text=ACCURACY_AXIS, range=SHARES)
