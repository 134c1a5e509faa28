"""How many copies of a prompt's end share a forward: as many as its memory holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from xmi.model import Engine
from xmi.model.layer_sizes import largest

MOST_TOKENS = {"cuda": 4096, "cpu": 1024}
"""Tokens that the copies of one row have at most, however much memory there is: more gain nothing."""


@dataclass(frozen=True)
class Load:
    """What a packed forward holds at its peak beyond the plain forward of its prompts.

    Attributes:
        engine: The model.
        rows: Prompts of the batch.
        length: Tokens of the longest.
        width: Tokens of a copy.
        kept: Tokens of a copy whose keys and values are kept; 0 without a cache.
    """

    engine: Engine
    rows: int
    length: int
    width: int
    kept: int = 0

    def bytes(self, copies: int) -> int:
        """Bytes that so many copies in each row take: logits, one block's activations, keys and values, and masks."""
        config: Any = self.engine.model.config.get_text_config()  # type: ignore[operator,union-attr]
        layers, hidden = self.engine.backbone.n_layers, self.engine.backbone.d_model
        heads = largest(config, "num_attention_heads", 1)
        head = largest(config, "head_dim", max(1, hidden // heads))
        keys = 2 * largest(config, "num_key_value_heads", heads) * head
        inner = largest(config, "intermediate_size", 4 * hidden)
        logits = self.engine.vocabulary * (1 if self.engine.backbone.keeps_logits else self.width)
        block = self.width * (5 * hidden + 3 * inner + 2 * heads * head + keys)
        numbers = copies * (logits + block + self.kept * layers * keys)
        # A mask of booleans, and as numbers in the precision of the attention that reads it.
        size = self.engine.dtype.itemsize
        mask = (self.length + copies * self.width) ** 2 * (1 + size)
        return self.rows * (numbers * size + mask)

    def copies(self) -> int:
        """How many copies fit in `engine.budget`, at least one."""
        device = "cuda" if self.engine.device.type == "cuda" else "cpu"
        found = max(1, MOST_TOKENS[device] // self.width)
        while found > 1 and self.bytes(found) > self.engine.budget:
            found -= max(1, found // 16)
        return found

    def parts(self, sets: int, layers: int) -> tuple[int, int]:
        """How many layers, and how many sets of vectors, share a forward."""
        fit = self.copies()
        some = min(layers, fit)
        return some, min(sets, max(1, fit // some))


def load_of(engine: Engine, shape: Sequence[int], back: int, new: int, *, cached: bool) -> Load:
    """What the packed forwards of a batch hold.

    Args:
        engine: The model.
        shape: Rows and tokens of the batch.
        back: Tokens from the earliest slot on.
        new: How many tokens are read.
        cached: Whether those after the first are read from kept keys and values.
    """
    later = new - 1
    return Load(engine, shape[0], shape[1], back if cached else back + later, (back + later) * bool(cached and later))
