"""The first screen: its sentence, its figure and its verdicts say what the tables say."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from markupsafe import escape

from tests.report.pages import carried, figures
from tests.report.synthetic import CONTROL, GOOD, TASKS, make_run
from xmi.measure import Proportion
from xmi.measure.judgement import judged
from xmi.names import RANDOM
from xmi.report import render
from xmi.report.tables import overview
from xmi.report.verdicts import MARKS, verdicts
from xmi.study.results import StudyResults
from xmi.study.tables import read_table

WANTED = (("no context", None), ("patch", RANDOM), ("prompt", "text ICL"), ("patch", "text ICL"))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> StudyResults:
    models = {"organism": GOOD, "control": CONTROL}
    return StudyResults(make_run(tmp_path_factory.mktemp("run"), models, tasks=TASKS[:2], items=18, layers=3))


@pytest.fixture(scope="module")
def page(results: StudyResults) -> str:
    return render(results, results.path / "report.html").read_text(encoding="utf-8")


def changed(folder: Path, **means: tuple[float, float, float]) -> StudyResults:
    """A study in which accuracies on image queries are set: mean, low and high, by method or control."""
    results = StudyResults(make_run(folder, {"organism": GOOD}, tasks=TASKS[:2], items=18, layers=3))
    path = results.path / "tables" / "organism.summary.csv"
    table = pd.read_csv(path)
    names = {"patch": ("patch", "text ICL"), "clean": ("no context", "no context"), "random": ("patch", RANDOM)}
    for name, values in means.items():
        method, source = names[name]
        here = (table["method"] == method) & (table["source"] == source) & (table["target"] == "image")
        assert here.sum() == 1
        table.loc[here, ["accuracy", "low", "high"]] = values
    table.to_csv(path, index=False)
    return results


def test_the_figure_shows_the_numbers_of_the_table_below(results: StudyResults, page: str) -> None:
    """Each model's four accuracies, their intervals and n are those that the table of the page prints."""
    drawn = figures(page)["glance-0-0"]["data"]
    printed = {(row["method"], row["source"]): row["cells"] for group in overview(results) for row in group["rows"]}
    clean = ("no context", "no context")
    for k, model in enumerate(results.models):
        points, said = drawn[k], drawn[k + len(results.models)]["text"]
        assert points["name"] == model
        for i, (method, source) in enumerate(WANTED):
            cell = printed[clean if source is None else (method, source)][2 * k + 1]  # image queries
            assert f"{points['x'][i]:.2f}" == cell["mean"]
            low, high = (
                points["x"][i] - points["error_x"]["arrayminus"][i],
                points["x"][i] + points["error_x"]["array"][i],
            )
            assert [100 * low, 100 * high] == pytest.approx([cell["low"], cell["low"] + cell["width"]], abs=0.2)
            assert said[i].endswith(f"of {cell['n']}")


def test_the_page_carries_the_tables_of_the_run(results: StudyResults, page: str) -> None:
    (text,) = carried(page, "tables")
    tables = {name: read_table(io.StringIO(content)) for name, content in json.loads(text).items()}
    for name, of in (("accuracy", results.summary), ("by-task", results.by_task)):
        assert f'data-table="{name}"' in page
        for model in results.models:
            own = tables[name][tables[name]["model"] == model].drop(columns="model").reset_index(drop=True)
            pd.testing.assert_frame_equal(own, of(model))


def test_the_sentence_is_the_headline_and_holds_the_means_of_the_table(results: StudyResults, page: str) -> None:
    assert f'id="sentence">{escape(results.headline)}</p>' in page
    rows = results.summary("organism").query("target == 'image'").set_index(["method", "source"])["accuracy"]
    there = results.summary("control").query("target == 'image'").set_index(["method", "source"])["accuracy"]
    said = results.headline.replace("\u00a0", " ")
    assert len(said.split()) < 60
    wanted = [rows[way] for way in (("patch", "text ICL"), ("prompt", "text ICL"), ("patch", RANDOM))]
    wanted += [rows["no context", "no context"], there["patch", "text ICL"]]
    assert [int(n) for n in re.findall(r"(\d+) %", said)] == [round(100 * v) for v in wanted]


def test_every_verdict_leads_to_a_part_of_the_page_and_states_its_rule(results: StudyResults, page: str) -> None:
    found = verdicts(results)
    assert [v.name for v in found] == ["Phases", "Geometry", "Transfer", "Controls"]
    for verdict in found:
        assert verdict.state in MARKS
        assert page.count(f'id="{verdict.section}"') == 1
        assert f'href="#{verdict.section}" title="' in page
        assert page.count(f"Rule: {escape(verdict.rule)}") == 2, "on hover, and in the text"


@pytest.mark.parametrize(
    ("means", "transfer", "controls"),
    [
        ({"patch": (0.9, 0.8, 0.95)}, "yes", "yes"),
        ({"patch": (0.3, 0.2, 0.4)}, "in part", "yes"),
        ({"patch": (0.9, 0.8, 0.95), "random": (0.85, 0.75, 0.9)}, "yes", "in part"),
        ({"patch": (0.04, 0.01, 0.1)}, "in part", "in part"),
    ],
)
def test_verdicts_follow_the_intervals(tmp_path: Path, means: dict, transfer: str, controls: str) -> None:
    found = {v.name: v for v in verdicts(changed(tmp_path, clean=(0.02, 0.0, 0.05), **means))}
    assert (found["Transfer"].state, found["Controls"].state) == (transfer, controls)


def test_what_was_not_found_or_not_measured_is_said(tmp_path: Path) -> None:
    poor = make_run(tmp_path / "poor", {"m": replace(CONTROL, patch=0.0)}, tasks=TASKS[:2], items=18, layers=3)
    assert [v.state for v in verdicts(StudyResults(poor))][::2] == ["not shown", "no"]
    less = make_run(tmp_path / "less", {"m": GOOD}, tasks=TASKS[:2], items=2, layers=3, geometry=False)
    assert [v.state for v in verdicts(StudyResults(less))][1:] == ["not measured", "not known", "not known"]


def test_transfer_is_judged_by_the_rule_of_the_sentences() -> None:
    table = {
        "works": (0.9, 0.8, 0.95),
        "partly": (0.3, 0.2, 0.4),
        "no": (0.04, 0.01, 0.1),
        "not shown": (0.15, 0.04, 0.4),
    }
    clean = Proportion(0.02, 40, 0.0, 0.05)
    for kind, (mean, low, high) in table.items():
        assert judged(Proportion(mean, 40, low, high), clean) == kind
