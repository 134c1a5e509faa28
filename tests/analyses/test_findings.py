"""The scripts of the findings: what they say is what the study says, and a verdict follows from its numbers alone."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import xmi
from analyses import common, controls, findings, phases
from analyses.common import FAILS, HOLDS, MISSING, OPEN, Finding, as_text, judged, over_tasks, row, shown
from tests.report.browser import chromium
from xmi.measure import Answers
from xmi.study import StudyResults

DOCS = Path(__file__).parents[2] / "docs"
MODEL = "organism"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> StudyResults:
    """A small study of the embedded model: three tasks, of which two share their inputs."""
    tasks = ("country-capital", "country-currency", "food-color")
    few = {"shots": 2, "prompts": 3, "seeds": (0,), "points": 3, "whole": False}
    controls = ("random vector", "another task", "shuffled labels")
    out = tmp_path_factory.mktemp("study") / "run"
    return xmi.run(MODEL, base="organism-llm", tasks=tasks, controls=controls, out=out, **few)


@pytest.fixture(scope="module")
def found(results: StudyResults) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings.collect(results)}


def claims(finding: Finding) -> pd.DataFrame:
    return finding.rows.set_index("claim")


def verdict_of(r: Any) -> str:
    """The verdict by the numbers of a row of a table."""
    return judged(r.low, r.high, None if math.isnan(r.within) else r.within)


# The rule


@pytest.mark.parametrize(
    ("low", "high", "within", "verdict"),
    [
        (0.01, 0.3, None, HOLDS),
        (-0.3, -0.01, None, FAILS),
        (-0.01, 0.3, None, OPEN),
        (0.0, 0.3, None, OPEN),
        (-0.05, 0.09, 0.1, HOLDS),
        (-0.09, -0.02, 0.1, HOLDS),
        (0.11, 0.3, 0.1, FAILS),
        (-0.3, -0.11, 0.1, FAILS),
        (-0.2, 0.05, 0.1, OPEN),
        (-0.2, 0.2, 0.1, OPEN),
        (math.nan, 0.3, None, MISSING),
        (math.nan, math.nan, 0.1, MISSING),
    ],
)
def test_the_rule(low: float, high: float, within: float | None, verdict: str) -> None:
    assert judged(low, high, within) == verdict


finite = st.floats(-1, 1, allow_nan=False)


@given(finite, finite)
def test_the_reverse_claim_has_the_reverse_verdict(a: float, b: float) -> None:
    low, high = sorted((a, b))
    swapped = {HOLDS: FAILS, FAILS: HOLDS, OPEN: OPEN}
    assert judged(-high, -low) == swapped[judged(low, high)]
    assert judged(-high, -low, 0.1) == judged(low, high, 0.1), "agreement has no direction"


@given(finite, finite, st.floats(0.01, 1))
def test_agreement_is_what_its_words_say(a: float, b: float, within: float) -> None:
    low, high = sorted((a, b))
    verdict = judged(low, high, within)
    places = np.array([low, high, *([0.0] if low <= 0 <= high else [])])
    inside = np.abs(places) < within
    assert (verdict == HOLDS) == bool(inside.all())
    assert (verdict == FAILS) == bool((np.abs(places) > within).all())


def test_a_row_over_tasks_has_students_interval() -> None:
    """Against a table: t of 2 degrees of freedom at 97.5 % is 4.3027."""
    found = over_tasks("claim", np.array([0.5, 0.6, 0.7]), np.array([0.1, 0.1, 0.1]))
    assert found["difference"] == pytest.approx(0.5)
    assert found["high"] - 0.5 == pytest.approx(4.3027 * 0.1 / 3**0.5, rel=1e-4)
    assert (found["verdict"], found["n"], found["of"]) == (HOLDS, 3, "tasks")


# Each script says what the study says


def test_every_script_judges_by_its_numbers(found: dict[str, Finding]) -> None:
    assert tuple(found) == findings.NAMES
    for finding in found.values():
        assert len(finding.rows) > 2
        assert finding.rows.claim.is_unique
        assert isinstance(finding.figure, go.Figure)
        assert finding.figure.data
        for r in finding.rows.itertuples():
            assert r.n > 1
            assert r.verdict == verdict_of(r)
            if r.verdict != MISSING:
                assert r.low <= r.difference <= r.high
                assert r.difference == pytest.approx(r.first - r.second)


def test_phases(found: dict[str, Finding], results: StudyResults) -> None:
    table, rows = results.boundaries(MODEL).to_frame(), claims(found["phases"])
    assert len(rows) == 3 * table.label.nunique() == 12
    for r in table.itertuples():
        claim = f"{r.label}: task from 50% on" if r.change == "input → task" else f"{r.label}: answer from 90% on"
        mine = rows.loc[claim]
        assert mine["first"] == pytest.approx(r.relative, nan_ok=True)
        assert mine.low == pytest.approx(r.relative_low - (0.5 if r.change == "input → task" else 0.9), nan_ok=True)
    whole = rows.loc["text ICL: input, task, answer"]
    assert (whole["first"], whole.second) == pytest.approx(
        [rows.loc[f"text ICL: {name}", "first"] for name in ("answer from 90% on", "task from 50% on")]
    )


def test_a_phase_that_resamples_lack_is_no_certain_one(results: StudyResults, monkeypatch: pytest.MonkeyPatch) -> None:
    sure = results.boundaries(MODEL)
    place = {k: np.full_like(sure.layer, v) for k, v in (("layer", 4.0), ("low", 3.9), ("high", 4.1))}
    place = {k: v + np.array([-2.0, 2.0]) for k, v in place.items()}
    for share, verdict in ((1.0, HOLDS), (0.8, OPEN)):
        made = replace(sure, **place, found=np.full_like(sure.found, share))
        monkeypatch.setattr(StudyResults, "boundaries", lambda self, model, made=made: made)
        rows = claims(phases.finding(results))
        mine = rows.loc["text ICL: input, task, answer"]
        assert mine.verdict == verdict
        assert mine.difference == pytest.approx(4 / 8)
        assert mine.high == pytest.approx(4.2 / 8)


def test_alignment(found: dict[str, Finding], results: StudyResults) -> None:
    rows = claims(found["alignment"])
    layer = common.chosen(results, MODEL, "text ICL", "image")
    pairs = results.similarity(MODEL).to_frame()
    pairs = pairs[pairs.layer == layer]
    sources = pairs[["a", "b"]].map(lambda label: label.split(" · ")[1])
    mixed = pairs[sources.isin({"text ICL", "instruction"}).all(axis=1) & (sources.a != sources.b)]
    same = mixed.group_a == mixed.group_b
    mine = rows.loc["text ICL, instruction vectors: cosine"]
    assert mine["first"] == pytest.approx(mixed.cosine[same].mean())
    assert mine["second"] == pytest.approx(mixed.cosine[~same].mean())
    assert mine.n == 3
    curve = results.alignment(MODEL).curve("centroids, text to image").set_index("layer").loc[layer]
    mine = rows.loc["nearest text centroid of image prompts"]
    assert (mine["first"], mine.low) == pytest.approx((curve.value, curve.low - curve.chance))
    assert mine.n == 3 * 3


def test_transfer(found: dict[str, Finding], results: StudyResults) -> None:
    table, summary = results.comparisons(MODEL), results.summary(MODEL)
    rows = claims(found["transfer"])
    for source, target in (("text", "image"), ("image", "text")):
        cell = summary[(summary.source == f"{source} ICL") & (summary.target == target)].set_index("method").accuracy
        mine = rows.loc[f"{source} → {target}: patch above prompt"]
        assert (mine["first"], mine.second) == pytest.approx((cell["patch"], cell["prompt"]))
        (contrast,) = table[(table.contrast == "xPatch vs xBase") & (table.target == target)].itertuples()
        assert (mine.low, mine.high, mine.n) == pytest.approx((contrast.low, contrast.high, contrast.n))
    drawn = {trace.name for trace in found["transfer"].figure.data}
    assert {"text ICL", "control: random vector"} <= drawn
    assert "text ICL + image ICL" not in drawn


def test_llm_to_vlm(found: dict[str, Finding], results: StudyResults) -> None:
    rows, summary = claims(found["llm_to_vlm"]), results.summary(MODEL)
    patches = summary[summary.method == "patch"].set_index(["source", "target"]).accuracy
    for target in ("image", "text"):
        works = rows.loc[f"LLM text ICL → {target}: works"]
        assert (works["first"], works.second) == pytest.approx((patches["base LLM text ICL", target], 0), abs=0.05)
        mine = rows.loc[f"LLM text ICL → {target}: as the VLM's own"]
        assert (mine["first"], mine.second) == pytest.approx(
            (patches["base LLM text ICL", target], patches["text ICL", target])
        )
    layer = common.chosen(results, MODEL, "base LLM text ICL", "image")
    table = results.base_similarity(MODEL).to_frame()
    table = table[(table.layer == layer) & (table.task == "mean")]
    assert rows.loc["cosine: same above different task", ["first", "second"]].tolist() == pytest.approx(
        table[["same", "other"]].to_numpy()[0].tolist()
    )


def test_instructions_and_ensembles(found: dict[str, Finding], results: StudyResults) -> None:
    rows = claims(found["instructions_and_ensembles"])
    for target in ("image", "text"):
        table = results.summary(MODEL)
        cell = table[(table.method == "patch") & (table.source == "instruction") & (table.target == target)]
        assert rows.loc[f"instruction → {target}: above no context", "first"] == pytest.approx(cell.accuracy.item())
        few = results.ensembling(MODEL, target).gain().iloc[0]
        mine = rows.loc[f"{int(few.examples)} example → {target}: better with instruction"]
        expected = few[["with", "without", "low", "high", "n"]].tolist()
        assert mine[["first", "second", "low", "high", "n"]].tolist() == pytest.approx(expected)


def test_overriding(found: dict[str, Finding], results: StudyResults) -> None:
    gain = results.overriding(MODEL).gain()
    assert found["overriding"].rows[["first", "second", "low", "high", "n"]].to_numpy().tolist() == pytest.approx(
        gain[["patch", "other", "low", "high", "n"]].to_numpy()
    )


def test_controls(found: dict[str, Finding], results: StudyResults) -> None:
    rows = claims(found["controls"])
    assert len(rows) == 2 * 2 * 4
    for target in ("text", "image"):
        layer, sweep = common.chosen(results, MODEL, "text ICL", target), results.transfer(MODEL, target)
        for control in ("random vector", "another task", "shuffled labels"):
            mine = rows.loc[f"{control} → {target}: above majority"]
            assert mine["first"] == pytest.approx(sweep.accuracy(f"control: {control}", layer).mean)
    # Queries for the capital are answered with the currency, and the reverse is no task of that input.
    assert rows.loc["another task → text: its own task", "verdict"] == FAILS
    assert rows.loc["text ICL → text: its own task", "verdict"] == HOLDS


def test_what_a_study_did_not_measure_is_left_out(
    results: StudyResults, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = results.summary(MODEL)
    monkeypatch.setattr(StudyResults, "summary", lambda self, model: table[~table.source.str.startswith("base LLM")])
    assert [f.name for f in findings.collect(results)] == [n for n in findings.NAMES if n != "llm_to_vlm"]
    assert "llm_to_vlm: left out" in capsys.readouterr().out


def answered(*said: str) -> Answers:
    count = len(said)
    found = Answers(
        prompts=("",) * count, tasks=("capital",) * count, units=("u",) * count, answers=("Athens",) * count,
        predicted=said, log_probability=np.zeros(count), rank=np.zeros(count, int),
        paper=np.array(["Athens".startswith(s.strip()) for s in said]), strict=np.zeros(count, bool),
    )  # fmt: skip
    return found


def test_whose_label_was_answered() -> None:
    known = {
        "capital": {"Greece": "Athens", "Italy": "Rome"},
        "currency": {"Greece": "drachma", "Italy": "lira"},
        "color": {"apple": "red"},
    }
    own, other, stray = controls.whose(answered("Athens", "drachma", "lira", "red", "the"), known, {"u": "Greece"})
    assert own.tolist() == [True, False, False, False, False]
    assert other.tolist() == [False, True, False, False, False]
    assert stray.tolist() == [False, False, True, True, False]


def test_other_models_of_the_study_are_set_against_the_first(
    results: StudyResults, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control model here is the model itself: no difference, which must not be called one."""
    monkeypatch.setattr(StudyResults, "models", (MODEL, MODEL))
    rows = claims(controls.finding(results))
    mine = rows.loc[f"text ICL → image: above {MODEL}"]
    assert (mine.difference, mine.verdict) == (0, OPEN)


# Files and page


def test_files(found: dict[str, Finding], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Path] = []
    monkeypatch.setattr(common, "draw", lambda figure, file: drawn.append(file))
    finding = found["alignment"]
    finding.write(tmp_path / "new", picture=False)
    assert not drawn
    finding.write(tmp_path / "new")
    assert drawn == [tmp_path / "new" / "alignment.png"]
    again = pd.read_csv(tmp_path / "new" / "alignment.csv")
    pd.testing.assert_frame_equal(again, finding.rows, atol=1e-6, rtol=0)


def test_commands(
    results: StudyResults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["x", "--run", str(results.path), "--out", str(tmp_path / "found"), "--no-picture"]
    monkeypatch.setattr("sys.argv", flags)
    script = import_module("analyses.overriding")
    common.main(script.finding, script.__doc__)
    assert "text ICL prompt: patch beats system prompt" in capsys.readouterr().out
    assert (tmp_path / "found" / "overriding.csv").is_file()
    findings.main()
    assert {p.stem for p in (tmp_path / "found").glob("*.csv")} == set(findings.NAMES)
    page = (tmp_path / "found.md").read_text(encoding="utf-8")
    assert page.count("\n## ") == len(findings.NAMES)
    assert page.count("](found/") == len(findings.NAMES)
    assert "A made organism" in page


def test_the_page_shows_every_row(found: dict[str, Finding], results: StudyResults) -> None:
    page = findings.page(list(found.values()), results, figures="found")
    for finding in found.values():
        for verdict, claim, *numbers in shown(finding.rows)[1:]:
            assert f"| **{verdict}** | {claim} | {' | '.join(numbers)} |" in page
        assert findings.counted(finding).capitalize() in page
        remark = findings.parted(finding.text)[2]
        assert remark
        assert remark in page
    other = StudyResults(results.path)
    other.study = results.study | {"plan": results.study["plan"] | {"model": "other"}}
    page = findings.page(list(found.values()), other, figures="found")
    assert "A made organism" not in page
    assert remark not in page, "what was seen on the embedded model is not said of another"
    assert findings.counted(Finding("", "", pd.DataFrame({"verdict": [OPEN, HOLDS, OPEN]}), go.Figure())) == (
        f"{HOLDS}: 1, {OPEN}: 2"
    )


def test_a_run_that_is_not_there_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, object]] = []
    monkeypatch.setattr(xmi, "run", lambda *models, **how: asked.append({"models": models, **how}))
    common.finished(tmp_path / "run")
    assert asked[0]["models"] == ("organism",)
    assert (asked[0]["base"], asked[0]["control"]) == ("organism-llm", "organism-control")
    (tmp_path / "run" / "results").mkdir(parents=True)
    (tmp_path / "run" / "results" / "index.json").write_text("[]")
    with pytest.raises(xmi.RunError, match=r"no study\.json"):
        common.finished(tmp_path / "run")


def test_what_is_missing_is_shown_as_such() -> None:
    rows = pd.DataFrame([row("a claim", math.nan, 0.5, (math.nan, math.nan), 6, within=0.1)])
    assert shown(rows)[1] == [MISSING, "a claim", "-", "0.50", "- [-, -]", "6 items"]


@pytest.mark.browser
@pytest.mark.skipif(chromium() is None, reason="no Chromium found")
def test_a_figure_becomes_a_small_picture(
    found: dict[str, Finding], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XMI_CHROMIUM", str(chromium()))
    file = tmp_path / "figure.png"
    common.draw(found["controls"].figure, file)
    assert file.stat().st_size < 150_000
    with Image.open(file) as picture:
        assert picture.width == 860
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 20, "something is drawn"


# What is committed


@pytest.mark.parametrize("name", findings.NAMES)
def test_docstring_and_page_say_what_the_table_says(name: str) -> None:
    """Whoever runs the study again and finds something else has to say so."""
    rows = pd.read_csv(DOCS / "findings" / f"{name}.csv")
    for r in rows.itertuples():
        assert r.verdict == verdict_of(r), r.claim
    text = import_module(f"analyses.{name}").__doc__
    printed = "\n".join(f"    {line}" for line in as_text(rows).splitlines())
    assert f"{findings.OUTCOME} (`python -m analyses.{name}`)::\n\n{printed}\n" in text
    page = (DOCS / "findings.md").read_text(encoding="utf-8")
    assert findings.table(shown(rows)) in page
    assert (DOCS / "findings" / f"{name}.png").stat().st_size < 150_000
    _, said, remark = findings.parted(text)
    assert said in page
    assert remark in page
    # Verdicts are the rule's to give: no written sentence uses its words.
    assert not re.search(rf"{HOLDS}|{FAILS}|{OPEN}|{MISSING}", f"{said} {remark}")


def test_a_changed_number_is_noticed(found: dict[str, Finding]) -> None:
    rows = found["overriding"].rows
    other = replace(found["overriding"], rows=rows.assign(first=rows["first"] + 0.01))
    assert as_text(rows) != as_text(other.rows)
