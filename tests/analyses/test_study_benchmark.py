"""The study benchmark: what it counts, how it extrapolates, what it prints; not how fast anything is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean, pvariance

import pytest

import xmi
from analyses.benchmarks import study
from analyses.benchmarks.study import Job, Result, Sides, Stratum
from tests.command import run
from tests.study.sealing import reseal
from xmi.study import StudyResults
from xmi.study.plan import Plan

ROOT = Path(__file__).parents[2]
COMMAND = "analyses.benchmarks.study"
TINY = ["--task", "food-color", "--seeds", "1", "--seconds", "1"]
PLAN = {"tasks": ("food-color",), "seeds": (0, 1), "shots": 2, "prompts": 3, "points": 3}


@pytest.fixture(autouse=True)
def _one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that does other work, several threads of so small a model wait for each other."""
    monkeypatch.setattr(study.os, "cpu_count", lambda: 1)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> StudyResults:
    """A small study of the embedded model."""
    return xmi.run("organism", base="organism-llm", out=tmp_path_factory.mktemp("study") / "run", **PLAN)


@pytest.fixture(scope="module")
def sides(results: StudyResults) -> Sides:
    return Sides.of(Plan.model_validate(results.study["plan"]))


def test_everything_that_the_study_stored_is_counted(results: StudyResults, sides: Sides) -> None:
    strata = {s.kind: s for s in study.strata_of(results, sides)}
    records, task, layers = list(results.records()), xmi.task("food-color"), 8
    sources = {r["source"] for r in records if r["method"] == "patch"}
    assert len(sources) >= 10
    items = len(task.split("validation")) + len(task.split("test"))
    for target in ("text", "image"):
        assert strata[f"patch > {target}"].calls == len(sources) * 2 * items * layers
        assert strata[f"no context > {target}"].calls == 2 * len(task.split("test"))
        for source in ("text", "image"):
            assert strata[f"prompt · {source} ICL > {target}"].calls == 2 * len(task.split("test"))
    read = {k: s.calls for k, s in strata.items() if k.startswith("vector")}
    for source in ("image ICL", "base LLM text ICL"):
        cards = [results.vector("organism", "food-color", source, seed).card for seed in (0, 1)]
        # Prompts of one seed could be drawn again under the other.
        assert read[f"vector · {source}"] in range(max(c.n for c in cards), sum(c.n for c in cards) + 1)
    assert read["vector · instruction"] == len(task.instructions), "once, whatever the seed"
    few = 2  # of the source `1 example`
    assert read["vector · text ICL"] == read["vector · base LLM text ICL"] + few, "the slots of a prompt count once"
    beyond = ("ensembling", "overriding")
    others = sum(s.calls for k, s in strata.items() if not k.startswith("vector") and not any(b in k for b in beyond))
    assert others == sum(len(r.get("layers", "1")) for r in records)
    curve = results.ensembling("organism", "image")
    sets = 1 + 2 * len(curve.examples) * len(curve.seeds)
    assert strata["patch · ensembling, test > image"].calls == sets * len(task.split("test"))
    assert strata["patch · ensembling, validation > image"].calls == sets * len(task.split("validation")) * layers


def test_the_published_algorithm_gives_the_stored_answers(results: StudyResults, sides: Sides) -> None:
    strata = study.strata_of(results, sides)
    study.sample(strata, 0.0)
    assert all(len(s.seconds) == min(study.LEAST, len(s.jobs)) for s in strata)
    found = Result((1.0,), tuple(strata), 1, results.study["plan"])
    assert found.agreement == 1.0
    assert sum(s.compared for s in strata) >= 2 * 4 * 8 + 8 * 4


def test_other_answers_are_refused(results: StudyResults, monkeypatch: pytest.MonkeyPatch) -> None:
    def tampered(_options: Sequence[str], out: Path, _scratch: Path) -> float:
        out.mkdir()
        for part in ("tables", "vectors", "images"):
            (out / part).symlink_to(results.path / part)
        shutil.copytree(results.path / "results", out / "results")
        shutil.copy(results.path / "study.json", out)
        records = [r | {"predicted": ["?"] * 8 if "layers" in r else "?"} for r in results.records()]
        (out / "records.jsonl").write_text("\n".join(json.dumps(r) for r in records), encoding="utf-8")
        reseal(out)
        return 1.0

    monkeypatch.setattr(study, "run_study", tampered)
    with pytest.raises(RuntimeError, match=r"0\.0%"):
        study.measure([], repeats=1, seconds=0.1)


def test_a_study_that_fails_is_reported(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="nonsense"):
        study.run_study(["organism", "--task", "nonsense"], tmp_path / "out", tmp_path)


def measured(times: Sequence[float], count: int) -> Stratum:
    """A stratum of so many jobs, of which some took the given times."""
    return Stratum("some", [Job(1, list)] * count, list(times))


def test_extrapolation_is_unbiased() -> None:
    """Over all samples that could have been drawn: the mean of the totals, and of the variances, is the true one."""
    times = [0.1, 0.4, 0.2, 0.9, 0.3, 0.35]
    strata = [measured(drawn, len(times)) for drawn in combinations(times, 3)]
    assert fmean(s.total for s in strata) == pytest.approx(sum(times))
    assert fmean(s.variance for s in strata) == pytest.approx(pvariance([s.total for s in strata]))
    assert measured(times, len(times)).variance == 0.0


def test_intervals_of_all_kinds_add_up() -> None:
    strata = (measured([1.0, 3.0], 10), measured([0.5, 0.5], 4), measured([2.0], 1))
    found = Result((4.0, 2.0, 9.0), strata, 1, {"tasks": [], "seeds": []})
    total, low, high = found.published
    assert total == pytest.approx(20.0 + 2.0 + 2.0)
    half = 1.959964 * (10 * 8 * 2.0 / 2) ** 0.5
    assert (low, high) == pytest.approx((max(0.0, total - half), total + half))
    assert found.reached == {"seconds": 4.0, "published_over": pytest.approx(total / 4)}
    assert found.over[1:] == pytest.approx((low / 4, high / 4))


def test_sampling_goes_where_it_tells_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fake clock: 50 jobs of wavering length, 50 of a steady one, and three; then until nothing is left."""
    clock = [0.0]
    monkeypatch.setattr(study.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(study.time, "monotonic", lambda: clock[0])

    def taking(seconds: float) -> Job:
        def do() -> list[str]:
            clock[0] += seconds
            return ["yes"]

        return Job(1, do, ["yes"])

    wavering = Stratum("wavering", [taking(0.5 + i % 5) for i in range(50)])
    steady = Stratum("steady", [taking(1.0) for _ in range(50)])
    few = Stratum("few", [taking(1.0) for _ in range(3)])
    study.sample([wavering, steady, few], 60.0)
    assert len(few.seconds) == 3
    assert len(steady.seconds) == study.LEAST
    assert len(wavering.seconds) > 4 * study.LEAST
    assert 60.0 <= clock[0] < 65.0
    assert steady.alike == steady.compared == study.LEAST
    study.sample([wavering, few], 1e9)
    assert wavering.total == pytest.approx(sum(0.5 + i % 5 for i in range(50)))


def test_the_faster_number_of_threads_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fake clock and a fake machine on which two threads take three times as long as one."""
    clock, threads = [0.0], [0]
    monkeypatch.setattr(study.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(study.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(study.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(study.torch, "set_num_threads", lambda count: threads.__setitem__(0, count))

    def do() -> list[str]:
        clock[0] += 2 * threads[0] - 1
        return []

    found, best = study.fastest([Stratum("some", [Job(1, do)] * 100)], 20.0)
    assert (best, threads[0]) == (1, 1)
    assert found[0].total == pytest.approx(100.0)


@pytest.mark.parametrize("wrong", [["--seeds", "0"], ["--repeats", "0"], ["--seconds", "0"]], ids=" ".join)
def test_wrong_numbers_are_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        study.main(["--quick", *wrong])
    assert wrong[0] in capsys.readouterr().err


@pytest.mark.nightly
def test_the_command_runs_the_study_itself(tmp_path: Path) -> None:
    options = ["--repeats", "1", "--out", str(tmp_path / "page.md"), *TINY]
    done = run(COMMAND, *options, module=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert found["seconds"] > 1 and found["same_answers"] >= 0.99


def test_it_writes_a_page_of_every_kind_and_ends_with_a_json_object(
    results: StudyResults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a study that is there; that the command runs one itself is seen at night."""

    def stored(_options: Sequence[str], out: Path, _scratch: Path) -> float:
        out.symlink_to(results.path)
        return 1.5

    monkeypatch.setattr(study, "run_study", stored)
    out = tmp_path / "study_speed.md"
    assert study.main(["--repeats", "1", "--out", str(out), *TINY]) == 0
    text = out.read_text(encoding="utf-8")
    assert "`xmi run organism --base organism-llm --seeds 1 --task food-color`" in text
    for kind in ("patch to image", "prompt · text ICL to image", "no context to text", "vector · image ICL"):
        assert text.count(f"\n| {kind} |") == 1
    assert {line.count("|") for line in text.splitlines() if line.startswith("|")} == {4, 7}
    assert str(tmp_path) not in text
    assert str(ROOT) not in text
    found = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert found["targets"] == {"seconds": 60.0, "published_over": 30.0}
    assert found["seconds"] == 1.5
    assert found["published_over"] == pytest.approx(found["published_seconds"] / found["seconds"])
    low, high = found["published_over_interval"]
    assert 0 < low <= found["published_over"] <= high
    assert found["published_calls"].keys() == {"patch", "prompt", "no context", "vector"}
    assert 0 < found["published_calls_sampled"] < sum(found["published_calls"].values())
    assert found["same_answers"] >= 0.99
    assert (found["tasks"], found["seeds"]) == (1, 2)


def test_the_page_says_how_often_the_study_was_run() -> None:
    strata = (measured([1.0, 3.0], 10),)
    found = Result((4.0, 2.0), strata, 1, {"tasks": ["food-color"], "seeds": [0]})
    assert "median of 2 runs" in study.page(found, ["organism"], "python -m analyses.benchmarks.study")


def test_quick_takes_one_run_and_a_small_sample(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: dict[str, object] = {}

    def measure(options: Sequence[str], **given: object) -> Result:
        asked.update(given, options=list(options))
        return Result((4.0,), (measured([1.0, 3.0], 10),), 1, {"tasks": ["food-color"], "seeds": [0]})

    monkeypatch.setattr(study, "measure", measure)
    assert study.main(["--quick", "--task", "food-color", "--seconds", "90"]) == 0
    assert asked["repeats"] == 1 and asked["seconds"] == 40.0 and asked["quick"] is True
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["seconds"] == 4.0
