"""The experiment: plan, run, store, resume, and read back."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xmi.study.controls import CONTROLS
    from xmi.study.estimate import dry_run
    from xmi.study.plan import EXPERIMENTS, PRESETS, SOURCES, Plan
    from xmi.study.results import StudyResults
    from xmi.study.run import run_study

__all__ = ["CONTROLS", "EXPERIMENTS", "PRESETS", "SOURCES", "Plan", "StudyResults", "dry_run", "run_study"]

# Imported when they are first used: the command line needs the plan's fields for --help, and must not wait for torch.
_HOME = {"CONTROLS": "controls", "dry_run": "estimate", "StudyResults": "results", "run_study": "run"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'xmi.study' has no attribute {name!r}")
    return getattr(import_module(f"xmi.study.{_HOME.get(name, 'plan')}"), name)
