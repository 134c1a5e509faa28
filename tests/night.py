"""How often a thing is tried that is tried at random: by night as often as it takes to be sure, by day less."""

from __future__ import annotations

import os

NIGHT = bool(os.environ.get("XMI_NIGHTLY"))


def times(night: int, day: int | None = None) -> int:
    """So many trials by night; by day a third of them, or as many as are named."""
    return night if NIGHT else day or -(-night // 3)
