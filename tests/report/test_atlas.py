"""The atlas says what the runs' tables and results say, leads to their reports, and names what it leaves out."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest

from tests.report.browser import Open
from tests.report.synthetic import CONTROL, GOOD, TASKS, make_run
from tests.study.sealing import content_of, rewrite
from xmi.errors import RunError
from xmi.report import atlas_page, render
from xmi.study.folder import FINISHED, STUDY
from xmi.study.results import StudyResults

COLUMNS = (("prompt", "text ICL"), ("prompt", "image ICL"), ("patch", "text ICL"), ("patch", "image ICL"))
NUMBER = re.compile(
    r'data-value="([^"]+)".*?<a href="([^"#]+)#([^"]+)">([\d.-]+)</a>(?: <span class="interval">(.*?)<)?'
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs; then one that is none, an unfinished one, a damaged one, and one of an old format."""
    folder = tmp_path_factory.mktemp("runs")
    names = ("first one", "second", "not a run", "unfinished", "damaged", "old")
    first, second, empty, unfinished, damaged, old = (folder / name for name in names)
    empty.mkdir()
    make_run(first, {"organism": GOOD, "control": CONTROL}, tasks=TASKS[:4], items=6, layers=3)
    make_run(second, {"<b>other": GOOD}, tasks=TASKS[:5], items=6, layers=5)
    for place in (unfinished, damaged, old):
        make_run(place, {"eye": GOOD}, tasks=TASKS[:1], items=2, layers=2, geometry=False)
    (unfinished / FINISHED).unlink()
    (damaged / "results" / "eye.phases.0.json").write_text("{}", encoding="utf-8")
    rewrite(old / STUDY, format=3)
    render(StudyResults(first), first / "report.html")
    return [first, second, empty, unfinished, damaged, old]


@pytest.fixture(scope="module")
def html(runs: list[Path]) -> str:
    return atlas_page(runs, runs[0].parent / "pages" / "atlas.html").read_text(encoding="utf-8")


def table(html: str, name: str) -> list[list[str]]:
    """Cells of a table's rows, without model, run, tasks and layers."""
    body = html.split(f'id="table-{name}"')[1].split("<tbody>")[1].split("</tbody>")[0]
    return [re.findall(r"<td.*?</td>", row)[3:] for row in body.split("<tr>")[1:]]


def test_accuracies_are_those_of_the_tables(runs: list[Path], html: str) -> None:
    rows = table(html, "accuracies")
    assert len(rows) == 3
    for row, model in zip(rows, ("organism", "control"), strict=False):
        with (runs[0] / "tables" / f"{model}.summary.csv").open(encoding="utf-8") as lines:
            known = {(r["method"], r["source"], r["target"]): r for r in csv.DictReader(lines)}
        keys = [(method, source, target) for method, source in COLUMNS for target in ("text", "image")]
        for key, cell in zip(keys, row[2:10], strict=True):
            shown, own = NUMBER.search(cell), known[key]
            assert shown is not None
            assert float(shown[1]) == float(own["accuracy"])
            assert shown[4] == f"{float(own['accuracy']):.2f}"
            assert shown[5] == f"[{float(own['low']):.2f}, {float(own['high']):.2f}]"
            assert f"n = {own['n']}<" in cell


def test_a_matrix_holds_every_source_and_modality(runs: list[Path], html: str) -> None:
    parts = html.split('<div class="matrices">')[1].split("</section>")[0].split("<figure>")[1:4]
    for part, (run, model) in zip(parts, ((0, "organism"), (0, "control"), (1, "<b>other")), strict=True):
        known = StudyResults(runs[run]).summary(model)
        patched = known[known["method"] == "patch"]
        cells = re.findall(r'<td data-value="([^"]+)"', part)
        names = [re.sub("<.*?>", "", name) for name in re.findall(r'<th scope="row">(.*?)</th>', part)]
        assert len(cells) == len(patched) + 2
        for name, own in zip(names, np.reshape([float(c) for c in cells], (-1, 2)), strict=True):
            rows = known[known["source"].str.removeprefix("control: ").eq(name) & known["method"].ne("prompt")]
            assert own.tolist() == rows.set_index("target")["accuracy"].reindex(["text", "image"]).tolist()


def test_phases_and_geometry_are_those_of_the_results(runs: list[Path], html: str) -> None:
    results = StudyResults(runs[0])
    places = results.boundaries("organism").to_frame()
    found = [None if (m := NUMBER.search(cell)) is None else (float(m[1]), m[5]) for cell in table(html, "changes")[0]]
    assert len(places) == len(found) == 8
    for at, row in zip(found, places.itertuples(), strict=True):
        assert at == (row.relative, f"[{row.relative_low:.2f}, {row.relative_high:.2f}]")
    aligned, clusters = results.alignment("organism"), results.silhouette("organism")
    measures = list(aligned.measures)
    wanted = [
        float(np.nanmax(aligned.values[1, measures.index(name)]))
        for name in (
            "cosine, same minus different task, across modalities",
            "centroids, text ICL to image ICL",
            "centroids, image ICL to text ICL",
            "CKA",
            "RSA",
            "Procrustes",
        )
    ]
    at = int(np.argmax(clusters.by_task - clusters.by_modality))
    frame = results.similarity("organism", centred=True).to_frame()
    same = frame["group_a"] == frame["group_b"]
    means = [frame[rows].groupby("layer")["cosine"].mean() for rows in (same, ~same)]
    wanted += [clusters.by_task[at], clusters.by_modality[at], float((means[0] - means[1]).max())]
    shown = [float(NUMBER.search(cell)[1]) for cell in table(html, "measures")[0]]  # type: ignore[index]
    assert shown == pytest.approx(wanted, abs=1e-12)
    first = aligned.curve("cosine, same minus different task, across modalities", "gap removed")
    best = first.loc[first["value"].idxmax()]
    cell = table(html, "measures")[0][0]
    assert f"[{best['low']:.2f}, {best['high']:.2f}]" in cell
    assert f"layer {best['layer']} of 3<" in cell


def test_every_link_leads_to_a_part_of_the_report(runs: list[Path], html: str) -> None:
    links = {(m[2], m[3]) for m in NUMBER.finditer(html)}
    assert {place for place, _ in links} == {"../first%20one/report.html"}  # the second run has no report
    report = (runs[0].parent / "pages" / unquote("../first%20one/report.html")).read_text(encoding="utf-8")
    assert {anchor for _, anchor in links} == {anchor for _, anchor in links if f'id="{anchor}"' in report}
    assert {"accuracy", "panel-transfer-image", "panel-boundaries", "panel-alignment-cosine"} <= {a for _, a in links}
    unlinked = html.split('id="table-accuracies"')[1].split("<tr>")[-1]
    assert "no report.html: xmi report" in unlinked and "<a " not in unlinked.split("</tbody>")[0]


def test_what_is_left_out_or_of_other_tasks_is_named(runs: list[Path], html: str) -> None:
    left = html.split('id="left-out"')[1].split("</section>")[0]
    reasons = ("so it is not a run folder", "is unfinished", "is missing, damaged or another file", "is in format 3;")
    for run, reason in zip(runs[2:], reasons, strict=True):
        assert re.search(rf"<b>{re.escape(str(run))}</b>: [^<]*{reason}", left)
    assert f"the numbers of {runs[1]} are over {', '.join(StudyResults(runs[1]).tasks)}" in html
    assert "<b>other" not in html


def test_models_of_one_name_are_told_apart(runs: list[Path], tmp_path: Path) -> None:
    again = make_run(tmp_path / "again", {"organism": GOOD}, tasks=TASKS[:4], items=2, layers=2, geometry=False)
    assert content_of(again / STUDY)["models"] == ["organism"]
    html = atlas_page([runs[0], again], tmp_path / "atlas.html").read_text(encoding="utf-8")
    assert html.count("<b>organism (first one)</b>") == html.count("<b>organism (again)</b>") == 1
    assert [cell for cell in table(html, "measures")[2] if "data-value" in cell] == []


def test_the_same_runs_give_the_same_bytes(runs: list[Path], html: str) -> None:
    again = atlas_page(runs, runs[0].parent / "pages" / "again.html")
    assert again.read_text(encoding="utf-8") == html


def test_bad_input_is_refused(runs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "atlas.html"
    for given, said in (([], "at least one"), ([runs[0], runs[0] / "."], "named twice"), ([runs[2]], "None of the 1")):
        with pytest.raises(RunError, match=said):
            atlas_page(given, out)
    assert not out.exists()


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_telephone_shows_numbers_and_nothing_runs_over_its_edge(
    open_report: Open, runs: list[Path], html: str, scheme: str
) -> None:
    opened = open_report(runs[0].parent / "pages" / "atlas.html", 390, scheme)
    assert opened.page.evaluate("document.documentElement.scrollWidth") == 390
    for name in ("accuracies", "changes", "measures"):
        first = opened.page.locator(f"#table-{name} td[data-value]:visible").first.bounding_box()
        assert first is not None and first["x"] + first["width"] < 390
    assert opened.complaints == []


@pytest.mark.slow
@pytest.mark.browser
def test_a_click_sorts_and_another_opens_the_report(open_report: Open, runs: list[Path], html: str) -> None:
    opened = open_report(runs[0].parent / "pages" / "atlas.html", 1280)
    for name, column in (("accuracies", 10), ("measures", 5)):
        button = opened.page.locator(f"#table-{name} thead button").nth(column)
        for down in (True, False):
            button.click()
            cells = opened.page.locator(f"#table-{name} tbody tr").evaluate_all(
                f"rows => rows.map(r => r.cells[{column}].dataset.value)"
            )
            assert [float(c) for c in cells] == sorted(map(float, cells), reverse=down)
    width = opened.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width[0] <= width[1]
    assert opened.complaints == []
    assert opened.requests == []
    opened.page.locator("#table-measures a[href$='panel-alignment-cosine']").first.click()
    opened.page.wait_for_selector("#panel-alignment-cosine[open] .plot[data-drawn=done]")
    assert opened.page.locator("#panel-alignment-cosine").is_visible()
