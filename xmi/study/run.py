"""Running a study: every model, seed and task, resumable at any point."""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from xmi.errors import RunError
from xmi.prompt import Task
from xmi.study.assemble import assemble
from xmi.study.cell import Cell, CellResult, Memory, ask_cell, once_cell, read_cell
from xmi.study.geometry import geometry
from xmi.study.plan import READ, Plan
from xmi.study.prepare import prepare
from xmi.study.results import FINISHED, JOBS, StudyResults
from xmi.study.steps import SHUFFLED, UNRELATED, words_wanted
from xmi.study.store import Store
from xmi.study.workers import count_workers, each
from xmi.vector import shared_pairs, versions
from xmi.vector.sweep import PROOF
from xmi.vlm import VLM, load, untrained

Say = Callable[[str], None]

BASE, UNTRAINED = " base LLM", " untrained"
"""What follows a model's name in the name of its base LLM, and of itself with random weights."""

VECTORS = (*READ, SHUFFLED, UNRELATED)
"""Sources of which vectors are stored by the cells that read."""


def run_study(
    model: str | Path | None = None,
    *,
    out: str | Path | None = None,
    plan: str | Path | None = None,
    preset: str | None = None,
    base: str | Path | None = None,
    control: str | Path | None = None,
    untrained: bool | None = None,
    tasks: Sequence[str] = (),
    sources: Sequence[str] | None = None,
    targets: Sequence[str] | None = None,
    controls: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    slot: str | None = None,
    patch_slot: str | None = None,
    shots: int | None = None,
    prompts: int | None = None,
    vectors_from: str | None = None,
    seeds: Sequence[int] | None = None,
    score: str | None = None,
    ties: str | None = None,
    whole: bool | None = None,
    points: int | None = None,
    task_words: str | None = None,
    lens: str | None = None,
    experiments: Sequence[str] | None = None,
    fork: bool = False,
    workers: int | None = None,
    say: Say | None = None,
    **options: Any,
) -> StudyResults:
    """Runs the study of one model: the specification x modality matrix with controls, phases and geometry.

    A run that was interrupted continues with the same call: finished cells are not computed again.

    Args:
        model: The VLM (embedded name, folder, Hub id).
        out: The run folder.
        plan: A plan file (YAML), whose fields stand unless given here.
        preset: `paper` for the protocol of Luo, Darrell and Bar (ICML 2025).
        base: Its base LLM.
        control: A second VLM to lay beside it.
        untrained: Also study the model with random weights.
        tasks: Task names or files; by default all six of xmi.
        sources: What task vectors are read from; by default all of `xmi.study.SOURCES`.
        targets: Modalities of the queries.
        controls: Vectors that should not carry the task; by default all of `xmi.study.CONTROLS`.
        layers: After which blocks vectors are patched; by default all.
        shots: Examples per prompt (5).
        prompts: Prompts averaged into a task vector (30).
        vectors_from: Split that vectors are averaged over: `train`, or `validation` as in the paper.
        seeds: Seeds of the drawing (0, 1, 2).
        score: What chooses the layer: `paper`, `strict` or `whole`.
        whole: Whether labels are also scored whole, which takes as many forwards as the longest has tokens.
        points: Prompts per task and modality in the geometry (15).
        task_words: Words that the task phase follows: `given` with the tasks, or `found` among the model's own.
        lens: What phases are read with: `logit` or `tuned`.
        experiments: What is done beyond the matrix; by default all of `xmi.study.EXPERIMENTS`.
        fork: If the folder holds a run of another plan, start one beside it (`<out>-<hash of the plan>`).
        workers: Processes that do cells at the same time, on a CPU under Linux, each with one thread; by default as
            many as torch may use threads (at most 4) for small models, and 1 for others.
        slot: Where vectors are read in prompts with examples (`last`; `example[-1].delimiter` as the published code).
        patch_slot: Where vectors are patched into queries (`last`).
        ties: Which of equally good layers is chosen: that of the highest `likelihood`, or the `first`.
        say: Told one line per finished step.
        **options: Passed on to `xmi.load` (dtype, device, batch_size, ...).

    Returns:
        The stored results.

    Raises:
        TaskError: A faulty task; ModelError: a model that cannot be used; RunError: a folder or plan that cannot be
        used, or a folder that another process is at work in. All of these are raised before anything is computed.
    """
    given = prepare(
        plan, model=model, out=out, preset=preset, base=base, control=control, untrained=untrained,
        tasks=tasks or None, sources=sources, targets=targets, controls=controls, layers=layers, slot=slot,
        patch_slot=patch_slot, shots=shots, prompts=prompts, vectors_from=vectors_from, seeds=seeds, score=score,
        ties=ties, whole=whole, points=points, task_words=task_words, lens=lens, experiments=experiments,
        workers=workers, **options,
    )  # fmt: skip
    study, tell = given.plan, say or (lambda line: None)
    for note in given.notes:
        tell(f"{note}: sources and targets are those of text alone.")
    store = Store(given.folder)
    if fork and store.differs(study):
        store = Store(given.folder.with_name(f"{given.folder.name}-{study.hash}"))
    store.open(study)
    with store.locked():
        _complete(store, study, given.tasks, given.loading, given.workers, tell)
    return StudyResults(store.path)


def cells_of(plan: Plan, tasks: dict[str, Task]) -> list[Cell]:
    """All cells of a plan, in the order in which they are done: vectors of all tasks are read before any is asked."""
    every, first = list(tasks.values()), plan.seeds[0]
    found = []
    for name in models_of(plan):
        before = ["lens"] if plan.lens == "tuned" else []
        before += ["words"] if words_wanted(plan, every) else []
        before += ["lineage"] if plan.base and name == short(plan.model) else []
        found += [Cell(kind, name, "all", first) for kind in before]
        based = name == short(plan.model) and any(source.startswith("base LLM") for source in plan.sources)
        for seed in plan.seeds:
            found += [Cell("base", name, "all", seed)] if based else []
            found += [Cell(kind, name, task, seed) for kind in ("read", "ask") for task in plan.tasks]
        if "ensembling" in plan.experiments:
            found.append(Cell("ensembling", name, "all", first))
        if "overriding" in plan.experiments and shared_pairs(every):
            found.append(Cell("overriding", name, "all", first))
        found.append(Cell("geometry", name, "all", first))
    return found


def models_of(plan: Plan) -> dict[str, str]:
    """What is studied: name in files and figures, and where it is loaded from; the main model is first.

    Raises:
        RunError: Model and control have one name.
    """
    found = {short(plan.model): plan.model}
    if plan.control:
        if short(plan.control) in found:
            raise RunError(
                f"The model {plan.model} and the control {plan.control} are both called {short(plan.model)}, by "
                "which results go. Give one of the folders another name."
            )
        found[short(plan.control)] = plan.control
    if plan.untrained:
        found[f"{short(plan.model)}{UNTRAINED}"] = plan.model
    return found


def _complete(
    store: Store, plan: Plan, tasks: dict[str, Task], options: dict[str, Any], workers: int | None, tell: Say
) -> None:
    """Computes what a run folder lacks."""
    store.tidy()
    cells = cells_of(plan, tasks)
    if all(store.has(cell) for cell in cells) and (store.path / FINISHED).is_file():
        tell(f"{store.path} is complete: nothing to compute.")
        return
    models = _load_models(plan, options, tell)
    hosts = {name: vlm.served.said for name, vlm in models.items() if vlm.served is not None}
    store.begin(plan, {name: _facts(vlm) for name, vlm in models.items()}, _provenance(tasks, options, hosts))
    count = count_workers(workers, [vlm.model for vlm in models.values()])
    with ExitStack() as stack:
        for vlm in models.values():
            if vlm.served is not None:
                stack.enter_context(vlm.served.kept_in(store.path / JOBS, lambda line: tell(f"    {line}")))
        _run_cells(cells, plan, tasks, models, store, tell, count)
        for vlm in models.values():
            if vlm.served is not None:
                vlm.served.jobs.release(PROOF)
    with _timed(tell, "tables"):
        assemble(store, plan, cells, tasks)


def short(name: str) -> str:
    """A model's name for files and figures: the last part of its id or path."""
    return Path(name).name or name


def _run_cells(
    cells: Sequence[Cell],
    plan: Plan,
    tasks: dict[str, Task],
    models: dict[str, VLM],
    store: Store,
    tell: Say,
    workers: int,
) -> None:
    memory = Memory()
    doing = {
        "read": "vectors",
        "base": "vectors of the base LLM",
        "ask": "queries",
        "words": "finding task words",
        "lens": "training a lens",
    }
    total = len(cells)

    def say(number: int, cell: Cell, took: str) -> None:
        about = tasks[cell.task].name if cell.task in tasks else cell.task
        what = f"{cell.model} · {about} · seed {cell.seed} · {doing.get(cell.kind, cell.kind)}"
        tell(f"[{number:>{len(str(total))}}/{total}] {what}{took}")

    def do(cell: Cell) -> float:
        start = time.perf_counter()
        served = [vlm.served for vlm in models.values() if vlm.served is not None]
        with ExitStack() as stack:
            for host in served:
                stack.enter_context(host.about(cell.key))
            # On a host a cell's requests must not depend on what this process asked before: the next process picks them
            # up by their content.
            store.put(cell, _do(cell, cells, plan, tasks, models, store, Memory() if served else memory))
        for host in served:
            host.jobs.release(cell.key)
        return time.perf_counter() - start

    before = [cell for cell in cells if store.has(cell)]
    for number, cell in enumerate(before, 1):
        say(number, cell, ": done before")
    missing = [cell for cell in cells if cell not in before]
    finished = each(missing, lambda cell: _needs(cell, cells, plan), do, min(workers, max(1, len(missing))))
    for number, (cell, seconds) in enumerate(finished, len(before) + 1):
        say(number, cell, f"  {seconds:.1f} s")


def _needs(cell: Cell, cells: Sequence[Cell], plan: Plan) -> list[Cell]:
    """The cells whose results another one takes."""
    if cell.kind not in ("ask", "geometry"):
        return []
    read = [replace(cell, kind="read", task=name) for name in plan.tasks]
    once = [replace(cell, kind=kind, task="all", seed=plan.seeds[0]) for kind in ("lens", "words")]
    once.append(replace(cell, kind="base", task="all"))
    return read + ([other for other in once if other in cells] if cell.kind == "ask" else [])


def _do(
    cell: Cell,
    cells: Sequence[Cell],
    plan: Plan,
    tasks: dict[str, Task],
    models: dict[str, VLM],
    store: Store,
    memory: Memory,
) -> CellResult:
    vlm, base = models[cell.model], models.get(f"{cell.model}{BASE}")
    if cell.kind == "read":
        return read_cell(cell, plan, tasks, vlm, memory)
    if cell.kind == "base" and base is not None:
        return read_cell(cell, plan, tasks, base, memory)
    if cell.kind not in ("ask", "geometry"):
        return once_cell(cell, plan, tasks, vlm, base)
    read = {name: replace(cell, kind="read", task=name) for name in plan.tasks}
    vectors = {name: store.vectors(other, VECTORS) for name, other in read.items()}
    if cell.kind == "geometry":
        points = {tasks[name].name: store.get(other)["points"] for name, other in read.items()}
        return CellResult(result=geometry({tasks[name].name: own for name, own in vectors.items()}, points))
    once = Cell("words", cell.model, "all", plan.seeds[0])
    words = store.get(once)["result"] if once in cells else None
    lens = store.lens(replace(once, kind="lens")) if plan.lens == "tuned" else None
    return ask_cell(cell, plan, tasks[cell.task], vlm, vectors, lens, words, memory)


def _load_models(plan: Plan, options: dict[str, Any], tell: Say) -> dict[str, VLM]:
    models = {}
    for name, source in models_of(plan).items():
        with _timed(tell, f"loading and checking {name}"):
            models[name] = untrained(source, **options) if name.endswith(UNTRAINED) else load(source, **options)
    if plan.base:
        with _timed(tell, f"loading and checking {short(plan.base)}"):
            models[f"{short(plan.model)}{BASE}"] = load(plan.base, **options)
    return models


def _facts(vlm: VLM) -> dict[str, Any]:
    b = vlm.backbone
    return {
        "source": vlm.name,
        "revision": vlm.revision,
        "class": type(vlm.model).__name__,
        "dtype": str(vlm.engine.dtype).removeprefix("torch."),
        "layers": b.n_layers,
        "width": b.d_model,
    }


def _content(task: Task) -> str:
    """A hash of what a task asks; images count by their bytes."""
    digest = hashlib.sha256(
        repr((task.name, task.instructions, task.task_words, task.template, task.examples)).encode()
    )
    for item in task.items:
        digest.update(repr((item.input, item.outputs, item.split)).encode())
        digest.update(item.image.read_bytes() if item.image else b"")
    return digest.hexdigest()[:16]


def _provenance(tasks: dict[str, Task], options: dict[str, Any], hosts: dict[str, Any]) -> dict[str, Any]:
    return {
        "versions": {"python": platform.python_version(), **versions()},
        "machine": {"platform": platform.platform(), "threads": torch.get_num_threads()},
        "options": {name: str(value) for name, value in options.items()},
        "tasks": {
            t.name: {"items": len(t.items), "template": t.template.hash, "content": _content(t)} for t in tasks.values()
        },
        **({"hosts": hosts} if hosts else {}),
        "begun": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


@contextmanager
def _timed(tell: Say, label: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    tell(f"{label}  {time.perf_counter() - start:.1f} s")
