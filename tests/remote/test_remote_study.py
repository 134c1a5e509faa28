"""A whole study on a host: what the same study gives here, for one request per cell, and nothing lost or paid twice."""

from __future__ import annotations

import csv
import json
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

import xmi
from tests.command import run_xmi
from tests.remote import kill
from tests.remote.compare import TOLERANCE, differences
from tests.remote.loopback import KEY, Loopback
from xmi.proof import PROOF
from xmi.remote import host as host_module
from xmi.storage import DIGEST
from xmi.study import StudyResults

TASKS = ["country-capital", "country-currency"]
OPTIONS: dict[str, Any] = {"base": "organism-llm", "tasks": TASKS, "shots": 2, "prompts": 4, "seeds": (0,)}
STARTING = 3
"""Requests before the first cell: two texts and a picture prove the model, one token says what the host runs."""


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The client's environment: a key, and a cache of its own."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("cache")
        patch.setenv("XMI_CACHE", str(home))
        patch.setenv("NDIF_API_KEY", KEY)
        patch.setattr(host_module, "PAUSES", (0.01, 0.01, 0.01))
        yield home


@pytest.fixture(scope="module")
def near(tmp_path_factory: pytest.TempPathFactory) -> StudyResults:
    return xmi.run("organism", out=tmp_path_factory.mktemp("near"), workers=1, device="cpu", **OPTIONS)


@dataclass(frozen=True)
class Far:
    """A study on the host, and what there was to be seen of it."""

    results: StudyResults
    printed: str
    before: dict[str, Any]
    after: dict[str, Any]


@pytest.fixture(scope="module")
def far(server: Loopback, tmp_path_factory: pytest.TempPathFactory) -> Far:
    """The same study on the loopback server, run from the command line."""
    out, before = tmp_path_factory.mktemp("far"), server.stats()
    flags = ["--base", "organism-llm", "--shots", "2", "--prompts", "4", "--seeds", "1", "--out", str(out)]
    flags += [part for task in TASKS for part in ("--task", task)]
    done = run_xmi("run", "organism", "--remote", server.url, *flags)
    assert done.returncode == 0, done.stderr
    return Far(StudyResults(out), done.stdout + done.stderr, before, server.stats())


def read(path: Path) -> Any:
    """A file of a run as builtins and arrays."""
    match path.suffix:
        case ".csv":
            with path.open(encoding="utf-8", newline="") as stream:
                return [[number(cell) for cell in row] for row in csv.reader(stream)]
        case ".json":
            content = json.loads(path.read_text(encoding="utf-8"))
            if "tables" in content:  # the index
                return [content["tables"], content["results"]]
            return content.get("measured", content)  # of a cell, without what says where it was made
        case ".jsonl":
            return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        case ".safetensors":
            with safe_open(path, framework="pt") as stored:
                card = {name: text for name, text in (stored.metadata() or {}).items() if name != DIGEST}
                return [{name: stored.get_tensor(name) for name in stored.keys()}, card]  # noqa: SIM118
    return path.read_bytes()


def number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def contents(folder: Path) -> dict[str, Path]:
    """What a study found, by name: its files but those that say when and where."""
    where = ("tables", "results", "cells", "vectors", "images")
    found = [path for name in where for path in sorted((folder / name).rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path for path in [*found, folder / "records.jsonl"]}


def test_it_finds_there_what_it_finds_here(near: StudyResults, far: Far) -> None:
    here, there = contents(near.path), contents(far.results.path)
    assert list(here) == list(there)
    assert {Path(name).suffix for name in here} == {".csv", ".json", ".jsonl", ".safetensors", ".png"}
    # Stored numbers are rounded to five decimals: two that differ by less may part by one step.
    atol = {name: 1.1 * TOLERANCE if name.startswith(("records", "cells", "tables")) else TOLERANCE for name in here}
    wrong = {name: differences(read(here[name]), read(there[name]), atol=atol[name]) for name in here}
    base_comparison = [name for name in here if "base_comparison" in name]
    assert base_comparison and all(
        "moved" in line for name in base_comparison for line in wrong.pop(name)
    )  # how far weights moved
    assert {name: found[:3] for name, found in wrong.items() if found} == {}
    assert near.study["plan"] == far.results.study["plan"]
    assert (
        np.isfinite(near.base_comparison("organism").moved).all()
        and np.isnan(far.results.base_comparison("organism").moved).all()
    )


def test_a_cell_is_a_request(far: Far) -> None:
    """But for what cannot be known beforehand."""
    traffic = far.results.traffic().set_index("cell")
    expected = {
        "organism.0.all.base": 1,
        "organism.0.country-capital.read": 1,
        "organism.0.country-currency.read": 1,
        PROOF: 2,  # once per model and kind of query (text, images): that sweeps may be packed
        "organism.0.country-capital.ask": 1,
        "organism.0.country-currency.ask": 1,
        "organism.0.all.ensembling": 3,  # vectors; sweeps over all layers on validation items; the best, on test items
        "organism.0.all.overriding": 2,  # vectors; the prompts that they are patched into
    }
    assert traffic.requests.to_dict() == expected  # nothing for the base_comparison and the geometry
    # The model's own start, and the base LLM's, which has no picture to prove.
    started = STARTING + STARTING - 1
    assert far.after["requests"] - far.before["requests"] == sum(expected.values()) + started
    assert (
        far.after["seen"]["POST /request"] - far.before["seen"].get("POST /request", 0)
        == sum(expected.values()) + started
    )
    mine = {job["id"]: job for job in far.after["jobs"][far.before["requests"] :]}
    attempts = [attempt for _, attempt in ledger(far.results.path)]
    assert sorted(mine[attempt["job_id"]]["payload_bytes"] for attempt in attempts) == sorted(a["up"] for a in attempts)
    assert traffic.down.sum() == sum(mine[attempt["job_id"]]["result_bytes"] for attempt in attempts)
    assert (traffic[["up", "down"]] < 1e6).all(axis=None)
    assert {job["runs"] for job in mine.values()} == {1}


def ledger(run: Path) -> list[tuple[str, dict[str, Any]]]:
    """Every attempt in a run folder, with the job's fingerprint."""
    jobs = [json.loads(path.read_text()) for path in sorted((run / "jobs").glob("*.json"))]
    return [(job["fingerprint"], attempt) for job in jobs for attempt in job["attempts"]]


def test_results_are_not_kept_twice(far: Far, home: Path) -> None:
    """What a cell has stored is no longer kept among the jobs."""
    assert ledger(far.results.path) and {p.suffix for p in (far.results.path / "jobs").iterdir()} == {".json"}
    kept = [path for path in (home / "remote").rglob("*") if path.is_file()]
    assert kept and {path.suffix for path in kept} == {".json"}
    assert not StudyResults(far.results.path).traffic().empty


def test_a_study_here_has_no_traffic(near: StudyResults) -> None:
    assert near.traffic().empty and list(near.traffic().columns) == ["cell", "requests", "up", "down", "seconds"]


def test_the_provenance_says_what_ran_where(server: Loopback, near: StudyResults, far: Far) -> None:
    provenance = far.results.study["provenance"]
    assert set(provenance["hosts"]) == {"organism", "organism base LLM"}
    said = provenance["hosts"]["organism"]
    assert said["host"] == server.url and "xmi/organism" in said["model_key"]
    assert said["model_key"] != provenance["hosts"]["organism base LLM"]["model_key"]
    assert (said["dtype"], said["device"]) == ("float32", "cpu")
    assert said["torch"] == provenance["versions"]["torch"] and said["nnsight"] and said["transformers"]
    assert provenance["models"] == near.study["provenance"]["models"]
    assert "hosts" not in near.study["provenance"]


def test_the_key_is_nowhere(far: Far, home: Path) -> None:
    files = [path for folder in (far.results.path, home) for path in folder.rglob("*") if path.is_file()]
    assert {"report.html", "study.json"} < {path.name for path in files}
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
    assert KEY not in far.printed and "organism.0.all.base: submitted as job" in far.printed


def test_a_finished_study_asks_nothing(server: Loopback, far: Far) -> None:
    before = server.stats()["seen"]
    xmi.run("organism", out=far.results.path, remote=server.url, **OPTIONS)
    after = server.stats()["seen"]
    assert {name: count for name, count in after.items() if "_test" not in name} == {
        name: count for name, count in before.items() if "_test" not in name
    }


# What goes wrong

SMALL: dict[str, Any] = {
    "tasks": ["country-capital"], "sources": ("text ICL",), "targets": ("text",), "controls": (), "experiments": (),
    "shots": 2, "prompts": 4, "seeds": (0,), "layers": (1, 3), "points": 4,
}  # fmt: skip
READ, ASK = "organism.0.country-capital.read", "organism.0.country-capital.ask"


@pytest.fixture(scope="module")
def small(server: Loopback, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a small study on the host that nothing disturbed."""
    return stored(xmi.run("organism", out=tmp_path_factory.mktemp("small"), remote=server.url, **SMALL).path)


def stored(run: Path) -> dict[str, bytes]:
    return {name: path.read_bytes() for name, path in contents(run).items()}


def once_loaded(act: Callable[[], None]) -> Callable[[str], None]:
    """A `say` that does something when the model is loaded, before the first cell."""
    return lambda line: act() if line.startswith("loading and checking organism ") else None


def requests(server: Loopback) -> int:
    return int(server.stats()["requests"])


def test_a_failed_job_names_its_cell_and_is_sent_again_on_request(
    server: Loopback, small: dict[str, bytes], tmp_path: Path
) -> None:
    out, plan = tmp_path / "run", tmp_path / "plan.yaml"
    plan.write_text(json.dumps({"model": "organism", **SMALL}))  # JSON is YAML
    before = requests(server)
    with pytest.raises(xmi.JobError, match=rf"(?s){READ}: .*CUDA out of memory.*--resubmit") as caught:
        xmi.run(
            plan=plan, out=out, remote=server.url, say=once_loaded(lambda: server.faults(error="CUDA out of memory"))
        )
    assert KEY not in shown(caught.value)
    assert requests(server) == before + STARTING + 1

    again = run_xmi("run", "--plan", str(plan), "--out", str(out), "--remote", server.url)
    assert again.returncode == 1 and KEY not in again.stdout + again.stderr
    assert again.stderr.splitlines()[-3].startswith(f"error (JobError): {READ}: the host could not run the job")
    assert "CUDA out of memory" in again.stderr and "Traceback" not in again.stderr
    assert requests(server) == before + 2 * STARTING + 1  # the model was looked at, the cell was not sent

    done = xmi.run(plan=plan, out=out, remote=server.url, resubmit=True)
    assert stored(done.path) == small
    assert done.traffic().set_index("cell").requests.to_dict() == {READ: 2, PROOF: 1, ASK: 1}


SEVERAL = {**SMALL, "tasks": TASKS, "seeds": (0, 1)}


@pytest.mark.slow
def test_cells_under_way_together_give_what_they_give_alone(server: Loopback, tmp_path: Path) -> None:
    seen: dict[int, list[str]] = {}
    for count in (1, 4):
        before, said = requests(server), list[str]()

        def say(line: str, said: list[str] = said, count: int = count) -> None:
            said.extend(word for word in ("submitted", "finished") if f": {word}" in line)
            if count > 1 and line.startswith("loading and checking organism "):
                server.faults(delay=30)  # no job ends
            elif said.count("submitted") == count:
                server.faults()  # before all are under way

        xmi.run("organism", out=tmp_path / str(count), remote=server.url, in_flight=count, say=say, **SEVERAL)
        jobs, seen[count] = server.stats()["jobs"][before:], said
        assert len(jobs) == STARTING + 8 + 1 and {job["runs"] for job in jobs} == {1}
        assert StudyResults(tmp_path / str(count)).traffic().requests.tolist() == [1] * 9
    assert stored(tmp_path / "1") == stored(tmp_path / "4")
    # The proof is that of the cell that comes to it first, whichever that is.
    one, four = ({job for job, a in ledger(tmp_path / n) if a["label"] != PROOF} for n in ("1", "4"))
    assert one == four and len(one) == 8
    assert seen[1] == ["submitted", "finished"] * 9
    assert seen[4][:4] == ["submitted"] * 4 and sorted(seen[4]) == sorted(seen[1])


def test_of_cells_under_way_together_one_fails_and_the_others_are_kept(server: Loopback, tmp_path: Path) -> None:
    before = requests(server)
    with pytest.raises(xmi.JobError, match=rf"(?s){READ}: .*CUDA out of memory"):
        say = once_loaded(lambda: server.faults(error="CUDA out of memory"))
        xmi.run("organism", out=tmp_path, remote=server.url, say=say, **SEVERAL)
    kept = [path.stem for path in sorted((tmp_path / "cells").glob("*.read.json"))]
    assert kept == [f"organism.{seed}.{task}.read" for seed in (0, 1) for task in TASKS][1:]
    assert requests(server) == before + STARTING + 4
    done = xmi.run("organism", out=tmp_path, remote=server.url, resubmit=True, **SEVERAL)
    assert done.traffic().requests.sum() == 9 + 1
    assert requests(server) == before + 2 * STARTING + 9 + 1


@pytest.mark.parametrize("arrived", [False, True], ids=["before acceptance", "after acceptance"])
def test_a_connection_that_breaks_leaves_a_doubt_and_no_second_job(
    server: Loopback, small: dict[str, bytes], tmp_path: Path, arrived: bool
) -> None:
    before = requests(server)
    fault = {"drop": 1} if arrived else {"drop_before": 1}
    with pytest.raises(xmi.RemoteError, match=f"{READ}: the job has left, but no answer came.*--resubmit") as caught:
        xmi.run("organism", out=tmp_path, remote=server.url, say=once_loaded(lambda: server.faults(**fault)), **SMALL)
    assert KEY not in shown(caught.value)
    with pytest.raises(xmi.RemoteError, match=f"{READ}: .*whether it ran there is unknown.*--resubmit"):
        xmi.run("organism", out=tmp_path, remote=server.url, **SMALL)
    assert requests(server) == before + 2 * STARTING + arrived
    done = xmi.run("organism", out=tmp_path, remote=server.url, resubmit=True, **SMALL)
    assert stored(done.path) == small
    assert requests(server) == before + 3 * STARTING + 3 + arrived


def test_an_answer_that_breaks_off_is_asked_for_again(
    server: Loopback, small: dict[str, bytes], tmp_path: Path
) -> None:
    before = requests(server)
    done = xmi.run(
        "organism", out=tmp_path, remote=server.url, say=once_loaded(lambda: server.faults(drop_reading=3)), **SMALL
    )
    assert stored(done.path) == small and requests(server) == before + STARTING + 3


def test_an_expired_result_is_looked_for_again_and_not_paid_for(
    server: Loopback, small: dict[str, bytes], tmp_path: Path
) -> None:
    before = requests(server)
    with pytest.raises(xmi.RemoteError, match=f"{READ}: the job .* has ended, but .*404.*--resubmit"):
        xmi.run(
            "organism", out=tmp_path, remote=server.url, say=once_loaded(lambda: server.faults(expire=404)), **SMALL
        )
    server.faults()
    done = xmi.run("organism", out=tmp_path, remote=server.url, **SMALL)  # the host has it after all
    assert stored(done.path) == small
    assert requests(server) == before + 2 * STARTING + 3


def test_a_host_that_does_not_let_us_in(server: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(xmi.XmiError, match="untrained"):
        xmi.run("organism", out=tmp_path, remote=server.url, **{**SMALL, "untrained": True})
    before = requests(server)
    monkeypatch.setattr("xmi.remote.jobs.AWAY", 0.0)
    with pytest.raises(xmi.RemoteError) as caught:
        xmi.run("organism", out=tmp_path, remote="http://127.0.0.1:9", **SMALL)
    assert KEY not in shown(caught.value)
    monkeypatch.setenv("NDIF_API_KEY", "wrong-key-9876543210")
    with pytest.raises(xmi.RemoteError, match="API key") as caught:
        xmi.run("organism", out=tmp_path, remote=server.url, **SMALL)
    assert "wrong-key" not in shown(caught.value)
    assert requests(server) == before


class Stopped(BaseException):
    """Ctrl-C, at one moment."""


def shown(error: BaseException) -> str:
    """All that a traceback can show, with the variables of every function in it but the tests' own."""
    found = chain = traceback.TracebackException.from_exception(error, capture_locals=True)
    while chain is not None:
        chain.stack = traceback.StackSummary.from_list([f for f in chain.stack if f.filename != __file__])
        chain = chain.__cause__ or chain.__context__
    return "".join(found.format())


@pytest.mark.slow
def test_a_client_that_dies_after_a_submission_finds_the_job_again(server: Loopback, tmp_path: Path) -> None:
    """The next process, which knows less than that one did, sends no cell's job a second time."""
    plan = {**SMALL, "tasks": TASKS, "sources": ("text ICL", "instruction"), "seeds": (0, 1)}
    whole = xmi.run("organism", out=tmp_path / "whole", remote=server.url, **plan)
    # After what that process need not do again: proving the sweep, and asking what no seed changes.
    deadly = ["1.country-capital.read", "0.country-currency.ask"]
    before, finished, left = requests(server), None, list(deadly)

    def stop(line: str) -> None:
        if left and line.strip().startswith(f"organism.{left[0]}: submitted as job"):
            left.pop(0)
            raise Stopped

    for _ in range(len(deadly) + 1):
        with suppress(Stopped):
            finished = xmi.run("organism", out=tmp_path / "stopped", remote=server.url, say=stop, **plan)
    assert finished is not None and not left
    assert stored(finished.path) == stored(whole.path)
    expected, found = ([a for a in ledger(study.path) if a[1]["label"] != PROOF] for study in (whole, finished))
    assert [job for job, _ in found] == [job for job, _ in expected]
    assert {attempt["state"] for _, attempt in ledger(finished.path)} == {"finished"}
    starts, proofs = len(deadly) + 1, len(ledger(finished.path)) - len(found)
    assert 1 <= proofs <= starts  # each process proves for itself that it may pack sweeps, before its first
    assert requests(server) == before + starts * STARTING + proofs + len(found)


@pytest.mark.nightly
def test_a_study_and_a_host_killed_at_random_moments_end_equal(tmp_path: Path) -> None:
    one, two, cache, log = (tmp_path / part for part in ("whole", "killed", "cache", "log"))
    with kill.served(tmp_path / "state") as server:
        kill.whole(server, one, cache, log)
        toll = kill.kill(server, two, cache, log, times=2, seed=6, longest=2.0)
        assert toll.clients + toll.servers, "a kill hit something at work"
        assert not any(kill.paid(server, one, two, toll).values()), kill.paid(server, one, two, toll)
    assert kill.found(one) == kill.found(two)
