"""A VLM compared with its base LLM: how far the weights moved, and how close the task vectors are."""

from __future__ import annotations

import plotly.graph_objects as go

from xmi.measure.base_comparison import BaseComparison, BaseSimilarity
from xmi.names import control
from xmi.numerals import decimal
from xmi.plot.looks import BASE_SIMILARITY, MOVED, named
from xmi.plot.registry import draws
from xmi.plot.theme import LAYER_AXIS, finish, layer_tick, numbers, span, text


@draws(BaseComparison)
def base_comparison(result: BaseComparison, *, title: str | None = None) -> go.Figure:
    """How far fine-tuning moved the weights of each block.

    Args:
        result: The comparison.
        title: Title of the figure.

    Returns:
        One bar per place; none where weights were not compared.
    """
    figure = go.Figure(
        go.Bar(
            x=[text(p) for p in result.places], y=numbers(result.moved), marker_color=MOVED.colour,
            customdata=[decimal(v, 3) for v in result.moved], hovertemplate="%{x}: %{customdata}<extra></extra>",
        )
    )  # fmt: skip
    count = sum(result.differs)
    finish(
        figure, title or f"{result.base} to {result.vlm}", height=380,
        subtitle=f"{count} of {len(result.differs)} aspects differ" + "".join(f"; {a}" for a in _differing(result)),
    )  # fmt: skip
    figure.update_xaxes(type="category", title_text="weights", tickangle=-45)
    return figure.update_yaxes(title_text="relative difference", rangemode="tozero")


@draws(BaseSimilarity)
def base_similarity(
    result: BaseSimilarity, *, title: str = "Task vectors of the VLM and of its base LLM", every: bool = True
) -> go.Figure:
    """Cosine between both models' vectors of one task per layer, and the control: of different tasks.

    Args:
        result: The cosines.
        title: Title of the figure.
        every: Draw each task, not only the mean.

    Returns:
        A thin line per task, a bold one for their mean, a dashed one for different tasks.
    """
    layers = list(range(len(result.cosine)))
    figure, looks, drawn = go.Figure(), named(result.tasks), [result.same]
    for i, task in enumerate(result.tasks if every else ()):
        look = looks[task]
        figure.add_scatter(
            x=layers, y=numbers(result.same[:, i]), name=text(task), mode="lines+markers",
            legendgroup=f"task {task}", legendrank=look.rank, line={"color": look.colour, "width": 1.2},
            marker={"symbol": look.symbol, "size": 5}, customdata=[decimal(v) for v in result.same[:, i]],
            hovertemplate="%{customdata}",
        )  # fmt: skip
    means = {"same task, mean": result.same.mean(1)}
    if len(result.tasks) > 1:
        means[control("other tasks, mean")] = result.other.mean(1)
    for name, curve in means.items():
        figure.add_scatter(
            x=layers, y=numbers(curve), name=name, legendgroup=name, mode="lines",
            legendrank=BASE_SIMILARITY[name].rank,
            line=BASE_SIMILARITY[name].line, customdata=[decimal(v) for v in curve], hovertemplate="%{customdata}",
        )  # fmt: skip
        drawn.append(curve)
    note = "each model's mean over tasks removed" if result.centred else ""
    finish(figure, title, height=480, subtitle=note, hovermode="x unified")
    figure.update_xaxes(title_text=LAYER_AXIS, dtick=layer_tick(layers))
    return figure.update_yaxes(title_text="cosine", range=span(*drawn))


def _differing(result: BaseComparison) -> list[str]:
    return [a for a, d in zip(result.aspects, result.differs, strict=True) if d]
