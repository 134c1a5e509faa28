"""Jobs: what is refused before they are submitted, what is asked of SLURM, and that a stopped one continues."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import xmi
from tests.study.kill import files
from xmi import cli
from xmi.errors import RunError
from xmi.submit import Resources, batch_script, submit
from xmi.submit.jobs import Job
from xmi.submit.resources import minutes

PLAN = {
    "model": "organism",
    "tasks": ["country-capital"],
    "sources": "text ICL",
    "targets": "text",
    "controls": "none",
    "experiments": "none",
    "seeds": 3,
    "prompts": 4,
}
GOLDEN = Path(__file__).parent
BIG = {"partition": "gpu", "time": "12:00:00", "gpus": 8, "cpus": 64, "mem": "500G", "constraint": "a100|h100"}


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("plan.yaml").write_text(yaml.safe_dump(PLAN), encoding="utf-8")
    return Path("plan.yaml")


def refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """What `xmi submit` says when it refuses."""
    monkeypatch.setattr(sys, "argv", ["xmi", "submit", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("time", "expected"),
    [("90", 90), ("0:30", 1), ("12:00:00", 720), ("2-00", 2880), ("1-2:30", 1590), ("1-0:0:1", 1441)]
    + [(wrong, 0) for wrong in ("x", "", "0", "1:2:3:4", "-5", "1-", "12h")],
)
def test_times_are_read_as_sbatch_reads_them(time: str, expected: int) -> None:
    assert minutes(time) == expected


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--partition", "a b"], "partition: expected partitions"),
        (["--partition", "a\n#SBATCH --x"], "partition: expected partitions"),
        (["--time", "12h"], "time: expected a time"),
        (["--mem", "much"], "mem: expected memory"),
        (["--gpus", "-1"], "gpus: "),
        (["--local", "--nodes", "2"], "one node"),
        ([], "no sbatch on the PATH"),
    ],
)
def test_what_slurm_would_not_take_is_refused_at_once(
    flags: list[str],
    said: str,
    plan: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert said in refused(capsys, monkeypatch, str(plan), *flags)
    assert [path.name for path in Path().iterdir()] == ["plan.yaml"], "nothing was written"


def test_what_the_job_would_refuse_is_refused_at_once(
    plan: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file").write_text("")
    assert "Cannot write to file" in refused(capsys, monkeypatch, str(plan), "--local", "--out", "file/run")
    for wrong, said in (
        ({"shots": 0}, "shots: "),
        ({"tasks": ["no-such-task"]}, "No task"),
        ({"model": []}, "expected a list of models"),
    ):
        plan.write_text(yaml.safe_dump(PLAN | wrong), encoding="utf-8")
        for how in ("--local", "--print"):
            assert said in refused(capsys, monkeypatch, str(plan), how)
    assert not Path("runs").exists()


def test_a_missing_submitit_is_named_with_its_extra(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(RunError, match=r"pip install 'xmi\[slurm\]'"):
        submit(plan, local=True)


@pytest.mark.parametrize(("name", "more"), [("one", {}), ("nodes", {"nodes": 2})])
def test_the_script_is_the_one_that_was_looked_at(name: str, more: dict[str, int], tmp_path: Path) -> None:
    text = batch_script("my plans/plan.yaml", "runs/x", Resources(**BIG, **more), name="xmi-x")
    assert text == (GOLDEN / f"{name}.sh").read_text(encoding="utf-8")
    (tmp_path / "job.sh").write_text(text, encoding="utf-8")
    assert subprocess.run(["bash", "-n", str(tmp_path / "job.sh")], check=False).returncode == 0


def test_a_script_runs_the_study_and_is_queued_again_when_its_time_is_up(tmp_path: Path) -> None:
    """Run by bash, with commands of the cluster that write down how they were called."""
    (tmp_path / "bin").mkdir()
    for command, does in (("xmi", "sleep 2"), ("scontrol", ":")):
        file = tmp_path / "bin" / command
        file.write_text(f'#!/bin/bash\necho "{command} $*" >> calls\n{does}\n')
        file.chmod(0o755)
    (tmp_path / "job.sh").write_text(batch_script("p.yaml", "o", Resources()), encoding="utf-8")
    world = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    with subprocess.Popen(["bash", "job.sh"], cwd=tmp_path, env=world) as job:
        wait_for(lambda: (tmp_path / "calls").exists())
        job.send_signal(signal.SIGUSR1)
    assert (tmp_path / "calls").read_text().splitlines() == ["xmi run --plan p.yaml --out o", "scontrol requeue 7"]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with sbatch, which writes down what it is given; returns that file."""
    (tmp_path / "bin").mkdir()
    for command in ("sbatch", "srun"):
        file = tmp_path / "bin" / command
        file.write_text(
            '#!/bin/bash\ncat "${@: -1}" >> "$TAKEN"; n=$(grep -c bin/bash "$TAKEN")\n'
            'if [ "$1" = --parsable ]; then echo "4$n;here"; else echo "Submitted batch job 4$n"; fi\n'
        )
        file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("TAKEN", str(tmp_path / "taken"))
    return tmp_path / "taken"


def test_each_model_of_a_plan_is_a_job_that_asks_for_what_was_asked(plan: Path, cluster: Path) -> None:
    plan.write_text(yaml.safe_dump(PLAN | {"model": ["organism", "organism-control"], "out": "runs/x"}))
    jobs = submit(plan, resources=Resources(**BIG))
    assert [(job.id, job.model, str(job.out)) for job in jobs] == [
        ("41", "organism", "runs/x/organism"),
        ("42", "organism-control", "runs/x/organism-control"),
    ]
    taken = cluster.read_text()
    for flag in ("partition=gpu", "time=720", "gpus-per-node=8", "cpus-per-task=64", "mem=500G"):
        assert taken.count(f"#SBATCH --{flag}\n") == 2, taken
    assert taken.count("#SBATCH --constraint='a100|h100'") == 2
    assert "wckey" not in taken
    assert "scancel 41" in "\n".join(jobs[0].lines())
    assert yaml.safe_load(Path("runs/x/slurm/plan.yaml").read_text())["out"] == "runs/x"


def test_a_plan_over_nodes_is_one_job_under_ray(plan: Path, cluster: Path) -> None:
    (job,) = submit(plan, out="runs/y", resources=Resources(nodes=2, gpus=8))
    assert (job.id, job.log) == ("41", Path("runs/y/slurm/41.log"))
    assert "ray symmetric-run" in cluster.read_text()


def wait_for(done: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def children(pid: int) -> list[int]:
    """Processes that a process started, and those that they started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == pid:
            found += [int(stat.parent.name), *children(int(stat.parent.name))]
    return found


@pytest.mark.nightly
@pytest.mark.parametrize("how", ["killed", "preempted"])
def test_a_job_that_was_stopped_continues_and_ends_byte_equal(
    how: str, plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    plan.write_text(yaml.safe_dump(PLAN | {"workers": 2, "seeds": 8}), encoding="utf-8")

    def begin() -> tuple[int, Callable[[], str]]:
        (job,) = submit(plan, out="jobs", local=True)
        log = job.log
        return int(job.id), lambda: log.read_text() if log.exists() else ""

    pid, said = begin()
    wait_for(lambda: "[ 3/" in said())
    if how == "preempted":
        for one in children(pid):  # as SLURM does, to every process of the step
            os.kill(one, signal.SIGUSR2)
        wait_for(lambda: said().count("Starting with") == 2)
        assert said().count("Requeued job") == 1, "workers leave the signal to the process that began them"
    else:
        os.kill(pid, signal.SIGINT)
        wait_for(lambda: not children(pid))
        assert not Path("jobs/report.html").exists(), "killed too late to show anything"
        _, said = begin()
    wait_for(lambda: "Job completed successfully" in said())
    assert "[ 3/17] " in said() and "[ 1/17] organism · country-capital · seed 0 · vectors: done before" in said()
    xmi.run(plan=plan, out="whole")
    ours = {name: content for name, content in files(Path("jobs")).items() if not name.startswith("slurm/")}
    assert ours.pop("report.html") and ours.pop("similarity.html")
    assert ours == files(Path("whole"))


def test_what_is_queued_again_is_the_same_study(tmp_path: Path) -> None:
    job = Job({"model": "organism", "out": str(tmp_path)})
    again = job.checkpoint()
    assert again.function is job and not again.args
