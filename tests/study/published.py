"""xmi beside the published algorithm: the same prompts for both, and a stored study held to the oracle's numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import xmi
from analyses.benchmarks.published import Published, hit
from xmi.prompt import Prompt, Prompts, Task
from xmi.study import StudyResults
from xmi.vlm import VLM

TOLERANCE = 1e-5
SOURCES = ("text ICL", "image ICL", "instruction", "text ICL + instruction", "base LLM text ICL")


@dataclass(frozen=True)
class Side:
    """A model to xmi and to the oracle."""

    vlm: VLM
    oracle: Published


def side(name: str) -> Side:
    vlm = xmi.load(name)
    return Side(vlm, Published(vlm.model, vlm.encoder.processor or vlm.encoder.tokenizer))


def pieces(prompt: Prompt) -> list[str | Image.Image]:
    """A prompt as the oracle takes it."""
    return [s.text if s.image is None else Image.open(Path(str(s.image))) for s in prompt.segments]


def oracle_vectors(eye: Side, base: Side, text: Prompts, image: Prompts, told: Prompts) -> dict[str, torch.Tensor]:
    """The oracle's task vectors by source."""
    of_text, of_image, of_told = (eye.oracle.vector([pieces(p) for p in prompts]) for prompts in (text, image, told))
    of_base = base.oracle.vector([pieces(p) for p in text])
    return dict(zip(SOURCES, (of_text, of_image, of_told, (of_text + of_told) / 2, of_base), strict=True))


def tied(means: np.ndarray) -> list[int]:
    """All layers that are best."""
    return np.flatnonzero(means >= means.max() - 1e-12).tolist()


def compare_study(results: StudyResults, eye: Side, base: Side, transfers: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Holds the main model of a stored study to the oracle.

    Vectors must be equal, the layer chosen among those at which the oracle's validation accuracy is best (the published
    algorithm takes the first of them), and the test accuracies equal, of patches at that layer and of prompts.

    Args:
        results: The study, whatever its plan.
        eye: Its model.
        base: The base LLM.
        transfers: Source and target of the patches to compare.

    Yields:
        What was compared.
    """
    plan, model = results.study["plan"], results.models[0]
    tasks = [xmi.task(name) for name in plan["tasks"]]
    table = results.summary(model).set_index(["method", "source", "target"])
    vectors: dict[tuple[str, int], dict[str, torch.Tensor]] = {}
    for task, seed in product(tasks, plan["seeds"]):
        drawn = {"shots": plan["shots"], "n": plan["prompts"], "seed": seed, "split": plan["vectors_from"]}
        given = (task.icl("text", **drawn), task.icl("image", **drawn), task.instruction())
        vectors[task.name, seed] = oracle_vectors(eye, base, *given)
        for source, expected in vectors[task.name, seed].items():
            stored = results.vector(model, task.name, source, seed).values
            assert (stored - expected).abs().max() <= TOLERANCE, (task.name, source, seed)
            yield f"{task.name} · {source} · {seed}"
    for source, target in transfers:
        row = table.loc["patch", source, target]
        validation, test = (
            np.mean([_patched(eye, task, target, split, source, vectors, plan["seeds"]) for task in tasks], axis=0)
            for split in ("validation", "test")
        )
        layer = int(row.layer)
        best = tied(validation)
        assert layer == best[0] if plan["ties"] == "first" else layer in best, (source, target)
        assert row.accuracy == pytest.approx(test[layer]), (source, target)
        yield f"{source} > {target}"
    for source, target in product(("text", "image"), plan["targets"]):
        shares = []
        for task in tasks:
            options = {"shots": plan["shots"], "n": None, "split": "test", "query": target}
            asked = [p for seed in plan["seeds"] for p in task.icl(source, seed=seed, **options)]
            shares.append(np.mean([hit(eye.oracle.answer(pieces(p)), p.answer or "") for p in asked]))
        assert table.loc["prompt", f"{source} ICL", target].accuracy == pytest.approx(np.mean(shares))
        yield f"{source} ICL in the prompt > {target}"


def _patched(
    eye: Side,
    task: Task,
    target: str,
    split: str,
    source: str,
    vectors: dict[tuple[str, int], dict[str, torch.Tensor]],
    seeds: Sequence[int],
) -> np.ndarray:
    """The oracle's accuracy on one task, by layer."""
    hits = []
    for prompt, seed in product(task.queries(target, split=split), seeds):
        answers = eye.oracle.patch(pieces(prompt), vectors[task.name, seed][source])
        hits.append([hit(a, prompt.answer or "") for a in answers])
    return np.mean(hits, axis=0)
