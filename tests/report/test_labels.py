"""Figures in a browser: what is written in them stands clear of their marks, and they need no network."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.report.browser import Open
from tests.report.synthetic import CONTROL, GOOD, TASKS, make_run
from xmi import plot
from xmi.study.results import StudyResults

pytestmark = pytest.mark.browser

TOUCHING = (Path(__file__).parent / "scripts" / "labels.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> StudyResults:
    models = {"organism": GOOD, "organism-control": CONTROL}
    return StudyResults(make_run(tmp_path_factory.mktemp("run"), models, tasks=TASKS[:2], items=18, layers=8))


FIGURES = {
    "glance": lambda results: plot.glance({model: results.summary(model) for model in results.models}),
    "sweep": lambda results: results.transfer("organism", "image").figure(),
}


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", FIGURES)
def test_labels_stand_clear_of_marks_and_of_each_other(
    name: str, width: int, results: StudyResults, open_report: Open, tmp_path: Path
) -> None:
    FIGURES[name](results).write_html(tmp_path / "figure.html", include_mathjax=False)
    opened = open_report(tmp_path / "figure.html", width)
    found = opened.page.locator(".js-plotly-plot").evaluate(TOUCHING)
    assert found["texts"] > 3
    assert found["marks"] > 5
    assert [found["over"], found["pairs"], found["out"]] == [[], [], []]


def test_an_object_in_a_notebook_draws_its_figure_without_a_network(
    results: StudyResults, open_report: Open, tmp_path: Path
) -> None:
    (tmp_path / "cell.html").write_text(results._repr_html_(), encoding="utf-8")
    opened = open_report(tmp_path / "cell.html")
    assert opened.page.locator(".js-plotly-plot .scatterlayer .trace").count() > 3
    assert (opened.requests, opened.complaints) == ([], [])
