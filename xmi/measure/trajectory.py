"""What a lens reads on the way to the output, in nats."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from xmi.measure.result import Result

MEASURES = ("cross_entropy", "entropy", "divergence")
"""What is measured at each depth."""


@dataclass(frozen=True)
class Trajectory(Result):
    """Cross-entropy, entropy and divergence of each prompt at each depth.

    Attributes:
        depth: `embed`, then `0`, `1`, ... for the residual after each block.
        cross_entropy: Of the label's first token, in nats; NaN without a label.
        entropy: Of what is read, in nats.
        divergence: KL divergence of what is read from the last depth, in nats.
        slot: Where it was read.
        lens: Name of the lens.
    """

    depth: tuple[str, ...]
    cross_entropy: Float[np.ndarray, "prompt depth"]
    entropy: Float[np.ndarray, "prompt depth"]
    divergence: Float[np.ndarray, "prompt depth"]
    slot: str
    lens: str = "logit lens"

    def to_frame(self) -> pd.DataFrame:
        """Returns one row per prompt and depth: prompt, depth, cross_entropy, entropy, divergence (all in nats)."""
        count = len(self.entropy)
        return pd.DataFrame(
            {
                "prompt": np.repeat(np.arange(count), len(self.depth)),
                "depth": list(self.depth) * count,
                **{name: getattr(self, name).ravel() for name in MEASURES},
            }
        )
