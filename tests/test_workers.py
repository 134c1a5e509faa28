"""Which tests share a process."""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from tests.workers import LONG, SPLIT, group

ROOT = Path(__file__).parents[1]


@pytest.mark.nightly
def test_tests_of_a_file_stay_together() -> None:
    """Seen in two processes, for marks once ceased to be heeded without a word."""
    files = ["tests/test_numerals.py", "tests/model/test_layer_sizes.py"]
    command = [sys.executable, "-m", "pytest", "-n", "2", "-v", "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout
    seen = defaultdict(set)
    for line in done.stdout.splitlines():
        if " PASSED " in line:
            worker, test = line.split()[0], line.split(" PASSED ")[1]
            seen[test.partition("::")[0]].add(worker)
    assert {file: len(workers) for file, workers in seen.items()} == dict.fromkeys(files, 1)


def test_families_are_spread() -> None:
    assert group(f"{SPLIT}::test_claim[llava-trace]") == group(f"{SPLIT}::test_claim[llava-sweep]")
    assert group(f"{SPLIT}::test_claim[llava-trace]") != group(f"{SPLIT}::test_claim[llama-trace]")
    assert group("tests/a/test_b.py::test_c[d-e]") == group("tests/a/test_b.py::test_c[f-e]")
    assert group("tests/test_shown.py::test_a") == group("tests/test_api.py::test_b[c]")


def test_long_files_exist() -> None:
    assert [name for name in LONG if not (ROOT / name).is_file()] == []
