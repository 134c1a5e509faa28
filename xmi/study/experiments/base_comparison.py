"""What differs between the model and its base LLM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from xmi.prompt import Task
from xmi.study.cell import CellResult
from xmi.study.experiments.experiment import Experiment, Inputs
from xmi.study.plan import Plan
from xmi.study.prompts import icl

if TYPE_CHECKING:
    from xmi.study.grid import Cell, Subject


class BaseComparison(Experiment):
    """Compares weights, tokens and templates with the base LLM's; no prompt is answered."""

    kind = "base_comparison"

    def wanted(self, plan: Plan, subject: Subject, tasks: Sequence[Task]) -> bool:
        """Whether the study has a base LLM."""
        return has_base(plan, subject)

    def run(self, cell: Cell, inputs: Inputs) -> CellResult:
        """Compares them on the text ICL prompts of all tasks."""
        prompts = [p for task in inputs.tasks.values() for p in icl(inputs.plan, task, "text", cell.seed)]
        return CellResult(result=inputs.vlm.compare_base(inputs.base_llm, prompts))


def has_base(plan: Plan, subject: Subject) -> bool:
    """Whether the base LLM of the plan is a model's own."""
    return plan.base is not None and subject.role == "model"


EXPERIMENTS = (BaseComparison(),)
