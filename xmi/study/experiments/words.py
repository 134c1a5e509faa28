"""Task words that are found among the model's own, for tasks that have none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from xmi.prompt import Task
from xmi.study.cell import CellResult
from xmi.study.experiments.experiment import Experiment, Forward, Inputs
from xmi.study.plan import Plan
from xmi.study.prompts import lens_prompts, words_wanted

if TYPE_CHECKING:
    from xmi.study.grid import Cell, Subject
    from xmi.vlm import VLM


class Words(Experiment):
    """Finds task words once per model, where a task has none or the plan says so."""

    kind, doing = "words", "finding task words"

    def wanted(self, plan: Plan, subject: Subject, tasks: Sequence[Task]) -> bool:
        """Whether words must be found."""
        return words_wanted(plan, tasks)

    def rounds(self, cell: Cell, plan: Plan, tasks: Mapping[str, Task], vlm: VLM) -> list[list[Forward]]:
        """The prompts that vectors are read on."""
        return [[Forward(prompts) for prompts in lens_prompts(plan, tasks.values())]]

    def run(self, cell: Cell, inputs: Inputs) -> CellResult:
        """Finds them; the words of the items themselves do not count."""
        tasks = inputs.tasks.values()
        known = [word for task in tasks for item in task.items for word in (item.input, *item.outputs)]
        return CellResult(result=inputs.vlm.find_task_words(lens_prompts(inputs.plan, tasks), exclude=known))


EXPERIMENTS = (Words(),)
