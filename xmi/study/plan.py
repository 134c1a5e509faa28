"""What a study does, as data."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from xmi.arguments import check_calls
from xmi.errors import RunError
from xmi.faults import explain, kind, listing, short, some
from xmi.fields import MOST, Count, Number, Switch, Text, plain
from xmi.load_options import Loading
from xmi.names import (
    IMAGE_ICL,
    INSTRUCTION,
    MODALITIES,
    ONE_EXAMPLE,
    SPECIFICATIONS,
    TEXT_ICL,
    DrawnFrom,
    Modality,
    Score,
    Ties,
    is_of_base,
    mean_of,
    needs_images,
    needs_instruction,
    of_base,
)
from xmi.shown import Shown
from xmi.structured import PAGE, parse_yaml, read_text
from xmi.study import executors
from xmi.study.controls import CONTROLS
from xmi.study.experiments import CHOSEN
from xmi.study.lenses import LENSES

READ = (*SPECIFICATIONS, ONE_EXAMPLE, of_base(TEXT_ICL), of_base(INSTRUCTION))
"""Specifications whose residuals are read from a model."""

ENSEMBLES = (
    mean_of(TEXT_ICL, INSTRUCTION),
    mean_of(IMAGE_ICL, INSTRUCTION),
    mean_of(TEXT_ICL, IMAGE_ICL),
    mean_of(ONE_EXAMPLE, INSTRUCTION),
)
"""Means of vectors of several specifications."""

SOURCES = (*READ[:3], *ENSEMBLES, *READ[3:])
"""All that a task vector can come from, in the order of tables and figures."""

EXPERIMENTS = CHOSEN
"""What a study does beyond the matrix."""

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "sources": (*SPECIFICATIONS, mean_of(TEXT_ICL, INSTRUCTION), *READ[4:]),
        "controls": (),
        "vectors_from": "validation",
        "score": "paper",
        "ties": "first",
        "experiments": (),
    }
}
"""Plans by name. `paper`: vectors are averaged over validation prompts, layers chosen on the same items, the first of
equally good ones (Luo, Darrell and Bar, ICML 2025, section 3 and the published code)."""


REVISIONS = {"revision": "model", "base_revision": "base", "control_revision": "control"}
"""Fields that name a revision, and those of the models that it is of."""

FOLDER = "runs/study"
"""The run folder, unless another is named."""

_RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?")


def _words(value: Any) -> Any:
    """Words as a list: they may be written in one line, with commas between them; `none` is an empty list."""
    if isinstance(value, str):
        value = (value,)
    if not isinstance(value, (list, tuple)):
        return value
    parts = [part.strip() for text in value for part in text.split(",")] if _all_text(value) else list(value)
    return () if parts == ["none"] else tuple(parts)


def _names(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _all_text(values: Iterable[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


def _numbers(value: Any) -> Any:
    """Numbers as a list: they may be written as `0,5,8-12`, which is bounded before it is expanded."""
    if not isinstance(value, (str, list, tuple, range)):
        return value
    parts = value.split(",") if isinstance(value, str) else value
    if len(parts) > MOST:
        raise ValueError(f"{len(parts)} numbers are more than the {MOST} that a plan may name")
    if not isinstance(value, str):
        return tuple(value)
    found: list[int] = []
    for part in value.split(","):
        match = _RANGE.fullmatch(part.strip())
        if match is None:
            raise ValueError(f"cannot read {short(part)!r} in {short(value)!r}: write numbers as 0,5,8-12")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"{short(part)!r} runs backwards: write {last}-{first}")
        if len(found) + last - first >= MOST:
            raise ValueError(f"{short(value)!r} names more than the {MOST} numbers that a plan may name")
        found += range(first, last + 1)
    return tuple(found)


def _seeds(value: Any) -> Any:
    """Seeds as numbers, or how many of them: 3 stands for 0, 1, 2."""
    count: Any = int(value) if isinstance(value, str) and value.isdecimal() and len(value) < 10 else value
    if isinstance(count, int) and not isinstance(count, bool):
        if not 1 <= count <= MOST:
            raise ValueError(f"the number of seeds is 1 to {MOST}")
        return tuple(range(count))
    return _numbers(value)


WHERE = " or ".join((", ".join(executors.NAMES), *executors.ADDRESSES))
"""What `on` may be, in words."""


def _on(value: str) -> str:
    if (found := executors.complete(value)) is None:
        raise ValueError(f"expected {WHERE}, found {short(value)!r}")
    return found


def _gpus(value: float) -> float:
    if not 0 < value <= 64 or (value > 1 and value != int(value)):
        raise ValueError(f"expected a whole number up to 64, or a part of one GPU such as 0.5, found {value:g}")
    return value


Words = Annotated[tuple[Text, ...], BeforeValidator(_words)]


class Plan(Shown, BaseModel):
    """A study's plan; the same plan on the same model gives the same numbers.

    Each field is a key of a plan file, and a flag of `xmi run` with the same description.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    model: Text = Field(description="The model: Hub id, folder, or embedded name.")
    revision: Text | None = Field(None, description="Hub revision of the model.")
    base: Text | None = Field(None, description="Base LLM whose vectors are patched into the model.")
    base_revision: Text | None = Field(None, description="Hub revision of the base LLM.")
    control: Text | None = Field(None, description="Second model to compare with.")
    control_revision: Text | None = Field(None, description="Hub revision of the second model.")
    untrained: Switch = Field(False, description="Also the model with random weights.")
    tasks: Annotated[tuple[Text, ...], BeforeValidator(_names)] = Field(
        min_length=1, max_length=1000, description="Tasks by name or file (all of xmi's)."
    )
    sources: Words = Field(SOURCES, min_length=1, description="What vectors are read from (all).")
    targets: Annotated[tuple[Modality, ...], BeforeValidator(_words)] = Field(
        MODALITIES, min_length=1, description="Modality of the queries that vectors are patched into (both)."
    )
    controls: Words = Field(CONTROLS, description="Vectors that should not carry the task, or none (all).")
    layers: Annotated[tuple[Number, ...], BeforeValidator(_numbers)] | None = Field(
        None, description="After which blocks vectors are patched: 0,5,8-12 (all)."
    )
    slot: Text = Field("last", description="Where vectors are read in prompts with examples (last).")
    patch_slot: Text = Field("last", description="Where vectors are patched into queries (last).")
    chat: Switch = Field(False, description="Prompts in the frame of the models' own chat templates.")
    shots: Count = Field(5, ge=1, description="Examples per prompt (5).")
    prompts: Count = Field(30, ge=1, description="Prompts averaged into a task vector (30).")
    vectors_from: DrawnFrom = Field(
        "train", description="Split of the queries that vectors are read on: train or validation (train)."
    )
    seeds: Annotated[tuple[Number, ...], BeforeValidator(_seeds)] = Field(
        (0, 1, 2), min_length=1, description="Number of seeds, or the seeds: 0,4,7 (3)."
    )
    score: Score = Field(
        "paper", description="What chooses the layer on validation items: paper, strict or whole (paper)."
    )
    ties: Ties = Field(
        "likelihood", description="Which of equally good layers is chosen: likelihood or first (likelihood)."
    )
    whole: Switch = Field(True, description="Score whole labels, too, or first tokens alone.")
    points: Count = Field(15, ge=2, description="Prompts per task and modality in the geometry (15).")
    task_words: Literal["given", "found"] = Field(
        "given", description="Words that the task phase follows: given with the task, or found (given)."
    )
    lens: Literal[LENSES] = Field(  # type: ignore[valid-type]
        "logit", description=f"What phases are read with: {' or '.join(LENSES)} (logit)."
    )
    experiments: Words = Field(EXPERIMENTS, description="What is done beyond the matrix, or none (all).")

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
            raise ValueError(f"unknown: {some(unknown)}; known are {', '.join(known)}")
        return tuple(name for name in known if name in value)

    @model_validator(mode="after")
    def _consistent(self) -> Plan:
        if self.score == "whole" and not self.whole:
            raise ValueError("score 'whole' needs whole: true")
        for name in ("base", "control"):
            if getattr(self, f"{name}_revision") and not getattr(self, name):
                raise ValueError(f"{name}_revision: there is no {name} that it could be of: name it, or leave it out")
        return self

    @model_serializer(mode="wrap")
    def _dumped(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A revision that is not given, and no chat, are left out: the plan is the text it was without these fields."""
        left = {name for name in REVISIONS if getattr(self, name) is None} | ({"chat"} if not self.chat else set())
        return {name: value for name, value in dump(self).items() if name not in left}

    @property
    def hash(self) -> str:
        """A short stable hash of the whole plan."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:8]

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities that prompts are made in: text always, images if a source or a target has them."""
        return MODALITIES if blind_fields(self.sources, self.targets) else MODALITIES[:1]

    @property
    def needs_instructions(self) -> bool:
        """Whether anything needs the tasks' instructions."""
        return bool(self.experiments) or any(map(needs_instruction, self.sources))

    def differences(self, other: Plan) -> list[str]:
        """Returns one line per field in which two plans differ."""
        pairs = {name: (getattr(other, name), getattr(self, name)) for name in type(self).model_fields}
        return [f"{name}: {before!r} -> {now!r}" for name, (before, now) in pairs.items() if before != now]


class Running(BaseModel):
    """What a plan file may hold besides the plan and the options of `xmi.load`: none of it changes what a study is."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    preset: Literal["paper"] | None = Field(None, description="paper: the paper's protocol.")
    out: Text | None = Field(None, description=f"Run folder; an interrupted run continues there ({FOLDER}).")
    on: Annotated[str, AfterValidator(_on)] | None = Field(
        None, description=f"Where cells are done: {WHERE} (as fits the model)."
    )
    workers: Count | None = Field(None, ge=1, description="Cells done at the same time (as fits model and machine).")
    gpus_per_model: Annotated[float, BeforeValidator(plain), AfterValidator(_gpus)] | None = Field(
        None, description="With ray: GPUs for each copy of the models, whole ones or a part of one (1)."
    )


LOADING = tuple(Loading.model_fields)
"""Options of `xmi.load` that a plan file may hold."""


def blind_fields(sources: Sequence[str], targets: Sequence[str]) -> str:
    """The sources and targets that need images, in words; empty if none does."""
    seeing = [f"source {name!r}" for name in sources if needs_images(name)]
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
    if preset is not None and preset not in tuple(PRESETS):
        raise RunError(f"Unknown preset {short(preset)!r}; use one of {', '.join(PRESETS)}.")
    given = {k: v for k, v in fields.items() if v is not None}
    wanted = {**(PRESETS[preset] if preset else {}), **given}
    sources, targets = _asked(given, "sources"), _asked(given, "targets")
    foreign = [name for name in sources if is_of_base(name)]
    if foreign and not given.get("base"):
        raise RunError(f"The sources {', '.join(foreign)} need a base LLM: name it with base.")
    if blind and (asked := blind_fields(sources, targets)):
        raise RunError(f"{blind}, so that the plan cannot have the {asked}. Leave them out.")
    if "sources" not in given:
        own = [name for name in wanted.get("sources", SOURCES) if given.get("base") or not is_of_base(name)]
        wanted["sources"] = tuple(name for name in own if not (blind and needs_images(name)))
    if blind and "targets" not in given:
        wanted["targets"] = MODALITIES[:1]
    try:
        return Plan(**wanted)
    except ValidationError as error:
        raise RunError(f"The plan is faulty:\n{listing(explain(error, Plan.model_fields))}") from error


def _asked(given: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = _words(given.get(name))
    return tuple(word for word in value if isinstance(word, str)) if isinstance(value, tuple) else ()


def check_options(kind: type[BaseModel], given: Mapping[str, Any]) -> None:
    """Checks what a plan file or a flag may give besides the plan; objects that only Python has are left as they are.

    Args:
        kind: `Loading` or `Running`.
        given: Values by name; of other names none is looked at.

    Raises:
        RunError: Values are faulty; all faults are listed.
    """
    known, plain = kind.model_fields, (str, int, float, list, tuple, dict, date)
    try:
        kind(**{name: value for name, value in given.items() if name in known and isinstance(value, plain)})
    except ValidationError as error:
        raise RunError(f"The plan is faulty:\n{listing(explain(error, known))}") from error


def read_plan(path: str | Path) -> dict[str, Any]:
    """Reads a plan file: YAML with the fields of `Plan` and `Running`, and options of `xmi.load`.

    Paths of tasks and models are relative to where the command runs, as on the command line.

    Returns:
        Arguments of `xmi.run`.

    Raises:
        RunError: The file cannot be read, or holds an unknown key.
    """
    content = parse_yaml(read_text(Path(path), RunError, PAGE), Path(path), RunError)
    if not isinstance(content, Mapping):
        raise RunError(f"{path} is not a plan: expected keys such as model and tasks, found {kind(content)}.")
    known = (*Plan.model_fields, *Running.model_fields, *LOADING)
    if unknown := [key for key in content if key not in known]:
        raise RunError(f"{path} has unknown keys: {some(unknown)}. Known are {', '.join(known)}.")
    return dict(content)


check_calls(__name__, ["Plan"])
