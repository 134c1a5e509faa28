"""The three phases of the last token: input, task, answer.

At each layer the residual at the slot is decoded by the lens; the probability mass of three given sets of tokens is
followed through depth (Luo, Darrell and Bar, ICML 2025, section 4).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from xmi.measure.result import Result

PHASES = ("input", "task", "answer")


@dataclass(frozen=True)
class Phases(Result):
    """Probability of the input, task and answer tokens through the layers.

    Attributes:
        label: What was measured (task and specification).
        depth: Names of the depths: `embed`, then `0`, `1`, ... for the residual after each layer.
        probability: Mass of each token set under the lens, per prompt; phases in the order of `PHASES`.
        rank: Best rank (0 = top) of the set's tokens, per prompt.
        top_tokens: The most frequent top tokens per depth over the prompts, with their share.
    """

    label: str
    depth: tuple[str, ...]
    probability: Float[np.ndarray, "prompt depth 3"]
    rank: Float[np.ndarray, "prompt depth 3"]
    top_tokens: tuple[tuple[tuple[str, float], ...], ...]

    @property
    def relative(self) -> Float[np.ndarray, "depth 3"]:
        """Mean over prompts of each phase's share of the three masses; it sums to 1 at each depth.

        Where all three masses are zero (underflow) the share is a third each.
        """
        total = self.probability.sum(-1, keepdims=True)
        third = np.full_like(self.probability, 1 / 3)
        share = np.divide(self.probability, total, out=third, where=total > 0)
        return np.asarray(share.mean(0))

    @property
    def dominant(self) -> tuple[str, ...]:
        """The phase with the largest relative probability at each depth."""
        return tuple(PHASES[i] for i in self.relative.argmax(-1))

    def to_frame(self) -> pd.DataFrame:
        """Returns one row per depth and phase: depth, phase, relative, probability, rank, top_tokens."""
        relative, absolute = self.relative, self.probability.mean(0)
        rank = np.median(self.rank, axis=0)
        rows = [
            (
                self.label,
                d,
                p,
                relative[i, j],
                absolute[i, j],
                rank[i, j],
                ", ".join(t for t, _ in self.top_tokens[i]),
            )
            for i, d in enumerate(self.depth)
            for j, p in enumerate(PHASES)
        ]
        columns = ["label", "depth", "phase", "relative", "probability", "median_rank", "top_tokens"]
        return pd.DataFrame(rows, columns=columns)


def merge(label: str, parts: list[Phases]) -> Phases:
    """Pools the prompts of several measurements (the tasks of one specification, say).

    Top tokens are averaged with equal weight per part. All parts must have the same depths.

    Raises:
        ValueError: No parts, or parts of different depth.
    """
    if not parts or any(p.depth != parts[0].depth for p in parts):
        raise ValueError("merge needs at least one Phases, all of the same depth.")
    tops = []
    for i in range(len(parts[0].depth)):
        share: dict[str, float] = {}
        for part in parts:
            for token, weight in part.top_tokens[i]:
                share[token] = share.get(token, 0.0) + weight / len(parts)
        tops.append(tuple(sorted(share.items(), key=lambda kv: (-kv[1], kv[0]))[:5]))
    probability = np.concatenate([p.probability for p in parts])
    return Phases(label, parts[0].depth, probability, np.concatenate([p.rank for p in parts]), tuple(tops))
