"""Which claims about which families wait for the night."""

from __future__ import annotations

import pytest

DEEP = {
    *("slots", "continued", "hooks"),  # where `sweep`, `generate` and `cache` hold, these run the same code once more
    *("test_the_same_lines_run_on_every_family", "test_half_precision_misleads_nobody"),
}
"""What takes most forwards, or a model more."""
BY_DAY = {
    *("llava", "idefics3", "qwen2_vl", "gemma3", "paligemma", "mllama", "idefics", "qwen3_5", "lfm2_vl", "kosmos-2"),
    *("blip-2", "llama", "gpt2", "gemma2", "bloom", "gpt_oss"),
}
"""Families that are tried as deeply by day: one for each way to take images, to mask, and to run patches."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All families by night; by day, the rest of them only as far as claims are cheap."""
    for item in items:
        given = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        deep = {given.get("claim"), getattr(item, "originalname", None)} & DEEP
        if deep and "case" in given and given["case"].model_type not in BY_DAY:
            item.add_marker(pytest.mark.nightly)
