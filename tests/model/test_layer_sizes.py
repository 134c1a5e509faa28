"""Sizes that differ between layers, as lists and as a configuration for each layer."""

from __future__ import annotations

import transformers as hf

from tests.zoo.families import FAMILIES
from xmi.model.layer_sizes import largest, values_of


def test_one_size_for_all_layers() -> None:
    config = hf.LlamaConfig(num_attention_heads=8, num_key_value_heads=2)
    assert values_of(config, "num_key_value_heads") == [2]
    assert values_of(config, "n_head", "num_attention_heads") == [8]
    assert largest(config, "num_key_value_heads", 5) == 2
    assert values_of(config, "unheard_of") == [] and largest(config, "unheard_of", 5) == 5


def test_a_list_of_sizes() -> None:
    config = hf.PreTrainedConfig(num_key_value_heads=[2, 4, 4])
    assert values_of(config, "num_key_value_heads") == [2, 4]
    assert largest(config, "num_key_value_heads", 5) == 4


def test_a_configuration_for_each_layer() -> None:
    """Gemma 4's heads are wider in layers that see everything; its configuration as a whole refuses to tell."""
    model, _ = next(family for family in FAMILIES if family.name == "Gemma 4").make()
    config = model.config.get_text_config()
    widths = [part.head_dim for part in config.per_layer_config]
    assert len(set(widths)) == 2
    assert values_of(config, "head_dim") == list(dict.fromkeys(widths))
    assert largest(config, "head_dim", 1) == max(widths)
    assert largest(config, "hidden_size", 1) == config.hidden_size
