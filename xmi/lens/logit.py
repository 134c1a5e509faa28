"""The logit lens: every depth read as if it were the last.

Source: nostalgebraist, "interpreting GPT: the logit lens", 2020.
"""

from __future__ import annotations

from dataclasses import dataclass

from xmi.model import Engine
from xmi.shown import Shown


@dataclass(frozen=True)
class LogitLens(Shown):
    """The identity before the final norm and the unembedding; it needs no training and fits every model."""

    @property
    def name(self) -> str:
        """Its name."""
        return "logit lens"

    def translators(self, engine: Engine) -> None:
        """Returns None: the residual is decoded as it is."""
        return None
