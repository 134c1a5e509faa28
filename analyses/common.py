"""What the scripts of the findings share: the rule by which a claim is judged, and the files they write.

Every script has a function `finding(results)` that reads a finished study and returns a `Finding`, whose rows each set
two numbers against each other. **The rule**: a claim *holds* if the 95 % interval of their difference lies above zero,
it *does not hold* if it lies below, and in between the finding is *inconclusive*. Where the claim is that two numbers
agree (`within`), it holds if the interval lies within the given distance of zero, and does not if it lies outside of
it. What a model does not have (a phase that never leads) is *not found*.
"""

from __future__ import annotations

import argparse
import math
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from PIL import Image
from scipy.stats import ttest_1samp

import xmi
from xmi.measure import Answers, Comparison, answers_at
from xmi.study import StudyResults
from xmi.study.folder import FINISHED

RUN, OUT = Path("runs/findings"), Path("docs/findings")
HOLDS, FAILS, OPEN, MISSING = "holds", "does not hold", "inconclusive", "not found"


@dataclass(frozen=True)
class Finding:
    """What a script found.

    Attributes:
        name: Its name, and that of its files.
        text: The docstring of the script.
        rows: One row per claim: verdict, claim, first, second, difference, low, high, n, of, within.
        figure: The figure.
    """

    name: str
    text: str
    rows: pd.DataFrame
    figure: go.Figure

    @classmethod
    def of(cls, name: str, text: str | None, rows: list[dict[str, Any]], figure: go.Figure) -> Finding:
        """Makes a finding of rows as `row` returns them."""
        return cls(name, text or "", pd.DataFrame(rows).astype({"within": float}), figure)

    def __str__(self) -> str:
        """The rows as they stand in the docstring of the script."""
        return as_text(self.rows)

    def write(self, out: Path, *, picture: bool = True) -> None:
        """Writes `<name>.csv` and `<name>.png` into a folder."""
        out.mkdir(parents=True, exist_ok=True)
        self.rows.to_csv(out / f"{self.name}.csv", index=False, float_format="%.6f")
        if picture:
            draw(self.figure, out / f"{self.name}.png")


def judged(low: float, high: float, within: float | None = None) -> str:
    """Returns what the interval of a difference says of a claim, by the rule above."""
    if math.isnan(low) or math.isnan(high):
        return MISSING
    if within is not None:
        nearest = 0.0 if low <= 0 <= high else min(abs(low), abs(high))
        low, high = within - max(abs(low), abs(high)), within - nearest
    return HOLDS if low > 0 else FAILS if high < 0 else OPEN


def row(
    claim: str,
    first: float,
    second: float,
    interval: tuple[float, float],
    n: int,
    *,
    of: str = "items",
    within: float | None = None,
) -> dict[str, Any]:
    """Two numbers, the interval of their difference, and the verdict; `n` counts independent units (`of`)."""
    low, high = interval
    numbers = {"first": first, "second": second, "difference": first - second, "low": low, "high": high}
    return {"verdict": judged(low, high, within), "claim": claim, **numbers, "n": n, "of": of, "within": within}


def compared(claim: str, found: Comparison | Any, *, within: float | None = None) -> dict[str, Any]:
    """The row of a comparison, or of a row of a table of comparisons (a named tuple)."""
    interval = float(found.low), float(found.high)
    return row(claim, float(found.accuracy_a), float(found.accuracy_b), interval, int(found.n), within=within)


def over_tasks(claim: str, first: np.ndarray, second: np.ndarray | float) -> dict[str, Any]:
    """The row of two numbers per task, with Student's interval over the tasks."""
    difference = np.asarray(first, dtype=float) - second
    found = ttest_1samp(difference, 0).confidence_interval(0.95)
    interval = float(found.low), float(found.high)
    return row(claim, float(np.mean(first)), float(np.mean(second)), interval, len(difference), of="tasks")


def chosen(results: StudyResults, model: str, source: str, target: str) -> int:
    """The layer that validation items chose for a source on queries of a modality.

    Raises:
        RunError: The study did not patch that.
    """
    table = results.summary(model)
    found = table[(table.method == "patch") & (table.source == source) & (table.target == target)].layer
    if found.empty:
        raise xmi.RunError(f"The study in {results.path} patched no {source!r} into {target} queries of {model}.")
    return int(found.iloc[0])


def patched(results: StudyResults, model: str, source: str, target: str, *, at: str | None = None) -> Answers:
    """Answers to test queries under a source's patch, at its own layer or at that of the source named by `at`."""
    return answers_at(results.transfer(model, target), source, chosen(results, model, at or source, target))


def shown(rows: pd.DataFrame) -> list[list[str]]:
    """Rows as words, rounded to two digits, below a row of headings: what the page and the docstrings show."""
    head = ["verdict", "claim", "first", "second", "difference, 95 % interval", "n"]
    body = [
        [r.verdict, r.claim, f"{r.first:.2f}", f"{r.second:.2f}",
         f"{r.difference:+.2f} [{r.low:+.2f}, {r.high:+.2f}]", f"{r.n} {r.of}"]
        for r in rows.itertuples()
    ]  # fmt: skip
    return [head, *([re.sub(r"[+]?nan", "-", cell) for cell in line] for line in body)]


def as_text(rows: pd.DataFrame) -> str:
    """Rows in columns of plain text."""
    cells = shown(rows)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells
    )


def draw(figure: go.Figure, file: Path, *, width: int = 860) -> None:
    """Draws a figure as PNG, on white, with Chromium (see `report_picture`)."""
    from analyses.report_picture import opened  # needs playwright, which nothing else here does

    height = int(figure.layout.height or 420)
    shown = go.Figure(figure).update_layout(
        paper_bgcolor="white", plot_bgcolor="white", font_color="#222", width=width, height=height
    )
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "figure.html"
        shown.write_html(page, include_plotlyjs=True, config={"staticPlot": True, "displayModeBar": False})
        with opened(page, width=width + 40, height=height + 40) as window:
            window.locator(".js-plotly-plot .main-svg").first.wait_for()
            window.wait_for_timeout(500)
            window.locator(".js-plotly-plot").screenshot(path=file)
    with Image.open(file) as picture:
        small = picture.convert("RGB").quantize(128)
    small.save(file, optimize=True)


def finished(run: Path) -> StudyResults:
    """Opens a run; where there is none yet (or an unfinished one), the embedded model is studied."""
    if (run / FINISHED).is_file():
        return StudyResults(run)
    return xmi.run("organism", base="organism-llm", control="organism-control", out=run, say=print)


def options(about: str | None) -> argparse.Namespace:
    """Reads the flags that all scripts have: run, out, picture."""
    parser = argparse.ArgumentParser(description=(about or "").splitlines()[0])
    parser.add_argument("--run", type=Path, default=RUN, help="run folder of a study; made if it is not there")
    parser.add_argument("--out", type=Path, default=OUT, help="folder for tables and figures")
    parser.add_argument("--no-picture", dest="picture", action="store_false", help="write no PNG (needs no Chromium)")
    return parser.parse_args()


def main(finding: Callable[[StudyResults], Finding], about: str | None) -> None:
    """Runs one script: writes its table and figure, prints its rows."""
    asked = options(about)
    found = finding(finished(asked.run))
    found.write(asked.out, picture=asked.picture)
    print(found)
