"""What a dry run says of a study on a host is what the host then sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import xmi
from tests.remote.loopback import KEY, Loopback
from xmi.backend import portions
from xmi.study import dry_run

SMALL: dict[str, Any] = {
    "model": "organism",
    "base": "organism-llm",
    "tasks": ("country-capital", "country-currency"),
    "seeds": (0, 1),
    "shots": 2,
    "prompts": 4,
    "task_words": "found",
    "layers": (1, 3),
    "controls": (),
    "points": 4,
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NDIF_API_KEY", KEY)
    monkeypatch.setenv("XMI_CACHE", str(tmp_path / "cache"))
    return tmp_path


def seen(server: Loopback) -> int:
    return sum(count for path, count in server.stats()["seen"].items() if "_test" not in path)


@pytest.mark.slow
def test_a_dry_run_counts_the_requests_and_bytes_that_the_host_sees(server: Loopback, home: Path) -> None:
    before = seen(server)
    plan = {**SMALL, "remote": server.url, "out": home / "run"}
    lines = dry_run(**plan, wait=60.0, resubmit=True).splitlines()
    assert seen(server) == before, "a dry run asks nothing of the host"
    assert not (home / "run").exists()
    assert f"It would run on {server.url}." in lines
    cells, requests, size, *_ = lines[-1].removeprefix("In all ").split(", ")
    earlier = server.stats()["jobs"]
    results = xmi.run(**plan)
    jobs = server.stats()["jobs"][len(earlier) :]
    assert requests == f"{len(jobs)} requests"
    # Three when the VLM is loaded and two for its base LLM; those of the cells are in the run folder.
    assert results.traffic().requests.sum() == len(jobs) - 5
    up = sum(job["payload_bytes"] for job in jobs) / 1e6
    assert float(size.split()[1]) == pytest.approx(up, rel=0.35), size
    # Per seed two tasks read and asked, and the base LLM's vectors; words, its comparison, ensembling, overriding and
    # geometry once.
    assert cells == "15 cells"


class Stopped(BaseException):
    """Ctrl-C, at one moment."""


def test_a_study_cut_into_many_requests_is_counted_and_none_is_paid_twice(
    server: Loopback, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(portions, "ROOM", room := 80_000)
    changes = {"base": None, "tasks": SMALL["tasks"][:1], "seeds": (0,), "task_words": "given", "experiments": ()}
    changes |= {"targets": ("image",), "layers": (1, 3)}
    plan = {**SMALL, **changes, "sources": ("image ICL",), "controls": (), "remote": server.url, "out": home / "run"}
    _, requests, size, *_ = dry_run(**plan).splitlines()[-1].removeprefix("In all ").split(", ")
    earlier, submitted = server.stats()["requests"], list[str]()

    def stop(line: str) -> None:
        submitted.extend([line] if ".ask: submitted" in line else [])
        if len(submitted) == 3:
            raise Stopped

    with pytest.raises(Stopped):
        xmi.run(**plan, say=stop)
    results = xmi.run(**plan)
    jobs = server.stats()["jobs"][earlier:]
    again = 3  # the second process looks at the model once more
    assert requests == f"{len(jobs) - again} requests"
    traffic = results.traffic().set_index("cell").requests
    assert traffic["organism.0.country-capital.read"] > 1 and traffic["organism.0.country-capital.ask"] > 3
    assert max(job["payload_bytes"] for job in jobs) < 1.1 * room
    up = sum(job["payload_bytes"] for job in jobs[again:]) / 1e6
    assert float(size.split()[1]) == pytest.approx(up, rel=0.35), size


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"dtype": "bfloat16", "device": "cuda"}, xmi.ModelError, "device, dtype: the host .* decides that"),
        ({"untrained": True}, xmi.ModelError, "no host serves"),
        ({"lens": "tuned"}, xmi.ModelError, "lens: logit"),
        ({"remote": "ftp://host"}, xmi.RemoteError, "not the address of a host"),
    ],
)
def test_a_dry_run_refuses_what_a_host_cannot_do(
    home: Path, changes: dict[str, Any], error: type[Exception], said: str
) -> None:
    plan = {**SMALL, "remote": "http://127.0.0.1:9", "out": home / "run", **changes}
    with pytest.raises(error, match=said):
        dry_run(**plan)


def test_options_of_waiting_do_not_hinder_a_study_here(home: Path) -> None:
    plan = {**SMALL, "tasks": SMALL["tasks"][:1], "task_words": "given", "experiments": (), "out": home / "run"}
    said = dry_run(**plan, wait=5.0, resubmit=True, remote=False)
    assert "requests" not in said
    assert " forwards, " in said.splitlines()[-1]
