"""A job as a script for sbatch: what `xmi submit --print` writes, and what goes over several nodes through Ray."""

from __future__ import annotations

import shlex
from pathlib import Path

from xmi.submit.resources import Resources

RESTARTS = 20
"""How often a job that runs out of time is queued again."""

WARNING = 120
"""Seconds before the end of its time at which a job is told."""

_AGAIN = f"""\
# Finished cells are kept: whenever this job is started again, it continues in the same run folder.
set -euo pipefail
again() {{
  if [ "${{SLURM_RESTART_COUNT:-0}}" -lt {RESTARTS} ]; then
    echo "The time is nearly up: the job is queued again, and continues."
    scontrol requeue "$SLURM_JOB_ID"
  fi
}}
trap again USR1
"""

_NODES = """\
# Ray starts on every node, runs the command on the first one, and stops with it.
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 10000))
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" \\
  ray symmetric-run --address "$head:$port" --min-nodes "$SLURM_JOB_NUM_NODES"{options} -- \\
  """


def batch_script(plan: str | Path, out: str | Path, resources: Resources, *, name: str = "xmi") -> str:
    """The text of a batch script that runs a plan, and continues it whenever it is started again.

    Args:
        plan: The plan file, as the job will find it.
        out: The run folder.
        resources: What the job asks for. More than one node: the command runs under `ray symmetric-run`.
        name: The job's name.

    Returns:
        The script; nothing is submitted.
    """
    asked = {
        "job-name": name,
        "partition": resources.partition,
        "account": resources.account,
        "qos": resources.qos,
        "constraint": resources.constraint,
        "time": resources.time,
        "nodes": resources.nodes,
        "ntasks-per-node": 1,
        "gpus-per-node": resources.gpus or None,
        "cpus-per-task": resources.cpus,
        "mem": resources.mem,
        "output": Path(out) / "slurm" / "%j.log",
        "open-mode": "append",
        "signal": f"B:USR1@{WARNING}",
    }
    head = [f"#SBATCH --{key}={shlex.quote(str(value))}" for key, value in asked.items() if value is not None]
    command = shlex.join(["xmi", "run", "--plan", str(plan), "--out", str(out)])
    if resources.nodes > 1:
        given = {"num-cpus": resources.cpus, "num-gpus": resources.gpus}
        options = "".join(f" --{key} {value}" for key, value in given.items() if value is not None)
        command = f"{_NODES.format(options=options)}{command} --on auto"
    return "\n".join(["#!/bin/bash", *head, "#SBATCH --requeue", "", _AGAIN, f"{command} &", 'wait "$!"', ""])
