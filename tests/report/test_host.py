"""What the page says of a study on a host: where it ran, and what travelled, cell by cell."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.report.browser import Open
from tests.report.synthetic import GOOD, HOSTILE, TASKS, make_run
from tests.report.test_document import Outline
from tests.study.sealing import content_of, rewrite
from xmi.remote.job_store import Attempt, Ledger
from xmi.report import render, similarity_page
from xmi.report.host import hosted
from xmi.study.folder import JOBS, STUDY
from xmi.study.results import StudyResults

BEGUN = datetime(2026, 1, 1, tzinfo=UTC)
FACTS = {
    "host": "https://host.example",
    "model_key": f'a.Model:{{"repo_id": "org/{HOSTILE[0]}"}}',
    "python": "3.12.1",
    "nnsight": "0.8.1",
    "torch": "2.13.0",
    "transformers": "5.23.0",
    "dtype": "bfloat16",
    "device": "cuda:0",
    "accelerator": "A100",
    "attention": "sdpa",
}


def job(ledger: Ledger, number: int, label: str, up: int, down: int = 0, **changes: Any) -> None:
    """Writes a job that took two seconds, or one that came to something else."""
    begun = BEGUN + timedelta(minutes=number)
    ended = {"state": "finished", "ended": begun + timedelta(seconds=2), "down": down}
    name = f"{number:064x}"
    ledger.begin(name, Attempt(label=label, host=FACTS["host"], model_key=FACTS["model_key"], begun=begun, up=up))
    ledger.change(name, **(ended | changes))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_run(tmp_path_factory.mktemp("run"), {"organism": GOOD}, tasks=TASKS[:2], items=6, layers=3)
    provenance = content_of(folder / STUDY)["provenance"]
    rewrite(folder / STUDY, provenance={**provenance, "hosts": {"organism": FACTS}})
    ledger = Ledger(folder / JOBS)
    job(ledger, 0, "organism-1.5.0.food-color.read", 150_000, 36_000)
    job(ledger, 1, "organism-1.5.0.food-flavor.read", 1_250_000, 4_000)
    job(ledger, 2, f"organism-1.5.0.{HOSTILE[0]}.ask", 300_000, 50_000)
    job(ledger, 3, f"organism-1.5.0.{HOSTILE[0]}.ask", 20_000, 1_000)
    job(ledger, 4, "organism-1.5.0.all.overriding", 7_000, state="refused", ended=None)  # never became a job
    return folder


def test_bytes_and_requests_are_summed_by_cell_and_by_work(run: Path) -> None:
    found = hosted(StudyResults(run))
    assert found is not None
    assert found["cells"] == [
        ["organism-1.5.0.food-color.read", "1", "150.0", "36.0", "2.0"],
        ["organism-1.5.0.food-flavor.read", "1", "1,250.0", "4.0", "2.0"],
        [f"organism-1.5.0.{HOSTILE[0]}.ask", "2", "320.0", "51.0", "4.0"],
    ]
    assert found["kinds"] == [
        ["vectors of a task", "2", "2", "1,400.0", "40.0", "4.0"],
        ["prompts, sweeps and phases of a task", "1", "2", "320.0", "51.0", "4.0"],
    ]
    assert found["total"] == ["all", "3", "4", "1,720.0", "91.0", "8.0"]
    versions = "nnsight 0.8.1, torch 2.13.0, transformers 5.23.0, python 3.12.1"
    [model] = found["models"]
    assert model == ["organism", FACTS["host"], "bfloat16", "cuda:0 A100", versions, FACTS["model_key"]]


def test_the_page_has_a_section_on_the_host_that_holds_every_string_as_text(run: Path) -> None:
    written = render(StudyResults(run), run / "report.html").read_text(encoding="utf-8")
    outline = Outline()
    outline.feed(written)
    assert outline.sections[-2:] == ["host", "provenance"]
    assert '<a href="#host">Host</a>' in written
    section = written[written.index('<section id="host">') : written.index('<section id="provenance">')]
    assert HOSTILE[0] not in section
    for text in (FACTS["host"], "bfloat16", "cuda:0 A100", "1,720.0", "organism-1.5.0.food-flavor.read"):
        assert text in section


def test_a_study_that_ran_here_says_nothing_of_hosts(tmp_path: Path) -> None:
    results = StudyResults(make_run(tmp_path, {"organism": GOOD}, tasks=TASKS[:2], items=6, layers=3))
    assert hosted(results) is None
    written = render(results, tmp_path / "report.html").read_text(encoding="utf-8")
    assert 'id="host"' not in written
    assert "#host" not in written


def test_without_its_jobs_folder_the_host_is_still_named(run: Path, tmp_path: Path) -> None:
    results = StudyResults(make_run(tmp_path, {"organism": GOOD}, tasks=TASKS[:2], items=6, layers=3))
    results.study["provenance"]["hosts"] = {"organism": FACTS}
    written = render(results, tmp_path / "report.html").read_text(encoding="utf-8")
    assert FACTS["host"] in written[written.index('<section id="host">') :]
    assert "What travelled" not in written
    assert similarity_page(results, tmp_path / "similarity.html").is_file()


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_the_section_fits_the_screen(open_report: Open, run: Path, width: int) -> None:
    opened = open_report(render(StudyResults(run), run / f"{width}.html"), width)
    page = opened.page
    fold = page.locator("#host details")
    assert not fold.locator("table").is_visible()
    fold.locator("summary").click()
    assert fold.locator("table").is_visible()
    shown, whole = page.evaluate("[document.documentElement.clientWidth, document.documentElement.scrollWidth]")
    assert whole <= shown
    assert (opened.complaints, opened.requests) == ([], [])
