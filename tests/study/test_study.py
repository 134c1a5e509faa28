"""A whole study on a tiny random model: what it stores, how it resumes, what it refuses."""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import xmi
from tests import command
from tests.study.kill import SCRIPT, files, kill, start
from tests.zoo.world import make_world
from xmi.study import CONTROLS, StudyResults
from xmi.study.store import Store, locked


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a VLM, its base LLM, and two tasks of eight items."""
    return make_world(tmp_path_factory.mktemp("world"), size=(200, 120))


def run(world: Path, out: Path, **changes: object) -> StudyResults:
    tasks = [str(world / f"{t}.json") for t in ("capital", "name")]
    options = {"base": world / "base", "tasks": tasks, "shots": 2, "prompts": 4, "seeds": (0, 1), "points": 4}
    return xmi.run(world / "eye", out=out, **(options | changes))


@pytest.fixture(scope="module")
def finished(world: Path, tmp_path_factory: pytest.TempPathFactory) -> StudyResults:
    return run(world, tmp_path_factory.mktemp("runs") / "whole")


def test_records_hold_every_answer(finished: StudyResults) -> None:
    records = list(finished.records())
    assert len({r["key"] for r in records}) == len(records)
    tasks, seeds, items, sources = 2, 2, 2, 10 + len(CONTROLS)
    prompted = [r for r in records if r["method"] != "patch"]
    assert len(prompted) == tasks * seeds * items * 8
    patched = [r for r in records if r["method"] == "patch"]
    assert len(patched) == tasks * seeds * sources * 2 * (2 + items)
    assert all(len(r["predicted"]) == len(r["layers"]) == 4 for r in patched)
    for record in records:
        for segment in record["prompt"]:
            if "image" in segment:
                with Image.open(finished.path / "images" / segment["image"]) as picture:
                    assert max(picture.size) == 96
    shown = next(r for r in prompted if r["source"] == "image ICL" and r["target"] == "image")
    assert "".join(s.get("text", "<image>") for s in shown["prompt"]).count("Q:<image>\nA:") == 3


def test_summary_follows_from_the_records(finished: StudyResults) -> None:
    """The table recomputed from the raw answers: mean over tasks of the mean over items, layer from validation."""
    table = finished.summary("eye")
    records = list(finished.records())
    for row in table.itertuples():
        if row.method == "majority":
            assert row.accuracy == 0, "no label of a test item occurs among the training items"
            continue
        same = [r for r in records if (r["method"], r["source"], r["target"]) == (row.method, row.source, row.target)]
        assert same
        layer = 0
        if row.method == "patch":
            chosen_on = [r for r in same if r["split"] == "validation"]
            curves = [mean_of(chosen_on, i) for i in range(4)]
            likely = [np.mean([r["log_probability"][i] for r in chosen_on]) for i in range(4)]
            layer = max(range(4), key=lambda i: (round(curves[i], 9), likely[i]))
            assert layer == row.layer
        assert row.accuracy == pytest.approx(mean_of([r for r in same if r["split"] == "test"], layer))
        assert row.n == 4


def test_contrasts_follow_from_the_records(finished: StudyResults) -> None:
    table, summary = finished.comparisons("eye"), finished.summary("eye")
    assert {"xPatch vs xBase", "patch vs control", "ensemble vs part", "base LLM vs own"} <= set(table.contrast)
    for row in table.itertuples():
        assert row.low <= row.difference <= row.high
        assert row.p <= row.p_bh <= row.p_holm
    accuracy = summary.set_index(["method", "source", "target"]).accuracy
    (cross,) = table[(table.contrast == "xPatch vs xBase") & table.a.str.startswith("text ICL")].itertuples()
    assert cross.difference == pytest.approx(
        accuracy["patch", "text ICL", "image"] - accuracy["prompt", "text ICL", "image"]
    )


def mean_of(records: list[dict[str, object]], layer: int) -> float:
    tasks = sorted({str(r["task"]) for r in records})
    hits = {t: [r["paper"] for r in records if r["task"] == t] for t in tasks}
    values = [[h[layer] if isinstance(h, list) else h for h in hits[t]] for t in tasks]
    return float(np.mean([np.mean(v) for v in values]))


def test_results_can_be_read_without_a_model(finished: StudyResults) -> None:
    again = StudyResults(finished.path)
    assert again.models == ("eye",)
    phases = again.phases("eye")
    assert {"text ICL", "image ICL", "<b>capital · text ICL"} <= phases.keys()
    np.testing.assert_allclose(phases["image ICL"].relative.sum(-1), 1.0, rtol=1e-6)
    assert again.similarity("eye").values.shape == (4, 6, 6)
    assert again.projection("eye", "tsne").points.shape == (4, 16, 2)
    assert again.silhouette("eye").layers == (0, 1, 2, 3)
    assert again.transfer("eye", "image").sources[0] == "text ICL"
    with pytest.raises(xmi.RunError, match="no result"):
        again.answers("eye", "text ICL > video")
    vector = xmi.TaskVector.load(next(again.path.glob("vectors/eye.0.*base-LLM-text*.safetensors")))
    assert vector.card.model.endswith("base")


def test_a_finished_run_is_not_computed_again(
    world: Path, finished: StudyResults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xmi.study.work.load", lambda *a, **k: pytest.fail("a model was loaded"))
    assert run(world, finished.path).models == finished.models


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_killed_run_continues_and_ends_equal(world: Path, finished: StudyResults, tmp_path: Path, how: int) -> None:
    out = tmp_path / "killed"
    with start(world, out) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("[ 4/"):
                time.sleep(0.05)
                process.send_signal(how)
                break
        process.wait()
    assert process.returncode != 0
    done = sorted(p.name for p in (out / "cells").glob("*.json"))
    assert 4 <= len(done) < 11
    assert not (out / "results").exists()
    with pytest.raises(xmi.RunError, match="unfinished"):
        StudyResults(out)
    said: list[str] = []
    run(world, out, say=said.append)
    # A worker may finish the cell it is at while it learns that its parent is gone.
    assert 0 <= sum("done before" in line for line in said) - len(done) <= 2
    assert files(out) == files(finished.path)


@pytest.mark.nightly
def test_a_run_killed_at_random_moments_ends_equal(world: Path, finished: StudyResults, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    assert kill(world, out, times=3, longest=1.5) >= 2
    run(world, out)
    assert files(out) == files(finished.path)


def test_a_run_killed_while_its_tables_are_written_is_unfinished(
    world: Path, finished: StudyResults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished.path, out)
    for path in [*out.glob("results/*"), *out.glob("tables/*"), out / "records.jsonl"]:
        path.unlink()
    write, done = Store.write, []

    def dies(self: Store, name: str, content: str | bytes) -> Path:
        if len(done) == 9:
            raise KeyboardInterrupt
        done.append(name)
        return write(self, name, content)

    monkeypatch.setattr(Store, "write", dies)
    with pytest.raises(KeyboardInterrupt):
        run(world, out)
    assert any(name.startswith("results/") for name in done)
    with pytest.raises(xmi.RunError, match="unfinished"):
        StudyResults(out)
    monkeypatch.undo()
    run(world, out)
    assert files(out) == files(finished.path)


def test_a_second_process_is_refused(world: Path, finished: StudyResults) -> None:
    with locked(finished.path), pytest.raises(xmi.RunError, match="Another process is at work"):
        run(world, finished.path)
    run(world, finished.path)


@pytest.mark.slow
def test_a_full_disk_loses_nothing(world: Path, finished: StudyResults, tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk: the writes fail in the same place."""
    out = tmp_path / "full"
    limit = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (30000, resource.RLIM_INFINITY));"
    )
    code = f"{limit}{SCRIPT}"
    done = command.run(code, str(world), str(out), "fork")
    assert done.returncode != 0
    assert "RunError: Cannot write" in done.stderr
    assert "What was finished is kept" in done.stderr
    assert list((out / "cells").glob("*.json"))
    run(world, out)
    kept = {name: content for name, content in files(out).items() if not name.endswith(".tmp")}
    assert kept == files(finished.path)


def test_a_changed_plan_can_start_another_run_beside(world: Path, finished: StudyResults, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished.path, out)
    with pytest.raises(xmi.RunError, match=r"points: 4 -> 3\n.*--fork"):
        run(world, out, points=3, seeds=(0, 1))
    beside = run(world, out, points=3, seeds=(0,), controls=(), sources=("text ICL",), fork=True)
    assert beside.path.parent == tmp_path
    assert beside.path.name.startswith("run-")
    assert run(world, out, points=3, seeds=(0,), controls=(), sources=("text ICL",), fork=True).path == beside.path
    assert files(out) == files(finished.path)
    assert set(beside.summary("eye").source) == {"no context", "majority", "text ICL", "image ICL", "instruction"}
    assert run(world, out, fork=True).path == out, "the plan has not changed"


def test_another_plan_is_refused(world: Path, finished: StudyResults) -> None:
    with pytest.raises(xmi.RunError, match="shots: 2 -> 1"):
        run(world, finished.path, shots=1)


def test_bad_input_is_found_before_a_model_is_loaded(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xmi.study.work.load", lambda *a, **k: pytest.fail("a model was loaded"))
    with pytest.raises(xmi.TaskError, match="4 shots need 5"):
        run(world, tmp_path / "a", shots=4)
    with pytest.raises(xmi.TaskError, match="country-capital"):
        run(world, tmp_path / "b", tasks=["nonsense"])
    (tmp_path / "eye").symlink_to(world / "eye")
    with pytest.raises(xmi.RunError, match="both called eye"):
        run(world, tmp_path / "d", control=tmp_path / "eye")
    (tmp_path / "file").write_text("")
    with pytest.raises(xmi.RunError, match="Cannot write to the run folder"):
        run(world, tmp_path / "file" / "run")
    with pytest.raises(xmi.RunError, match=r"no study.json"):
        StudyResults(tmp_path)
    with pytest.raises(xmi.RunError, match="seeds"):
        run(world, tmp_path / "c", seeds=(0, 0))


def test_layers_that_a_model_lacks_are_refused_before_anything_is_computed(world: Path, tmp_path: Path) -> None:
    with pytest.raises(xmi.RunError, match=r"eye has the layers 0 to 3; the plan also asks for 4, 5\."):
        run(world, tmp_path / "run", layers=(3, 4, 5))
    assert not (tmp_path / "run").exists()
