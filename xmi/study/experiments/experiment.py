"""What an experiment says of itself, and what it is given to do a cell."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd

from xmi.errors import RunError
from xmi.prompt import Prompts, Task
from xmi.study.cell import CellResult, Memory
from xmi.study.experiments import CHOSEN
from xmi.study.plan import Plan
from xmi.vector import TaskVector

if TYPE_CHECKING:  # both know the experiments
    from xmi.study.grid import Cell, Subject
    from xmi.study.store import Stored
    from xmi.vlm import VLM


@dataclass(frozen=True)
class Forward:
    """Prompts that a model is given, plain or with vectors patched in; what a study costs is counted from these.

    Attributes:
        prompts: The prompts. Those without examples are asked once, whatever the seed, if nothing is patched in.
        tokens: How many tokens of each answer are made.
        sets: How many vectors are patched in, each by itself; 0 for plain prompts.
        layers: After how many layers each of them is.
        shares: Whether the vectors are those of an earlier one of the same round.
    """

    prompts: Prompts
    tokens: int = 1
    sets: int = 0
    layers: int = 1
    shares: bool = False


@dataclass(frozen=True)
class Inputs:
    """What a cell is done with.

    Attributes:
        plan: The plan.
        tasks: All tasks, by their name in the plan.
        vlm: The cell's model.
        base: Gives its base LLM, if the study has one; it is loaded when it is first asked for.
        taken: The finished cells whose results it takes.
        memory: Spares what was asked before.
    """

    plan: Plan
    tasks: Mapping[str, Task]
    vlm: VLM
    base: Callable[[], VLM] | None = None
    taken: Mapping[Cell, Stored] = field(default_factory=dict)
    memory: Memory = field(default_factory=Memory)

    @property
    def base_llm(self) -> VLM:
        """The base LLM.

        Raises:
            RunError: The study has none.
        """
        if self.base is None:
            raise RunError("The study has no base LLM: name it with base.")
        return self.base()

    def vectors(self) -> dict[str, dict[str, TaskVector]]:
        """Task vectors that were read, by task (in the plan's order) and source."""
        found: dict[str, dict[str, TaskVector]] = {name: {} for name in self.plan.tasks}
        for stored in self.taken.values():
            for (name, source), vector in stored.vectors().items():
                found[name][source] = vector
        return found

    def once(self, kind: str) -> Stored | None:
        """The cell of a kind that is done once per model, if it was taken."""
        return next((stored for cell, stored in self.taken.items() if cell.kind == kind), None)


@dataclass(frozen=True)
class Given:
    """What a model's finished cells give, by the names that go into the run folder's index."""

    results: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)


class Experiment:
    """One kind of cell: when a study has it, what it takes, asks, does and gives.

    Attributes:
        kind: What its cells are called; the last part of their file names.
        of_a_task: Whether there is a cell for each task, or one of all.
        every_seed: Whether there are cells for every seed, or for the first alone.
        of_base: Whether the model's base LLM is what is asked.
        takes: Kinds of cells whose results it takes: of its own model, and of its own seed if they have seeds.
        doing: What the line of progress says; the kind if it is empty.
        work: What the report says where a study ran on a host; as `doing` if it is empty.
    """

    kind: ClassVar[str]
    of_a_task: ClassVar[bool] = False
    every_seed: ClassVar[bool] = False
    of_base: ClassVar[bool] = False
    takes: ClassVar[tuple[str, ...]] = ()
    doing: ClassVar[str] = ""
    work: ClassVar[str] = ""

    def wanted(self, plan: Plan, subject: Subject, tasks: Sequence[Task]) -> bool:
        """Whether a plan has it for a model; by default if the plan names it, or cannot choose."""
        return self.kind in plan.experiments or self.kind not in CHOSEN

    def rounds(self, cell: Cell, plan: Plan, tasks: Mapping[str, Task], vlm: VLM) -> list[list[Forward]]:
        """What a cell gives to its model: rounds one after another, of which each can be sent at once.

        Args:
            cell: The cell.
            plan: The plan.
            tasks: All tasks, by their name in the plan.
            vlm: The model that is asked, possibly without weights.
        """
        return []

    def run(self, cell: Cell, inputs: Inputs) -> CellResult:
        """Does a cell."""
        raise NotImplementedError

    def gives(self, found: Mapping[Cell, Stored], plan: Plan, tasks: Mapping[str, Task]) -> Given:
        """What is made from finished cells; by default the result of its one cell, by its kind.

        Args:
            found: All cells of one model, in the plan's order.
            plan: The plan.
            tasks: All tasks, by their name in the plan.
        """
        results = [stored.measured["result"] for stored in self.own(found).values()]
        return Given({self.kind: results[0]} if results and results[0] is not None else {})

    def own(self, found: Mapping[Cell, Stored]) -> dict[Cell, Stored]:
        """The cells that are its own."""
        return {cell: stored for cell, stored in found.items() if cell.kind == self.kind}
