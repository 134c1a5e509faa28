"""Flags of commands: the fields of `Plan`, `Running`, `Loading` and `Resources`, so that none can be forgotten."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from importlib.resources import files
from typing import Annotated, Any, get_args, get_origin

import typer
from pydantic import BaseModel

from xmi.load_options import HOSTS, Loading
from xmi.names import NAMED, TASK_FOLDERS

Command = Callable[..., None]

ALSO = {
    "tasks": ("--task", "-t"),
    "sources": ("--source",),
    "targets": ("--target",),
    "whole": ("--whole/--first",),
}
"""Further flags of some keys."""

PANELS = {
    "What is studied": ("revision", "base", "base_revision", "control", "control_revision", "untrained", "tasks"),
    "Vectors and patches": (
        *("sources", "targets", "controls", "layers", "slot", "patch_slot", "chat", "shots", "prompts"),
        *("vectors_from", "seeds"),
    ),
    "Scores and experiments": ("score", "ties", "whole", "points", "task_words", "lens", "experiments"),
    "Loading the model": tuple(name for name in Loading.model_fields if name not in HOSTS),
    "A model on a host": HOSTS,
    "Where cells are done": ("on", "workers", "gpus_per_model"),
}
"""Fields by the panel of the help that their flags stand in; others stand in the first one."""


def model_names(incomplete: str) -> list[str]:
    """Models of xmi whose names begin so, for the shell's completion."""
    return [name for name in NAMED if name.startswith(incomplete)]


def task_files(incomplete: str) -> list[str]:
    """Tasks of xmi whose names begin so, for the shell's completion."""
    homes = [files("xmi") / "data" / folder for folder in TASK_FOLDERS.values()]
    names = [
        file.name.removesuffix(".json") for home in homes for file in home.iterdir() if file.name.endswith(".json")
    ]
    return sorted(name for name in names if name.startswith(incomplete))


def with_flags(*kinds: type[BaseModel], leave: Collection[str] = ()) -> Callable[[Command], Command]:
    """Gives a command a flag for every field; what was given arrives as keywords.

    Args:
        kinds: Models whose fields are meant, with their descriptions as help, in the panels of `PANELS`.
        leave: Fields to leave out.
    """

    def add(command: Command) -> Command:
        own = inspect.signature(command, eval_str=True).parameters.values()
        fixed = [p for p in own if p.kind is not inspect.Parameter.VAR_KEYWORD]
        made = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_flag(name, field))
            for kind in kinds
            for name, field in kind.model_fields.items()
            if name not in leave
        ]
        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in fixed] + made
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        return command

    return add


def _flag(name: str, field: Any) -> Any:
    """The annotation from which typer makes a field's flag; what a value may be is the field's to say."""
    key, parts = f"--{name.replace('_', '-')}", _parts(field.annotation)
    also = ALSO.get(name, ())
    if bool in parts:
        kind: Any = bool
        also = also or (f"{key}/--no-{key[2:]}",)
        key = also[0]
    elif any(get_origin(part) is tuple for part in parts):
        kind = str if int in parts else list[str]  # numbers are written as 0,5,8-12
    else:
        kind = next((number for number in (int, float) if number in parts), str)
    option = typer.Option(
        *dict.fromkeys((key, *also)),
        help=field.description,
        rich_help_panel=next((panel for panel, names in PANELS.items() if name in names), None),
        autocompletion=task_files if name == "tasks" else None,
    )
    return Annotated[kind | None, option]


def _parts(annotation: Any) -> list[Any]:
    """An annotation and all that it is made of."""
    return [annotation, *(part for inner in get_args(annotation) for part in _parts(inner))]
