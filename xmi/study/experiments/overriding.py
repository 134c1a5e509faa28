"""One task in the prompt, another one's vector patched in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from xmi import measure
from xmi.prompt import Task
from xmi.study.cell import CellResult
from xmi.study.experiments.experiment import Experiment, Forward, Inputs
from xmi.study.plan import Plan
from xmi.vector import shared_pairs
from xmi.vector.override import asked_prompts, contest

if TYPE_CHECKING:
    from xmi.study.grid import Cell, Subject
    from xmi.vlm import VLM


class Overriding(Experiment):
    """Lets every two tasks that share inputs compete, once per model."""

    kind = "overriding"

    def wanted(self, plan: Plan, subject: Subject, tasks: Sequence[Task]) -> bool:
        """Whether the plan names it, and two tasks share inputs."""
        return super().wanted(plan, subject, tasks) and bool(shared_pairs(tasks))

    def rounds(self, cell: Cell, plan: Plan, tasks: Mapping[str, Task], vlm: VLM) -> list[list[Forward]]:
        """Reads the vectors; then the sweeps, and the same prompts after an instruction."""
        shots, n, seed = plan.shots, plan.prompts, cell.seed
        pairs = [contest(one, two) for one, two in shared_pairs(list(tasks.values()))]
        read = [Forward(b.icl("text", shots=shots, n=n, seed=seed, split=b.examples)) for _, b in pairs]
        asked = [asked_prompts(a, "text", "text", shots, seed) for a, _ in pairs]
        layers = len(plan.layers or range(vlm.backbone.n_layers))
        told = [Forward(prompts) for prompts in asked]
        return [read, [*told, *(Forward(prompts, sets=2, layers=layers) for prompts in asked)]]

    def run(self, cell: Cell, inputs: Inputs) -> CellResult:
        """Asks all pairs."""
        plan, vlm = inputs.plan, inputs.vlm
        override = partial(
            vlm.override, shots=plan.shots, n=plan.prompts, seed=cell.seed, layers=plan.layers, slot=plan.slot,
            patch_slot=plan.patch_slot,
        )  # fmt: skip
        pairs = (partial(override, *pair) for pair in shared_pairs(list(inputs.tasks.values())))
        return CellResult(result=measure.Overriding.concat(vlm.engine.together(pairs)))


EXPERIMENTS = (Overriding(),)
