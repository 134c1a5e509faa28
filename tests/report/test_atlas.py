"""The atlas says what the runs' tables say, leads to their reports, and names what it leaves out."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from tests.report.browser import Open
from tests.report.synthetic import CONTROL, GOOD, TASKS, make_run
from xmi.errors import RunError
from xmi.report import atlas_page, render
from xmi.study.results import StudyResults

COLUMNS = (("prompt", "text ICL"), ("prompt", "image ICL"), ("patch", "text ICL"), ("patch", "image ICL"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    (folder / "not a run").mkdir()
    first, second = folder / "first one", folder / "second"
    for place in (first, second):
        place.mkdir()
    make_run(first, {"organism": GOOD, "control": CONTROL}, tasks=TASKS[:2], items=6, layers=3)
    make_run(second, {"<b>other": GOOD}, tasks=TASKS[:3], items=6, layers=5)
    render(StudyResults(first), first / "report.html")
    return [first, second, folder / "not a run"]


@pytest.fixture(scope="module")
def page(runs: list[Path]) -> Path:
    return atlas_page(runs, runs[0].parent / "pages" / "atlas.html")


def test_numbers_are_those_of_the_tables(runs: list[Path], page: Path) -> None:
    html = page.read_text(encoding="utf-8")
    rows = re.findall(r"<tr><th scope=\"row\".*?</tr>", html)
    files = [runs[0] / "tables" / "organism.summary.csv", runs[0] / "tables" / "control.summary.csv"]
    assert len(rows) == 3
    for row, file in zip(rows, files, strict=False):
        with file.open(encoding="utf-8") as lines:
            table = {(r["method"], r["source"], r["target"]): r for r in csv.DictReader(lines)}
        cells = re.findall(r"<td.*?</td>", row)[2:]
        keys = [(method, source, target) for method, source in COLUMNS for target in ("text", "image")]
        for key, cell in zip(keys, cells[2:10], strict=True):
            if key not in table:
                assert "none" in cell
                continue
            shown = re.search(r'data-value="([^"]+)".*>([\d.]+)</a>.*n = (\d+)', cell)
            assert shown is not None
            assert float(shown[1]) == float(table[key]["accuracy"])
            assert shown[2] == f"{float(table[key]['accuracy']):.2f}"
            assert shown[3] == table[key]["n"]


def test_links_lead_to_a_section_of_the_report(runs: list[Path], page: Path) -> None:
    links = set(re.findall(r'href="([^"#]+)#finding"', page.read_text(encoding="utf-8")))
    assert links == {"../first%20one/report.html"}  # the second run has no report, so nothing leads there
    assert 'id="finding"' in (runs[0] / "report.html").read_text(encoding="utf-8")


def test_what_is_left_out_or_of_other_tasks_is_named(runs: list[Path], page: Path) -> None:
    html = page.read_text(encoding="utf-8")
    assert f"<b>{runs[2]}</b>: " in html
    assert f"the numbers of {runs[1]} are over {', '.join(StudyResults(runs[1]).tasks)}" in html
    assert "<b>other" not in html


def test_the_same_runs_give_the_same_bytes(runs: list[Path], page: Path) -> None:
    assert atlas_page(runs, page.with_name("again.html")).read_bytes() == page.read_bytes()


def test_bad_input_is_refused(runs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "atlas.html"
    for given, said in (([], "at least one"), ([runs[0], runs[0] / "."], "named twice"), ([runs[2]], "None of the 1")):
        with pytest.raises(RunError, match=said):
            atlas_page(given, out)
    assert not out.exists()


@pytest.mark.slow
@pytest.mark.browser
def test_a_click_sorts(open_report: Open, page: Path) -> None:
    opened = open_report(page, 1280)
    button = opened.page.locator("#atlas thead button").nth(6)
    for down in (True, False):
        button.click()
        cells = opened.page.locator("#atlas tbody tr").evaluate_all("rows => rows.map(r => r.cells[6].dataset.value)")
        assert [float(c) for c in cells] == sorted(map(float, cells), reverse=down)
    assert opened.complaints == []
    assert opened.requests == []
