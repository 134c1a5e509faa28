"""Where the tokens of one prompt look, head by head."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from xmi.measure.result import Result


@dataclass(frozen=True)
class AttentionPattern(Result):
    """The attention pattern of one prompt at one layer.

    Attributes:
        tokens: The prompt's tokens.
        modalities: `text`, or `image 0`, `image 1`, ..., of each token.
        values: Attention of each head from each token (query) to each token (key); rows sum to 1.
        layer: The block's number.
    """

    tokens: tuple[str, ...]
    modalities: tuple[str, ...]
    values: Float[np.ndarray, "head query key"]
    layer: int

    def to_frame(self) -> pd.DataFrame:
        """Returns one row per head, query and key: head, query, key, query_token, key_token, attention."""
        heads, count, _ = self.values.shape
        head, query, key = (index.ravel() for index in np.indices((heads, count, count)))
        words = np.array(self.tokens, dtype=object)
        return pd.DataFrame(
            {
                "head": head,
                "query": query,
                "key": key,
                "query_token": words[query],
                "key_token": words[key],
                "attention": self.values.ravel(),
            }
        )

    def joined(self) -> AttentionPattern:
        """Returns the pattern with the tokens of each image as one: attention to it is summed, from it averaged."""
        groups: list[list[int]] = []
        for place, kind in enumerate(self.modalities):
            if groups and kind != "text" and self.modalities[groups[-1][-1]] == kind:
                groups[-1].append(place)
            else:
                groups.append([place])
        to = np.stack([self.values[:, :, group].sum(-1) for group in groups], -1)
        values = np.stack([to[:, group].mean(1) for group in groups], 1)
        kinds = tuple(self.modalities[group[0]] for group in groups)
        names = tuple(
            self.tokens[group[0]] if kind == "text" else f"{kind} ({len(group)} tokens)"
            for group, kind in zip(groups, kinds, strict=True)
        )
        return AttentionPattern(names, kinds, values, self.layer)
