"""Running a study: every model, seed and task, resumable at any point."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from xmi.errors import TaskError
from xmi.prompt import Task, load_task, task_names
from xmi.study.assemble import assemble
from xmi.study.cell import Cell, run_cell
from xmi.study.plan import Plan, make_plan
from xmi.study.results import StudyResults
from xmi.study.store import Store
from xmi.vector import versions
from xmi.vlm import VLM, load

Say = Callable[[str], None]


def run_study(
    model: str | Path,
    *,
    out: str | Path,
    base: str | Path | None = None,
    control: str | Path | None = None,
    tasks: Sequence[str] = (),
    shots: int = 5,
    prompts: int = 30,
    seeds: Sequence[int] = (0, 1, 2),
    points: int = 15,
    say: Say | None = None,
    **options: Any,
) -> StudyResults:
    """Runs the study of one model: the specification x modality matrix with controls, phases and geometry.

    A run that was interrupted continues with the same call: finished cells are not computed again.

    Args:
        model: The VLM (embedded name, folder, Hub id).
        out: The run folder.
        base: Its base LLM.
        control: A second VLM to lay beside it.
        tasks: Task names or files; by default all six of xmi.
        shots: Examples per prompt.
        prompts: Prompts averaged into a task vector.
        seeds: Seeds of the drawing.
        points: Prompts per task and modality in the geometry.
        say: Told one line per finished step.
        **options: Passed on to `xmi.load` (dtype, device, batch_size, ...).

    Returns:
        The stored results.

    Raises:
        TaskError: A faulty task; ModelError: a model that cannot be used; RunError: a folder that cannot be used.
        All of these are raised before anything is computed.
    """
    tell = say or (lambda line: None)
    plan = make_plan(
        model=str(model),
        base=str(base) if base else None,
        control=str(control) if control else None,
        tasks=tuple(str(t) for t in tasks) or task_names(),
        shots=shots,
        prompts=prompts,
        seeds=tuple(seeds),
        points=min(points, prompts),
    )
    loaded = {name: load_task(name) for name in plan.tasks}
    _check_tasks(loaded.values(), plan)
    store = Store(out)
    store.open(plan)
    _complete(store, plan, loaded, options, tell)
    return StudyResults(store.path)


def _complete(store: Store, plan: Plan, tasks: dict[str, Task], options: dict[str, Any], tell: Say) -> None:
    """Computes what a run folder lacks."""
    chosen = {short(plan.model): plan.model} | ({short(plan.control): plan.control} if plan.control else {})
    cells = [Cell(name, task, seed) for name in chosen for seed in plan.seeds for task in plan.tasks]
    if all(store.has(cell) for cell in cells) and (store.path / "results").is_dir():
        tell(f"{store.path} is complete: nothing to compute.")
        return
    models = _load_models(plan, chosen, options, tell)
    store.begin(plan, {name: _facts(vlm) for name, vlm in models.items()}, _provenance(tasks, options))
    _run_cells(cells, plan, tasks, models, store, tell)
    with _timed(tell, "tables, similarity, PCA, t-SNE"):
        assemble(store, plan, cells, {key: task.name for key, task in tasks.items()})


def short(name: str) -> str:
    """A model's name for files and figures: the last part of its id or path."""
    return Path(name).name or name


def _run_cells(
    cells: Sequence[Cell], plan: Plan, tasks: dict[str, Task], models: dict[str, VLM], store: Store, tell: Say
) -> None:
    for number, cell in enumerate(cells, 1):
        label = (
            f"[{number:>{len(str(len(cells)))}}/{len(cells)}] {cell.model} · {tasks[cell.task].name} · seed {cell.seed}"
        )
        if store.has(cell):
            tell(f"{label}: done before")
            continue
        with _timed(tell, label):
            base = models.get(f"{cell.model} base LLM")
            store.put(cell, run_cell(cell, plan, tasks[cell.task], models[cell.model], base))


def _check_tasks(tasks: Any, plan: Plan) -> None:
    """Builds every kind of prompt once, so that a lacking image or split shows before any model is loaded."""
    for task in tasks:
        for modality in ("text", "image"):
            for split in ("train", "validation", "test"):
                task.icl(modality, shots=plan.shots, n=1, split=split)
        task.instruction()
        lacking = [item.input for item in task.items if item.image is None]
        if lacking:
            raise TaskError(f"Task {task.name}: {len(lacking)} items have no image ({', '.join(lacking[:5])}, ...).")


def _load_models(plan: Plan, chosen: dict[str, str], options: dict[str, Any], tell: Say) -> dict[str, VLM]:
    models = {}
    for name, source in chosen.items():
        with _timed(tell, f"loading and checking {name}"):
            models[name] = load(source, **options)
    if plan.base:
        first = short(plan.model)
        with _timed(tell, f"loading and checking {short(plan.base)}"):
            models[f"{first} base LLM"] = load(plan.base, **options)
    return models


def _facts(vlm: VLM) -> dict[str, Any]:
    b = vlm.backbone
    return {
        "source": vlm.name,
        "revision": vlm.revision,
        "class": type(vlm.model).__name__,
        "dtype": str(next(vlm.model.parameters()).dtype).removeprefix("torch."),
        "layers": b.n_layers,
        "width": b.d_model,
    }


def _provenance(tasks: dict[str, Task], options: dict[str, Any]) -> dict[str, Any]:
    return {
        "versions": {"python": platform.python_version(), **versions()},
        "machine": {"platform": platform.platform(), "threads": torch.get_num_threads()},
        "options": {name: str(value) for name, value in options.items()},
        "tasks": {t.name: {"items": len(t.items), "template": t.template.hash} for t in tasks.values()},
        "begun": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


@contextmanager
def _timed(tell: Say, label: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    tell(f"{label}  {time.perf_counter() - start:.1f} s")
