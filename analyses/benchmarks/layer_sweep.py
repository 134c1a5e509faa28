"""What a layer sweep costs: one vector patched after every layer, one run per layer, in five ways.

The task: patch a vector [layer, d_model] into the last token of a query after each of N layers, and read the answer's
log-probability from every one of the N patched runs. Usage::

    python -m analyses.benchmarks.layer_sweep            # the grid; writes docs/layer_sweep.md
    python -m analyses.benchmarks.layer_sweep --quick    # one cell; the last line is a JSON object

The ways:

- clean: one forward without a patch (`use_cache=False, logits_to_keep=1`), what the others are measured by;
- published: one `generate(max_new_tokens=1, use_cache=False)` per layer at batch size 1, under a forward hook that
  overwrites the last token's residual;
- traces: one nnsight trace per layer;
- rows: the N runs as rows of one batch, from the processor's inputs repeated by hand;
- xmi: the packed sweep, `xmi.vector.sweep.sweep` on an encoded batch. That is what `vlm.transfer` calls; the clean run
  is part of it.

Encoding lies outside of the timed part everywhere. The comparison with plain runs that xmi makes at the first sweep of
a model lies in the warm-up. Before timing, all ways must give the same log-probabilities (to 1e-4 in float32, 0.3 in
bfloat16). The models have LLaVA 1.5's configuration at other sizes and random weights; nothing is downloaded.

Time: all sides alternate in one process, in an order that alternates too, and a ratio is the median of the ratios
within rounds. The published algorithm, traces and rows know nothing of other vector sets, so 16 sets cost them 16
times what one costs; that is reckoned from rounds in which one of the sets is run, a different one each time. xmi runs
all 16.

FLOPs of the model, two for each multiplication with its addition. A forward of S tokens and P patches that keeps L
logits, with N blocks of width h and MLP f, a vocabulary of V, and a vision tower of M blocks of width v and MLP 4v::

    blocks   N S (8 h^2 + 6 h f + 4 h S)                    attention counted in full, masked or not
    readout  2 h V L
    vision   M (P + 1) (24 v^2 + 4 v (P + 1)) + 1176 P v    (1176 = 2 * 3 * 14^2)
    joint    2 P (v h + h^2)

One set costs published, traces and rows N such forwards of T tokens that keep one logit. k sets cost xmi one forward
that keeps k N + 1, of T tokens in the first block and k more in every further one (several forwards where k N copies
do not fit in `engine.budget`).

Memory: peak of torch's allocator above what was held before, weights left out, as in `overhead.py` (on a CPU the events
of torch's profiler, exact to the byte), of a sweep of one set and of a plain forward of T + N tokens that keeps as many
logits as the sweep reads, N + 1.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil, isqrt, log10
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import transformers as hf
from nnsight import save

import xmi
from analyses.benchmarks import several_tokens
from analyses.benchmarks.overhead import (
    PATCH,
    SEVEN,
    SMALL,
    Cell,
    Timed,
    allocated_peak,
    build,
    clock,
    compare,
    cuda_peak,
    machine,
    prompt_of,
    say,
)
from analyses.benchmarks.several_tokens import Measured, section
from xmi.kernels.residuals import at, hidden
from xmi.prompt import Batch
from xmi.vector.memory import load_of
from xmi.vector.sweep import Patch, sweep
from xmi.vlm import VLM

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "layer_sweep.md"
SETS = 16
WAYS = {
    "published": "published algorithm",
    "traces": "a trace per layer",
    "rows": "rows of a batch",
    "xmi": "xmi",
}
GRID = ((8, 80), (16, 80), (32, 80), (64, 80), (32, 30), (32, 200), (8, 600), (32, 600))
TARGETS = {
    "over_clean": ("packed sweep over one clean forward", "at most", 1.5),
    "published_over": ("published algorithm over xmi", "at least", 20.0),
    "published_over_16_sets": ("published algorithm over xmi, 16 sets", "at least", 60.0),
    "over_clean_64_layers": ("packed sweep over one clean forward, 64 layers", "under", 2.0),
    "memory_ratio": ("memory of a sweep over a forward of T + N tokens", "at most", 1.3),
}


@dataclass(frozen=True)
class Setting:
    """A model, an encoded prompt and the vectors to patch.

    Attributes:
        vlm: The model.
        cell: Its sizes.
        batch: The prompt, encoded, on the model's device.
        vectors: What to patch, [set, layer, d_model].
        target: The answer's first token.
    """

    vlm: VLM
    cell: Cell
    batch: Batch
    vectors: torch.Tensor
    target: int


@dataclass(frozen=True)
class Result:
    """What was measured of a cell.

    Attributes:
        cell: Its sizes.
        clean: Median seconds of a clean forward.
        xmi: The packed sweep of one set, against the clean forward.
        xmi_16: That of 16 sets.
        seconds: Median seconds of one set, by way.
        over: The median ratio of a way to xmi within rounds.
        over_16: That of 16 sets.
        rounds: How many rounds there were.
        forwards_16: How many forwards xmi needs for 16 sets.
        apart: The largest difference in log-probability between two ways.
        flops: By way, for one set, and of `clean` and `xmi 16`.
        memory: Peak bytes of the sweep.
        memory_plain: Peak bytes of a plain forward of T + N tokens with N + 1 logits.
        memory_one: The same with one logit.
    """

    cell: Cell
    clean: float
    xmi: Timed
    xmi_16: Timed
    seconds: dict[str, float]
    over: dict[str, float]
    over_16: dict[str, float]
    rounds: int
    forwards_16: int
    apart: float
    flops: dict[str, float]
    memory: int
    memory_plain: int
    memory_one: int

    @property
    def memory_ratio(self) -> float:
        """Peak of a sweep compared with that of a plain forward of as many tokens and logits."""
        return self.memory / self.memory_plain


def cell_of(layers: int, tokens: int, hidden_size: int) -> Cell:
    """A model for a CPU, and a prompt whose image is as large as its length allows."""
    side = min(24, isqrt(tokens - 3)) * PATCH
    vision = max(64, hidden_size // 4)
    return replace(
        SMALL, name=f"{layers}x{tokens}", hidden=hidden_size, layers=layers, tokens=tokens, image=side,
        vision_hidden=vision,
    )  # fmt: skip


def inputs_for(vlm: VLM, cell: Cell, expected: int) -> Batch:
    """The cell's prompt, encoded and on the device."""
    batch = vlm.encode(prompt_of(cell))
    length = batch.inputs["input_ids"].shape[1]
    if length != expected:
        raise RuntimeError(f"The prompt has {length} tokens in place of {expected}.")
    return replace(batch, inputs=vlm.engine.place(batch.inputs))


def set_up(cell: Cell) -> Setting:
    """Builds the cell's model, prompt and vectors."""
    model, processor = build(cell)
    vlm = xmi.load(model, processor=processor, device=cell.device, check=False)
    made = torch.Generator().manual_seed(1)
    vectors = torch.randn(SETS, cell.layers, cell.hidden, generator=made)
    return Setting(vlm, cell, inputs_for(vlm, cell, cell.tokens), vectors, target=60)


def clean(setting: Setting) -> Any:
    """One forward without a patch."""
    with torch.no_grad():
        return setting.vlm.model(**setting.vlm.engine.forward(setting.batch.inputs)).logits


def blocks(setting: Setting) -> list[torch.nn.Module]:
    """The language model's blocks."""
    return list(setting.vlm.model.get_submodule(setting.vlm.backbone.layers).children())


def of_target(setting: Setting, logits: torch.Tensor) -> torch.Tensor:
    """The answer's log-probability from logits [..., vocab], on the CPU."""
    return logits.float().log_softmax(-1)[..., setting.target].cpu()


def overwriting(rows: Any, values: torch.Tensor) -> Callable[..., None]:
    """A forward hook that overwrites the last token's residual in some rows."""

    def hook(_module: Any, _args: Any, output: Any) -> None:
        state = output[0] if isinstance(output, tuple) else output
        state[rows, -1] = values.to(state)

    return hook


def published(setting: Setting, vectors: torch.Tensor) -> torch.Tensor:
    """Log-probabilities [set, layer], each by a call of `generate` of its own."""
    model: Any = setting.vlm.model
    inputs = {k: v for k, v in setting.batch.inputs.items() if k != "position_ids"}
    options = {"max_new_tokens": 1, "do_sample": False, "use_cache": False, "pad_token_id": 0, "eos_token_id": None}
    found = []
    for values in vectors:
        for block, value in zip(blocks(setting), values, strict=True):
            handle = block.register_forward_hook(overwriting(slice(None), value))
            try:
                made = model.generate(**inputs, **options, return_dict_in_generate=True, output_logits=True)
            finally:
                handle.remove()
            found.append(of_target(setting, made.logits[0][0]))
    return torch.stack(found).reshape(vectors.shape[:2])


def traces(setting: Setting, vectors: torch.Tensor) -> torch.Tensor:
    """Log-probabilities [set, layer], each by an nnsight trace of its own."""
    engine = setting.vlm.engine
    inputs = engine.forward(setting.batch.inputs)
    envoy, paths = engine.envoy, engine.paths
    found = []
    for values in vectors:
        for layer, value in enumerate(values.to(engine.device, engine.dtype)):
            with torch.no_grad(), envoy.trace(**inputs):
                hidden(at(envoy, paths["layers"])[layer].output)[:, -1] = value
                logits = save(envoy.output.logits[0, -1])
            found.append(of_target(setting, logits))
    return torch.stack(found).reshape(vectors.shape[:2])


def rows(setting: Setting, vectors: torch.Tensor, repeated: dict[str, Any]) -> torch.Tensor:
    """Log-probabilities [set, layer]; the layers of a set are rows of one batch."""
    found = []
    for values in vectors:
        handles = [
            block.register_forward_hook(overwriting(row, value))
            for row, (block, value) in enumerate(zip(blocks(setting), values, strict=True))
        ]
        try:
            with torch.no_grad():
                found.append(of_target(setting, setting.vlm.model(**repeated).logits[:, -1]))
        finally:
            for handle in handles:
                handle.remove()
    return torch.stack(found)


def packed(setting: Setting, vectors: torch.Tensor) -> torch.Tensor:
    """Log-probabilities [set, layer] by xmi's sweep."""
    vlm = setting.vlm
    patch = Patch(vectors, tuple(range(setting.cell.layers)))
    found = sweep(vlm, setting.batch, patch, torch.tensor([setting.target]))
    return found.log_probability[0, 1:].reshape(vectors.shape[:2])


def ways_of(setting: Setting) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """The ways to sweep, by name: from vectors [set, layer, d_model] to log-probabilities [set, layer]."""
    engine = setting.vlm.engine
    given = engine.forward(setting.batch.inputs)
    repeated = {k: torch.cat([v] * setting.cell.layers) if torch.is_tensor(v) else v for k, v in given.items()}
    return {
        "published": lambda vectors: published(setting, vectors),
        "traces": lambda vectors: traces(setting, vectors),
        "rows": lambda vectors: rows(setting, vectors, repeated),
        "xmi": lambda vectors: packed(setting, vectors),
    }


def require_same(setting: Setting, ways: dict[str, Callable[[torch.Tensor], torch.Tensor]]) -> float:
    """Refuses to compare ways that differ; returns the largest difference in log-probability.

    One set is checked at all layers in every way. Of xmi's 16 sets every one is checked at one layer, each at another,
    against the published algorithm.
    """
    bound = 1e-4 if setting.cell.dtype == "float32" else 0.3
    one = {name: way(setting.vectors[:1]) for name, way in ways.items()}
    apart = {name: float((one[name] - one["published"]).abs().max()) for name in ways}
    model: Any = setting.vlm.model
    inputs = setting.vlm.engine.forward(setting.batch.inputs)
    all_sets, gaps = ways["xmi"](setting.vectors), [0.0]
    for number in range(SETS):
        layer = number * 7 % setting.cell.layers
        hook = overwriting(slice(None), setting.vectors[number, layer])
        handle = blocks(setting)[layer].register_forward_hook(hook)
        try:
            with torch.no_grad():
                expected = of_target(setting, model(**inputs).logits[0, -1])
        finally:
            handle.remove()
        gaps.append(float((all_sets[number, layer] - expected).abs()))
    apart["xmi, 16 sets"] = max(gaps)
    # A patch that does nothing would agree everywhere.
    effect = (one["published"] - of_target(setting, clean(setting)[0, -1])).abs()
    least, usual = float(effect.min()), float(effect.median())
    if not max(apart.values()) <= bound or not least > 1e-4 or not usual > 2 * max(apart.values()):
        raise RuntimeError(
            f"The ways differ in log-probability: {apart}; the effect of a patch is {least:.1e} at least, {usual:.1e} "
            "usually."
        )
    if "rows" in setting.vlm.engine.ways.values():
        raise RuntimeError("xmi does not pack this model's runs")
    return max(apart.values())


def interleave(
    calls: dict[str, Callable[[int], Any]], *, rounds: int, seconds: float, device: str
) -> dict[str, list[float]]:
    """Seconds of every call in rounds of alternating order; ends early, but not before 3 rounds, when time is up."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    used, number = 0.0, 0
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        while number < rounds and (number < 3 or used < seconds):
            for name in list(calls)[:: 1 if number % 2 == 0 else -1]:
                call = calls[name]
                taken = clock(lambda call=call, number=number: call(number), device)[0]  # type: ignore[misc]
                found[name].append(taken)
                used += taken
            number += 1
    finally:
        gc.enable()
        gc.unfreeze()
    return found


def forward_flops(cell: Cell, tokens: int | Sequence[int], kept: int) -> float:
    """FLOPs of one forward of so many tokens (of every block, or of each); the formula is in the module's docstring."""
    h, n, v, m, p = cell.hidden, cell.layers, cell.vision_hidden, cell.vision_layers, cell.patches
    f = cell.intermediate or h * 11008 // 4096
    lengths = [tokens] * n if isinstance(tokens, int) else tokens
    text = sum(s * (8 * h**2 + 6 * h * f + 4 * h * s) for s in lengths) + 2 * h * cell.vocabulary * kept
    vision = m * (p + 1) * (24 * v**2 + 4 * v * (p + 1)) + 2 * 3 * cell.patch**2 * p * v
    return text + vision + 2 * p * (v * h + h**2)


def packed_flops(cell: Cell, sets: int, fit: int) -> float:
    """FLOPs of xmi's sweep: as many copies share a forward as fit, as `xmi.vector.sweep` splits them."""
    layers = max(1, min(cell.layers, fit))
    groups = max(1, fit // layers)
    total = 0.0
    for first in range(0, sets, groups):
        for start in range(0, cell.layers, layers):
            some, several = min(groups, sets - first), min(layers, cell.layers - start)
            lengths = [cell.tokens + some * min(max(i - start, 0), several) for i in range(cell.layers)]
            total += forward_flops(cell, lengths, some * several + 1)
    return total


def measure(cell: Cell, *, pairs: int, rounds: int, seconds: float, quick: bool) -> Result:
    """Measures a cell."""
    say(f"{cell}: building, and checking that all ways agree")
    setting = set_up(cell)
    ways = ways_of(setting)
    apart = require_same(setting, ways)
    one = setting.vectors[:1]
    timing = {"seconds": seconds, "device": cell.device}
    say(f"{cell}: a clean forward and xmi")
    xmi_one = compare(lambda: clean(setting), lambda: ways["xmi"](one), pairs=pairs, **timing)
    xmi_16 = compare(lambda: clean(setting), lambda: ways["xmi"](setting.vectors), pairs=max(5, pairs // 4), **timing)
    say(f"{cell}: all ways")

    def set_of(number: int) -> torch.Tensor:
        return setting.vectors[number % SETS : number % SETS + 1]

    def calling(name: str) -> Callable[[int], Any]:
        return lambda number: ways[name](set_of(number))

    timed = [name for name in ways if name in ("published", "xmi") or not quick]
    calls: dict[str, Callable[[int], Any]] = {name: calling(name) for name in timed}
    calls["xmi 16"] = lambda _number: ways["xmi"](setting.vectors)
    found = interleave(calls, rounds=rounds, **timing)
    others = [name for name in timed if name != "xmi"]
    fit = load_of(setting.vlm.engine, (1, cell.tokens), 1, 1, cached=False).copies()
    forward = forward_flops(cell, cell.tokens, 1)
    flops = {"clean": forward, **{name: cell.layers * forward for name in WAYS if name != "xmi"}}
    flops |= {"xmi": packed_flops(cell, 1, fit), "xmi 16": packed_flops(cell, SETS, fit)}
    say(f"{cell}: memory")
    memory, memory_plain, memory_one = peaks(setting, ways["xmi"])
    per_forward = max(1, fit // cell.layers)
    return Result(
        cell=cell,
        clean=xmi_one.plain,
        xmi=xmi_one,
        xmi_16=xmi_16,
        seconds={name: median(each) for name, each in found.items()},
        over={n: median(np.divide(found[n], found["xmi"]).tolist()) for n in others},
        over_16={n: median((SETS * np.divide(found[n], found["xmi 16"])).tolist()) for n in others},
        rounds=len(found["xmi"]),
        forwards_16=ceil(SETS / per_forward) * ceil(cell.layers / fit),
        apart=apart,
        flops=flops,
        memory=memory,
        memory_plain=memory_plain,
        memory_one=memory_one,
    )


def peaks(setting: Setting, way: Callable[[torch.Tensor], torch.Tensor]) -> tuple[int, int, int]:
    """Peak bytes of a sweep, and of a plain forward of T + N tokens that keeps N + 1 logits, or one."""
    vlm, cell = setting.vlm, setting.cell
    longer = inputs_for(vlm, replace(cell, tokens=cell.tokens + cell.layers), cell.tokens + cell.layers)

    def plain(keep: int) -> Any:
        with torch.no_grad():
            return vlm.model(**vlm.engine.forward(longer.inputs, keep=keep)).logits

    calls: list[Callable[[], Any]] = [
        lambda: way(setting.vectors[:1]), lambda: plain(cell.layers + 1), lambda: plain(1)
    ]  # fmt: skip
    found = []
    for call in calls:
        call()
        found.append(cuda_peak(call) if cell.device == "cuda" else allocated_peak(call))
    return found[0], found[1], found[2]


def shown(seconds: float) -> str:
    """Milliseconds, or seconds where there are many."""
    return f"{seconds:.1f} s" if seconds >= 10 else f"{1e3 * seconds:.0f} ms"


def reached(results: Sequence[Result]) -> dict[str, float]:
    """What was measured of each target, where the cells for it were."""
    found = {}
    for result in results:
        size = (result.cell.layers, result.cell.tokens)
        if size == (32, 80):
            found["over_clean"] = result.xmi.ratio
            found["published_over"] = result.over["published"]
            found["published_over_16_sets"] = result.over_16["published"]
        if size == (64, 80):
            found["over_clean_64_layers"] = result.xmi.ratio
    if results:
        found["memory_ratio"] = max(result.memory_ratio for result in results)
    return {name: found[name] for name in TARGETS if name in found}


def met(name: str, value: float) -> bool:
    """Whether a target is met."""
    _, kind, bound = TARGETS[name]
    return {"at most": value <= bound, "at least": value >= bound, "under": value < bound}[kind]


def page(results: Sequence[Result], command: str, threads: int, figure: str, several: Sequence[Measured] = ()) -> str:
    """The page of the documentation."""
    worst = max(result.apart for result in results)
    lines = [
        "# Layer sweeps",
        "",
        "Patching a vector after every one of N layers into the last token of a query, and reading the answer from "
        "each of the N patched runs: what `vlm.transfer` does for every query. Models have LLaVA 1.5's configuration "
        "at the sizes named and random weights; the prompt has T tokens, most of them an image's; batch size 1.",
        "",
        "- Clean: one forward without a patch (`use_cache=False`, `logits_to_keep=1`).",
        "- Published algorithm: per layer one `generate(max_new_tokens=1, use_cache=False)` under a forward hook.",
        "- A trace per layer: per layer one nnsight trace. Rows of a batch: the N runs as rows of one forward.",
        "- xmi: the packed sweep (`xmi.vector.sweep.sweep` on an encoded batch, as `vlm.transfer` calls it), the clean "
        "run included. Its comparison with plain runs, once per model, is not in the times.",
        "- Times: medians of calls that alternate in one process; ratios are medians of ratios within pairs or rounds. "
        "Encoding is outside everywhere.",
        f"- Before timing all ways gave the same log-probabilities (largest difference {worst:.0e} nats).",
        f"- Command: `{command}`",
        f"- Machine: {machine(threads)}",
        "",
    ]
    if figure:
        lines += [f"![Time of one sweep by number of layers, for each of the ways]({figure})", ""]
    lines += ["## Targets", "", "| | target | measured |", "| --- | ---: | ---: |"]
    for name, value in reached(results).items():
        what, kind, bound = TARGETS[name]
        cell = {"memory_ratio": "the worst cell", "over_clean_64_layers": "T = 80"}.get(name, "N = 32, T = 80")
        mark = "" if met(name, value) else " (missed)"
        lines.append(f"| {what} ({cell}) | {kind} {bound:g} | {value:.3f}{mark} |")
    lines += [
        "",
        "## One vector set",
        "",
        "| N | T | clean | published algorithm | a trace per layer | rows of a batch | xmi | xmi / clean | "
        "published / xmi | traces / xmi | rows / xmi |",
        "| ---: " * 11 + "|",
    ]
    for r in results:
        low, high = r.xmi.quartiles
        lines.append(
            f"| {label(r.cell)} | {shown(r.clean)} | {shown(r.seconds['published'])} | {shown(r.seconds['traces'])} | "
            f"{shown(r.seconds['rows'])} | {shown(r.xmi.other)} | {r.xmi.ratio:.2f} ({low:.2f} to {high:.2f}; "
            f"{r.xmi.pairs} pairs) | {r.over['published']:.1f} | {r.over['traces']:.1f} | {r.over['rows']:.1f} |"
        )
    rounds = sorted({r.rounds for r in results})
    span = str(rounds[0]) if len(rounds) == 1 else f"{rounds[0]} to {rounds[-1]}"
    lines += [
        "",
        f"The last three columns: medians of {span} rounds. Quartiles in brackets.",
        "",
        f"## {SETS} vector sets",
        "",
        f"xmi runs all {SETS}. The other ways run one after another, so {SETS} sets cost them {SETS} times what one "
        "costs: reckoned from rounds in which one of the sets was run, a different one each time.",
        "",
        f"| N | T | published, {SETS} times one set | xmi | forwards of xmi | xmi / clean | published / xmi | "
        "traces / xmi | rows / xmi |",
        "| ---: " * 9 + "|",
    ]
    for r in results:
        lines.append(
            f"| {label(r.cell)} | {shown(SETS * r.seconds['published'])} | {shown(r.xmi_16.other)} | {r.forwards_16} | "
            f"{r.xmi_16.ratio:.2f} | {r.over_16['published']:.1f} | {r.over_16['traces']:.1f} | "
            f"{r.over_16['rows']:.1f} |"
        )
    lines += [
        "",
        "## FLOPs and memory",
        "",
        "FLOPs of the model by the formula at the head of the script; published, traces and rows have the same. Memory "
        "is the peak of torch's allocator above what was held before, weights left out: of a sweep of one set, and of "
        "a plain forward of T + N tokens that keeps N + 1 logits, as many as the sweep reads (in brackets: that keeps "
        "one).",
        "",
        "| N | T | clean | published | xmi | published / xmi | xmi, 16 sets | memory: plain, T + N | xmi | ratio |",
        "| ---: " * 10 + "|",
    ]
    for r in results:
        g = {name: value / 1e9 for name, value in r.flops.items()}
        lines.append(
            f"| {label(r.cell)} | {g['clean']:.1f} G | {g['published']:.0f} G | {g['xmi']:.1f} G | "
            f"{g['published'] / g['xmi']:.1f} | {g['xmi 16']:.0f} G | {r.memory_plain / 1e6:.2f} MB "
            f"({r.memory_one / 1e6:.2f}) | {r.memory / 1e6:.2f} MB | {r.memory_ratio:.2f} |"
        )
    if not any(r.cell.device == "cuda" for r in results):
        lines += ["", "The cell of a 7B model's shape (bfloat16) needs CUDA and was not run here."]
    return "\n".join([*lines, *section(several), ""])


def label(cell: Cell) -> str:
    """N and T, and the model where it is not the usual one."""
    other = f" ({cell.name}, {cell.dtype})" if cell.device == "cuda" else ""
    return f"{cell.layers}{other} | {cell.tokens}"


def picture(results: Sequence[Result]) -> str:
    """An SVG of the time by number of layers on logarithmic axes, or nothing where fewer than three were measured."""
    mine = sorted((r for r in results if r.cell.tokens == 80 and r.cell.device == "cpu"), key=lambda r: r.cell.layers)
    if len(mine) < 3:
        return ""
    series = {
        "published algorithm": [r.seconds["published"] for r in mine],
        "a trace per layer": [r.seconds["traces"] for r in mine],
        "rows of a batch": [r.seconds["rows"] for r in mine],
        "xmi": [r.xmi.other for r in mine],
        "one clean forward": [r.clean for r in mine],
    }
    counts = [r.cell.layers for r in mine]
    low = int(np.floor(log10(min(min(values) for values in series.values()))))
    high = int(np.ceil(log10(max(max(values) for values in series.values()))))
    left, right, top, bottom = 70.0, 470.0, 20.0, 320.0

    def x(count: int) -> float:
        return left + (right - left) * (log10(count) - log10(counts[0])) / (log10(counts[-1]) - log10(counts[0]))

    def y(value: float) -> float:
        return bottom - (bottom - top) * (log10(value) - low) / (high - low)

    grey = 'stroke="#999999" stroke-opacity="0.35"'
    parts = []
    for power in range(low, high + 1):
        line = f'x1="{left}" x2="{right}" y1="{y(10.0**power):.1f}" y2="{y(10.0**power):.1f}"'
        name = f"{10**power:g} s" if power >= 0 else f"{10 ** (power + 3):g} ms"
        parts += [
            f"<line {line} {grey}/>",
            f'<text x="{left - 8}" y="{y(10.0**power) + 4:.1f}" text-anchor="end">{name}</text>',
        ]
    parts += [f'<text x="{x(n):.1f}" y="{bottom + 18}" text-anchor="middle">{n}</text>' for n in counts]
    parts.append(f'<text x="{(left + right) / 2}" y="{bottom + 40}" text-anchor="middle">layers patched</text>')
    colours = ("#d55e00", "#cc79a7", "#e69f00", "#0072b2", "#777777")
    ends: list[float] = []
    for (name, values), colour in sorted(zip(series.items(), colours, strict=True), key=lambda s: s[0][1][-1]):
        points = " ".join(f"{x(n):.1f},{y(v):.1f}" for n, v in zip(counts, values, strict=True))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        end = y(values[-1])
        if ends:
            end = min(end, ends[-1] - 15)  # names do not cover each other
        ends.append(end)
        parts.append(f'<text x="{right + 10}" y="{end + 4:.1f}" fill="{colour}">{name}</text>')
    head = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 370" width="640" height="370" '
        'font-family="sans-serif" font-size="13" fill="#777777">'
    )
    return "\n".join([head, *parts, "</svg>", ""])


def summary(result: Result) -> dict[str, Any]:
    """The JSON object of the last line, of the first cell."""
    return {
        "over_clean": result.xmi.ratio,
        "published_over": result.over["published"],
        "published_over_16_sets": result.over_16["published"],
        "memory_ratio": result.memory_ratio,
        "targets": {name: TARGETS[name][2] for name in TARGETS if name != "over_clean_64_layers"},
        "over_clean_quartiles": list(result.xmi.quartiles),
        "over_clean_16_sets": result.xmi_16.ratio,
        "clean_ms": 1e3 * result.clean,
        "xmi_ms": 1e3 * result.xmi.other,
        "xmi_16_sets_ms": 1e3 * result.xmi_16.other,
        "published_ms": 1e3 * result.seconds["published"],
        "flops_published_over": result.flops["published"] / result.flops["xmi"],
        "flops_over_clean": result.flops["xmi"] / result.flops["clean"],
        "memory_bytes": result.memory,
        "memory_plain_bytes": result.memory_plain,
        "memory_plain_one_logit_bytes": result.memory_one,
        "largest_difference": result.apart,
        "pairs": result.xmi.pairs,
        "rounds": result.rounds,
        "cell": str(result.cell),
    }


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """Returns the parsed command line."""
    parser = argparse.ArgumentParser(
        prog="python -m analyses.benchmarks.layer_sweep", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--quick", action="store_true", help="one cell within a minute, as JSON")
    parser.add_argument("--layers", type=int, default=32, help="--quick: blocks, all patched")
    parser.add_argument("--tokens", type=int, default=80, help="--quick: prompt length with the image")
    parser.add_argument("--hidden", type=int, default=256, help="width (a multiple of 64)")
    grid = ",".join(f"{n}x{t}" for n, t in GRID)
    parser.add_argument("--cells", default=grid, help=f"layers x tokens of the grid (default: {grid})")
    parser.add_argument(
        "--small-vlm", type=int, nargs="*", default=list(several_tokens.CELLS), choices=several_tokens.CELLS,
        help="prompt lengths at the shape of a small VLM, for labels of several tokens (none: leave it out)",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--pairs", type=int, default=60, help="pairs of clean forward and xmi")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of all ways")
    parser.add_argument("--seconds", type=float, default=30.0, help="end a comparison after so long (--quick: 10)")
    parser.add_argument("--out", type=Path, default=PAGE, help="page to write")
    args = parser.parse_args(given)
    try:
        args.grid = [(int(n), int(t)) for n, t in (part.split("x") for part in args.cells.split(","))]
    except ValueError:
        parser.error(f"--cells {args.cells!r}: write layers x tokens, as in 32x80,64x80")
    sizes = [(args.layers, args.tokens)] if args.quick else args.grid
    if args.hidden < 64 or args.hidden % 64:
        parser.error("--hidden must be a multiple of 64")
    if any(n < 1 or t < 12 for n, t in sizes):
        parser.error("a cell has at least 1 layer and 12 tokens (--layers, --tokens, --cells)")
    if min(args.threads, args.pairs, args.rounds) < 1:
        parser.error("--threads, --pairs and --rounds are at least 1")
    return args


def run(args: argparse.Namespace, command: str) -> int:
    """Measures what was asked for; returns the exit code."""
    torch.set_num_threads(args.threads)
    hf.utils.logging.disable_progress_bar()
    options = {"pairs": args.pairs, "rounds": args.rounds, "seconds": args.seconds, "quick": args.quick}
    if args.quick:
        options["seconds"] = min(10.0, args.seconds)
        print(json.dumps(summary(measure(cell_of(args.layers, args.tokens, args.hidden), **options))))
        return 0
    cells = [cell_of(layers, tokens, args.hidden) for layers, tokens in args.grid]
    if torch.cuda.is_available():
        cells.append(SEVEN)
    results = []
    for cell in cells:
        results.append(measure(cell, **options))
        gc.collect()
    figure, drawn = "", picture(results)
    if drawn:
        figure = f"images/{args.out.stem}.svg"
        (args.out.parent / figure).parent.mkdir(exist_ok=True)
        (args.out.parent / figure).write_text(drawn, encoding="utf-8")
    several = [several_tokens.measure(several_tokens.CELLS[t], seconds=args.seconds) for t in args.small_vlm]
    args.out.write_text(page(results, command, args.threads, figure, several), encoding="utf-8")
    for name, value in reached(results).items():
        print(f"{name} {value:.3f}{'' if met(name, value) else ' (missed)'}")
    print(json.dumps({**summary(results[0]), **several_tokens.summary(several)}))
    return 0


def main(given: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    args = arguments(given)
    words = [a for a in (sys.argv[1:] if given is None else given) if a != str(args.out) and a != "--out"]
    try:
        return run(args, " ".join(["python -m analyses.benchmarks.layer_sweep", *words]))
    except KeyboardInterrupt:
        say("Interrupted; nothing was written.")
        return 130


if __name__ == "__main__":
    sys.exit(main())
