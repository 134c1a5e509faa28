"""Task words that were found, and how far they stand out."""

from __future__ import annotations

import plotly.graph_objects as go

from xmi.measure.task_words import TaskWords
from xmi.plot.theme import GREY, VERMILION, finish, numbers, text


def task_words(result: TaskWords, *, title: str = "Task words found") -> go.Figure:
    """Each word's mean mass in its own task, and the largest in any other.

    Args:
        result: The words.
        title: Title of the figure.

    Returns:
        Two points per word, words grouped by task, the most outstanding first.
    """
    rows = list(range(len(result.tokens)))
    # Rows are numbers: the same word may be found for two tasks.
    names = [f"{text(task)}: “{text(token)}”" for task, token in zip(result.tasks, result.tokens, strict=True)]
    figure = go.Figure()
    for series, values, colour, symbol in (
        ("in its task", result.mass, VERMILION, "square"),
        ("largest in another task", result.elsewhere, GREY, "circle-open"),
    ):
        figure.add_scatter(
            x=numbers(values),
            y=rows,
            mode="markers",
            name=series,
            marker={"color": colour, "symbol": symbol, "size": 9},
            customdata=list(zip(names, result.depth, numbers(result.share), strict=True)),
            hovertemplate="%{customdata[0]}<br>mass %{x:.3f} at %{customdata[1]}<br>among the top tokens of "
            "%{customdata[2]:.0%} of the prompts",
        )
    finish(figure, title, height=160 + 22 * len(rows), subtitle=f"{result.lens}, at {result.slot}")
    figure.update_xaxes(title_text="mean probability at the depth where it stands out most", rangemode="tozero")
    return figure.update_yaxes(tickvals=rows, ticktext=names, range=[len(rows) - 0.5, -0.5], zeroline=False)
