"""Who wins per layer: the task in the prompt or the one that is patched in."""

from __future__ import annotations

import plotly.graph_objects as go

from xmi.measure.overriding import WINNERS, Overriding
from xmi.plot.theme import BLUE, GREY, ORANGE, PURPLE, finish, numbers

_LOOK = dict(zip(WINNERS, ((BLUE, ""), (ORANGE, "/"), (GREY, "."), (PURPLE, "x")), strict=True))
_NAMES = {
    "prompt": "the prompt's task",
    "patched": "the patched task",
    "neither": "neither",
    "ambiguous": "a token of both labels",
}


def overriding(
    result: Overriding,
    *,
    score: str = "paper",
    split: str = "test",
    title: str = "One task in the prompt, another patched in",
) -> go.Figure:
    """Shares of answers per layer, stacked, beside the same prompts without a patch and with a system prompt.

    Args:
        result: The answers.
        score: `paper` or `strict`.
        split: `test`, or `validation`.
        title: Title of the figure.

    Returns:
        One bar per run: no patch, system prompt, each layer, and the random control at the best layer; the interval is
        that of the patched task's share.
    """
    best = result.best_layer_of(score)
    runs: list[tuple[str, str, int | None]] = [
        ("no patch", "no patch", None),
        ("system prompt", "system prompt", None),
        *((f"{layer}*" if layer == best else str(layer), "patch", layer) for layer in result.layers),
        ("random", "control: random vector", best),
    ]
    names = [name for name, _, _ in runs]
    figure = go.Figure()
    for winner in ("patched", "ambiguous", "neither", "prompt"):
        found = [result.share(winner, method, layer, score=score, split=split) for _, method, layer in runs]
        tint, pattern = _LOOK[winner]
        bars = {
            "type": "data", "symmetric": False, "thickness": 1.5, "width": 3,
            "array": numbers([p.high - p.mean for p in found]), "arrayminus": numbers([p.mean - p.low for p in found]),
        }  # fmt: skip
        figure.add_bar(
            x=names, y=numbers([p.mean for p in found]), name=_NAMES[winner],
            marker={"color": tint, "pattern": {"shape": pattern, "size": 5, "fgopacity": 0.4}},
            error_y=bars if winner == "patched" else None,
            customdata=[[round(p.low, 4), round(p.high, 4), p.n] for p in found],
            hovertemplate="%{y:.2f} [%{customdata[0]:.2f}, %{customdata[1]:.2f}], n = %{customdata[2]}",
        )  # fmt: skip
    finish(
        figure, title, height=520, barmode="stack", hovermode="x unified",
        subtitle=f"{result.context} in the prompt, {result.source} vector patched; *: layer chosen on validation items",
    )  # fmt: skip
    figure.update_xaxes(
        type="category", title_text="layer of the patch", tickangle=-90, unifiedhovertitle={"text": "%{x}"}
    )
    return figure.update_yaxes(title_text="share of answers", range=[0, 1.03])
