"""From what a user asks to what a study will do, before anything is computed: a dry run and a run refuse the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import Any

from xmi.backend import ON_HOST, Backend, backend_for
from xmi.errors import ModelError, PromptError, RunError, SlotError, TaskError, VectorError
from xmi.faults import some
from xmi.load_options import HOSTS, Loading
from xmi.loading import load
from xmi.model.options import find_device
from xmi.model.source import check_revision
from xmi.names import ASSEMBLED
from xmi.prompt import Prompts, Task, Template, check_task, find_segment, load_task, task_names
from xmi.study.executors.choice import check, loads_here
from xmi.study.grid import Role, Subject, subjects
from xmi.study.lenses import REGISTRY
from xmi.study.plan import FOLDER, LOADING, Plan, Running, blind_fields, check_options, make_plan, read_plan
from xmi.study.prompts import asks, follows, reads, sweeps
from xmi.vector.base_comparison import check_shapes
from xmi.vlm import VLM


@dataclass(frozen=True)
class Prepared:
    """What a study will do.

    Attributes:
        plan: The plan, complete.
        folder: The run folder.
        loading: Options of `xmi.load`.
        tasks: The tasks, by their name in the plan; every prompt was built once.
        running: Where and how it is done; nothing of it is part of what the study is.
        notes: What the plan leaves out by default, and why.
        revisions: The revision of each model's files, by where it is loaded from and the revision that is asked for.
    """

    plan: Plan
    folder: Path
    loading: dict[str, Any]
    tasks: dict[str, Task]
    running: Running = field(default_factory=Running)
    notes: tuple[str, ...] = ()
    revisions: Mapping[tuple[str, str | None], str] = field(default_factory=dict)


def prepare(file: str | Path | None = None, /, **given: Any) -> Prepared:
    """Makes the plan of a study and checks that its tasks and models fit it; no weights are loaded.

    Args:
        file: A plan file, or None.
        **given: Fields of `Plan` and `Running`, options of `xmi.load`; what is not None stands before the file.

    Raises:
        RunError: A fault in the plan, or no model or folder; TaskError: a faulty task; ModelError: a model whose
        configuration cannot be read, or that cannot do what is asked.
    """
    wanted = (read_plan(file) if file is not None else {}) | {k: v for k, v in given.items() if v is not None}
    fields = (*Plan.model_fields, *Running.model_fields)
    loading = {name: wanted.pop(name) for name in list(wanted) if name not in fields}
    if unknown := [name for name in loading if name not in signature(load).parameters]:
        raise RunError(f"Unknown: {some(unknown)}. Known are {', '.join((*fields, *LOADING))}.")
    wanted = {name: _plain(value) for name, value in wanted.items()}
    check_options(Running, wanted)
    check_options(Loading, loading)
    if loading.get("remote") == "ndif":
        loading["remote"] = True
    running = Running(**{name: wanted.pop(name, None) for name in Running.model_fields if name != "preset"})
    check(running, loading)
    if not wanted.get("model"):
        raise RunError("Which model? Name it, or give a plan that does.")
    if isinstance(wanted["model"], (list, tuple)):
        raise RunError("A study is of one model. Several of a plan are studied by `xmi run`; here, name one of them.")
    wanted.setdefault("tasks", task_names("pretrained" if wanted["model"] in ASSEMBLED else "organism"))
    plan = make_plan(**wanted)  # as it stands, for its faults
    subjects(plan)  # for two models of one name
    check_place(backend_for(loading.get("remote")), plan, loading)
    tasks = _load_tasks(plan)
    _check_tasks(plan, tasks)
    here = {name: value for name, value in loading.items() if name != "device" or loads_here(running)}
    seen = {one: glance(one, here) for one in subjects(plan).values() if one.role != "untrained"}
    models = {one.role: vlm for one, vlm in seen.items()}
    blind = _blind(plan, tasks, models)
    if blind:
        plan = make_plan(**wanted, blind=blind)
    plan = plan.model_copy(update={"points": min(plan.points, plan.prompts)})
    _check_models(plan, models)
    _check_tasks(plan, tasks, plan.modalities)
    _check_frames(plan, models)
    _check_prompts(plan, tasks, models)
    revisions = {(one.source, one.revision): vlm.revision for one, vlm in seen.items()}
    folder = Path(running.out or FOLDER)
    return Prepared(plan, folder, loading, tasks, running, (blind,) if blind else (), revisions)


def _plain(value: Any) -> Any:
    """A value as a plan file would have it: paths as text."""
    if isinstance(value, (list, tuple)):
        return tuple(str(part) if isinstance(part, Path) else part for part in value)
    return str(value) if isinstance(value, Path) else value


def glance(one: Subject, loading: Mapping[str, Any]) -> VLM:
    """A model without its weights: what its configuration and its processor say.

    Args:
        one: The model.
        loading: Options of `xmi.load`; those of device and host are left aside.

    Raises:
        ModelError: It cannot be loaded, or is a folder, of which there are no revisions.
    """
    check_revision(one.source, one.revision)
    kind = backend_for(loading.get("remote"))
    if kind.needs_weights:
        if None not in (loading.get("device"), loading.get("device_map")):
            raise ModelError("Give device or device_map, not both.")
        find_device(loading.get("device"))  # refused here as it would be with weights
    aside = (*HOSTS, *(("device", "device_map") if kind.needs_weights else ON_HOST))
    options = {name: value for name, value in loading.items() if name not in aside}
    return load(one.source, revision=one.revision, **options, device="meta")


def check_place(place: type[Backend], plan: Plan, loading: Mapping[str, Any]) -> None:
    """Refuses what cannot be done where the models compute.

    Args:
        place: The kind of backend.
        plan: The plan.
        loading: Options of `xmi.load`.

    Raises:
        ModelError: An option of loading that is decided there, an untrained model, or a lens that has to be trained.
    """
    given = {name: value for name in ON_HOST if (value := loading.get(name)) not in (None, "auto")}
    for one in subjects(plan).values():
        place.check_options(one.source, loading.get("remote") or False, one.revision, given)
    if plan.untrained:
        place.require("untrained", plan.model)
    if REGISTRY[plan.lens].train is not None:
        place.require("training", plan.model)


def _load_tasks(plan: Plan) -> dict[str, Task]:
    """The tasks of a plan.

    Raises:
        TaskError: A faulty task, or two of one name.
    """
    template = Template.chat() if plan.chat else None
    tasks = {name: load_task(name, template=template) for name in plan.tasks}
    names = [task.name for task in tasks.values()]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise TaskError(f"Several tasks of the plan are called {', '.join(twice)}: give each a name of its own.")
    return tasks


def _check_tasks(plan: Plan, tasks: Mapping[str, Task], modalities: Sequence[str] | None = None) -> None:
    """Checks what tasks hold; without modalities, what they must hold in any."""
    asked = {"shots": plan.shots, "instruction": plan.needs_instructions}
    try:
        check_task(*tasks.values(), modalities=modalities or ("text",), **asked)  # type: ignore[arg-type]
    except TaskError:
        if modalities is None and any(item.image for task in tasks.values() for item in task.items):
            check_task(*tasks.values(), modalities=plan.modalities, **asked)  # type: ignore[arg-type]
        raise


def _blind(plan: Plan, tasks: Mapping[str, Task], models: Mapping[Role, VLM]) -> str:
    """Why a study can have no images, or nothing if it can."""
    if models["model"].encoder.processor is None:
        return f"{plan.model} is a text-only model"
    if not any(item.image for task in tasks.values() for item in task.items):
        return f"No item of {', '.join(task.name for task in tasks.values())} has an image"
    return ""


def _check_models(plan: Plan, models: Mapping[Role, VLM]) -> None:
    """Refuses models that cannot do what a plan asks of them.

    Raises:
        ModelError: A control that cannot take images, or a base LLM of another shape.
        RunError: Layers that a model does not have.
    """
    named: tuple[tuple[str | None, Role], ...] = (plan.model, "model"), (plan.control, "control")
    for name, role in named:
        if name is None:
            continue
        count = models[role].backbone.n_layers
        if missing := [layer for layer in plan.layers or () if not 0 <= layer < count]:
            raise RunError(
                f"{name} has the layers 0 to {count - 1}; the plan also asks for "
                f"{', '.join(map(str, missing[:5]))}{', ...' if len(missing) > 5 else ''}."
            )
        if "image" in plan.modalities and models[role].encoder.processor is None:
            raise ModelError(
                f"{name} is a text-only model, and the plan has images: {blind_fields(plan.sources, plan.targets)}. "
                "Ask for sources and targets of text alone, or leave it out."
            )
    if plan.base:
        try:
            check_shapes(models["model"].engine, models["base"].engine)
        except VectorError as error:
            raise ModelError(str(error)) from error


def _check_frames(plan: Plan, models: Mapping[Role, VLM]) -> None:
    """Refuses models whose chat template cannot frame a task, where the plan asks for chats.

    Raises:
        PromptError: There is none, or it cannot, or the base LLM's writes other texts than the model's.
    """
    written = {}
    for role, vlm in models.items() if plan.chat else ():
        try:
            written[role] = vlm.encoder.written(Template.chat())
        except PromptError as error:
            raise PromptError(f"{vlm.name} cannot do a study with chat: {error}") from error
    if "base" in written and written["base"] != written["model"]:
        raise PromptError(
            f"{plan.base} and {plan.model} cannot share a study with chat: their chat templates write other texts "
            f"around inputs ({written['base'].delimiter!r} and {written['model'].delimiter!r} before an answer, for "
            "one), so that no vector of the base LLM fits the model's queries. Give them one chat_template, or leave "
            "the base LLM out."
        )


def _check_prompts(plan: Plan, tasks: Mapping[str, Task], models: Mapping[Role, VLM]) -> None:
    """Builds every prompt once, and finds the plan's slots in them.

    Raises:
        TaskError: Prompts that cannot be made; SlotError: a slot that prompts do not have, or whose token is ambiguous.
    """
    for task in tasks.values():
        for seed in plan.seeds:
            list(asks(plan, task, seed)), list(follows(plan, task, seed))
            for step in reads(plan, task, seed):
                reader = models["base" if step.base and plan.base else "model"]
                for source, slot in step.slots.items():
                    _check_slot(f"{source} prompts of {task.name}", slot, step.prompts, reader)
                if len({find_segment(step.prompts[0], slot) for slot in step.slots.values()}) < len(step.slots):
                    raise RunError(
                        f"{' and '.join(step.slots)} would be read at the same token ({plan.slot}): choose another "
                        "slot, give more shots, or leave out the control."
                    )
        for sweep in sweeps(plan, task):
            _check_slot(f"{sweep.target} queries of {task.name}", plan.patch_slot, sweep.prompts, models["model"])


def _check_slot(where: str, slot: str, prompts: Prompts, vlm: VLM) -> None:
    """Finds a slot in the segments of all prompts, and in the tokens of the first.

    Raises:
        SlotError: It is not there.
    """
    if slot == "last":
        return
    try:
        for prompt in prompts:
            find_segment(prompt, slot)
        vlm.encode(prompts[:1]).columns(slot)
    except SlotError as error:
        raise SlotError(f"The plan's slot {slot!r} does not suit the {where}: {error}") from error
