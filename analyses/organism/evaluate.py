"""The evaluation of a packaged run: every cell on test pairs, layers chosen on validation pairs, written as JSON."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from analyses.organism.cells import REPEATS, Bench, Sheet, tasks
from analyses.organism.oracle import Oracle
from analyses.organism.wilson import wilson
from analyses.organism.world import World


def load(vlm: Path, llm: Path) -> tuple[Oracle, Oracle]:
    """Return the two models of a run, read from their folders as any user would, in float32."""
    eye = AutoModelForImageTextToText.from_pretrained(vlm, dtype=torch.float32)
    base = AutoModelForCausalLM.from_pretrained(llm, dtype=torch.float32)
    return Oracle(eye, AutoProcessor.from_pretrained(vlm)), Oracle(base, AutoTokenizer.from_pretrained(llm))


def evaluate(world: World, vlm: Path, llm: Path, seed: int = 0) -> dict[str, Any]:
    """Measure a packaged VLM and its base LLM.

    Args:
        world: The facts (the same for all runs).
        vlm: Folder of the VLM.
        llm: Folder of its base LLM.
        seed: Seed of examples and queries.

    Returns:
        ``prompts`` (cell to share, interval, n), ``patches`` (cell to layer chosen on validation pairs, its share on
        test pairs, and the curves of both splits), ``phases`` (prompt to input / task / answer by layer), ``cosine``
        (text to image vector, same task and mean over other tasks, by layer) and ``tasks`` (share by task).
    """
    start = time.monotonic()
    torch.manual_seed(seed)
    eye, base = load(vlm, llm)
    sheets = {"validation": Sheet({}), "test": Sheet({})}
    by_task: dict[str, dict[str, list[float]]] = {}
    phases: dict[str, torch.Tensor] = {}
    bench = Bench(world, eye, base, seed)
    for attribute in tasks(world):
        bench.patches(attribute, "validation", 3, sheets["validation"])
        own = Sheet({})
        bench.prompts(attribute, "test", REPEATS, own)
        bench.patches(attribute, "test", REPEATS, own)
        for cell, rows in own.hits.items():
            for layer, hit in enumerate(rows):
                sheets["test"].add(cell, layer, hit)
            by_task.setdefault(cell, {})[attribute.key] = [float(r.mean()) for r in rows]
        for name, curve in bench.phases(attribute, "test", 2).items():
            phases[name] = phases.get(name, torch.zeros(1)) + curve / len(tasks(world))
        print(f"  {attribute.key}: {time.monotonic() - start:.0f} s", flush=True)
    result: dict[str, Any] = {"prompts": {}, "patches": {}, "tasks": {}}
    for cell, rows in sheets["test"].hits.items():
        if cell not in sheets["validation"].hits:
            result["prompts"][cell] = wilson(rows[0])
            result["tasks"][cell] = {t: v[0] for t, v in by_task[cell].items()}
            continue
        means = [float(r.mean()) for r in sheets["validation"].hits[cell]]
        layer = max(range(len(means)), key=lambda i: (means[i], -i))
        result["tasks"][cell] = {t: v[layer] for t, v in by_task[cell].items()}
        result["patches"][cell] = {
            "layer": layer,
            **wilson(rows[layer]),
            "validation": means,
            "test": [float(r.mean()) for r in rows],
        }
    result["phases"] = {k: dict(zip(("input", "task", "answer"), v.tolist(), strict=True)) for k, v in phases.items()}
    result["cosine"] = similarity(bench)
    result["seconds"] = time.monotonic() - start
    return result


def similarity(bench: Bench) -> dict[str, list[float]]:
    """Return cosines of mean text and image vectors by layer: of the same task, and the mean over other tasks."""
    drawn = [bench.vectors(a) for a in tasks(bench.world)]
    text = torch.nn.functional.normalize(torch.stack([d["text"] for d in drawn]), dim=-1)
    image = torch.nn.functional.normalize(torch.stack([d["image"] for d in drawn]), dim=-1)
    table = torch.einsum("ald,bld->lab", text, image)
    same = table.diagonal(dim1=1, dim2=2).mean(1)
    n = table.shape[1]
    other = (table.sum((1, 2)) - same * n) / (n * (n - 1))
    return {"same task": same.tolist(), "other task": other.tolist()}


def write(result: dict[str, Any], path: Path) -> None:
    """Write a result as JSON."""
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
