"""A VLM beside its base LLM: how far the weights moved, and how close the task vectors are."""

from __future__ import annotations

import plotly.graph_objects as go

from xmi.measure.lineage import Kinship, Lineage
from xmi.plot.theme import BLUE, GREY, LAYER_AXIS, SYMBOLS, colour, finish, layer_tick, numbers, text


def lineage(result: Lineage, *, title: str | None = None) -> go.Figure:
    """How far fine-tuning moved the weights of each block.

    Args:
        result: The comparison.
        title: Title of the figure.

    Returns:
        One bar per place; none where weights were not compared.
    """
    figure = go.Figure(
        go.Bar(
            x=[text(p) for p in result.places], y=numbers(result.moved), marker_color=BLUE,
            hovertemplate="%{x}: %{y:.3f}<extra></extra>",
        )
    )  # fmt: skip
    count = sum(result.differs)
    finish(
        figure, title or f"{result.base} to {result.vlm}", height=380,
        subtitle=f"{count} of {len(result.differs)} aspects differ" + "".join(f"; {a}" for a in _differing(result)),
    )  # fmt: skip
    figure.update_xaxes(title_text="weights", tickangle=-45)
    return figure.update_yaxes(title_text="relative difference", rangemode="tozero")


def kinship(
    result: Kinship, *, title: str = "Task vectors of the VLM and of its base LLM", every: bool = True
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
    figure = go.Figure()
    for i, task in enumerate(result.tasks if every else ()):
        figure.add_scatter(
            x=layers, y=numbers(result.same[:, i]), name=text(task), mode="lines+markers",
            line={"color": colour(i), "width": 1.2}, marker={"symbol": SYMBOLS[i % len(SYMBOLS)], "size": 5},
        )  # fmt: skip
    figure.add_scatter(
        x=layers, y=numbers(result.same.mean(1)), name="same task, mean", mode="lines",
        line={"color": BLUE, "width": 3.5},
    )  # fmt: skip
    if len(result.tasks) > 1:
        figure.add_scatter(
            x=layers, y=numbers(result.other.mean(1)), name="control: other tasks, mean", mode="lines",
            line={"color": GREY, "width": 2.5, "dash": "dash"},
        )  # fmt: skip
    note = "each model's mean over tasks removed" if result.centred else ""
    finish(figure, title, height=480, subtitle=note, hovermode="x unified")
    figure.update_xaxes(title_text=LAYER_AXIS, dtick=layer_tick(layers))
    return figure.update_yaxes(title_text="cosine", range=[-1.03 if result.cosine.min() < 0 else -0.03, 1.03])


def _differing(result: Lineage) -> list[str]:
    return [a for a, d in zip(result.aspects, result.differs, strict=True) if d]
