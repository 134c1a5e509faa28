"""The overhead benchmark at tiny sizes: what it prints and writes, not how fast anything is."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest

from tests.command import run, start

ROOT = Path(__file__).parents[2]
COMMAND = "analyses.benchmarks.overhead"
TINY = ["--hidden", "64", "--layers", "3", "--tokens", "24", "--image", "42", "--pairs", "5", "--repeats", "1"]


@pytest.mark.slow
def test_it_writes_a_page_and_ends_with_a_json_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from analyses.benchmarks import overhead

    def begun_as_a_copy(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return run(command[2], *command[3:], module=True, cwd=ROOT)

    monkeypatch.setattr(overhead.subprocess, "run", begun_as_a_copy)
    monkeypatch.setenv("XMI_CACHE", "unused")  # the benchmark sets it
    out = tmp_path / "overhead.md"
    assert overhead.main(["--cells", "small", "--out", str(out), *TINY]) == 0
    text = out.read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| hidden 64")]
    assert len(rows) == 5
    assert [row.count("MB") for row in rows] == [2, 0, 2, 0, 0]
    assert all(line.count("|") == 9 for line in rows[:4])
    assert str(tmp_path) not in text
    assert str(ROOT) not in text
    found = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert found["cell"] == "hidden 64, 3 layers, 24 tokens, float32, cpu"
    assert (found["time_target"], found["memory_target"]) == (1.15, 1.05)
    assert found["pairs"] == 5
    low, high = found["time_quartiles"]
    assert 0 < low <= found["time_ratio"] <= high
    assert found["time_ratio"] == pytest.approx(found["xmi_ms"] / found["plain_ms"], rel=1.0)
    assert found["cpu_time_ratio"] > 0
    # What is kept adds to the peak, and a tiny forward needs at least its logits and one MLP's activations.
    assert found["plain_bytes"] >= 4 * 32064
    assert found["memory_ratio"] == found["xmi_bytes"] / found["plain_bytes"]
    # At this size the logits are the peak, and the slot's are copied out of them.
    assert 1 <= found["memory_ratio"] <= 2
    assert found["first_check_s"] > found["remembered_check_s"] > 0


def test_quick_takes_the_small_cell_and_the_target_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from analyses.benchmarks import overhead

    asked: list[object] = []
    monkeypatch.setattr(overhead, "measure", lambda cell, _folder, **given: asked.extend([cell.name, given]))
    monkeypatch.setattr(overhead, "summary", lambda result: {"of": result})
    monkeypatch.setenv("XMI_CACHE", "unused")  # the benchmark sets it
    assert overhead.main(["--quick", "--seconds", "90"]) == 0
    assert asked == ["small", {"threads": asked[1]["threads"], "repeats": 1, "seconds": 12.0, "quick": True}]  # type: ignore[index]
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"of": None}


@pytest.mark.slow
def test_an_interrupt_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    out = tmp_path / "overhead.md"
    options = ["--cells", "small", "--out", str(out), *TINY]
    with start(COMMAND, *options, module=True, cwd=ROOT, stderr=subprocess.PIPE) as started:
        assert started.stderr is not None
        for line in started.stderr:
            if "memory of" in line:
                break
        started.send_signal(signal.SIGINT)
        _, rest = started.communicate()
    assert started.returncode == 130
    assert "Interrupted" in rest
    assert "Traceback" not in rest
    assert not out.exists()
    assert not list(tmp_path.glob("xmi-overhead-*"))


@pytest.mark.parametrize(
    "wrong",
    [["--hidden", "100"], ["--image", "50"], ["--tokens", "60"], ["--layers", "0"], ["--vision-layers", "1"]],
    ids=" ".join,
)
def test_sizes_that_make_no_model_are_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    from analyses.benchmarks import overhead

    with pytest.raises(SystemExit):
        overhead.main(["--quick", *wrong])
    assert wrong[0] in capsys.readouterr().err


def test_pairs_alternate_and_the_ratio_is_of_pairs() -> None:
    from analyses.benchmarks import overhead

    order: list[str] = []
    found = overhead.compare(lambda: order.append("a"), lambda: order.append("b"), pairs=6, seconds=0.0)
    assert "".join(order) == "abab" + "abbaabbaab"
    assert found.pairs == 5
    assert found.quartiles[0] <= found.ratio <= found.quartiles[1]


def test_the_allocators_peak_is_exact() -> None:
    import torch

    from analyses.benchmarks import overhead

    def call() -> torch.Tensor:
        first = torch.empty(1000, dtype=torch.uint8)
        del first
        second, third = (torch.empty(3000, dtype=torch.uint8) for _ in range(2))
        return second if third is not None else third

    assert overhead.allocated_peak(call) == 6000
