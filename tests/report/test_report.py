"""The page says what the numbers say, holds every string as text, and every answer."""

from __future__ import annotations

import base64
import html
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from tests.report.pages import answers, carried, figures
from tests.report.synthetic import CONTROL, GOOD, HOSTILE, TASKS, Levels, make_run
from xmi.errors import RunError
from xmi.report import page, render
from xmi.report.answers import Blocks
from xmi.report.drilldown import KEYS, drill
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
    assert not re.findall(r"""(?:src|href)\s*=\s*["']?\s*(?:https?:)?//""", written)
    assert "default-src 'none'" in written
    (plotly,) = carried(written, "plotly")
    assert plotly.count("plotly.js v") == 1
    assert "sourceMappingURL" not in plotly
    assert len(written.encode()) < page.MAX_BYTES


def test_figures_are_those_of_a_notebook(run, written):
    shown = figures(written)
    drawn = StudyResults(run).silhouette("control").figure()
    assert shown["silhouette-0-1"]["data"] == json.loads(drawn.to_json())["data"]  # its axis fits both models
    assert {
        "phases-0-0",
        "similarity-1-1",
        "projection-1-0",
        "transfer-image-0-0",
        "transfer-text-0-1",
    } <= shown.keys()


def test_strings_cannot_leave_their_place(written):
    assert "<script>alert" not in written
    # Scripts open and close once each: plotly, figures, tables, ours, images, and the blocks of answers.
    blocks = len(carried(written, "block"))
    assert len(re.findall(r"<script\b", written)) == len(re.findall(r"</script>", written)) == 5 + blocks
    assert html.escape(HOSTILE[0]) in written  # a key of the provenance


def test_hostile_names_of_models_and_tasks_are_text(tmp_path):
    name = "m<img src=x onerror=alert(1)>"
    results = StudyResults(make_run(tmp_path, {name: GOOD}, tasks=("a<b>", 'c"d'), items=3, layers=2, images=False))
    written = render(results, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<img src=x" not in written
    assert "a<b>" not in written


def test_drill_down_holds_every_answer(run, written):
    """As the records have them, each in its list; of a sweep's numbers no more than the page shows."""
    results = StudyResults(run)
    lists, listed = drill(results), answers(written)
    assert [m["model"] for m in lists.models] == ["organism", "control"]
    assert "of each list" not in written
    wanted = {}
    for record in results.records():
        wanted.setdefault(tuple(record.get(key, "") for key in KEYS), []).append(record)
    assert list(wanted) == [one.key for one in lists.lists]
    for one in lists.lists:
        records, found = wanted[one.key], listed[one.number]
        swept = one.key[2] == "patch"
        assert (one.layer is not None) == swept
        for record, entry in zip(records, found, strict=True):
            assert entry.pop("log_probability") == pytest.approx(record["log_probability"], abs=0.006)
            assert entry == {name: record[name] for name in entry}
            assert ("layers" in entry) == swept
        hits = [r["paper"][one.layer] if swept else r["paper"] for r in records]
        assert (one.size, one.hits) == (len(records), sum(hits))


def test_images_are_shared_shrunk_and_survive_absence(tmp_path):
    results = StudyResults(make_run(tmp_path, {"organism": GOOD}, tasks=TASKS[:1], items=4, layers=2))
    Image.effect_noise((700, 500), 90).save(tmp_path / "images" / "item0.png")
    (tmp_path / "images" / "item1.png").write_bytes(b"broken")
    (tmp_path / "images" / "item2.png").unlink()
    (text,) = carried(render(results, tmp_path / "report.html").read_text("utf-8"), "pictures")
    images = json.loads(text)
    assert len(images) == 4
    assert images["item0.png"].startswith("data:image/webp")
    assert len(images["item0.png"]) < 20_000
    assert images["item1.png"] == images["item2.png"] == ""
    assert images["item3.png"].startswith("data:image/png")


def test_page_shortens_lists_rather_than_grow_and_says_so(run, written, tmp_path, monkeypatch):
    """As many answers of every list as fit; the page is made once."""
    made = []
    template = page.template
    monkeypatch.setattr(page, "template", lambda name: made.append(name) or template(name))
    whole, before = len(written.encode()), 1e9
    for size in (whole - 1000, whole - 10_000):
        monkeypatch.setattr(page, "MAX_BYTES", size)
        made.clear()
        short = render(StudyResults(run), tmp_path / "b.html").read_text("utf-8")
        assert len(short.encode()) <= size
        held = [len(found) for found in answers(short).values()]
        said = f"holds {sum(held)} of {sum(map(len, answers(written).values()))} answers, the first of each list"
        assert said in short
        assert max(held) == min(held) < before, "every list is as long as the others"
        before = max(held)
        assert made == ["report.html.j2", "answers.html.j2"]


def test_blocks_that_cannot_fit_are_not_encoded():
    """So that time and memory are bounded by the page, not by the study."""
    same = {"prompt": [{"text": "Q"}], "answer": "a", "log_probability": 0.0, "rank": 0, "paper": True, "strict": False}
    records, read = [], []

    def at(places):
        for place in places:
            read.append(place)
            yield records[place]

    blocks = Blocks(at)
    for position in range(300):
        for number in range(20):
            blocks.add(number, position, len(records))
            records.append(same | {"predicted": base64.b85encode(os.urandom(60)).decode()})
    assert (blocks.total, read) == (6000, [])
    packed = blocks.within(60_000, Path("nowhere"))
    assert sum(map(len, packed.blocks)) <= 60_000
    assert packed.shown == 20 * 30
    assert read == list(range(len(read))), "in their order, each once"
    assert 20 * 30 < len(read) <= 20 * 38


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
