"""The experiment: plan, run, store, resume, and read back. The module itself can be called: `xmi.study(...)`."""

import sys
from types import ModuleType
from typing import Any

from xmi.study.estimate import dry_run
from xmi.study.plan import CONTROLS, EXPERIMENTS, PRESETS, SOURCES, Plan
from xmi.study.results import StudyResults
from xmi.study.run import run_study

__all__ = ["CONTROLS", "EXPERIMENTS", "PRESETS", "SOURCES", "Plan", "StudyResults", "dry_run", "run_study"]


class _Study(ModuleType):
    """Lets users write `xmi.study(...)`, though a module has that name."""

    def __call__(self, *args: Any, **kwargs: Any) -> StudyResults:
        """As `run_study`."""
        return run_study(*args, **kwargs)


sys.modules[__name__].__class__ = _Study
