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
from xmi.study.executors.choice import choose
from xmi.study.executors.executor import Executor, Say
from xmi.study.experiments import registry
from xmi.study.grid import Cell, cells_of, subjects
from xmi.study.identity import Identity, identify
from xmi.study.prepare import Prepared, prepare
from xmi.study.results import StudyResults
from xmi.study.store import MISSING, Store, locked
from xmi.study.work import Work
from xmi.versions import versions

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
    chat: bool | None = None,
    shots: int | None = None,
    prompts: int | None = None,
    vectors_from: str | None = None,
    seeds: Sequence[int] | int | None = None,
    score: str | None = None,
    ties: str | None = None,
    whole: bool | None = None,
    points: int | None = None,
    task_words: str | None = None,
    lens: str | None = None,
    experiments: Sequence[str] | None = None,
    fork: bool = False,
    on: str | None = None,
    workers: int | None = None,
    gpus_per_model: float | None = None,
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
        tasks: Task names or files; by default all six of xmi, for the pretrained model its own nine.
        sources: What task vectors are read from; by default all of `xmi.study.SOURCES`.
        targets: Modalities of the queries.
        controls: Vectors that should not carry the task; by default all of `xmi.study.CONTROLS`.
        layers: After which blocks vectors are patched; by default all.
        chat: Prompts in the frame of the models' own chat templates, in place of the tasks' templates (no).
        shots: Examples per prompt (5).
        prompts: Prompts averaged into a task vector (30).
        vectors_from: Split that vectors are averaged over: `train`, or `validation` as in the paper.
        seeds: Seeds of the drawing, or how many of them: 3 stands for 0, 1, 2 (3).
        score: What chooses the layer: `paper`, `strict` or `whole`.
        whole: Whether labels are also scored whole, which takes as many forwards as the longest has tokens.
        points: Prompts per task and modality in the geometry (15).
        task_words: Words that the task phase follows: `given` with the tasks, or `found` among the model's own.
        lens: What phases are read with: `logit` or `tuned`.
        experiments: What is done beyond the matrix; by default all of `xmi.study.EXPERIMENTS`.
        fork: If the folder holds a run of another study (plan, models, tasks), start one beside it (`<out>-<hash>`).
        on: Where cells are done: `serial` in this process, `fork` in processes that share the models (a CPU under
            Linux), `ray` in one process per GPU or core, each with its own copy, `auto` or `ray://host:port` on a Ray
            cluster; by default in forked processes for small models on a CPU, and in this one otherwise.
        workers: How many cells are done at the same time, each with one thread; by default as many as torch may use
            threads (at most 4) for small models and with ray on a CPU, one per GPU with ray, and 1 otherwise.
        gpus_per_model: With ray: how many GPUs each copy of the models takes, whole ones or a part of one (1).
        slot: Where vectors are read in prompts with examples (`last`; `example[-1].delimiter` as the published code).
        patch_slot: Where vectors are patched into queries (`last`).
        ties: Which of equally good layers is chosen: that of the highest `likelihood`, or the `first`.
        say: Told one line per finished step.
        **options: Passed on to `xmi.load` (dtype, device, batch_size, ...).

    Returns:
        The stored results.

    Raises:
        TaskError: A faulty task. This and the next two are raised before anything is computed.
        ModelError: A model that cannot be used.
        RunError: A folder or plan that cannot be used, or a folder that another process is at work in.

    Examples:
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
        control=control, control_revision=control_revision, untrained=untrained, tasks=tasks or None, sources=sources,
        targets=targets, controls=controls, layers=layers, slot=slot, patch_slot=patch_slot, chat=chat, shots=shots,
        prompts=prompts, vectors_from=vectors_from, seeds=seeds, score=score, ties=ties, whole=whole, points=points,
        task_words=task_words, lens=lens, experiments=experiments, on=on, workers=workers,
        gpus_per_model=gpus_per_model, **options,
    )  # fmt: skip
    tell, store = say or (lambda line: None), store_of(given, fork=fork)
    for note in given.notes:
        tell(f"{note}: sources and targets are those of text alone.")
    store.open()
    with locked(store.path):
        _complete(store, given, tell)
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


def _complete(store: Store, given: Prepared, tell: Say) -> None:
    """Computes what a run folder lacks: cells first, then what is made from them."""
    store.tidy()
    tasks = given.tasks
    work = Work(store, cells_of(store.plan, tasks), tasks, given.loading)
    lacking = _lacking(work)
    if not lacking and store.begun and store.assembled(work.cells):
        tell(f"{store.path} is complete: nothing to compute.")
        return
    if lacking or not store.begun:
        with choose(given.running, work, tell) as executor:
            facts = executor.facts(work, tell)
            if store.begun and (moved := _moved(store.begun_with())):
                tell(f"Versions changed since this run was begun: {moved}. Each cell records its own.")
            store.begin(facts, _provenance(tasks, store.identity, given.loading, work.hosts()))
            with work.opened(tell):
                for _ in range(ROUNDS):
                    _do(work, lacking, executor, tell)
                    if not (lacking := _lacking(work)):
                        break
        if lacking:
            raise RunError(
                f"{next(iter(lacking.values()))}, though it was just computed: does something else write there?"
            )
    with _timed(tell, "tables"):
        assemble(store, work.cells, tasks)


def _moved(before: Mapping[str, str]) -> str:
    """The libraries that are of other versions now."""
    now = {"python": platform.python_version(), **versions()}
    return ", ".join(f"{name} {before.get(name)} -> {now[name]}" for name in now if before.get(name) != now[name])


def _lacking(work: Work) -> dict[Cell, str]:
    """The cells that have to be computed, and why."""
    found = {cell: work.store.lacks(cell, work.needs(cell)) for cell in work.cells}
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
    for number, done in enumerate(finished, len(before) + 1):
        work.keep(done)
        say(number, done.cell, f"  {done.seconds:.1f} s")


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
