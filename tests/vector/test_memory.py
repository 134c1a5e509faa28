"""The memory of a packed sweep: what is asked for is kept to, and changes no number."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers as hf

import xmi
from analyses.benchmarks.overhead import allocated_peak
from tests.zoo.models import TEXT, ids, tokenizer
from xmi.vector.memory import Load, load_of
from xmi.vector.sweep import Patch, Swept, sweep
from xmi.vlm import VLM

MEGABYTE = 2**20


@pytest.fixture(scope="module")
def vlm() -> VLM:
    """A large vocabulary, whose logits take most."""
    tok, torch_seed = tokenizer(), 0
    torch.manual_seed(torch_seed)
    model = hf.LlamaForCausalLM(hf.LlamaConfig(**TEXT, **{**ids(tok), "vocab_size": 30_000})).eval()
    return xmi.load(model, processor=tok)


@pytest.mark.parametrize(("rows", "new"), [(1, 1), (6, 1), (6, 2)])
def test_the_peak_stays_within_the_budget(vlm: VLM, monkeypatch: pytest.MonkeyPatch, rows: int, new: int) -> None:
    batch = vlm.encode(["Greece : Athens"] * rows)
    values = torch.randn(12, vlm.backbone.n_layers, vlm.backbone.d_model, generator=torch.Generator().manual_seed(1))
    patch, engine = Patch(values, tuple(range(vlm.backbone.n_layers))), vlm.engine

    def run() -> Swept:
        return sweep(vlm, batch, patch, torch.zeros(rows, dtype=torch.long), new)

    def plain() -> Any:
        with torch.no_grad():
            return engine.model(**engine.forward(batch.inputs)).logits

    whole, needs = run(), allocated_peak(run) - allocated_peak(plain)
    budget = needs // 4
    monkeypatch.setattr(engine.learned, "budget", budget)
    parts = run()
    for name in ("log_probability", "certain"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), atol=1e-5, rtol=0)
    assert torch.equal(parts.ids, whole.ids)
    assert allocated_peak(run) - allocated_peak(plain) <= 1.1 * budget


def test_batch_vocabulary_and_what_is_kept_count(vlm: VLM) -> None:
    one = Load(vlm.engine, rows=1, length=20, width=1)
    assert one.bytes(40) > 40 * 30_000 * 4
    assert replace(one, rows=16).bytes(40) == 16 * one.bytes(40)
    keys = 2 * 2 * 16  # keys and values of two heads of 16
    assert replace(one, kept=3).bytes(40) - one.bytes(40) == 40 * 3 * 4 * keys * 4
    assert load_of(vlm.engine, (1, 20), 1, 1, cached=False) == one
    assert load_of(vlm.engine, (1, 20), 2, 3, cached=True) == replace(one, width=2, kept=4)
    assert load_of(vlm.engine, (1, 20), 2, 3, cached=False) == replace(one, width=4)


def test_at_least_one_copy_and_at_most_what_gains_time(vlm: VLM, monkeypatch: pytest.MonkeyPatch) -> None:
    load = Load(vlm.engine, rows=1, length=20, width=4)
    assert load.copies() == 1024 // 4
    assert load.parts(3, 20) == (20, 3)
    assert load.parts(100, 20) == (20, 12)
    monkeypatch.setattr(vlm.engine.learned, "budget", 1)
    assert load.parts(3, 20) == (1, 1)
