"""Settings that a configuration gives once, or for each layer: heads, their width, the MLP's."""

from __future__ import annotations

from typing import Any


def values_of(config: Any, *names: str) -> list[Any]:
    """What a text configuration says under the first of some names that it has.

    Layers may differ in two ways: a list in the configuration (`num_key_value_heads` of OpenELM), or a configuration
    for each layer (`per_layer_config`, transformers 5; Gemma 4), whose settings the whole does not tell.

    Returns:
        Distinct values other than None, in the order of layers; [] if there are none.
    """
    parts = list(config.per_layer_config) if getattr(config, "is_heterogeneous", False) else [config]
    for name in names:
        found: list[Any] = []
        for value in (getattr(part, name, None) for part in parts):
            found += value if isinstance(value, (list, tuple)) else [value]
        if told := list(dict.fromkeys(value for value in found if value is not None)):
            return told
    return []


def largest(config: Any, name: str, otherwise: int) -> int:
    """The largest size of a layer, or another number where the configuration does not say."""
    told = [value for value in values_of(config, name) if isinstance(value, int) and not isinstance(value, bool)]
    return max(told, default=otherwise)
