"""Known kinds of silent fault, one line each, and whether xmi still holds against them.

    python -m tests.faults          all of them
    python -m tests.faults A1 E2    some

A row is held by the tests that carry its mark, `@pytest.mark.fault("A1")`; they stand where the kind lives and try
siblings of the case that the row was found by. A row without a test, or whose tests were all skipped, is not held.
"""

from __future__ import annotations

import os
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

ROWS = {
    "A1": "what a prompt becomes does not depend on the prompts beside it",
    "A2": "threads share a model without touching each other's runs",
    "A3": "encoded inputs and chat messages are taken as what they are",
    "A4": "every verb means the same by a prompt",
    "A5": "a finished run is complete only for the same model and tasks",
    "A6": "a model's identity covers every byte of it",
    "A7": "text is scored and shown by its bytes where tokens are parts of characters",
    "A8": "images of any mode keep their range",
    "A9": "a cosine of NaN is refused, of a zero vector NaN",
    "A10": "no table has a column named by data",
    "A11": "roles of models are data, not endings of names",
    "A12": "generate returns continuations only, whatever the options",
    "A13": "choosing a task keeps a phase figure's axis and marks",
    "A14": "a model that changes its input's length is refused",
    "A15": "a vector of another model or revision is announced",
    "A16": "sentences of the report follow from what the numbers allow",
    "A17": "cells and units have one format; unknown ones are refused",
    "B1": "adapters keep all hooks, equal to the merged model's",
    "B2": "an adapter folder loads with its base",
    "B3": "compiled models are unwrapped, or refused by name",
    "B4": "models in a parallel wrapper are unwrapped, or refused by name",
    "B5": "NaN weights and overflow are called NaN",
    "B6": "the context length counts new tokens",
    "B7": "gradients flow through run_with_hooks on request",
    "B8": "accumulated_resid takes negative layers",
    "B9": "generate takes stop_strings",
    "B10": "queries without a label are answered",
    "B11": "a text-only model can be studied",
    "B12": "tasks without images can be studied",
    "B13": "a study reads and patches at the slot its plan names",
    "B14": "one image needs no list",
    "B15": "generate takes batches of prompts with images",
    "B16": "a model's own image placeholder is understood",
    "B17": "a misspelt model is answered at once, with a suggestion",
    "B18": "common short names of dtypes are understood",
    "B19": "a device that is not there is refused by name",
    "B20": "ensemble takes a list",
    "B21": "save makes the folder it writes to",
    "C1": "an image that a model cannot take is named with its size",
    "C2": "a sheet with another separator is read, or the cause named",
    "C3": "what is not a prompt is refused by name",
    "C4": "what is not a list of hooks is refused by name",
    "C5": "a model that cannot be pickled says so",
    "C6": "a dry run refuses what the run would refuse",
    "C7": "the README's dry run works as it stands",
    "C8": "every key of a plan is a flag",
    "D1": "differences are printed with the sign they have",
    "D2": "a difference of cosines is called one",
    "D3": "no number is printed as minus zero",
    "D4": "colours stand for the same thing in every figure",
    "D5": "controls can be told apart",
    "D6": "legends of paired figures act together",
    "D7": "axes of paired figures align",
    "D8": "axes fit the data",
    "D9": "the overriding figure shows its finding first",
    "D10": "the table by task is whole on a screen and on paper",
    "D11": "no number is cut in a table on a telephone",
    "D12": "lines are visible in the dark mode",
    "D13": "tables lead to their prompts",
    "D14": "the report opens short",
    "E1": "threads that transfer get what one thread gets",
    "E2": "stored results are used only if they are what they say",
    "E3": "half a model, or one with other files, is another model or none",
    "E4": "versions that change within a run are refused or recorded",
    "E5": "only xmi's own temporary files are removed",
    "E6": "a finished run is what its files say",
    "E7": "what a host sends is bounded in size and time",
    "E8": "every field of a host's answer is checked",
    "E9": "a trace on a host loads results safely, or asks for trust",
    "E10": "a plan is bounded before it is expanded",
    "E11": "a data sheet reads nothing outside its folder",
    "E12": "text of others is neutralised in tables and on the terminal",
    "E13": "text on the command line is text, not markup",
    "E14": "damaged files and wrong types end in one XmiError",
    "E15": "many faults are summed up",
}
"""What holds, by the row's id."""


class Ledger:
    """What became of each row's tests."""

    def __init__(self, wanted: set[str]) -> None:
        """Keeps the rows that are asked for."""
        self.wanted = wanted
        self.ids: dict[str, list[str]] = {}
        self.outcomes: dict[str, list[tuple[str, str]]] = defaultdict(list)

    def pytest_collection_modifyitems(self, config: Any, items: list[pytest.Item]) -> None:
        """Keeps the tests that carry a wanted mark."""
        kept, left = [], []
        for item in items:
            rows = [str(row) for mark in item.iter_markers("fault") for row in mark.args if row in self.wanted]
            self.ids[item.nodeid] = rows
            (kept if rows else left).append(item)
        config.hook.pytest_deselected(items=left)
        items[:] = kept

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Writes down how a test ended."""
        if report.when == "call" or not report.passed:
            for row in self.ids.get(report.nodeid, ()):
                self.outcomes[row].append((report.outcome, report.nodeid))

    def line(self, row: str) -> tuple[bool, str]:
        """Whether a row holds, and its line."""
        found = self.outcomes.get(row, [])
        broken = [test for outcome, test in found if outcome == "failed"]
        passed = sum(outcome == "passed" for outcome, _ in found)
        if broken:
            verdict = f"BROKEN by {', '.join(broken[:3])}{', ...' if len(broken) > 3 else ''}"
        elif passed:
            verdict = "held"
        else:
            verdict = "NOT TRIED: its tests were skipped" if found else "NOT TRIED: no test carries its mark"
        return verdict == "held", f"{row:<4} {ROWS[row]}: {verdict}"


def main(wanted: list[str]) -> int:
    """Runs the marked tests and prints a line per row."""
    if unknown := [row for row in wanted if row not in ROWS]:
        print(f"There are no rows {', '.join(unknown)}; there are: {', '.join(ROWS)}", file=sys.stderr)
        return 2
    start = time.perf_counter()
    rows = wanted or list(ROWS)
    here = Path(__file__).parent
    marked = [str(f) for f in sorted(here.rglob("test_*.py")) if "mark.fault(" in f.read_text(encoding="utf-8")]
    ledger = Ledger(set(rows))
    if marked:
        options = ["-q", "--no-header", "-p", "no:cacheprovider", "--tb=short", *marked]
        code = pytest.main([f"--rootdir={here.parent}", *options], plugins=[ledger])
        if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED):
            return int(code)
    lines = [ledger.line(row) for row in rows]
    print("\n".join(["", *(text for _, text in lines)]))
    held = sum(ok for ok, _ in lines)
    print(f"\n{held} of {len(rows)} rows held, {time.perf_counter() - start:.0f} s")
    return 0 if held == len(rows) else 1


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main(sys.argv[1:]))
