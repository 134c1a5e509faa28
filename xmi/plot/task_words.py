"""Task words that were found, and how far they stand out."""

from __future__ import annotations

import plotly.graph_objects as go

from xmi.measure.task_words import TaskWords
from xmi.numerals import decimal, percent
from xmi.plot.looks import WORDS
from xmi.plot.registry import draws
from xmi.plot.theme import finish, numbers, text


@draws(TaskWords)
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
    for series, values in (("in its task", result.mass), ("largest in another task", result.elsewhere)):
        look = WORDS[series]
        figure.add_scatter(
            x=numbers(values),
            y=rows,
            mode="markers",
            name=series,
            legendgroup=series,
            legendrank=look.rank,
            marker={"color": look.colour, "symbol": look.symbol, "size": 9},
            customdata=[
                (name, depth, decimal(mass, 3), percent(share))
                for name, depth, mass, share in zip(names, result.depth, values, result.share, strict=True)
            ],
            hovertemplate="%{customdata[0]}<br>mass %{customdata[2]} at %{customdata[1]}<br>among the top tokens of "
            "%{customdata[3]} of the prompts",
        )
    finish(figure, title, height=160 + 22 * len(rows), subtitle=f"{result.lens}, at {result.slot}")
    figure.update_xaxes(title_text="mean probability at the depth where it stands out most", rangemode="tozero")
    return figure.update_yaxes(tickvals=rows, ticktext=names, range=[len(rows) - 0.5, -0.5], zeroline=False)
