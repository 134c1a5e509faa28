"""A lens that is trained on the model, for the phases to be read with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from xmi.errors import RunError
from xmi.lens.base import Lens as Reading
from xmi.prompt import Task
from xmi.study.cell import CellResult
from xmi.study.experiments.experiment import Experiment, Forward, Inputs
from xmi.study.lenses import REGISTRY
from xmi.study.plan import Plan
from xmi.study.prompts import lens_prompts

if TYPE_CHECKING:
    from xmi.study.grid import Cell, Subject
    from xmi.vlm import VLM


class Lens(Experiment):
    """Trains a lens once per model. What training takes is not counted, only reading for it."""

    kind, doing = "lens", "training a lens"

    def wanted(self, plan: Plan, subject: Subject, tasks: Sequence[Task]) -> bool:
        """Whether the plan reads phases with it."""
        return REGISTRY[plan.lens].train is not None

    def rounds(self, cell: Cell, plan: Plan, tasks: Mapping[str, Task], vlm: VLM) -> list[list[Forward]]:
        """The prompts that vectors are read on."""
        return [[Forward(prompts) for prompts in lens_prompts(plan, tasks.values())]]

    def run(self, cell: Cell, inputs: Inputs) -> CellResult:
        """Trains it."""
        train = REGISTRY[inputs.plan.lens].train
        if train is None:
            raise RunError(f"The {inputs.plan.lens} lens is not trained.")
        lens = train(inputs.vlm, lens_prompts(inputs.plan, inputs.tasks.values()), cell.seed)
        return CellResult(part=("lens", lens.dumps()))


def trained_lens(inputs: Inputs) -> Reading | None:
    """The lens that was trained; None where the plan reads with the logit lens."""
    stored = inputs.once(Lens.kind)
    load = REGISTRY[inputs.plan.lens].load
    return load(stored.part("lens")) if stored is not None and load is not None else None


EXPERIMENTS = (Lens(),)
