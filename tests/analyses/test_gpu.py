"""The GPU script on a CPU, with tiny models: its parts work, and one that cannot be run says why."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from analyses.benchmarks import gpu

CPU = gpu.Setting("cpu", True, 0.4)


def test_a_sweep_that_does_not_fit_is_split_and_gives_the_same() -> None:
    found = gpu.do_part("out_of_memory", CPU)["rows"]
    assert found["copies per forward"] == "16 -> 8"
    assert found["split"] == "yes"
    assert float(found["difference"].split()[0]) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sweep", "zoo", "tokens", "memory", "device_map"])
def test_a_part_runs_on_a_cpu(name: str) -> None:
    found = gpu.do_part(name, CPU)
    assert found["state"] == "run", found
    assert all(isinstance(value, str) and value for value in found["rows"].values())


def test_what_cannot_be_run_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert gpu.do_part("four_bit", CPU) == {"state": "not run", "why": "4-bit weights need CUDA"}
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    assert gpu.main(["--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert [(one["part"], one["why"]) for one in found] == [(name, "there is no CUDA device") for name in gpu.PARTS]
    assert (tmp_path / "gpu.md").read_text(encoding="utf-8").count("not run") == len(gpu.PARTS)


def test_a_part_that_fails_or_hangs_loses_no_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        if "memory" in command:
            raise subprocess.TimeoutExpired(command, options["timeout"], stderr=b"one\ntwo\n")
        if "zoo" in command:
            return subprocess.CompletedProcess(command, -9, "", "")
        return subprocess.CompletedProcess(command, 0, 'noise\n{"state": "run", "rows": {"a": "1"}}\n', "")

    monkeypatch.setattr(gpu.subprocess, "run", run)
    options = ["--device", "cpu", "--tiny", "--out", str(tmp_path), "--parts", "zoo", "memory", "sweep"]
    assert gpu.main(options) == 1
    page = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert "| zoo | failed | it ended with -9 |" in page
    assert "| memory | failed | it took more than 35 s; last it said: 'two' |" in page
    assert "| sweep | a | 1 |" in page


def test_all_parts_fit_in_eight_minutes() -> None:
    assert sum(limit for _, limit in gpu.PARTS.values()) <= 480
