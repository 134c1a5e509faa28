"""Studies submitted as jobs: one for each model of the plan."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xmi.arguments import check_calls
from xmi.errors import RunError
from xmi.shown import Shown
from xmi.storage import write_file
from xmi.structured import PAGE, read_text
from xmi.studies import run_to_page, studies_of
from xmi.study.plan import FOLDER, read_plan
from xmi.study.prepare import prepare
from xmi.study.run import store_of
from xmi.submit.batch import RESTARTS, WARNING, batch_script
from xmi.submit.resources import Resources, minutes
from xmi.terminal import put, quiet_libraries

LOGS = "slurm"
"""The folder of a job's files in its run folder."""


@dataclass(frozen=True)
class Submitted(Shown):
    """A job that was submitted.

    Attributes:
        id: What SLURM calls it; on this machine the id of the process that watches over it.
        model: The model that it studies, or the plan's file where it does all of them.
        out: The run folder.
        log: What it prints, and its errors.
        local: Whether it runs on this machine.
    """

    id: str
    model: str
    out: Path
    log: Path
    local: bool

    def lines(self) -> list[str]:
        """What a user needs: the id, the log, and how to watch and stop it."""
        watch = [] if self.local else [f"squeue -j {self.id}"]
        stop = f"kill -INT {self.id}" if self.local else f"scancel {self.id}"
        return [
            f"job {self.id}: {self.model} -> {self.out}",
            f"  log    {self.log}",
            f"  watch  {'; '.join([f'tail -F {self.log}', *watch])}",
            f"  stop   {stop}",
        ]


@dataclass
class Job:
    """A study as submitit runs it: called, and asked for what to run instead when it is preempted or out of time.

    Attributes:
        arguments: Those of `xmi.run`.
    """

    arguments: Mapping[str, Any]

    def __call__(self) -> str:
        """Runs the study to its end, from wherever it was left; returns the path of the report."""
        quiet_libraries()
        _, page = run_to_page(put, **self.arguments)
        put(page)
        return str(page)

    def checkpoint(self) -> Any:
        """What is queued again: the same, since the run folder holds what was finished."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def submit(
    plan: str | Path, *, out: str | Path | None = None, resources: Resources | None = None, local: bool = False
) -> list[Submitted]:
    """Submits a plan to SLURM: a job for each of its models; over several nodes one job for all.

    A job that is preempted or runs out of time is queued again and continues; one that was killed continues when it is
    submitted again.

    Args:
        plan: A plan file (YAML).
        out: The run folder, instead of the plan's; for a list of models the folder of their run folders.
        resources: What each job asks for.
        local: Run the jobs on this machine instead, in the background.

    Returns:
        The jobs.

    Raises:
        RunError, TaskError, ModelError: The plan is faulty, its run folder cannot be written or holds another study;
        there is no SLURM here, or no submitit. Nothing was submitted then.
    """
    asked = resources or Resources()
    if local and asked.nodes > 1:
        raise RunError("Jobs on this machine have one node: leave out nodes, or local.")
    if not local:
        _require_slurm()
    folder, studies = check_plan(plan, out)
    for place in dict.fromkeys([folder, *(Path(study["out"]) for study in studies)]):
        _make(place / LOGS)
    # What is submitted is the plan as it is now, whatever becomes of its file while the job waits.
    text = read_text(Path(plan), RunError, PAGE)
    kept = write_file(folder / LOGS / "plan.yaml", text, error=RunError)
    if asked.nodes > 1:
        return [_over_nodes(kept, folder, asked)]
    return [_submit({**study, "plan": str(kept)}, asked, local) for study in studies]


def check_plan(plan: str | Path, out: str | Path | None = None) -> tuple[Path, list[dict[str, Any]]]:
    """Refuses what a job would refuse, except for a device, which is the node's to have; nothing is written.

    Args:
        plan: A plan file.
        out: The run folder, instead of the plan's.

    Returns:
        The run folder, and the arguments of `xmi.run` for each model, its own run folder among them.

    Raises:
        RunError, TaskError, ModelError: It would.
    """
    content = read_plan(plan)
    folder = Path(out or content.get("out", FOLDER))
    studies = [{"model": content.get("model"), **study} for study in studies_of(plan, out=str(folder))]
    for study in studies:
        given = {name: value for name, value in (content | study).items() if name not in ("plan", "device")}
        store_of(prepare(**given)).check()
    return folder, studies


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise RunError(f"Cannot write to {folder}: {error.strerror}. Choose another run folder with --out.") from error


def _require_slurm() -> None:
    if shutil.which("sbatch") is None:
        raise RunError(
            "There is no sbatch on the PATH, so this is not a machine from which SLURM takes jobs. Submit from a login "
            "node, write the script with --print, or run the job on this machine with --local."
        )


def _submit(study: Mapping[str, Any], asked: Resources, local: bool) -> Submitted:
    """One model's job."""
    try:
        import submitit
    except ImportError as error:
        raise RunError(
            "Submitting needs submitit, which is not installed: pip install 'xmi[slurm]'. Or write a script with "
            "--print, and hand it to sbatch."
        ) from error
    out = Path(study.get("out", FOLDER))
    folder, limit = out / LOGS, minutes(asked.time)
    executor: Any = (submitit.LocalExecutor if local else submitit.SlurmExecutor)(
        folder.resolve(), max_num_timeout=RESTARTS
    )
    if local:
        given: dict[str, Any] = {"timeout_min": limit, "gpus_per_node": asked.gpus or 0}
    else:
        names = ("partition", "account", "qos", "constraint", "mem")
        given = {name: getattr(asked, name) for name in names if getattr(asked, name) is not None}
        given |= {"job_name": f"xmi-{out.name}", "time": limit, "ntasks_per_node": 1, "signal_delay_s": WARNING}
        given |= {"gpus_per_node": asked.gpus or None, "cpus_per_task": asked.cpus, "wckey": None}
    executor.update_parameters(**given, stderr_to_stdout=True)
    try:
        job = executor.submit(Job(dict(study)))
    except (RuntimeError, OSError) as error:  # submitit's own, which holds what sbatch said
        raise RunError(f"SLURM did not take the job of {study['model']}: {error}") from error
    return Submitted(job.job_id, str(study["model"]), out, folder / job.paths.stdout.name, local)


def _over_nodes(plan: str | Path, out: Path, asked: Resources) -> Submitted:
    """One job for the whole plan, on several nodes."""
    file = write_file(out / LOGS / "job.sh", batch_script(plan, out, asked, name=f"xmi-{out.name}"), error=RunError)
    done = subprocess.run(["sbatch", "--parsable", str(file)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunError(f"SLURM did not take {file}: {done.stderr.strip() or f'exit code {done.returncode}'}")
    job = done.stdout.strip().split(";")[0]
    return Submitted(job, str(plan), out, out / LOGS / f"{job}.log", local=False)


check_calls(__name__, ["submit"])
