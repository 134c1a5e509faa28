"""The page says what the numbers say, holds every string as text, and every answer."""

from __future__ import annotations

import base64
import gzip
import html
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from tests.report.synthetic import CONTROL, GOOD, HOSTILE, TASKS, Levels, make_run
from xmi.errors import RunError
from xmi.report import page, render
from xmi.report.drilldown import drill
from xmi.report.sections.geometry import geometry_takeaways
from xmi.report.sections.phases import phase_takeaways
from xmi.report.sections.transfer import headline
from xmi.report.tables import by_task, overview
from xmi.report.wording import runs
from xmi.study.results import StudyResults

SMALL: dict[str, Any] = {"tasks": TASKS[:2], "items": 20, "layers": 3}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"), **SMALL)


@pytest.fixture(scope="module")
def written(run: Path) -> str:
    return render(StudyResults(run), run / "report.html").read_text(encoding="utf-8")


def _study(folder: Path, main: Levels, other: Levels | None = None) -> StudyResults:
    models = {"organism": main} if other is None else {"organism": main, "control": other}
    return StudyResults(make_run(folder, models, **SMALL))


def _set(results: StudyResults, model: str, key: tuple[str, str, str], mean: float, low: float, high: float) -> None:
    """Writes an accuracy into a summary table."""
    path = results.path / "tables" / f"{model}.summary.csv"
    table = pd.read_csv(path)
    chosen = (table["method"] == key[0]) & (table["source"] == key[1]) & (table["target"] == key[2])
    assert chosen.sum() == 1
    table.loc[chosen, ["accuracy", "low", "high"]] = mean, low, high
    table.to_csv(path, index=False)


def _payload(packed: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(packed)))
    return content


XPATCH, XBASE, CLEAN = (
    ("patch", "text ICL", "image"),
    ("prompt", "text ICL", "image"),
    ("no context", "no context", "image"),
)


@pytest.mark.parametrize(
    ("xpatch", "xbase", "said", "unsaid"),
    [
        ((0.9, 0.8, 0.95), (0.4, 0.3, 0.5), "the patch is better, with disjoint intervals", "overlap"),
        (
            (0.6, 0.5, 0.7),
            (0.9, 0.8, 0.95),
            "the prompt is better, with disjoint intervals",
            "the patch is better",
        ),
        ((0.6, 0.5, 0.7), (0.65, 0.55, 0.75), "neither is shown to be better", "is better,"),
    ],
)
def test_headline_compares_patch_and_prompt_as_the_intervals_do(tmp_path, xpatch, xbase, said, unsaid):
    results = _study(tmp_path, GOOD)
    _set(results, "organism", CLEAN, 0.01, 0.0, 0.05)
    _set(results, "organism", XPATCH, *xpatch)
    _set(results, "organism", XBASE, *xbase)
    (sentence,) = (s.replace("\u00a0", " ") for s in headline(results))
    assert said in sentence
    assert unsaid not in sentence
    assert f"{100 * xpatch[0]:.0f} % [{100 * xpatch[1]:.0f}, {100 * xpatch[2]:.0f}]" in sentence
    assert f"{100 * xbase[0]:.0f} %" in sentence


@pytest.mark.parametrize(
    ("xpatch", "said"),
    [
        ((0.9, 0.8, 0.95), " makes the model do the task:"),
        ((0.3, 0.2, 0.4), " makes the model do the task some of the time:"),
        ((0.06, 0.02, 0.12), "does not make the model do the task"),
        ((0.0, 0.0, 0.01), "does not make the model do the task"),
    ],
)
def test_headline_says_plainly_whether_the_vector_works(tmp_path, xpatch, said):
    results = _study(tmp_path, GOOD)
    _set(results, "organism", CLEAN, 0.04, 0.02, 0.1)
    _set(results, "organism", XPATCH, *xpatch)
    assert said in headline(results)[0]


@pytest.mark.parametrize(
    ("there", "said"),
    [
        (
            (0.03, 0.0, 0.1),
            "no more than without context, and less than in organism, with disjoint intervals.",
        ),
        ((0.4, 0.3, 0.5), ", more than without context, and less than in organism"),
        ((0.88, 0.8, 0.93), "cannot be distinguished from organism"),
        ((0.99, 0.97, 1.0), "and more than in organism"),
    ],
)
def test_headline_sets_the_control_model_beside(tmp_path, there, said):
    results = _study(tmp_path, GOOD, CONTROL)
    _set(results, "organism", XPATCH, 0.9, 0.85, 0.95)
    _set(results, "control", XPATCH, *there)
    _set(results, "control", CLEAN, 0.02, 0.0, 0.08)
    assert said in headline(results)[1]


def test_takeaways_follow_phases_and_clusters(tmp_path):
    results = _study(tmp_path, GOOD, replace(GOOD, task_phase=False))
    with_phase, without = (sentence for _, sentence in phase_takeaways(results))
    assert re.search(r"at layers? \d", with_phase)
    assert "at no layer (text ICL; image ICL; instruction, text query; instruction, image query)" in without
    curve = results.silhouette("organism")
    best = int((curve.by_task - curve.by_modality).argmax())
    assert f"silhouette {curve.by_task[best]:.2f} against" in geometry_takeaways(results)[0][1]


def test_runs_name_spans():
    assert runs(list("abcdef"), [True, False, True, True, True, False]) == "a, c to e"
    assert runs(list("ab"), [False, False]) == ""


def test_overview_holds_the_table(run):
    results = StudyResults(run)
    groups = overview(results)
    assert [len(g["rows"]) for g in groups] == [3, 9, 2]
    text_icl = groups[1]["rows"][0]
    row = results.summary("control").query("method == 'patch' and source == 'text ICL' and target == 'image'").iloc[0]
    cell = text_icl["cells"][3]  # control model, image query
    assert (cell["mean"], cell["name"], cell["n"]) == (f"{row['accuracy']:.2f}", "xPatch", row["n"])
    assert cell["interval"] == f"[{row['low']:.2f}, {row['high']:.2f}]"
    assert cell["layer"] == row["layer"]
    assert groups[0]["rows"][0]["cells"][0]["layer"] is None
    assert by_task(results)[1]["rows"][0]["tasks"][0] == f"{results.by_task('control').accuracy[0]:.2f}"
    assert [part["tasks"] for part in by_task(results)] == [list(TASKS[:2])] * 2


def test_page_has_its_sections_in_order_and_asks_for_nothing(written):
    assert re.findall(r'<section id="(\w+)"', written) == [
        "finding", "phases", "geometry", "transfer", "prompts", "provenance"
    ]  # fmt: skip
    ours = written.replace(page._plotly(), "")
    assert not re.findall(r"""(?:src|href)\s*=\s*["']?\s*(?:https?:)?//""", ours)
    assert "default-src 'none'" in ours
    assert "sourceMappingURL" not in written
    assert written.count("plotly.js v") == 1
    assert len(written.encode()) < page.MAX_BYTES


def test_figures_are_those_of_a_notebook(run, written):
    found = re.search(r'<script type="application/json" id="figures">(.*?)</script>', written, re.DOTALL)
    figures = json.loads(found.group(1))
    assert figures["silhouette-0-1"] == json.loads(StudyResults(run).silhouette("control").figure().to_json())
    assert {
        "phases-0-0",
        "similarity-1-1",
        "projection-1-0",
        "transfer-image-0-0",
        "transfer-text-0-1",
    } <= figures.keys()


def test_strings_cannot_leave_their_place(written):
    ours = written.replace(page._plotly(), "")
    assert "<script>alert" not in ours
    # Scripts open and close once each: plotly, figures, records, ours.
    assert len(re.findall(r"<script\b", ours)) == len(re.findall(r"</script>", ours)) == 4
    assert html.escape(HOSTILE[0]) in ours  # a key of the provenance
    assert page.for_script("</script>\u2028<!--&") == '"\\u003c/script\\u003e\\u2028\\u003c!--\\u0026"'
    assert json.loads(page.for_script(list(HOSTILE))) == list(HOSTILE)


def test_hostile_names_of_models_and_tasks_are_text(tmp_path):
    name = "m<img src=x onerror=alert(1)>"
    results = StudyResults(make_run(tmp_path, {name: GOOD}, tasks=("a<b>", 'c"d'), items=3, layers=2, images=False))
    written = render(results, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<img src=x" not in written.replace(page._plotly(), "")
    assert "a<b>" not in written


def test_drill_down_holds_every_answer(run):
    results = StudyResults(run)
    packed, records = drill(results), results.records()
    content = _payload(packed.payload)
    assert packed.shown == packed.total == len(records) == sum(len(c[1]) for c in content["cells"])
    assert [m["model"] for m in packed.models] == ["organism", "control"]
    entries = iter(records)
    wanted = next(r for r in entries if r["method"] == "patch" and r["model"] == "control")
    listed = next(
        c for t in packed.models[1]["tasks"] if t["task"] == wanted["task"] for c in t["cells"]
        if c["label"] == f"{wanted['source']}: patch → {wanted['target']} query"
    )  # fmt: skip
    layer, found = content["cells"][listed["number"]]
    prompt, label, predicted, logp, rank, paper, strict, seed, layers = found[0]
    assert layer == listed["layer"] is not None
    assert content["strings"][label] == wanted["answer"]
    assert [content["strings"][i] for i in predicted] == wanted["predicted"]
    assert logp == pytest.approx(wanted["log_probability"], abs=0.006)
    assert layers == [0, 1, 2]
    assert (rank, paper, strict, seed) == (wanted["rank"], wanted["paper"], wanted["strict"], wanted["seed"])
    segments = [
        {"text": content["strings"][s]} if s >= 0 else {"image": content["images"][~s][0]}
        for s in content["prompts"][prompt]
    ]
    assert segments == wanted["prompt"]
    same = [r for r in records if all(r[k] == wanted[k] for k in ("model", "task", "method", "source", "target"))]
    assert (listed["size"], listed["hits"]) == (len(same), sum(r["paper"][layer] for r in same))


def test_images_are_shared_shrunk_and_survive_absence(tmp_path):
    results = StudyResults(make_run(tmp_path, {"organism": GOOD}, tasks=TASKS[:1], items=4, layers=2))
    Image.effect_noise((700, 500), 90).save(tmp_path / "images" / "item0.png")
    (tmp_path / "images" / "item1.png").write_bytes(b"broken")
    (tmp_path / "images" / "item2.png").unlink()
    images = dict(_payload(drill(results).payload)["images"])
    assert len(images) == 4
    assert images["item0.png"].startswith("data:image/webp")
    assert len(images["item0.png"]) < 20_000
    assert images["item1.png"] == images["item2.png"] == ""
    assert images["item3.png"].startswith("data:image/png")


def test_page_shortens_lists_rather_than_grow_and_says_so(run, tmp_path, monkeypatch):
    whole = len(render(StudyResults(run), tmp_path / "a.html").read_bytes())
    monkeypatch.setattr(page, "MAX_BYTES", whole - 1000)
    short = render(StudyResults(run), tmp_path / "b.html")
    assert short.stat().st_size <= whole - 1000
    assert "the first of each list" in short.read_text(encoding="utf-8")


def test_missing_parts_are_left_out(run, tmp_path):
    results = StudyResults(make_run(tmp_path, {"organism": GOOD}, **SMALL))
    for path in (tmp_path / "results").glob("*projection*"):
        path.unlink()
    (tmp_path / "records.jsonl").unlink()
    written = render(results, tmp_path / "report.html").read_text(encoding="utf-8")
    assert 'id="panel-projection"' not in written
    assert 'id="panel-silhouette"' in written
    assert "no records" in written
    other = make_run(tmp_path / "other", {"organism": GOOD}, **SMALL)
    (other / "tables" / "organism.summary.csv").unlink()
    with pytest.raises(RunError, match=r"organism\.summary\.csv"):
        render(StudyResults(other), tmp_path / "report.html")


def test_unwritable_place_is_named(run, tmp_path):
    (tmp_path / "file").write_text("")
    target = tmp_path / "file" / "report.html"
    with pytest.raises(RunError, match=r"Cannot write .* is not a folder") as raised:
        render(StudyResults(run), target)
    assert str(target) in str(raised.value)
    taken = tmp_path / "folder.html"
    taken.mkdir()
    with pytest.raises(RunError, match=r"Cannot write .*directory"):
        render(StudyResults(run), taken)
    assert list(tmp_path.glob(".*.part")) == []


def test_parent_folders_are_made(run, tmp_path):
    path = render(StudyResults(run), tmp_path / "deep" / "er" / "page.html")
    assert path.is_file()
