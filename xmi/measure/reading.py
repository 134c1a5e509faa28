"""What a lens reads: the top tokens at each depth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from xmi.measure.result import Result


@dataclass(frozen=True)
class LensReading(Result):
    """Top tokens of each prompt at each depth.

    Attributes:
        depth: `embed`, then `0`, `1`, ... for the residual after each block.
        tokens: Decoded top tokens per prompt and depth, best first.
        probabilities: Their probabilities.
        slot: Where it was read.
        lens: Name of the lens.
    """

    depth: tuple[str, ...]
    tokens: tuple[tuple[tuple[str, ...], ...], ...]
    probabilities: Float[np.ndarray, "prompt depth k"]
    slot: str
    lens: str = "logit lens"

    def to_frame(self) -> pd.DataFrame:
        """Returns one row per prompt, depth and place: prompt, depth, place, token, probability."""
        rows = [
            (prompt, depth, place, token, float(self.probabilities[prompt, i, place]))
            for prompt, depths in enumerate(self.tokens)
            for i, (depth, tokens) in enumerate(zip(self.depth, depths, strict=True))
            for place, token in enumerate(tokens)
        ]
        return pd.DataFrame(rows, columns=["prompt", "depth", "place", "token", "probability"])
