"""One training loop for all stages: seeded per step, checkpointed with the optimiser, continued where it was killed."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

SAVE_EVERY = 60.0
SHOW_EVERY = 50


@dataclass
class Stage:
    """What a stage trains and where it keeps its state.

    Attributes:
        name: Name of the stage; also of its files in `folder`.
        folder: The run's folder.
        groups: Optimiser groups, each with ``params`` and its peak ``lr``.
        modules: What is saved, by name.
        steps: Optimiser steps.
        seed: Every step draws from a generator seeded by (seed, name, step), so a continued run sees the same data.
        weight_decay: AdamW's weight decay.
    """

    name: str
    folder: Path
    groups: list[dict[str, object]]
    modules: dict[str, nn.Module]
    steps: int
    seed: int
    weight_decay: float = 0.05

    @property
    def done(self) -> Path:
        """The file with the finished stage's weights."""
        return self.folder / f"{self.name}.pt"

    @property
    def partial(self) -> Path:
        """The file with an unfinished stage's weights and optimiser."""
        return self.folder / f"{self.name}.part.pt"


def schedule(step: int, steps: int, warmup: float = 0.06) -> float:
    """Return the share of the peak learning rate: a linear rise, then a cosine fall to nearly zero."""
    rise = max(1.0, warmup * steps)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1.0, steps - rise))) * 0.999 + 0.001


def write(state: dict[str, object], path: Path) -> None:
    """Write a checkpoint so that a reader sees the old file or the new one, never half of it."""
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)


def train(stage: Stage, loss: Callable[[random.Random, float], float]) -> None:
    """Run a stage to its end, or load it if it has already ended.

    Args:
        stage: What to train.
        loss: Called once a step with the step's generator and the progress in 0..1; it runs the backward passes and
            returns the loss.
    """
    stage.folder.mkdir(parents=True, exist_ok=True)
    if stage.done.exists():
        _restore(stage, torch.load(stage.done, weights_only=True))
        stage.partial.unlink(missing_ok=True)  # a kill may have come between writing the one and deleting the other
        # What follows may draw initial weights: it must find the generator as the stage's last step set it.
        torch.manual_seed(_step_seed(stage, stage.steps - 1))
        print(f"[{stage.name}] finished before, loaded {stage.done}", flush=True)
        return
    parameters: list[Tensor] = [p for g in stage.groups for p in g["params"]]  # type: ignore[attr-defined]
    peaks = [float(g["lr"]) for g in stage.groups]  # type: ignore[arg-type]
    optimiser = torch.optim.AdamW(stage.groups, weight_decay=stage.weight_decay, betas=(0.9, 0.98), fused=True)
    first = 0
    if stage.partial.exists():
        state = torch.load(stage.partial, weights_only=True)
        _restore(stage, state)
        optimiser.load_state_dict(state["optimiser"])
        first = state["step"]
        print(f"[{stage.name}] continues at step {first} of {stage.steps}", flush=True)
    start = saved = time.monotonic()
    for step in range(first, stage.steps):
        torch.manual_seed(_step_seed(stage, step))
        for group, peak in zip(optimiser.param_groups, peaks, strict=True):
            group["lr"] = peak * schedule(step, stage.steps)
        value = loss(random.Random(f"{stage.seed}/{stage.name}/{step}"), step / stage.steps)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        now = time.monotonic()
        if step % SHOW_EVERY == 0 or step == stage.steps - 1:
            left = (now - start) / (step + 1 - first) * (stage.steps - 1 - step)
            print(
                f"[{stage.name}] step {step + 1}/{stage.steps} loss {value:.3f} {now - start:.0f} s, {left:.0f} s left",
                flush=True,
            )
        if now - saved > SAVE_EVERY:
            write({**_weights(stage), "optimiser": optimiser.state_dict(), "step": step + 1}, stage.partial)
            saved = now
    write({**_weights(stage), "seconds": time.monotonic() - start}, stage.done)
    stage.partial.unlink(missing_ok=True)


def _step_seed(stage: Stage, step: int) -> int:
    return hash((stage.seed, step)) % 2**31


def _weights(stage: Stage) -> dict[str, object]:
    return {name: module.state_dict() for name, module in stage.modules.items()}


def _restore(stage: Stage, state: dict[str, dict[str, Tensor]]) -> None:
    for name, module in stage.modules.items():
        module.load_state_dict(state[name])
