"""What is done in the cells of a study: one model, one task, one seed, read or asked."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from xmi.errors import RunError
from xmi.lens import TunedLens
from xmi.measure import Answers, Overriding, Phases, Result, TaskWords, Transfer
from xmi.measure.answers import hits_of
from xmi.names import (
    ASKED,
    NO_CONTEXT,
    cell_name,
    is_of_base,
    modality_of,
    parts_of,
    sweep_name,
)
from xmi.prompt import Prompt, Prompts, Task
from xmi.study.controls import chosen
from xmi.study.grid import Cell
from xmi.study.plan import ENSEMBLES, Plan
from xmi.study.prompts import Read, asks, follows, icl, lens_prompts, reads, sweeps
from xmi.vector import Residuals, TaskVector, ensemble, shared_pairs
from xmi.vlm import VLM

T = TypeVar("T")


@dataclass(frozen=True)
class CellResult:
    """What was measured in a cell.

    Attributes:
        answers: Prompting cells on test items, by `source > target`.
        transfers: Sweeps by `target.split`.
        phases: Phases by specification.
        vectors: Task vectors that were read or made, by task (as the plan names it) and source.
        points: Single-prompt vectors by modality, for the geometry.
        lens: A lens that was trained.
        result: What a cell of another kind than `read` and `ask` found; geometry by name, ensembling by target.
        records: Every model answer, as it is stored.
        images: The images that the records name, as PNG files.
    """

    answers: dict[str, Answers] = field(default_factory=dict)
    transfers: dict[str, Transfer] = field(default_factory=dict)
    phases: dict[str, Phases] = field(default_factory=dict)
    vectors: dict[tuple[str, str], TaskVector] = field(default_factory=dict)
    points: dict[str, Residuals] = field(default_factory=dict)
    lens: TunedLens | None = None
    result: Result | dict[str, Result] | None = None
    records: list[dict[str, Any]] = field(default_factory=list)
    images: dict[str, bytes] = field(default_factory=dict)


class Memory:
    """What was computed in this process: prompts that no seed changes (instructions) are asked once."""

    def __init__(self) -> None:
        """Begins empty."""
        self._found: dict[tuple[Any, ...], Any] = {}

    def __call__(self, key: tuple[Any, ...], make: Callable[[], T]) -> T:
        """Returns what `make` gives, made at the first call with a key."""
        if key not in self._found:
            self._found[key] = make()
        result: T = self._found[key]
        return result


def read_cell(
    cell: Cell, plan: Plan, tasks: Mapping[str, Task], reader: VLM, memory: Memory | None = None
) -> CellResult:
    """Reads the vectors of one task, or those of a base LLM of all tasks.

    Args:
        cell: Which one, of kind `read` or `base`.
        plan: The plan.
        tasks: All tasks, by their name in the plan.
        reader: The cell's model, or its base LLM.
        memory: Spares what was read before.

    Returns:
        Vectors and points.
    """
    once, base = memory or Memory(), cell.kind == "base"
    names = plan.tasks if base else [str(cell.task)]
    steps = [(name, step) for name in names for step in reads(plan, tasks[name], cell.seed) if step.base == base]
    keep = plan.points if cell.seed == plan.seeds[0] else 0  # the geometry's
    found = reader.engine.together(partial(_read, once, cell, step, reader, keep) for _, step in steps)
    vectors, points = {}, {}
    for (name, step), read in zip(steps, found, strict=True):
        for source, slot in step.slots.items():
            vectors[name, source], some = read[slot]
            if keep and (modality := modality_of(source)):
                points[modality] = some
    return CellResult(vectors=vectors, points=points)


def _read(once: Memory, cell: Cell, step: Read, reader: VLM, keep: int) -> dict[str, tuple[TaskVector, Residuals]]:
    slots = list(step.slots.values())
    few = keep if any(map(modality_of, step.slots)) else 0
    if step.prompts.split:  # drawn anew by every seed
        return reader.vectors_at(step.prompts, slots, keep=few)
    key = (cell.model, step.base, step.prompts, *slots)
    return once(key, lambda: reader.vectors_at(step.prompts, slots, keep=few))


def once_cell(cell: Cell, plan: Plan, tasks: Mapping[str, Task], vlm: VLM, base: VLM | None) -> CellResult:
    """Does what is done once per model.

    Args:
        cell: Which one.
        plan: The plan.
        tasks: All tasks, by their name in the plan.
        vlm: The cell's model.
        base: Its base LLM, or None.

    Raises:
        RunError: A cell of another kind, or one that needs a base LLM where there is none.
    """
    all_tasks = list(tasks.values())
    slots: dict[str, Any] = {"slot": plan.slot, "patch_slot": plan.patch_slot}
    match cell.kind:
        case "lens":
            return CellResult(lens=vlm.tune_lens(lens_prompts(plan, all_tasks), seed=cell.seed))
        case "words":
            known = [word for task in all_tasks for item in task.items for word in (item.input, *item.outputs)]
            return CellResult(result=vlm.find_task_words(lens_prompts(plan, all_tasks), exclude=known))
        case "base_comparison" if base is not None:
            prompts = [p for task in all_tasks for p in icl(plan, task, "text", cell.seed)]
            return CellResult(result=vlm.compare_base(base, prompts))
        case "ensembling":
            counts = ensemble_sizes(plan)
            curves = vlm.ensembling_of(all_tasks, queries=plan.targets, prompts=counts, seeds=plan.seeds, **slots)
            return CellResult(result=dict(zip(plan.targets, curves, strict=True)))
        case "overriding":
            options = {"shots": plan.shots, "n": plan.prompts, "seed": cell.seed, "layers": plan.layers, **slots}
            pairs = (partial(vlm.override, *pair, **options) for pair in shared_pairs(all_tasks))
            return CellResult(result=Overriding.concat(vlm.engine.together(pairs)))
    raise RunError(f"Nothing is known that {cell.key} would do once for a model.")


def ensemble_sizes(plan: Plan) -> tuple[int, ...]:
    """How many one-example prompts are averaged: 1, 2, 3, 5, 10, ... up to the plan's number of prompts."""
    return tuple(n for n in (1, 2, 3, 5, 10, 20, 30, 50, 100) if n <= plan.prompts)


def ask_cell(
    cell: Cell,
    plan: Plan,
    task: Task,
    vlm: VLM,
    read: Mapping[str, Mapping[str, TaskVector]],
    lens: TunedLens | None = None,
    words: TaskWords | None = None,
    memory: Memory | None = None,
) -> CellResult:
    """Asks one task's queries, by prompting and by patching, and follows its phases.

    Args:
        cell: Which one.
        plan: The plan.
        task: The cell's task.
        vlm: The cell's model.
        read: The vectors that were read, by task (in the plan's order) and source.
        lens: The lens that phases are read with; None for the logit lens.
        words: Task words that were found, for tasks that have none (or for all, if the plan says so).
        memory: Spares what was asked before.

    Returns:
        Everything measured.
    """
    book, once, name = _Book(cell), memory or Memory(), str(cell.task)
    vectors = patched_vectors(plan, cell, read)
    new = longest_label(vlm, task) if plan.whole else None
    chosen = _words(plan, task, words)
    asked, swept = list(asks(plan, task, cell.seed)), list(sweeps(plan, task))
    followed = dict(follows(plan, task, cell.seed)) if chosen else {}
    labels = [next((label for label, p in followed.items() if p == ask.prompts), None) for ask in asked]
    rest = [label for label in followed if label not in labels]  # of queries that are not asked
    follow = {"task_words": chosen, "lens": lens}
    todo: list[Callable[[], Any]] = []
    for ask, label in zip(asked, labels, strict=True):
        both = partial(vlm.phases_and_answers, ask.prompts, max_new_tokens=new, **follow)  # type: ignore[arg-type]
        plain = partial(vlm.answers, ask.prompts, max_new_tokens=new)
        todo.append(partial(_ask, once, cell, ask.prompts, both if label else plain))
    # Vectors of the base LLM are meant.
    foreign = any(map(is_of_base, vectors))
    where = {"layers": plan.layers, "slot": plan.patch_slot, "foreign": foreign}
    todo += [partial(vlm.transfer, vectors, s.prompts, max_new_tokens=new, **where) for s in swept]  # type: ignore[arg-type]
    todo += [partial(_ask, once, cell, followed[n], partial(vlm.phases, followed[n], **follow)) for n in rest]  # type: ignore[arg-type]
    found = iter(vlm.engine.together(todo))

    answers, transfers, phases = {}, {}, {}
    for ask, label in zip(asked, labels, strict=True):
        given = next(found)
        if label:
            phases[label], given = given
        answers[cell_name(ask.source, ask.target)] = given
        book.prompted(ask.source, ask.target, ask.prompts, given)
    for step in swept:
        result = transfers[sweep_name(step.target, step.split)] = next(found)
        book.patched(step.target, step.prompts, result)
        if step.split == "test":
            answers[cell_name(NO_CONTEXT, step.target)] = result.clean
            book.prompted(NO_CONTEXT, step.target, step.prompts, result.clean)
    phases |= dict(zip(rest, found, strict=True))
    return CellResult(
        answers,
        transfers,
        {label: phases[label] for label in followed},
        {(name, source): vector for source, vector in vectors.items() if source not in read[name]},
        records=book.records,
        images=book.images,
    )


def _ask(once: Memory, cell: Cell, prompts: Prompts, make: Callable[[], T]) -> T:
    """Asks prompts, from memory if they have no examples that a seed draws."""
    return make() if prompts.shots else once((cell.model, prompts), make)


def _words(plan: Plan, task: Task, found: TaskWords | None) -> tuple[str, ...] | TaskWords:
    """What a task's phase follows; nothing if no words are given or found, and then its phases are left out."""
    if task.task_words and (plan.task_words == "given" or found is None):
        return task.task_words
    return found if found is not None and found.of(task.name) else ()


def patched_vectors(plan: Plan, cell: Cell, read: Mapping[str, Mapping[str, TaskVector]]) -> dict[str, TaskVector]:
    """The vectors of one task that are patched in: those read, their ensembles, and the controls.

    Controls that need other tasks are left out where there are none.
    """
    task = str(cell.task)
    own = read[task]
    found = {name: own[name] for name in plan.sources if name in own}
    found |= {name: ensemble(*(own[p] for p in parts_of(name))) for name in ENSEMBLES if name in plan.sources}
    found = {name: found[name] for name in plan.sources if name in found}
    for control in chosen(plan):
        vector = control.make(task, read, cell.seed) if control.make else own.get(control.source)
        if vector is not None:
            found[control.source] = vector
    return found


def longest_label(vlm: VLM, task: Task) -> int:
    """How many tokens the longest label of a task's validation and test items has."""
    labels = [label for split in ASKED for item in task.split(split) for label in item.outputs]
    return max(vlm.encoder.length(task.template.delimiter, label) for label in labels)


class _Book:
    """Collects a cell's records and the images they name."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.records: list[dict[str, Any]] = []
        self.images: dict[str, bytes] = {}
        self._names: dict[Path, str] = {}

    def prompted(self, source: str, target: str, prompts: Prompts, result: Answers) -> None:
        """Records the answers to prompts, or to context-free queries."""
        whole = hits_of(result, "whole") if result.continuations else ()
        for i, prompt in enumerate(prompts):
            method = NO_CONTEXT if source == NO_CONTEXT else "prompt"
            self._add(
                prompt,
                {"split": prompts.split, "method": method, "source": source, "target": target},
                predicted=result.predicted[i],
                log_probability=round(float(result.log_probability[i]), 5),
                rank=int(result.rank[i]),
                paper=bool(result.paper[i]),
                strict=bool(result.strict[i]),
                **({"whole": bool(whole[i]), "continuation": result.continuations[i]} if result.continuations else {}),
            )

    def patched(self, target: str, prompts: Prompts, result: Transfer) -> None:
        """Records a sweep: one record per source and query, its answers as lists over layers."""
        whole = hits_of(result, "whole") if result.continuations else None
        for s, source in enumerate(result.sources):
            for i, prompt in enumerate(prompts):
                self._add(
                    prompt,
                    {"split": prompts.split, "method": "patch", "source": source, "target": target},
                    layers=list(result.layers),
                    predicted=[result.predicted[s][k][i] for k in range(len(result.layers))],
                    log_probability=[round(v, 5) for v in result.log_probability[s, :, i].tolist()],
                    rank=result.rank[s, :, i].tolist(),
                    paper=result.paper[s, :, i].tolist(),
                    strict=result.strict[s, :, i].tolist(),
                    **({} if whole is None else {"whole": whole[s, :, i].tolist()}),
                )

    def _add(self, prompt: Prompt, what: dict[str, Any], **measured: Any) -> None:
        head = {"model": self.cell.model, "seed": self.cell.seed, "task": prompt.task, **what}
        shown = {
            "unit": prompt.unit,
            "input": prompt.input,
            "answer": prompt.answer,
            **({"alternatives": list(prompt.alternatives)} if prompt.alternatives else {}),
            "prompt": self._segments(prompt),
        }
        identity = json.dumps([head, shown], sort_keys=True, ensure_ascii=False)
        key = hashlib.sha256(identity.encode()).hexdigest()[:16]
        self.records.append({"key": key, **head, **shown, **measured})

    def _segments(self, prompt: Prompt) -> list[dict[str, str]]:
        merged: list[dict[str, str]] = []
        for segment in prompt.segments:
            if segment.image is not None:
                merged.append({"image": self._image(Path(str(segment.image)))})
            elif merged and "text" in merged[-1]:
                merged[-1]["text"] += segment.text
            else:
                merged.append({"text": segment.text})
        return merged

    def _image(self, path: Path) -> str:
        if path not in self._names:
            content = thumbnail(path)
            name = hashlib.sha256(content).hexdigest()[:16] + ".png"
            self._names[path] = name
            self.images[name] = content
        return self._names[path]


@lru_cache(maxsize=4096)
def thumbnail(path: Path) -> bytes:
    """A copy of an image for the report, at most 96 px wide or high, as PNG."""
    with Image.open(path) as picture:
        if picture.format == "PNG" and max(picture.size) <= 96:
            return path.read_bytes()
        small = picture.convert("RGBA" if picture.mode in ("RGBA", "LA", "P") else "RGB")
        small.thumbnail((96, 96))
        buffer = io.BytesIO()
        small.save(buffer, "PNG")
        return buffer.getvalue()
