"""The vectors of a task, read from the model and from its base LLM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from xmi.errors import RunError
from xmi.names import TEXT_ICL, is_of_base, modality_of, of_base
from xmi.prompt import Task
from xmi.storage import pack_tensors, read_tensors, reading
from xmi.study.cell import CellResult, Memory
from xmi.study.experiments.base_comparison import has_base
from xmi.study.experiments.experiment import Experiment, Forward, Given, Inputs
from xmi.study.plan import Plan
from xmi.study.prompts import Read, reads
from xmi.vector import Residuals, TaskVector, base_similarity

if TYPE_CHECKING:
    from xmi.study.grid import Cell, Subject
    from xmi.study.store import Stored
    from xmi.vlm import VLM


class Vectors(Experiment):
    """Reads one task's vectors, and with the first seed those of single prompts, for the geometry."""

    kind, of_a_task, every_seed = "read", True, True
    doing, work = "vectors", "vectors of a task"

    def rounds(self, cell: Cell, plan: Plan, tasks: Mapping[str, Task], vlm: VLM) -> list[list[Forward]]:
        """All that is read, at once."""
        return [[Forward(step.prompts) for _, step in self._steps(cell, plan, tasks)]]

    def run(self, cell: Cell, inputs: Inputs) -> CellResult:
        """Reads them."""
        plan, steps = inputs.plan, self._steps(cell, inputs.plan, inputs.tasks)
        reader = inputs.base_llm if self.of_base else inputs.vlm
        keep = plan.points if cell.seed == plan.seeds[0] else 0
        found = reader.engine.together(partial(_read, inputs.memory, cell, step, reader, keep) for _, step in steps)
        vectors, points = {}, {}
        for (name, step), read in zip(steps, found, strict=True):
            for source, slot in step.slots.items():
                vectors[name, source], some = read[slot]
                if keep and (modality := modality_of(source)):
                    points[modality] = some.values
        return CellResult(vectors=vectors, part=("points", pack_tensors(points)) if points else None)

    def gives(self, found: Mapping[Cell, Stored], plan: Plan, tasks: Mapping[str, Task]) -> Given:
        """Nothing by themselves."""
        return Given()

    def _steps(self, cell: Cell, plan: Plan, tasks: Mapping[str, Task]) -> list[tuple[str, Read]]:
        names = plan.tasks if cell.task is None else [cell.task]
        steps = [(name, step) for name in names for step in reads(plan, tasks[name], cell.seed)]
        return [(name, step) for name, step in steps if step.base == self.of_base]


class BaseVectors(Vectors):
    """Reads the vectors of all tasks from the base LLM."""

    kind, of_a_task, of_base = "base", False, True
    doing = work = "vectors of the base LLM"

    def wanted(self, plan: Plan, subject: Subject, tasks: Sequence[Task]) -> bool:
        """Whether any source is read from the base LLM."""
        return has_base(plan, subject) and any(map(is_of_base, plan.sources))

    def gives(self, found: Mapping[Cell, Stored], plan: Plan, tasks: Mapping[str, Task]) -> Given:
        """Cosines between the text ICL vectors of the model and its base LLM, from the first seed."""
        kinds = (Vectors.kind, self.kind)
        first = [one for cell, one in found.items() if cell.kind in kinds and cell.seed == plan.seeds[0]]
        vectors = {name: vector for one in first for name, vector in one.vectors().items()}
        sides = [[vectors.get((task, source)) for task in plan.tasks] for source in (TEXT_ICL, of_base(TEXT_ICL))]
        own, base = ([vector for vector in side if vector is not None] for side in sides)
        if len(own) < len(plan.tasks) or len(base) < len(plan.tasks):
            return Given()
        centred = {"base_similarity.centred": base_similarity(own, base, centred=True)} if len(own) > 1 else {}
        return Given({"base_similarity": base_similarity(own, base), **centred})


def single_points(stored: Stored) -> dict[str, Float[np.ndarray, "prompt layer d_model"]]:
    """Single-prompt vectors that a cell kept, by modality."""
    file = stored.part("points")
    with reading(file, "residuals", error=RunError):
        return read_tensors(file, framework="np")[0]


def _read(once: Memory, cell: Cell, step: Read, reader: VLM, keep: int) -> dict[str, tuple[TaskVector, Residuals]]:
    slots = list(step.slots.values())
    few = keep if any(map(modality_of, step.slots)) else 0
    if step.prompts.split:  # redrawn by every seed
        return reader.vectors_at(step.prompts, slots, keep=few)
    key = (cell.model, step.base, step.prompts, *slots)
    return once(key, lambda: reader.vectors_at(step.prompts, slots, keep=few))


EXPERIMENTS = (BaseVectors(), Vectors())
