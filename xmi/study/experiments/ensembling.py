"""Accuracy against the number of examples, with and without the instruction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from xmi.names import ASKED
from xmi.prompt import Task
from xmi.study.cell import CellResult
from xmi.study.experiments.experiment import Experiment, Forward, Given, Inputs
from xmi.study.plan import Plan

if TYPE_CHECKING:
    from xmi.study.grid import Cell
    from xmi.study.store import Stored
    from xmi.vlm import VLM


class Ensembling(Experiment):
    """Patches means of more and more one-example vectors, once per model."""

    kind = "ensembling"

    def rounds(self, cell: Cell, plan: Plan, tasks: Mapping[str, Task], vlm: VLM) -> list[list[Forward]]:
        """Reads; then sweeps of all layers on validation items, and of the chosen one on test items."""
        counts, every, depth = ensemble_sizes(plan), list(tasks.values()), vlm.backbone.n_layers
        drawn = [task.icl("text", shots=1, n=counts[-1], seed=seed) for task in every for seed in plan.seeds]
        sets = 1 + 2 * len(counts) * len(plan.seeds)
        rounds = [[Forward(prompts) for prompts in [*(task.instruction() for task in every), *drawn]]]
        for split, layers in zip(ASKED, (depth, 1), strict=True):
            queries = [(t, task.queries(t, split=split)) for t in plan.targets for task in every]
            rounds.append([Forward(q, sets=sets, layers=layers, shares=t != plan.targets[0]) for t, q in queries])
        return rounds

    def run(self, cell: Cell, inputs: Inputs) -> CellResult:
        """Measures a curve for each modality of queries."""
        plan, every = inputs.plan, list(inputs.tasks.values())
        curves = inputs.vlm.ensembling_of(
            every, queries=plan.targets, prompts=ensemble_sizes(plan), seeds=plan.seeds, slot=plan.slot,
            patch_slot=plan.patch_slot,
        )  # fmt: skip
        return CellResult(result=dict(zip(plan.targets, curves, strict=True)))

    def gives(self, found: Mapping[Cell, Stored], plan: Plan, tasks: Mapping[str, Task]) -> Given:
        """The curves."""
        curves = [curve for stored in self.own(found).values() for curve in stored.measured["result"].items()]
        return Given({f"{self.kind}.{target}": curve for target, curve in curves})


def ensemble_sizes(plan: Plan) -> tuple[int, ...]:
    """How many one-example prompts are averaged: 1, 2, 3, 5, 10, ... up to the plan's number of prompts."""
    return tuple(n for n in (1, 2, 3, 5, 10, 20, 30, 50, 100) if n <= plan.prompts)


EXPERIMENTS = (Ensembling(),)
