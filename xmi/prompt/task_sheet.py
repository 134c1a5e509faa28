"""The sheet of a task: what its items do not tell (instruction, task words, template, columns), as YAML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from xmi.errors import TaskError
from xmi.faults import explain, kind, listing
from xmi.names import DrawnFrom
from xmi.prompt.items import COLUMNS
from xmi.prompt.prompt import Template
from xmi.structured import PAGE, parse_yaml, read_text


class TemplateSheet(BaseModel):
    """A template; see `Template`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    prefix: str = Template.prefix
    delimiter: str = Field(default=Template.delimiter, min_length=1)
    separator: str = Template.separator


class Wording(BaseModel):
    """What a sheet and a task file both may hold.

    Attributes:
        name: Name of the task.
        instruction: The instruction.
        paraphrases: The same in other words.
        task_words: Words that name the task.
        template: How prompts are written.
        examples: Split that examples are drawn from: `validation` as in the paper, by default `train`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str | None = None
    instruction: str | None = None
    paraphrases: tuple[str, ...] = ()
    task_words: tuple[str, ...] = ()
    template: TemplateSheet = TemplateSheet()
    examples: DrawnFrom = "train"

    @property
    def instructions(self) -> tuple[str, ...]:
        """The instruction, then its paraphrases."""
        return (self.instruction, *self.paraphrases) if self.instruction else ()

    def make_template(self) -> Template:
        """Returns the template."""
        return Template(**{f.name: getattr(self.template, f.name) for f in fields(Template)})


class Sheet(Wording):
    """A sheet.

    Attributes:
        source: Where the items are, relative to the sheet's folder; a sheet beside a source needs none.
        root: Folder that image paths are relative to, relative to the sheet's folder.
        columns: Which column of the source is `input`, `output`, `image`, `split`; all others are left aside.
    """

    source: str | None = None
    root: str | None = None
    columns: dict[str, str] | None = None

    @field_validator("columns")
    @classmethod
    def _known(cls, value: dict[str, str] | None) -> dict[str, str] | None:
        if unknown := [name for name in value or {} if name not in COLUMNS]:
            raise ValueError(f"unknown: {', '.join(unknown)}; known are {', '.join(COLUMNS)}")
        return value


Kind = TypeVar("Kind", bound=Wording)


def read_sheet(path: Path) -> Sheet:
    """Reads a sheet.

    Raises:
        TaskError: It cannot be read, or holds an unknown key or a wrong value; all are listed.
    """
    content = parse_yaml(read_text(path, TaskError, PAGE), path, TaskError)
    if not isinstance(content, Mapping):
        raise TaskError(f"{path} is not a task sheet: expected keys such as instruction, found {kind(content)}.")
    return check_sheet(Sheet, dict(content), str(path))


def check_sheet(model: type[Kind], content: dict[str, Any], where: str) -> Kind:
    """Checks keys and values.

    Raises:
        TaskError: Listing all that is wrong.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        faults = listing(explain(error))
        known = ", ".join(model.model_fields)
        raise TaskError(f"{where} is not a task file:\n{faults}\nIt may hold {known}.") from error
