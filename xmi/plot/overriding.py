"""Who wins per layer: the task in the prompt or the one that is patched in."""

from __future__ import annotations

import plotly.graph_objects as go

from xmi.measure.overriding import Overriding
from xmi.measure.stats import Proportion
from xmi.names import RANDOM
from xmi.numerals import decimal, estimate
from xmi.plot.looks import CONTROLS, LEVELS, WINNERS
from xmi.plot.registry import draws
from xmi.plot.theme import LAYER_AXIS, SHARES, band, finish, layer_tick, numbers, proportions

_NAMES = {
    "patched": "the patched task",
    "prompt": "the prompt's task",
    "neither": "neither",
    "ambiguous": "a token of both labels",
}


@draws(Overriding)
def overriding(
    result: Overriding,
    *,
    score: str = "paper",
    split: str = "test",
    title: str = "One task in the prompt, another patched in",
) -> go.Figure:
    """Shares of answers per layer: the patched task's is the bold line, read against the same prompts left alone.

    Args:
        result: The answers.
        score: `paper` or `strict`.
        split: `test`, or `validation`.
        title: Title of the figure.

    Returns:
        A line per winner over the layers, with the interval of the patched task's share; how often the patched task
        is answered with a random vector in its place (a line), with its instruction as a system prompt, and without
        a patch (levels with their intervals). The layer chosen on validation items has a large marker.
    """
    best, layers = result.best_layer_of(score), list(result.layers)
    figure = go.Figure()

    def share(winner: str, method: str, layer: int | None = None) -> Proportion:
        return result.share(winner, method, layer, score=score, split=split)

    patched = [share("patched", "patch", layer) for layer in layers]
    ends = [p.low for p in patched], [p.high for p in patched]
    figure.add_trace(band(layers, *ends, WINNERS["patched"].colour, group="patched", opacity=0.18))
    for method in ("system prompt", "no patch"):
        level, look = share("patched", method), LEVELS[method]
        others = ", ".join(f"{_NAMES[w]} {decimal(share(w, method).mean)}" for w in _NAMES if w != "patched")
        edge = [layers[0], layers[-1]]
        figure.add_trace(band(edge, [level.low] * 2, [level.high] * 2, look.colour, group=method))
        figure.add_scatter(
            x=layers, y=numbers([level.mean] * len(layers)), mode="lines", line=look.line, legendgroup=method,
            legendrank=look.rank, name=f"{method}: the patched task ({decimal(level.mean)})",
            customdata=[f"{estimate(level.mean, level.low, level.high)}; {others}"] * len(layers),
            hovertemplate="%{customdata}",
        )  # fmt: skip
    for winner in ("ambiguous", "neither", "prompt"):
        _line(figure, layers, [share(winner, "patch", at) for at in layers], winner, _NAMES[winner])
    random = [share("patched", RANDOM, layer) for layer in layers]
    _line(figure, layers, random, RANDOM, "random vector: the patched task")
    _line(figure, layers, patched, "patched", _NAMES["patched"], best)
    finish(
        figure, title, height=520, hovermode="x unified",
        subtitle=f"{result.context} in the prompt, {result.source} vector patched; large marker: layer chosen on "
        "validation items",
    )  # fmt: skip
    figure.update_xaxes(title_text=LAYER_AXIS, dtick=layer_tick(layers), range=[layers[0] - 0.3, layers[-1] + 0.3])
    return figure.update_yaxes(title_text="share of answers", range=SHARES)


def _line(
    figure: go.Figure, layers: list[int], found: list[Proportion], meaning: str, name: str, best: int | None = None
) -> None:
    look = WINNERS.get(meaning) or CONTROLS[meaning]
    usual = 6 if best is None else 9
    figure.add_scatter(
        x=layers, y=numbers([p.mean for p in found]), name=name, legendgroup=meaning, legendrank=look.rank,
        mode="lines+markers", line=look.line, customdata=proportions(found), hovertemplate="%{customdata}",
        marker={"symbol": look.symbol, "opacity": 1, "size": [15 if at == best else usual for at in layers]},
    )  # fmt: skip
