"""The experiment: plan, run, store, resume, and read back."""

from xmi.study.plan import Plan
from xmi.study.results import StudyResults
from xmi.study.run import run_study

__all__ = ["Plan", "StudyResults", "run_study"]
