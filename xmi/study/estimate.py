"""What a study would cost, counted from the same lists of prompts that it runs."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from xmi.arguments import check_calls
from xmi.backend import backend_for
from xmi.model.layer_sizes import largest
from xmi.model.options import find_device, find_dtype
from xmi.prompt import Prompts, Task
from xmi.study.experiments import registry
from xmi.study.grid import cells_for, cells_of, subjects
from xmi.study.plan import Plan
from xmi.study.prepare import Prepared, glance, prepare
from xmi.study.run import store_of
from xmi.study.traffic import Traffic, traffic_of
from xmi.vector.memory import load_of
from xmi.vlm import VLM


@dataclass(frozen=True)
class Cost:
    """Forwards, the tokens that pass through all blocks in them, and the widest forward's tokens and kept logits."""

    forwards: int = 0
    tokens: int = 0
    widest: int = 0
    logits: int = 0

    def __add__(self, other: Cost) -> Cost:
        """Returns both, one after the other."""
        widest, logits = max(self.widest, other.widest), max(self.logits, other.logits)
        return Cost(self.forwards + other.forwards, self.tokens + other.tokens, widest, logits)


def dry_run(plan: str | Path | None = None, *, fork: bool = False, **given: Any) -> str:
    """Says what a study would do, without weights: the plan, the number of forwards, estimates of time and memory.

    For a study on a host it says instead how many requests it would take, and how many bytes they would bring there.
    Nothing is sent.

    Forwards are counted from the very prompts that the study builds. Time is floating-point operations (two for each
    parameter and token) over the speed of a matrix product on the device, so it is what a study takes at least; what
    lies outside of products (small models, attention over long prompts, images) comes on top.

    Args:
        plan: A plan file, or None.
        fork: As in `xmi.run`.
        **given: As in `xmi.run`.

    Returns:
        Several lines of text.

    Raises:
        RunError: A faulty plan.
        TaskError: A faulty task.
        ModelError: A model whose configuration cannot be read, or what a host cannot do.
        RemoteError: No host's address.
    """
    asked = prepare(plan, **given)
    store = store_of(asked, fork=fork)
    store.check()
    asked = replace(asked, folder=store.path)
    study, tasks, loading = asked.plan, asked.tasks, asked.loading
    if not backend_for(loading.get("remote")).needs_weights:
        return "\n".join([*_plan_lines(asked), *_host_lines(asked)])
    device = find_device(loading.get("device"))
    lines, total, seconds = _plan_lines(asked), 0, 0.0
    for name, one in subjects(study).items():
        vlm = glance(one, loading)
        cost = cost_of(vlm, study, tasks, name)
        parameters = sum(p.numel() for p in vlm.model.parameters())
        dtype = _dtype(loading.get("dtype", "auto"), vlm, device)
        took = 2 * parameters * cost.tokens / speed(device, dtype)
        model: Any = vlm.model
        config = model.config.get_text_config()
        wide = 4 * cost.widest * (6 * vlm.backbone.d_model + 2 * largest(config, "intermediate_size", 0))
        memory = parameters * dtype.itemsize + wide + 4 * cost.logits * int(config.vocab_size)
        lines.append(
            f"{name}: {cost.forwards} forwards, {cost.tokens / 1e6:.2f} million tokens, at least {_time(took)}, "
            f"about {memory / 1e9:.2f} GB ({dtype} on {device})"
        )
        total, seconds = total + cost.forwards, seconds + took
    cells = len(cells_of(study, tasks))
    lines.append(f"In all {cells} cells, {total} forwards, at least {_time(seconds)}. Nothing was computed or written.")
    return "\n".join(lines)


def _plan_lines(asked: Prepared) -> list[str]:
    lines = [f"{note}: sources and targets are those of text alone." for note in asked.notes]
    lines += [f"Run folder {asked.folder}. The plan:"]
    return lines + [f"  {name}: {value}" for name, value in asked.plan.model_dump().items()]


def _host_lines(asked: Prepared) -> list[str]:
    """What a host would be sent, per model and in all."""
    study, tasks, remote = asked.plan, asked.tasks, asked.loading["remote"]
    lines, total = [f"It would run on {backend_for(remote).title(remote)}."], Traffic()
    for name, one in subjects(study).items():
        traffic = traffic_of(glance(one, asked.loading), study, tasks, name)
        lines.append(f"{name}: {traffic.requests} requests, about {traffic.up / 1e6:.1f} MB up")
        total += traffic
    cells = len(cells_of(study, tasks))
    lines.append(
        f"In all {cells} cells, {total.requests} requests, about {total.up / 1e6:.1f} MB up. Nothing was computed, "
        "written or sent."
    )
    return lines


def cost_of(vlm: VLM, plan: Plan, tasks: Mapping[str, Task], name: str) -> Cost:
    """What one of a study's models has to do.

    Args:
        vlm: The model, possibly without weights.
        plan: The plan.
        tasks: Its tasks.
        name: The model's name in the study; a base LLM only reads.
    """
    cost = Cost()
    for cell in cells_for(name, plan, tasks):
        later = cell.seed != plan.seeds[0]
        for given in chain(*registry()[cell.kind].rounds(cell, plan, tasks, vlm)):
            if given.sets:
                cost += _packed(vlm, given.prompts, given.sets, given.layers, given.tokens, plan.patch_slot)
            elif given.prompts.shots or not later:  # what no seed changes is asked once
                cost += _plain(vlm, given.prompts, given.tokens)
    return cost


def _batches(vlm: VLM, prompts: Prompts) -> Iterable[tuple[int, int]]:
    """Rows and tokens of every batch; all prompts of a kind are taken to be as long as the first."""
    length = int(vlm.encode(prompts[:1]).inputs["input_ids"].shape[1])
    for start in range(0, len(prompts), vlm.batch_size):
        yield min(vlm.batch_size, len(prompts) - start), length


def _plain(vlm: VLM, prompts: Prompts, new: int = 1) -> Cost:
    """One forward per batch and new token; after the first it has this token alone."""
    cost = Cost()
    for rows, length in _batches(vlm, prompts):
        cost += Cost(1, rows * length, rows * length, rows) + Cost(new - 1, rows * (new - 1), rows, rows)
    return cost


def _packed(vlm: VLM, prompts: Prompts, sets: int, layers: int, new: int, slot: str) -> Cost:
    """The packed sweep, split as `xmi.vector.sweep` splits it; a growing one computes half of its copies' tokens."""
    cost = Cost()
    first = vlm.encode(prompts[:1])
    tail = int(first.inputs["input_ids"].shape[1] - first.columns(slot)[0])  # tokens from the slot on
    for rows, length in _batches(vlm, prompts):
        for step in range(new):
            width = 1 if step else tail
            some, groups = load_of(vlm.engine, (rows, length), tail, new, cached=True).parts(sets, layers)
            parts = math.ceil(layers / some) * math.ceil(sets / groups)
            copies = sets * layers * width
            shared = 1 if step else length
            tokens = parts * shared + (copies if step else copies // 2)
            widest = rows * (shared + some * groups * width)
            cost += Cost(parts, rows * tokens, widest, rows * (some * groups + 1))
    return cost


def speed(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second of a matrix product, measured for about a fifth of a second."""
    size = 4096 if device.type == "cuda" else 768
    left = torch.randn(size, size, device=device).to(dtype)
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < 0.2:
        (left @ left)[0, 0].item()
        done += 1
    return 2 * size**3 * done / (time.perf_counter() - start)


def _dtype(asked: Any, vlm: VLM, device: torch.device) -> torch.dtype:
    return find_dtype(asked) or (torch.float32 if device.type == "cpu" else vlm.engine.dtype)


def _time(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


check_calls(__name__, ["dry_run"])
