"""The grid of a study: its models with their roles, and the cells that it is cut into."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal

from xmi.errors import RunError
from xmi.prompt import Task
from xmi.study.experiments import registry
from xmi.study.plan import Plan

Role = Literal["model", "control", "untrained", "base"]

KINDS = tuple(registry())
"""Kinds of cells."""

OF_A_TASK = tuple(kind for kind, experiment in registry().items() if experiment.of_a_task)
"""Those that are about one task."""


@dataclass(frozen=True)
class Subject:
    """A model of a study.

    Attributes:
        name: What it is called in tables, figures and files: no two of a study alike.
        source: Where it is loaded from.
        role: `model` (the main one), `control`, `untrained` (the main one with random weights), or `base` (its base
            LLM, of which only vectors are read).
        revision: The Hub revision that is asked for, if any.
    """

    name: str
    source: str
    role: Role
    revision: str | None = None


def subjects(plan: Plan) -> dict[str, Subject]:
    """All models of a plan by name, the main one first.

    Raises:
        RunError: Two would have one name, or names that some file systems do not distinguish.
    """
    main = short(plan.model)
    found = [Subject(main, plan.model, "model", plan.revision)]
    found += [Subject(short(plan.control), plan.control, "control", plan.control_revision)] if plan.control else []
    found += [Subject(f"{main} untrained", plan.model, "untrained", plan.revision)] if plan.untrained else []
    found += [Subject(f"{main} base LLM", plan.base, "base", plan.base_revision)] if plan.base else []
    known: dict[str, Subject] = {}
    for one in found:
        other = known.setdefault(one.name.casefold(), one)
        if other is not one:
            raise RunError(
                f"The {_spoken(other)} and the {_spoken(one)} are both called {one.name}, and results are "
                "stored by name. Give one of the folders another name."
            )
    return {one.name: one for one in found}


def studied(plan: Plan) -> list[Subject]:
    """The models whose queries are asked: all but the base LLM."""
    return [one for one in subjects(plan).values() if one.role != "base"]


def short(source: str) -> str:
    """A model's name for files and figures: the last part of its id or path."""
    return Path(source).name or source


def _spoken(one: Subject) -> str:
    """A model in a sentence."""
    said = {"untrained": "untrained model of", "base": "base LLM"}
    return f"{said.get(one.role, one.role)} {one.source}"


@dataclass(frozen=True)
class Cell:
    """A piece of a study that is done whole or not at all.

    Attributes:
        kind: Which experiment it is of, as `xmi.study.experiments` names it.
        model: Which model, by its name.
        task: Which task, as the plan names it; None where it is about all.
        seed: Which seed.

    Raises:
        RunError: An unknown kind, or one that does not go with a task (or without).
    """

    kind: str
    model: str
    task: str | None
    seed: int

    def __post_init__(self) -> None:
        """Refuses what is not a cell."""
        if self.kind not in KINDS:
            raise RunError(f"Unknown kind of cell {self.kind!r}; the kinds are {', '.join(KINDS)}.")
        if (self.kind in OF_A_TASK) != (self.task is not None):
            raise RunError(f"A cell of kind {self.kind!r} is about {'one task' if self.task is None else 'all tasks'}.")

    @property
    def key(self) -> str:
        """The cell's file name, from which nothing is ever read: what a cell is stands in the file."""
        return f"{slug(self.model, '.')}.{self.seed}.{'all' if self.task is None else slug(self.task)}.{self.kind}"


def cells_of(plan: Plan, tasks: Mapping[str, Task]) -> list[Cell]:
    """All cells of a plan, in the order in which they are done: vectors of all tasks are read before any is asked."""
    every, found = list(tasks.values()), []
    for subject in studied(plan):
        wanted = [one for one in registry().values() if one.wanted(plan, subject, every)]
        for every_seed, several in groupby(wanted, key=lambda one: one.every_seed):
            experiments = list(several)
            for seed in plan.seeds if every_seed else plan.seeds[:1]:
                for one in experiments:
                    about = plan.tasks if one.of_a_task else (None,)
                    found += [Cell(one.kind, subject.name, task, seed) for task in about]
    return found


def cells_for(name: str, plan: Plan, tasks: Mapping[str, Task]) -> list[Cell]:
    """The cells whose prompts one of a plan's models is given; a base LLM has those that are of it."""
    of_base, kinds = subjects(plan)[name].role == "base", registry()
    cells = cells_of(plan, tasks)
    return [cell for cell in cells if kinds[cell.kind].of_base == of_base and (of_base or cell.model == name)]


def needs_among(cells: Collection[Cell]) -> dict[Cell, tuple[Cell, ...]]:
    """The cells whose results each takes: of its model, and of its seed if they have seeds; in the order of kinds."""
    kinds = registry()
    groups: dict[tuple[str, str, int | None], list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[cell.kind, cell.model, cell.seed if kinds[cell.kind].every_seed else None].append(cell)
    taken: dict[tuple[str, str, int], tuple[Cell, ...]] = {}  # one for all cells of a kind: they may be many
    for cell in cells:
        key = cell.kind, cell.model, cell.seed
        if key not in taken:
            wanted = (
                (kind, cell.model, cell.seed if kinds[kind].every_seed else None) for kind in kinds[cell.kind].takes
            )
            taken[key] = tuple(other for group in wanted for other in groups.get(group, ()))
    return {cell: taken[cell.kind, cell.model, cell.seed] for cell in cells}


def slug(text: str, allowed: str = "") -> str:
    """A file-name form of a name: the same for the same name, another for any other, whatever the file system.

    Args:
        text: Any name.
        allowed: What may stay besides small letters, digits and hyphens.
    """
    plain = re.fullmatch(rf"[a-z0-9][a-z0-9{re.escape('-' + allowed)}]{{0,59}}", text)
    if plain and not re.search(r"-[0-9a-f]{6}$", text):  # which looks as if it had a hash already
        return text
    cleaned = re.sub(rf"[^A-Za-z0-9{re.escape('-' + allowed)}]", "-", text)
    return f"{cleaned[-60:].lstrip('.')}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:6]}"
