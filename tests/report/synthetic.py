"""A plausible run folder made of random numbers, with strings that try to break a page."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from tests.study.sealing import finish
from xmi.measure import Answers, Phases, Transfer, alignment, boundaries, cosine_per_layer, merge, project, silhouette

TASKS = ("country-capital", "country-currency", "animal-latin", "animal-young", "food-color", "food-flavor")
SOURCES = (
    "text ICL",
    "image ICL",
    "instruction",
    "text ICL + instruction",
    "image ICL + instruction",
    "1 example",
    "1 example + instruction",
    "base LLM text ICL",
    "base LLM instruction",
    "control: random vector",
)
SPECIFICATIONS = SOURCES[:3]
PHASED = ("text ICL", "image ICL", "instruction, text query", "instruction, image query")
HOSTILE = (
    "<script>alert(1)</script>",
    "</script><b>bold</b>",
    "\"quoted\" & 'single'",
    "🦊🇬🇷",
    "שלום <i>עולם</i>",
    "%{y} $x^2$ \u2028",
)
TOPS = {
    "input": (" Greece", " country", "Q"),
    "task": (" capital", " city", " seat"),
    "answer": (" Athens", " Rome"),
}


@dataclass(frozen=True)
class Levels:
    """Accuracies that the generator aims at."""

    patch: float = 0.93
    xbase: float = 0.55
    base: float = 0.95
    clean: float = 0.01
    task_phase: bool = True


GOOD = Levels()
CONTROL = Levels(patch=0.03, xbase=0.5, base=0.94, task_phase=False)


def make_run(
    folder: Path,
    models: dict[str, Levels] | None = None,
    *,
    tasks: tuple[str, ...] = TASKS,
    items: int = 15,
    layers: int = 8,
    seeds: int = 1,
    images: bool = True,
    geometry: bool = True,
) -> Path:
    """Writes a run folder and returns it."""
    models = {"organism": GOOD, "control": CONTROL} if models is None else models
    for name in ("results", "tables", "images"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    names = _images(folder / "images", items) if images else []
    records: list[dict[str, Any]] = []
    for model, levels in models.items():
        _Writer(folder, model, levels, tasks, items, layers, seeds, names, rng, records).write(geometry)
    lines = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records)
    (folder / "records.jsonl").write_text(lines, encoding="utf-8")
    study = {
        "plan": {"tasks": list(tasks), "shots": 5, "seeds": list(range(seeds)), "layers": layers},
        "provenance": {
            "models": {m: {"id": m, "revision": "abc", "sha256": "0" * 64, "layers": layers} for m in models},
            "versions": {"torch": "2.13.0", HOSTILE[0]: HOSTILE[1]},
            "template": {"hash": "deadbeef", "text": "Q:{x}\nA:{y}\n\n"},
            "time": "2026-01-01T00:00:00Z",
            "machine": ["x86_64", 2],
        },
        "models": list(models),
    }
    finish(folder, study)
    return folder


def _images(folder: Path, count: int) -> list[str]:
    for i in range(count):
        image = Image.new("RGB", (64, 64), (255, 255, 255))
        ImageDraw.Draw(image).ellipse((8, 8, 56, 56), fill=((37 * i) % 255, (91 * i) % 255, 120))
        image.save(folder / f"item{i}.png")
    return [f"item{i}.png" for i in range(count)]


@dataclass
class _Writer:
    folder: Path
    model: str
    levels: Levels
    tasks: tuple[str, ...]
    items: int
    layers: int
    seeds: int
    images: list[str]
    rng: np.random.Generator
    records: list[dict[str, Any]]

    def write(self, geometry: bool) -> None:
        rows = [
            self._prompt("text ICL", "text", 0.98),
            self._prompt("image ICL", "image", self.levels.base),
            self._prompt("text ICL", "image", self.levels.xbase),
            self._prompt("image ICL", "text", self.levels.xbase),
            self._prompt("instruction", "text", 0.9),
            self._prompt("instruction", "image", 0.85),
        ]
        for target in ("text", "image"):
            rows += self._patch(target)
        self._table(rows)
        self._phases()
        if geometry:
            self._geometry()

    def _save(self, result: Any, name: str) -> None:
        result.save(self.folder / "results" / f"{self.model}.{name}.json")

    def _units(self) -> tuple[list[str], list[str], list[str]]:
        tasks = [t for t in self.tasks for _ in range(self.items * self.seeds)]
        units = [f"{t}/{i}" for t in self.tasks for _ in range(self.seeds) for i in range(self.items)]
        # The label is one of three, and sometimes hostile.
        answers = [HOSTILE[i % 6] if i % 5 == 0 else f"label{i % 3}" for i in range(len(tasks))]
        return tasks, units, answers

    def _prompt_of(self, source: str, target: str, i: int) -> list[dict[str, str]]:
        parts: list[dict[str, str]] = []
        if "instruction" in source:
            parts.append({"text": f"The {HOSTILE[0]} of the country:\n\n"})
        shots = 5 if "ICL" in source else 0
        for k in range(shots + 1):
            image = (source if k < shots else target).startswith("image") and self.images
            x = {"image": self.images[(i + k) % len(self.images)]} if image else {"text": f"Item {(i + k) % 7}"}
            parts += [
                {"text": "Q:"},
                x,
                {"text": f"\nA:{HOSTILE[k] if k < shots else ''}\n\n" if k < shots else "\nA:"},
            ]
        return parts

    def _answers(self, level: float, source: str = "no context", target: str = "image") -> Answers:
        tasks, units, labels = self._units()
        hits = self.rng.random(len(tasks)) < level
        wrong = [HOSTILE[i % len(HOSTILE)] + "?" for i in range(len(tasks))]
        predicted = tuple(a if h else w for a, h, w in zip(labels, hits, wrong, strict=True))
        rank = np.where(hits, 0, 7)
        score = np.where(hits, -0.05, -4.0) + self.rng.normal(0, 0.01, len(tasks))
        prompts = tuple(f"{source} {target} {u}" for u in units)
        return Answers(prompts, tuple(tasks), tuple(units), tuple(labels), predicted, score, rank, hits, hits)

    def _prompt(self, source: str, target: str, level: float) -> tuple[Any, ...]:
        answers = self._answers(level, source, target)
        self._save(answers, f"answers.{source}.{target}".replace(" ", "-"))
        for i, row in enumerate(answers.to_frame().itertuples()):
            self._record(
                "prompt",
                source,
                target,
                i,
                row.task,
                row.unit,
                row.answer,
                row.predicted,
                {
                    "log_probability": row.log_probability,
                    "rank": row.rank,
                    "paper": row.paper,
                    "strict": row.strict,
                },
            )
        return ("prompt", source, target, None, answers)

    def _record(
        self,
        method: str,
        source: str,
        target: str,
        i: int,
        task: str,
        unit: str,
        answer: str,
        predicted: Any,
        rest: Any,
    ) -> None:
        self.records.append(
            {
                "key": f"{len(self.records):016x}",
                "model": self.model,
                "seed": i // self.items % self.seeds,
                "task": task,
                "split": "test",
                "method": method,
                "source": source,
                "target": target,
                "unit": unit,
                "input": unit.split("/")[1],
                "answer": answer,
                "prompt": self._prompt_of("no context" if method == "patch" else source, target, i),
                "predicted": predicted,
                **rest,
            }
        )

    def _patch(self, target: str) -> list[tuple[Any, ...]]:
        clean = self._answers(self.levels.clean, target=target)
        depth = np.exp(-0.5 * ((np.arange(self.layers) - 0.6 * self.layers) / 1.5) ** 2)
        level = {
            s: self.levels.patch * (0.02 if s.startswith("control") else 1 - 0.025 * k) for k, s in enumerate(SOURCES)
        }
        for split in ("validation", "test"):
            parts = [[self._answers(level[s] * d + 0.01, s, target) for d in depth] for s in SOURCES]
            sweep = Transfer(
                sources=SOURCES,
                layers=tuple(range(self.layers)),
                tasks=clean.tasks,
                units=clean.units,
                answers=clean.answers,
                predicted=tuple(tuple(a.predicted for a in row) for row in parts),
                clean=clean,
                **{
                    k: np.stack([[getattr(a, k) for a in row] for row in parts])
                    for k in ("log_probability", "rank", "paper", "strict")
                },
            )
            self._save(sweep, f"transfer.{target}.{split}")
        best = int(depth.argmax())
        for s, source in enumerate(SOURCES):
            for i, unit in enumerate(clean.units):
                self._record(
                    "patch",
                    source,
                    target,
                    i,
                    clean.tasks[i],
                    unit,
                    clean.answers[i],
                    [sweep.predicted[s][x][i] for x in range(self.layers)],
                    {
                        "layers": list(sweep.layers),
                        **{
                            k: getattr(sweep, k)[s, :, i].tolist()
                            for k in ("log_probability", "rank", "paper", "strict")
                        },
                    },
                )
        rows = [("patch", source, target, best, (sweep, source)) for source in SOURCES]
        return [*rows, ("no context", "no context", target, None, clean)]

    def _table(self, rows: list[tuple[Any, ...]]) -> None:
        table: list[dict[str, Any]] = []
        apart: list[dict[str, Any]] = []
        for method, source, target, layer, result in rows:

            def of(score: str, task: str | None = None, result: Any = result, layer: Any = layer) -> Any:
                sweep = isinstance(result, tuple)
                hits = getattr(result[0], score)[SOURCES.index(result[1]), layer] if sweep else getattr(result, score)
                base = result[0] if sweep else result
                if task is not None:
                    return float(np.mean(hits[np.array(base.tasks) == task]))
                return base.accuracy(result[1], layer, score) if sweep else base.accuracy(score)

            paper = of("paper")
            head = {"method": method, "source": source, "target": target}
            scores = {"accuracy": paper.mean, "low": paper.low, "high": paper.high, "n": paper.n}
            table.append({**head, "layer": layer, **scores, "strict": of("strict").mean})
            apart += [{**head, "task": t, "accuracy": of("paper", t)} for t in self.tasks]
        for name, rows_of in (("summary", table), ("by_task", apart)):
            pd.DataFrame(rows_of).to_csv(self.folder / "tables" / f"{self.model}.{name}.csv", index=False)

    def _phases(self) -> None:
        depth = ("embed", *map(str, range(self.layers)))
        x = np.linspace(0, 1, len(depth))
        bump = np.stack([1 - x, 1.5 * np.exp(-(((x - 0.6) / 0.2) ** 2)) * self.levels.task_phase, x**4], -1)
        pooled: dict[str, list[Phases]] = {s: [] for s in PHASED}
        for task in self.tasks:
            for source in PHASED:
                p = np.clip(bump * 0.3 + self.rng.random((20, len(depth), 3)) * 0.05, 0, 1)
                best = bump.argmax(-1)
                tops = tuple(
                    (
                        *((t, 0.4 / (j + 1)) for j, t in enumerate(TOPS[("input", "task", "answer")[b]])),
                        (HOSTILE[i % 6], 0.05),
                    )
                    for i, b in enumerate(best)
                )
                pooled[source].append(Phases(f"{task} · {source}", depth, p, np.round(10 * (1 - p)), tops))
        everything = [merge(s, parts) for s, parts in pooled.items()] + [p for parts in pooled.values() for p in parts]
        for i, phases in enumerate(everything):
            self._save(phases, f"phases.{i}")
        self._save(boundaries(everything[: len(PHASED)]), "boundaries")

    def _geometry(self) -> None:
        d, total = 16, len(self.tasks)
        labels = [f"{t} · {s}" for t in self.tasks for s in SPECIFICATIONS]
        groups = [t for t in self.tasks for _ in SPECIFICATIONS]
        of_task, of_source = self.rng.normal(size=(total, d)), self.rng.normal(size=(3, d))
        strength = np.linspace(0.2, 2, self.layers)[None, :, None]
        mix = of_task[:, None, None] * strength + of_source[None, :, None] / strength
        vectors = mix.reshape(total * 3, self.layers, d) + 1.5
        for centred in (False, True):
            name = "similarity.centred" if centred else "similarity"
            self._save(cosine_per_layer(vectors, labels, groups, centred=centred), name)
        count = 12
        points = np.repeat(mix[:, :2].reshape(total * 2, self.layers, d), count, 0)
        points = points + self.rng.normal(size=points.shape) * 0.5
        tasks = [t for t in self.tasks for _ in range(2 * count)]
        kinds = [s for _ in self.tasks for s in SPECIFICATIONS[:2] for _ in range(count)]
        pca = project(points, tasks, kinds, method="pca")
        self._save(pca, "projection.pca")
        # t-SNE itself takes seconds a layer; the page only needs its shape.
        plane = {"points": np.tanh(pca.points) * 40, "explained": np.full(pca.explained.shape, np.nan)}
        self._save(dataclasses.replace(pca, method="tsne", **plane), "projection.tsne")
        self._save(silhouette(points, tasks, kinds, permutations=99), "silhouette")
        if total > 1:
            self._save(alignment(points, tasks, kinds, permutations=99), "alignment")
