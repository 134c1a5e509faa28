"""One cell of a study: one model, one task, one seed, everything measured."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

from xmi.measure import Answers, Phases, Transfer
from xmi.prompt import Prompt, Prompts, Task
from xmi.study.plan import SOURCES, TARGETS, Plan
from xmi.vector import Residuals, TaskVector, ensemble, random_like
from xmi.vlm import VLM

RANDOM = "control: random vector"


@dataclass(frozen=True)
class Cell:
    """Which model, task and seed."""

    model: str
    task: str
    seed: int

    @property
    def key(self) -> str:
        """The cell's file name."""
        return f"{self.model}.{self.seed}.{slug(self.task)}"


@dataclass(frozen=True)
class CellResult:
    """What was measured in a cell.

    Attributes:
        answers: Prompting cells on test items, by `source > target`.
        transfers: Sweeps by `target.split`.
        phases: Phases by specification.
        vectors: Task vectors by source.
        points: Single-prompt vectors by modality, for the geometry.
        records: Every model answer, as it is stored.
        images: The images that the records name, as PNG files.
    """

    answers: dict[str, Answers]
    transfers: dict[str, Transfer]
    phases: dict[str, Phases]
    vectors: dict[str, TaskVector]
    points: dict[str, Residuals]
    records: list[dict[str, Any]]
    images: dict[str, bytes]


def run_cell(cell: Cell, plan: Plan, task: Task, vlm: VLM, base: VLM | None) -> CellResult:
    """Measures one cell.

    Args:
        cell: Which one.
        plan: The plan.
        task: The cell's task.
        vlm: The cell's model.
        base: The base LLM of the model, or None.

    Returns:
        Everything measured.
    """
    book = _Book(cell)
    points = {m: vlm.residuals(_icl(task, m, plan, cell.seed)) for m in TARGETS}
    vectors = _vectors(points, plan, task, vlm, base, cell.seed)
    answers, transfers, phases = {}, {}, {}
    for (source, target), prompts in _prompting(task, plan, cell.seed):
        name = f"{source} > {target}"
        answers[name] = vlm.answers(prompts)
        book.prompted(source, target, prompts, answers[name])
    for target in TARGETS:
        for split in ("validation", "test"):
            queries = task.queries(target, split=split)
            result = vlm.transfer(vectors, to=queries)
            transfers[f"{target}.{split}"] = result
            book.patched(target, queries, result)
            if split == "test":
                answers[f"no context > {target}"] = result.clean
                book.prompted("no context", target, queries, result.clean)
    for modality in TARGETS:
        prompts = _icl(task, modality, plan, cell.seed, split="test")
        phases[prompts.specification] = vlm.phases(prompts)
    for modality in TARGETS:
        told = task.queries(modality, instruction=True)
        phases[f"instruction, {modality} query"] = vlm.phases(told)
    kept = {m: r[: plan.points] for m, r in points.items()}
    return CellResult(answers, transfers, phases, vectors, kept, book.records, book.images)


def _icl(
    task: Task, modality: str, plan: Plan, seed: int, *, split: str = "train", query: str | None = None
) -> Prompts:
    n = plan.prompts if split == "train" else None
    return task.icl(modality, shots=plan.shots, n=n, seed=seed, split=split, query=query)


def _vectors(
    points: Mapping[str, Residuals], plan: Plan, task: Task, vlm: VLM, base: VLM | None, seed: int
) -> dict[str, TaskVector]:
    """Task vectors of every specification, their ensembles, a few-example vector, and the control."""
    text, image = points["text"].mean(), points["image"].mean()
    told = vlm.task_vector(task.instruction())
    few = vlm.task_vector(task.icl("text", shots=1, n=1, seed=seed))
    found = dict(zip(SOURCES, (text, image, told), strict=True))
    found["text ICL + instruction"] = ensemble(text, told)
    found["image ICL + instruction"] = ensemble(image, told)
    found["1 example"] = few
    found["1 example + instruction"] = ensemble(few, told)
    if base is not None:
        found["base LLM text ICL"] = base.task_vector(_icl(task, "text", plan, seed))
        found["base LLM instruction"] = base.task_vector(task.instruction())
    found[RANDOM] = random_like(text, seed)
    return found


def _prompting(task: Task, plan: Plan, seed: int) -> Iterator[tuple[tuple[str, str], Prompts]]:
    """The prompting baselines on test items: Base, xBase and instruction."""
    for source in TARGETS:
        for target in TARGETS:
            yield (f"{source} ICL", target), _icl(task, source, plan, seed, split="test", query=target)
    for target in TARGETS:
        yield ("instruction", target), task.queries(target, instruction=True)


class _Book:
    """Collects a cell's records and the images they name."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.records: list[dict[str, Any]] = []
        self.images: dict[str, bytes] = {}
        self._names: dict[Path, str] = {}

    def prompted(self, source: str, target: str, prompts: Prompts, result: Answers) -> None:
        """Records the answers to prompts, or to context-free queries."""
        for i, prompt in enumerate(prompts):
            method = "no context" if source == "no context" else "prompt"
            self._add(
                prompt,
                {"split": prompts.split, "method": method, "source": source, "target": target},
                predicted=result.predicted[i],
                log_probability=round(float(result.log_probability[i]), 5),
                rank=int(result.rank[i]),
                paper=bool(result.paper[i]),
                strict=bool(result.strict[i]),
            )

    def patched(self, target: str, prompts: Prompts, result: Transfer) -> None:
        """Records a sweep: one record per source and query, its answers as lists over layers."""
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
                )

    def _add(self, prompt: Prompt, what: dict[str, Any], **measured: Any) -> None:
        head = {"model": self.cell.model, "seed": self.cell.seed, "task": prompt.task, **what}
        shown = {
            "unit": prompt.unit,
            "input": prompt.input,
            "answer": prompt.answer,
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


def slug(text: str) -> str:
    """A file-name form of a task or source name; differing names that look alike get different hashes."""
    plain = "".join(c if c.isalnum() or c == "-" else "-" for c in text)
    return plain if plain == text else f"{plain[-60:]}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"
