"""What a study does, as data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from xmi.errors import RunError

TARGETS = ("text", "image")
"""Modalities of the queries that vectors are patched into."""

READ = ("text ICL", "image ICL", "instruction", "1 example", "base LLM text ICL", "base LLM instruction")
"""Specifications whose residuals are read from a model."""

ENSEMBLES = {
    "text ICL + instruction": ("text ICL", "instruction"),
    "image ICL + instruction": ("image ICL", "instruction"),
    "text ICL + image ICL": ("text ICL", "image ICL"),
    "1 example + instruction": ("1 example", "instruction"),
}
"""Means of vectors of several specifications."""

SOURCES = (*READ[:3], *ENSEMBLES, *READ[3:])
"""All that a task vector can come from, in the order of tables and figures."""

CONTROLS = ("random vector", "another task", "mean over tasks", "shuffled labels", "unrelated slot")
"""What is patched in to see what any vector would do; the untrained model (`untrained`) is one more, on request."""

LOADING = (
    "device", "dtype", "batch_size", "trust_remote_code", "device_map", "quantization", "attn_implementation", "remote",
    "wait", "resubmit",
)  # fmt: skip
"""Options of `xmi.load` that a plan file may hold."""

EXPERIMENTS = ("ensembling", "overriding")
"""What a study does beyond the matrix: accuracy against the number of examples with and without the instruction, and
one task in the prompt with another one's vector patched in."""

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "sources": ("text ICL", "image ICL", "instruction", "text ICL + instruction", *READ[4:]),
        "controls": (),
        "vectors_from": "validation",
        "score": "paper",
        "ties": "first",
        "experiments": (),
    }
}
"""Plans by name. `paper`: vectors are averaged over validation prompts, layers chosen on the same items, the first of
equally good ones (Luo, Darrell and Bar, ICML 2025, section 3 and the published code)."""


class Plan(BaseModel):
    """A study's plan; the same plan on the same model gives the same numbers.

    Attributes:
        model: The VLM.
        base: Its base LLM, whose vectors are patched into the VLM, or None.
        control: A second model to lay beside it, or None.
        untrained: Also study the model with random weights.
        tasks: Names or files of the tasks.
        sources: What task vectors are read from.
        targets: Modalities of the queries that they are patched into.
        controls: Vectors that should not carry the task.
        layers: After which blocks vectors are patched; None for all.
        slot: Where vectors are read in prompts with examples: the last token, or a named slot. Instructions are always
            read at their last token.
        patch_slot: Where vectors are patched into queries.
        shots: Examples per prompt.
        prompts: Prompts averaged into a task vector.
        vectors_from: Split of the items that vectors are averaged over.
        seeds: Seeds of the drawing of examples; all results are pooled over them.
        score: What chooses the layer on validation items: `paper`, `strict` or `whole`.
        ties: Which of equally good layers is chosen: that of the highest `likelihood`, or the `first`.
        whole: Read as many tokens as the longest label of a task has, so that labels are scored whole, too.
        points: Prompts per task and modality in the geometry (PCA, t-SNE, silhouette), from the first seed.
        task_words: Words that the task phase follows: `given` with the task (found for tasks that have none), or
            `found` for all.
        lens: What phases are read with: `logit`, or `tuned` (trained on the prompts that vectors are read on).
        experiments: What is done beyond the matrix; overriding takes tasks that share inputs, and the first seed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    model: str
    base: str | None = None
    control: str | None = None
    untrained: bool = False
    tasks: tuple[str, ...] = Field(min_length=1)
    sources: tuple[str, ...] = Field(default=SOURCES, min_length=1)
    targets: tuple[Literal["text", "image"], ...] = Field(default=("text", "image"), min_length=1)
    controls: tuple[str, ...] = CONTROLS
    layers: tuple[int, ...] | None = None
    slot: str = "last"
    patch_slot: str = "last"
    shots: int = Field(default=5, ge=1)
    prompts: int = Field(default=30, ge=1)
    vectors_from: Literal["train", "validation"] = "train"
    seeds: tuple[int, ...] = Field(default=(0, 1, 2), min_length=1)
    score: Literal["paper", "strict", "whole"] = "paper"
    ties: Literal["likelihood", "first"] = "likelihood"
    whole: bool = True
    points: int = Field(default=15, ge=2)
    task_words: Literal["given", "found"] = "given"
    lens: Literal["logit", "tuned"] = "logit"
    experiments: tuple[str, ...] = EXPERIMENTS

    @field_validator("tasks", "seeds", "sources", "targets", "controls", "layers", "experiments")
    @classmethod
    def _distinct(cls, value: tuple[object, ...] | None) -> tuple[object, ...] | None:
        if value is not None and len(set(value)) < len(value):
            raise ValueError("values must be distinct")
        return value

    @field_validator("sources", "controls", "experiments")
    @classmethod
    def _known(cls, value: tuple[str, ...], info: Any) -> tuple[str, ...]:
        known = {"sources": SOURCES, "controls": CONTROLS, "experiments": EXPERIMENTS}[info.field_name]
        if unknown := [name for name in value if name not in known]:
            raise ValueError(f"unknown: {', '.join(unknown)}; known are {', '.join(known)}")
        return tuple(name for name in known if name in value)

    @model_validator(mode="after")
    def _consistent(self) -> Plan:
        if self.score == "whole" and not self.whole:
            raise ValueError("score 'whole' needs whole: true")
        return self

    @property
    def hash(self) -> str:
        """A short stable hash of the whole plan."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:8]

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities that prompts are made in: text always, images if a source or a target has them."""
        return TARGETS if blind_fields(self.sources, self.targets) else TARGETS[:1]

    @property
    def told(self) -> bool:
        """Whether anything needs the tasks' instructions."""
        return bool(self.experiments) or any("instruction" in source for source in self.sources)

    def differences(self, other: Plan) -> list[str]:
        """Returns one line per field in which two plans differ."""
        mine, theirs = self.model_dump(), other.model_dump()
        return [f"{k}: {theirs[k]!r} -> {mine[k]!r}" for k in mine if mine[k] != theirs[k]]


def blind_fields(sources: Sequence[str], targets: Sequence[str]) -> str:
    """The sources and targets that need images, in words; empty if none does."""
    seeing = [f"source {name!r}" for name in sources if "image" in name]
    return ", ".join([*seeing, *(f"target {name!r}" for name in targets if name == "image")])


def make_plan(preset: str | None = None, *, blind: str = "", **fields: Any) -> Plan:
    """Makes a plan.

    Args:
        preset: One of `PRESETS`, whose fields stand unless given.
        blind: Why the study can have no images, if so: then the default sources and targets are those of text alone,
            and given ones with images are refused.
        **fields: Fields of `Plan`; None stands for the default. Without `sources`, those of a base LLM are taken
            if there is one.

    Raises:
        RunError: A field is faulty; all faults are listed.
    """
    if preset is not None and preset not in PRESETS:
        raise RunError(f"Unknown preset {preset!r}; use one of {', '.join(PRESETS)}.")
    given = {k: v for k, v in fields.items() if v is not None}
    wanted = {**(PRESETS[preset] if preset else {}), **given}
    if not given.get("base"):
        of_base = [name for name in given.get("sources", ()) if name.startswith("base LLM")]
        if of_base:
            raise RunError(f"The sources {', '.join(of_base)} need a base LLM: name it with base.")
        wanted["sources"] = tuple(n for n in wanted.get("sources", SOURCES) if not n.startswith("base LLM"))
    if blind:
        if asked := blind_fields(given.get("sources", ()), given.get("targets", ())):
            raise RunError(f"{blind}, so that the plan cannot have the {asked}. Leave them out.")
        wanted["sources"] = tuple(name for name in wanted.get("sources", SOURCES) if "image" not in name)
        wanted["targets"] = given.get("targets", TARGETS[:1])
    try:
        return Plan(**wanted)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'plan'}: {e['msg']}, got {e['input']!r}" for e in error.errors()
        )
        raise RunError(f"The plan is faulty: {faults}.") from error


def read_plan(path: str | Path) -> dict[str, Any]:
    """Reads a plan file: YAML with the fields of `Plan`, `preset`, `out`, `workers`, and options of `xmi.load`.

    Paths of tasks and models are relative to where the command runs, as on the command line.

    Returns:
        Arguments of `xmi.study`.

    Raises:
        RunError: The file cannot be read, or holds an unknown key.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RunError(f"Cannot read the plan {path}: {error}") from error
    if not isinstance(content, Mapping):
        raise RunError(f"{path} is no plan: expected keys such as model and tasks, found {type(content).__name__}.")
    known = (*Plan.model_fields, "preset", "out", "workers", *LOADING)
    if unknown := [str(key) for key in content if key not in known]:
        raise RunError(f"{path} has unknown keys: {', '.join(unknown)}. Known are {', '.join(known)}.")
    return dict(content)
