"""What a study does, as data."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from xmi.errors import RunError

SOURCES = ("text ICL", "image ICL", "instruction")
"""Specifications whose task vectors every study reads."""

TARGETS = ("text", "image")
"""Modalities of the queries that vectors are patched into."""


class Plan(BaseModel):
    """A study's plan; the same plan on the same model gives the same numbers.

    Attributes:
        model: The VLM.
        base: Its base LLM, whose vectors are patched into the VLM, or None.
        control: A second model to lay beside it, or None.
        tasks: Names or files of the tasks.
        shots: Examples per prompt.
        prompts: Prompts averaged into a task vector.
        seeds: Seeds of the drawing of examples; all results are pooled over them.
        points: Prompts per task and modality in the geometry (PCA, t-SNE, silhouette), from the first seed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    model: str
    base: str | None = None
    control: str | None = None
    tasks: tuple[str, ...] = Field(min_length=1)
    shots: int = Field(default=5, ge=1)
    prompts: int = Field(default=30, ge=1)
    seeds: tuple[int, ...] = Field(default=(0, 1, 2), min_length=1)
    points: int = Field(default=15, ge=2)

    @field_validator("tasks", "seeds")
    @classmethod
    def _distinct(cls, value: tuple[object, ...]) -> tuple[object, ...]:
        if len(set(value)) < len(value):
            raise ValueError("values must be distinct")
        return value

    def differences(self, other: Plan) -> list[str]:
        """Returns one line per field in which two plans differ."""
        mine, theirs = self.model_dump(), other.model_dump()
        return [f"{k}: {theirs[k]!r} -> {mine[k]!r}" for k in mine if mine[k] != theirs[k]]


def make_plan(**fields: Any) -> Plan:
    """Makes a plan.

    Raises:
        RunError: A field is faulty; all faults are listed.
    """
    try:
        return Plan(**fields)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}, got {e['input']!r}" for e in error.errors())
        raise RunError(f"The plan is faulty: {faults}.") from error
