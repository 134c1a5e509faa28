"""The similarity page: complete in itself, true to its numbers, and readable in a browser."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.report.browser import Open
from tests.report.pages import figures
from tests.report.synthetic import GOOD, TASKS, make_run
from xmi.errors import RunError
from xmi.measure import Alignment
from xmi.report import page, render, similarity_page, similarity_panels
from xmi.report.sections.alignment import MARGIN, PART, alignment_of, alignment_tables, alignment_takeaways
from xmi.study.results import StudyResults

SHAPE = {"tasks": TASKS[:5], "items": 3, "layers": 4}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"), **SHAPE)


@pytest.fixture(scope="module")
def written(run: Path) -> Path:
    return similarity_page(StudyResults(run), run / "deep" / "similarity.html")


def _rewrite(run: Path, target: Path, **changes: object) -> StudyResults:
    """A copy of the organism's alignment with other numbers, in a run folder of its own."""
    results = StudyResults(make_run(target, {"organism": GOOD}, **SHAPE))
    replace(alignment_of(StudyResults(run), "organism"), **changes).save(target / "results" / "organism.alignment.json")
    return results


def test_page_has_its_sections_and_asks_for_nothing(written: Path) -> None:
    text = written.read_text("utf-8")
    assert re.findall(r'<section id="(\w+)"', text) == ["alignment", "similarity", "clusters", "provenance"]
    assert not re.findall(r"""(?:src|href)\s*=\s*["']?\s*(?:https?:)?//""", text)
    assert "default-src 'none'" in text
    assert text.count("<h1>") == 1
    assert len(re.findall(r"<script\b", text)) == len(re.findall(r"</script>", text)) == 3
    assert written.stat().st_size < page.MAX_BYTES / 2


def test_panels_are_the_figures_of_a_notebook(run: Path, written: Path) -> None:
    results = StudyResults(run)
    names = [p.name for p in similarity_panels(results)]
    assert names == [
        "alignment-cosine",
        "alignment-centroids",
        "alignment-shape",
        "similarity",
        "projection",
        "silhouette",
    ]
    shown = figures(written.read_text("utf-8"))
    drawn = alignment_of(results, "control").figure(kind="centroids", state="raw")
    page = shown["alignment-centroids-1-1"]
    depth = page["layout"]["meta"].pop("layers")  # the page's own: how deep the model is
    assert depth == results.study["provenance"]["models"]["control"]["layers"]
    assert page == json.loads(drawn.to_json())
    drawn = results.silhouette("organism").figure()
    assert shown["silhouette-0-0"]["data"] == json.loads(drawn.to_json())["data"]  # its axis fits both models


def test_main_report_holds_the_alignment_as_a_part_of_its_geometry(run: Path, tmp_path: Path) -> None:
    text = render(StudyResults(run), tmp_path / "report.html").read_text("utf-8")
    geometry = text[text.index('<section id="geometry"') : text.index('<section id="transfer"')]
    assert 'id="panel-alignment-cosine"' in geometry
    assert "Without the modality gap" in geometry
    assert PART.section == "geometry"


def test_table_holds_the_numbers(run: Path) -> None:
    results = StudyResults(run)
    (first, second), result = alignment_tables(results), alignment_of(results, "control")
    assert (first["model"], second["model"]) == ("organism", "control")
    assert second["columns"][1:3] == ["text ICL to image ICL", "image ICL to text ICL"]
    row = result.curve("centroids, text ICL to image ICL", "gap removed").iloc[2]
    cell = second["rows"][2]["cells"][1]
    assert cell["value"] == f"{row['value']:.2f}"
    assert cell["interval"] == f"[{row['low']:.2f}, {row['high']:.2f}]"
    assert cell["p"] == f"p = {row['corrected']:.2g}"


def test_sentences_follow_the_numbers_in_either_direction(run: Path, tmp_path: Path) -> None:
    result = alignment_of(StudyResults(run), "organism")
    at = result.measures.index(MARGIN)
    corrected, values = result.corrected.copy(), result.values.copy()
    corrected[:, at], values[:, at] = [0.2, 0.01, 0.02, 0.9], [0.1, 0.2, 0.7, 0.3]
    found = alignment_takeaways(_rewrite(run, tmp_path / "a", corrected=corrected, values=values))
    assert "at layers 1 to 2; most at layer 2, where their cosines differ by 0.70" in found[0][1]
    values[:, result.measures.index("centroids, image ICL to text ICL")] = [[0.3, 0.2, 0.1, 0.1], [0.2, 0.3, 0.85, 0.4]]
    found = alignment_takeaways(_rewrite(run, tmp_path / "b", corrected=np.ones_like(corrected), values=values))
    assert "at no layer shown to lie nearer" in found[0][1]
    said = found[1][1].replace("\u00a0", " ")
    assert "centroids of image ICL prompts name the task of 85 %" in said
    assert "(layer 2; 10 % before gap removal); chance is 20 %." in said
    few = alignment_takeaways(_rewrite(run, tmp_path / "c", tasks=("x", "y", "z")))
    assert "3 tasks are too few to test whether they align (p is 0.17 at least)" in few[0][1]


def test_missing_parts_are_left_out(tmp_path: Path) -> None:
    results = StudyResults(make_run(tmp_path, {"organism": GOOD}, **SHAPE))
    (tmp_path / "results" / "organism.alignment.json").unlink()
    with pytest.raises(RunError, match=r"organism\.alignment\.json is gone"):
        alignment_of(results, "organism")
    text = similarity_page(results, tmp_path / "s.html").read_text("utf-8")
    assert 'id="panel-alignment-cosine"' not in text
    assert 'id="panel-silhouette"' in text
    assert text.count("This study did not measure it.") == 1
    assert "Without the modality gap" not in render(results, tmp_path / "r.html").read_text("utf-8")


def test_hostile_names_are_text(tmp_path: Path) -> None:
    name = "m<img src=x onerror=alert(1)>"
    results = StudyResults(make_run(tmp_path, {name: GOOD}, tasks=("a<b>", 'c"d', "e", "f"), items=2, layers=2))
    path = tmp_path / "results" / f"{name}.alignment.json"
    replace(Alignment.load(path), a="</script><b>", b="<i>i").save(path.with_name("x.json"))
    text = similarity_page(results, tmp_path / "s.html").read_text("utf-8")
    assert "<img src=x" not in text
    assert "a<b>" not in text


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_opens_in_a_browser_without_complaint(open_report: Open, written: Path, width: int, scheme: str) -> None:
    opened = open_report(written, width, scheme)
    assert opened.complaints == []
    assert opened.requests == []
    opened.page.wait_for_selector("html[data-ready=true]")
    shown, whole = opened.page.evaluate("[document.documentElement.clientWidth, document.documentElement.scrollWidth]")
    assert whole <= shown
    cosine = opened.page.locator("#panel-alignment-cosine")
    before = cosine.locator(".pair:not([hidden]) .js-plotly-plot").first.get_attribute("data-figure")
    cosine.get_by_text("raw", exact=True).click()
    cosine.locator(".pair:not([hidden]) .js-plotly-plot").nth(1).wait_for()
    after = cosine.locator(".pair:not([hidden]) .js-plotly-plot").first.get_attribute("data-figure")
    assert (before, after) == ("alignment-cosine-0-0", "alignment-cosine-1-0")
