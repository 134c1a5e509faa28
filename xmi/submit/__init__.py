"""Studies as jobs of a SLURM cluster: submitted through submitit, or written as a script for sbatch.

A job is a study in its run folder. Killed, preempted or out of time, it is started again and continues there.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from xmi.submit.resources import Resources

if TYPE_CHECKING:
    from xmi.submit.batch import batch_script
    from xmi.submit.jobs import Submitted, check_plan, submit

__all__ = ["Resources", "Submitted", "batch_script", "check_plan", "submit"]

# The command line needs the flags for --help, and must not wait for torch.
_HOME = {"batch_script": "batch"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'xmi.submit' has no attribute {name!r}")
    return getattr(import_module(f"xmi.submit.{_HOME.get(name, 'jobs')}"), name)
