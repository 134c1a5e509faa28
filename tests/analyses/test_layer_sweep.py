"""The layer sweep benchmark at tiny sizes: what it prints and writes, not how fast anything is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.command import run

ROOT = Path(__file__).parents[2]
TINY = ["--hidden", "64", "--pairs", "5", "--rounds", "3", "--seconds", "0"]


@pytest.mark.slow
def test_it_writes_a_page_with_its_figure_and_ends_with_a_json_object(tmp_path: Path) -> None:
    out = tmp_path / "layer_sweep.md"
    done = run(
        "analyses.benchmarks.layer_sweep",
        "--cells",
        "3x24,2x80,3x80,4x80",
        "--out",
        str(out),
        *TINY,
        "--small-vlm",
        module=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    text = out.read_text(encoding="utf-8")
    for cell in ("| 3 | 24 |", "| 2 | 80 |", "| 3 | 80 |", "| 4 | 80 |"):
        assert text.count(f"\n{cell}") == 3
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in tables} == {4, 12, 10, 11}
    assert "images/layer_sweep.svg" in text
    figure = (tmp_path / "images" / "layer_sweep.svg").read_text(encoding="utf-8")
    assert figure.count("<polyline") == 5
    assert str(tmp_path) not in text
    assert str(ROOT) not in text
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert found["cell"] == "hidden 64, 3 layers, 24 tokens, float32, cpu"
    assert found["targets"] == {
        "over_clean": 1.5, "published_over": 20.0, "published_over_16_sets": 60.0, "memory_ratio": 1.3,
    }  # fmt: skip
    low, high = found["over_clean_quartiles"]
    assert 0 < low <= found["over_clean"] <= high
    assert found["over_clean"] == pytest.approx(found["xmi_ms"] / found["clean_ms"], rel=1.0)
    assert found["published_over"] > 0
    assert found["published_over_16_sets"] > 0
    # Three layers cost three forwards one by one; packed they add tokens and logits to one.
    assert 1 < found["flops_over_clean"] < 3
    assert found["flops_published_over"] == pytest.approx(3 / found["flops_over_clean"])
    # Both forwards hold the logits of four tokens.
    assert found["memory_plain_bytes"] >= 4 * 4 * 32064
    assert found["memory_plain_bytes"] >= found["memory_plain_one_logit_bytes"] >= 4 * 32064
    assert found["memory_ratio"] == found["memory_bytes"] / found["memory_plain_bytes"]
    assert 0.5 < found["memory_ratio"] < 10
    assert 0 <= found["largest_difference"] <= 1e-4
    assert found["pairs"] == 5
    assert found["rounds"] >= 3


def test_quick_takes_one_cell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from analyses.benchmarks import layer_sweep

    asked: list[object] = []
    monkeypatch.setattr(layer_sweep, "measure", lambda cell, **given: asked.extend([str(cell), given["seconds"]]))
    monkeypatch.setattr(layer_sweep, "summary", lambda result: {"of": result})
    assert layer_sweep.main(["--quick", "--layers", "3", "--tokens", "24", "--hidden", "64"]) == 0
    assert asked == [str(layer_sweep.cell_of(3, 24, 64)), 10.0]
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"of": None}


@pytest.mark.parametrize(
    "wrong",
    [["--hidden", "100"], ["--tokens", "5"], ["--layers", "0"], ["--pairs", "0"], ["--cells", "32"]],
    ids=" ".join,
)
def test_sizes_that_make_no_model_are_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    from analyses.benchmarks import layer_sweep

    with pytest.raises(SystemExit):
        layer_sweep.main(["--quick", *wrong])
    assert wrong[0] in capsys.readouterr().err


def test_several_tokens_are_measured_at_every_row(capsys: pytest.CaptureFixture[str]) -> None:
    from analyses.benchmarks import several_tokens as several

    tiny = replace(
        several.SHORT, hidden=64, layers=3, tokens=12, image=48, vision_hidden=64, vision_layers=2, intermediate=96,
        vocabulary=300, heads=4, key_heads=2, pairs=5,
    )  # fmt: skip
    found = several.measure(tiny, seconds=0.0)
    assert set(found.rows) == set(several.ROWS)
    table = [line for line in several.section([found]) if line.startswith("|")]
    assert [line.split(" | ")[0].removeprefix("| ") for line in table[2:]] == list(several.ROWS.values())
    assert several.section([]) == []
    slow = {row: replace(timed, cpu_ratio=99.0) for row, timed in found.rows.items()}
    text = "".join(several.section([replace(found, cell=several.SHORT, rows=slow)]))
    assert text.count("(missed)") == sum(tokens == 70 for _, tokens in several.TARGETS)


def test_rounds_alternate() -> None:
    from analyses.benchmarks import layer_sweep

    order: list[str] = []
    calls = {name: (lambda number, name=name: order.append(f"{name}{number}")) for name in "abc"}
    found = layer_sweep.interleave(calls, rounds=5, seconds=0.0, device="cpu")
    assert order == ["a0", "b0", "c0", "c1", "b1", "a1", "a2", "b2", "c2"]
    assert {name: len(each) for name, each in found.items()} == {"a": 3, "b": 3, "c": 3}


def test_flops_are_those_that_torch_counts() -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from analyses.benchmarks import layer_sweep

    setting = layer_sweep.set_up(layer_sweep.cell_of(3, 40, 64))
    setting.vlm.model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter:
        layer_sweep.clean(setting)
    expected = layer_sweep.forward_flops(setting.cell, 40, 1)
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.01)
    assert isinstance(setting.vectors, torch.Tensor)


def test_a_way_that_differs_is_refused() -> None:
    from analyses.benchmarks import layer_sweep

    setting = layer_sweep.set_up(layer_sweep.cell_of(3, 20, 64))
    ways = layer_sweep.ways_of(setting)
    right = ways["rows"]
    assert layer_sweep.require_same(setting, ways) <= 1e-4
    ways["rows"] = lambda vectors: right(vectors.flip(1))
    with pytest.raises(RuntimeError, match="differ"):
        layer_sweep.require_same(setting, ways)


def test_sets_that_exceed_the_budget_are_split_as_the_sweep_splits_them() -> None:
    from analyses.benchmarks.layer_sweep import cell_of, forward_flops, packed_flops

    cell = cell_of(64, 80, 256)
    assert packed_flops(cell, 1, 512) == forward_flops(cell, range(80, 80 + 64), 65)
    assert packed_flops(cell, 16, 512) == 2 * forward_flops(cell, range(80, 80 + 8 * 64, 8), 513)
    halves = [*range(80, 112), *[112] * 32], [*[80] * 32, *range(80, 112)]
    assert packed_flops(cell, 1, 32) == sum(forward_flops(cell, lengths, 33) for lengths in halves)
