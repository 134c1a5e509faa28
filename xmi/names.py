"""The words that tasks, studies, tables and figures share, each written once, and the names that are made of them.

A task is *specified* by examples of a modality (`text ICL`), by an instruction, or not at all (`no context`). What a
task vector was made from is its *source*: a specification, a mean of several (`text ICL + instruction`), a
specification of the base LLM (`base LLM text ICL`), or a control (`control: random vector`).
"""

from __future__ import annotations

from typing import Literal, get_args

Modality = Literal["text", "image"]
MODALITIES: tuple[Modality, ...] = get_args(Modality)

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

DrawnFrom = Literal["train", "validation"]
"""The splits that examples and the queries of task vectors may come from."""
ASKED: tuple[Split, ...] = ("validation", "test")
"""The splits that are asked: the first chooses the layer, the second is reported."""

Score = Literal["paper", "strict", "whole"]
SCORES: tuple[Score, ...] = get_args(Score)

Ties = Literal["likelihood", "first"]
TIES: tuple[Ties, ...] = get_args(Ties)

TEXT_ICL, IMAGE_ICL, INSTRUCTION, ONE_EXAMPLE = "text ICL", "image ICL", "instruction", "1 example"
SPECIFICATIONS = (TEXT_ICL, IMAGE_ICL, INSTRUCTION)

NO_CONTEXT, MAJORITY = "no context", "majority"
LEVELS = (NO_CONTEXT, MAJORITY)
"""What answers are measured against that no prompt or patch gave."""

_ICL, _PLUS, _BASE, _CONTROL, _QUERY, _OF = " ICL", " + ", "base LLM ", "control: ", " > ", " · "


def icl(modality: str) -> str:
    """The specification by examples of a modality: `text ICL`."""
    return f"{modality}{_ICL}"


def modality_of(specification: str) -> str | None:
    """The modality of the examples of `text ICL` or `image ICL`; None for any other name."""
    modality, found, rest = specification.partition(_ICL)
    return modality if found and not rest and not is_of_base(specification) else None


def mean_of(*specifications: str) -> str:
    """The source that is the mean of several: `text ICL + instruction`."""
    return _PLUS.join(specifications)


def parts_of(source: str) -> tuple[str, ...]:
    """The specifications that a source is the mean of; itself alone if it is not a mean."""
    return tuple(source.split(_PLUS))


def of_base(specification: str) -> str:
    """The same specification, read from the base LLM: `base LLM text ICL`."""
    return f"{_BASE}{specification}"


def is_of_base(source: str) -> bool:
    """Whether a source is read from the base LLM."""
    return source.startswith(_BASE)


def without_base(source: str) -> str:
    """The source of the model itself that one of its base LLM corresponds to."""
    return source.removeprefix(_BASE)


def needs_images(source: str) -> bool:
    """Whether a source is read from prompts with images."""
    return IMAGE_ICL in parts_of(without_base(source))


def needs_instruction(source: str) -> bool:
    """Whether a source is read from instructions."""
    return INSTRUCTION in parts_of(without_base(source))


def control(name: str) -> str:
    """The source of a control: `control: random vector`."""
    return f"{_CONTROL}{name}"


def is_control(source: str) -> bool:
    """Whether a source is a control: a vector that should not carry the task."""
    return source.startswith(_CONTROL)


def without_control(source: str) -> str:
    """The name of a control alone; any other source as it is."""
    return source.removeprefix(_CONTROL)


RANDOM, OTHER, MEAN, SHUFFLED, UNRELATED = map(
    control, ("random vector", "another task", "mean over tasks", "shuffled labels", "unrelated slot")
)
CONTROLS = (RANDOM, OTHER, MEAN, SHUFFLED, UNRELATED)
TASKLESS = (RANDOM, OTHER, UNRELATED)
"""Controls that hold nothing of the task; a mean over tasks holds a part of it, and shuffled labels hold its labels."""


def cell_name(source: str, target: str) -> str:
    """The name of the answers to prompts: `text ICL > image`, source and modality of the query."""
    return f"{source}{_QUERY}{target}"


def cell_parts(name: str) -> tuple[str, str]:
    """The source and the modality of the query that `cell_name` joined."""
    source, _, target = name.rpartition(_QUERY)
    return source, target


def sweep_name(target: str, split: str) -> str:
    """The name of a sweep: `image.test`, modality and split of the queries."""
    return f"{target}.{split}"


def label_of(task: str, specification: str) -> str:
    """A specification of a task: `country-capital · text ICL`; without a task the specification alone."""
    return f"{task}{_OF}{specification}" if task else specification


def label_parts(name: str) -> tuple[str, str]:
    """The task and the specification that `label_of` joined; the task is empty where there is none."""
    task, _, specification = name.rpartition(_OF)
    return task, specification


EMBEDDED = {"organism": "vlm", "organism-llm": "llm", "organism-control": "control"}
"""Names of the embedded models and their folders in `xmi/data/organism`; hosts know them as `xmi/<name>`."""

ASSEMBLED = {"pretrained": "vlm", "pretrained-llm": "llm", "pretrained-control": "control"}
"""Names of the models that are put together out of packages when they are first asked for, and their folders."""

NAMED = (*EMBEDDED, *ASSEMBLED)
"""Every model that xmi knows by a name of its own."""

TASK_FOLDERS = {"organism": "tasks", "pretrained": "pretrained/tasks"}
"""Folders of xmi's own tasks in `xmi/data`, by the model that they are for."""
