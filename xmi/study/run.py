"""Running a study: every model, seed and task, resumable at any point."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from xmi.arguments import check_calls
from xmi.errors import RunError
from xmi.prompt import Task
from xmi.study.assemble import assemble
from xmi.study.executors import choose
from xmi.study.executors.executor import Executor
from xmi.study.experiments import registry
from xmi.study.grid import Cell, Subject, cells_of, needs_of, subjects
from xmi.study.identity import Identity, identify
from xmi.study.prepare import Prepared, prepare
from xmi.study.results import StudyResults
from xmi.study.store import MISSING, Store, locked
from xmi.study.work import Say, Work
from xmi.vector.sweep import PROOF
from xmi.versions import versions
from xmi.vlm import VLM

ROUNDS = 3
"""How often what was computed is looked at again: a cell recomputed may make those that took its results unfit."""


def run_study(
    model: str | Path | None = None,
    *,
    out: str | Path | None = None,
    plan: str | Path | None = None,
    preset: str | None = None,
    revision: str | None = None,
    base: str | Path | None = None,
    base_revision: str | None = None,
    control: str | Path | None = None,
    control_revision: str | None = None,
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
        out: The run folder (`runs/study`).
        plan: A plan file (YAML), whose fields stand unless given here.
        preset: `paper` for the protocol of Luo, Darrell and Bar (ICML 2025).
        revision: Its Hub revision: a commit, branch or tag.
        base: Its base LLM.
        base_revision: The Hub revision of that.
        control: A second VLM to compare with it.
        control_revision: The Hub revision of that.
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
        fork: If the folder holds a run of another study (plan, models, tasks), start one beside it (`<out>-<hash>`).
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

    Example:
        >>> small = {"tasks": ["country-capital"], "sources": ["text ICL"], "targets": ["text"], "prompts": 4}
        >>> small |= {"seeds": [0], "controls": [], "experiments": [], "say": lambda line: None}
        >>> results = xmi.run("organism", **small, out="runs/small")
        >>> results.models, results.tasks
        (('organism',), ('country-capital',))
        >>> xmi.StudyResults("runs/small").transfer("organism", "text").layers  # read again
        (0, 1, 2, 3, 4, 5, 6, 7)
    """
    given = prepare(
        plan, model=model, revision=revision, out=out, preset=preset, base=base, base_revision=base_revision,
        control=control, control_revision=control_revision, untrained=untrained,
        tasks=tasks or None, sources=sources, targets=targets, controls=controls, layers=layers, slot=slot,
        patch_slot=patch_slot, shots=shots, prompts=prompts, vectors_from=vectors_from, seeds=seeds, score=score,
        ties=ties, whole=whole, points=points, task_words=task_words, lens=lens, experiments=experiments,
        workers=workers, **options,
    )  # fmt: skip
    study, tell = given.plan, say or (lambda line: None)
    for note in given.notes:
        tell(f"{note}: sources and targets are those of text alone.")
    models, store = subjects(study), store_of(given, fork=fork)
    store.open()
    with locked(store.path):
        _complete(store, models, given.tasks, given.loading, given.workers, tell)
    return StudyResults(store.path)


def store_of(asked: Prepared, *, fork: bool = False) -> Store:
    """The run folder of a study, or with `fork` one beside it if it holds another study; nothing is written.

    Raises:
        RunError: What the folder holds cannot be read.
    """
    store = Store(asked.folder, asked.plan, identify(asked, subjects(asked.plan)))
    if fork and store.changes():
        return replace(store, path=asked.folder.with_name(f"{asked.folder.name}-{store.identity.hash}"))
    return store


def _complete(
    store: Store,
    subjects: Mapping[str, Subject],
    tasks: dict[str, Task],
    options: dict[str, Any],
    workers: int | None,
    tell: Say,
) -> None:
    """Computes what a run folder lacks: cells first, then what is made from them."""
    store.tidy()
    cells = cells_of(store.plan, tasks)
    lacking = _lacking(store, cells)
    if not lacking and store.begun and store.assembled(cells):
        tell(f"{store.path} is complete: nothing to compute.")
        return
    if lacking or not store.begun:
        work = Work(store, cells, tasks, options)
        models = work.models(tell)
        if store.begun and (moved := _moved(store.begun_with())):
            tell(f"Versions changed since this run was begun: {moved}. Each cell records its own.")
        hosts = {name: found for name, vlm in models.items() if (found := vlm.engine.backend.provenance)}
        facts = {name: _facts(vlm, subjects[name], store.identity) for name, vlm in models.items()}
        store.begin(facts, _provenance(tasks, store.identity, options, hosts))
        executor = choose(workers, [vlm.model for vlm in models.values()])
        with work.opened(tell):
            for _ in range(ROUNDS):
                _do(work, lacking, executor, tell)
                if not (lacking := _lacking(store, cells)):
                    break
            for vlm in models.values():
                vlm.engine.backend.release(PROOF)
        if lacking:
            raise RunError(
                f"{next(iter(lacking.values()))}, though it was just computed: does something else write there?"
            )
    with _timed(tell, "tables"):
        assemble(store, cells, tasks)


def _moved(before: Mapping[str, str]) -> str:
    """The libraries that are of other versions now."""
    now = {"python": platform.python_version(), **versions()}
    return ", ".join(f"{name} {before.get(name)} -> {now[name]}" for name in now if before.get(name) != now[name])


def _lacking(store: Store, cells: Sequence[Cell]) -> dict[Cell, str]:
    """The cells that have to be computed, and why."""
    found = {cell: store.lacks(cell, needs_of(cell, cells)) for cell in cells}
    return {cell: why for cell, why in found.items() if why}


def _do(work: Work, lacking: Mapping[Cell, str], executor: Executor, tell: Say) -> None:
    """Computes cells and stores them."""
    total = len(work.cells)

    def say(number: int, cell: Cell, took: str) -> None:
        about = "all tasks" if cell.task is None else work.tasks[cell.task].name
        what = f"{cell.model} · {about} · seed {cell.seed} · {registry()[cell.kind].doing or cell.kind}"
        tell(f"[{number:>{len(str(total))}}/{total}] {what}{took}")

    before = [cell for cell in work.cells if cell not in lacking]
    for number, cell in enumerate(before, 1):
        say(number, cell, ": done before")
    for why in (why for why in lacking.values() if not why.endswith(MISSING)):
        tell(f"    {why}: computed again")
    finished = executor.each(work, [cell for cell in work.cells if cell in lacking])
    for number, (cell, seconds) in enumerate(finished, len(before) + 1):
        say(number, cell, f"  {seconds:.1f} s")


def _facts(vlm: VLM, subject: Subject, identity: Identity) -> dict[str, Any]:
    b = vlm.backbone
    return {
        "role": subject.role,
        "source": subject.source,
        "revision": identity.models[subject.name],
        **({"weights": vlm.revision} if subject.role == "untrained" else {}),
        "class": type(vlm.model).__name__,
        "dtype": str(vlm.engine.dtype).removeprefix("torch."),
        "device": vlm.engine.backend.device(vlm.engine),
        "layers": b.n_layers,
        "width": b.d_model,
    }


def _provenance(
    tasks: dict[str, Task], identity: Identity, options: dict[str, Any], hosts: dict[str, Any]
) -> dict[str, Any]:
    return {
        "versions": {"python": platform.python_version(), **versions()},
        "machine": {"platform": platform.platform(), "threads": torch.get_num_threads()},
        "options": {name: str(value) for name, value in options.items()},
        "tasks": {
            t.name: {"items": len(t.items), "template": t.template.hash, "content": identity.tasks[t.name]}
            for t in tasks.values()
        },
        **({"hosts": hosts} if hosts else {}),
        "begun": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


@contextmanager
def _timed(tell: Say, label: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    tell(f"{label}  {time.perf_counter() - start:.1f} s")


check_calls(__name__, ["run_study"])
