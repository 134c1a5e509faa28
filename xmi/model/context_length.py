"""How long a sequence a model takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def context_length(config: Any) -> int | None:
    """The longest sequence that a text configuration allows, or None if it does not say.

    That is `max_position_embeddings`, under whichever name (`n_positions`, `max_seq_len`). Rotary positions may be
    stretched beyond it: YaRN and dynamic scaling are set up by the length trained on and a factor. A sliding window
    limits what a token sees, not how many there are.
    """
    names = ("max_position_embeddings", "n_positions", "max_seq_len")
    given = next((found for name in names if (found := getattr(config, name, None))), None)
    if not isinstance(given, int) or given < 1:
        return None
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = [rope, *rope.values()] if isinstance(rope, Mapping) else []  # one for each type of layer, or for all
    reach = []
    for kind in (k for k in kinds if isinstance(k, Mapping) and (k.get("rope_type") or k.get("type"))):
        if (kind.get("rope_type") or kind.get("type")) in ("yarn", "dynamic") and (factor := kind.get("factor")):
            reach.append(max(given, int(float(factor) * (kind.get("original_max_position_embeddings") or given))))
        else:
            reach.append(given)
    return min(reach, default=given)
