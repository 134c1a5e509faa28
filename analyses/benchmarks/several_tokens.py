"""What answers of several tokens, phases and traces cost at the shape of a small VLM of today.

The models have SmolLM2's text shape (30 blocks of width 576, 9 heads of queries and 3 of keys and values, an MLP of
1536, a vocabulary of 49,152) with a tower of CLIP-B/16's shape: 221 M parameters with random weights. Labels of several
tokens are the normal case with a real tokenizer. A part of `analyses.benchmarks.layer_sweep`, which times it and writes
its section.

Every row is a call against another one, in alternating pairs; the ratio is the median of the ratios of processor time
within pairs, which waits of a busy machine do not touch. Before timing, tokens and log-probabilities of the ways that
are compared must be the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

import xmi
from analyses.benchmarks.overhead import Cell, Timed, build, compare, prompt_of, say
from xmi.prompt import Batch
from xmi.proof import apart
from xmi.vector.sweep import Patch, Swept, sweep
from xmi.vlm import VLM

NEW, SETS = 3, 16
SHORT = Cell(
    "R70", hidden=576, layers=30, tokens=70, image=128, vision_hidden=768, vision_layers=12, intermediate=1536,
    patch=16, vocabulary=49152, heads=9, key_heads=3, tied=True, pairs=20,
)  # fmt: skip
LONG = replace(SHORT, name="R582", tokens=582, image=384, pairs=10)
CELLS = {70: SHORT, 582: LONG}
"""By tokens of the prompt."""

ROWS = {
    "one": "sweep, 1 set, 1 token",
    "sets": f"sweep, {SETS} sets, 1 token",
    "one_more": f"sweep, 1 set, {NEW} tokens",
    "sets_more": f"sweep, {SETS} sets, {NEW} tokens",
    "sets_whole": f"sweep, {SETS} sets, {NEW} tokens, without kept keys and values",
    "answers": f"`vlm.answers`, {NEW} tokens",
    "phases": "`vlm.phases`",
    "trace": '`vlm.trace(..., logits="last")`',
    "trace_all": "`vlm.trace(...)`, logits of all positions",
    "cache_last": '`run_with_cache(names=["resid_post"], positions="last")`',
    "cache_all": '`run_with_cache(names=["resid_post"])`, logits of all positions',
    "logits_all": "a plain forward with the logits of all positions",
}
GENERATE = "Hugging Face's `generate`"
TARGETS = {
    ("sets_more", 70): 15.0,
    ("sets_more", 582): 3.2,
    ("answers", 70): 1.1,
    ("answers", 582): 1.1,
    ("phases", 70): 1.15,
    ("trace", 70): 1.03,
    ("cache_all", 70): 1.05,
}
"""Ratios at most; of `answers` to `generate`, of the others to one clean forward."""


@dataclass(frozen=True)
class Measured:
    """What was measured at one length.

    Attributes:
        cell: The sizes.
        parameters: Of the model.
        rows: Times by row.
    """

    cell: Cell
    parameters: int
    rows: dict[str, Timed]


def calls_of(vlm: VLM, cell: Cell) -> dict[str, Callable[[], Any]]:
    """The calls by row, and what they are compared with: `clean` and `generate`."""
    engine, prompt = vlm.engine, prompt_of(cell)
    encoded = vlm.encode(prompt)
    prompts = (replace(encoded.prompts[0], answer="is"),)
    batch: Batch = replace(encoded, inputs=engine.place(encoded.inputs), prompts=prompts)
    if batch.inputs["input_ids"].shape[1] != cell.tokens:
        raise RuntimeError(f"The prompt has {batch.inputs['input_ids'].shape[1]} tokens in place of {cell.tokens}.")
    vectors = torch.randn(SETS, cell.layers, cell.hidden, generator=torch.Generator().manual_seed(1))
    inputs, model = engine.forward(batch.inputs), vlm.model
    every = engine.forward(batch.inputs, keep=cell.tokens)
    alone = {name: value for name, value in batch.inputs.items() if name != "position_ids"}
    options = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}

    def swept(sets: int, new: int) -> Callable[[], Swept]:
        patch = Patch(vectors[:sets], tuple(range(cell.layers)))
        return lambda: sweep(vlm, batch, patch, torch.tensor([60]), new)

    def whole() -> Swept:
        kept = dict(engine.ways)
        engine.ways.update({kind: way.removesuffix(", cached") for kind, way in kept.items()})
        try:
            return swept(SETS, NEW)()
        finally:
            engine.ways.update(kept)

    def traced(logits: Any) -> None:
        with vlm.trace(batch, logits=logits):
            vlm.resid_post[cell.layers // 2].save()

    def forward(given: dict[str, Any]) -> Any:
        with torch.no_grad():
            return model(**given).logits

    return {
        "clean": lambda: forward(inputs),
        "generate": lambda: model.generate(**alone, **options),  # type: ignore[operator]
        "one": swept(1, 1),
        "sets": swept(SETS, 1),
        "one_more": swept(1, NEW),
        "sets_more": swept(SETS, NEW),
        "sets_whole": whole,
        "answers": lambda: vlm.answers(batch, max_new_tokens=NEW),
        "phases": lambda: vlm.phases(batch, task_words=["city"]),
        "trace": lambda: traced("last"),
        "trace_all": lambda: traced("all"),
        "cache_last": lambda: vlm.run_with_cache(batch, names=["resid_post"], positions="last"),
        "cache_all": lambda: vlm.run_with_cache(batch, names=["resid_post"]),
        "logits_all": lambda: forward(every),
    }


def require_same(vlm: VLM, cell: Cell, calls: dict[str, Callable[[], Any]]) -> None:
    """Refuses to compare ways that differ."""
    with_cache, without = calls["sets_more"](), calls["sets_whole"]()
    exact = cell.dtype == "float32"
    gap = apart(with_cache, without)
    made = calls["generate"]()[0, -NEW:].tolist()
    said = calls["answers"]().continuations
    if not gap <= (1e-4 if exact else 0.3) or (exact and said != (vlm.encoder.text(made),)):
        raise RuntimeError(f"The ways differ: by {gap:.1e} nats, or {said} instead of {vlm.encoder.text(made)!r}.")
    if not any(way.endswith("cached") for way in vlm.engine.ways.values()):
        raise RuntimeError("keys and values of this model are not kept")


def measure(cell: Cell, *, seconds: float, pairs: int | None = None) -> Measured:
    """Times every row of a cell.

    Args:
        cell: The sizes.
        seconds: After so long the timing of a row ends.
        pairs: How many pairs; by default the cell's own number.
    """
    say(f"{cell}: building, and checking that all ways agree")
    model, processor = build(cell)
    vlm = xmi.load(model, processor=processor, device=cell.device, check=False)
    calls = calls_of(vlm, cell)
    require_same(vlm, cell, calls)
    found = {}
    for row, what in ROWS.items():
        say(f"{cell}: {what}")
        plain = calls["generate" if row == "answers" else "clean"]
        some = 5 if row == "sets_whole" else pairs or cell.pairs
        found[row] = compare(plain, calls[row], pairs=some, seconds=seconds, device=cell.device)
    return Measured(cell, sum(p.numel() for p in model.parameters()), found)


def section(measured: Sequence[Measured]) -> list[str]:
    """The lines of the page."""
    if not measured:
        return []
    widths = sorted({round(one.parameters / 1e6) for one in measured})
    lines = [
        "",
        "## Several tokens, phases and traces at the shape of a small VLM",
        "",
        "SmolLM2's text shape (30 blocks of width 576, vocabulary 49,152) with a tower of CLIP-B/16's shape, "
        f"{' and '.join(map(str, widths))} M parameters, random weights; all 30 layers are patched. Ratios of "
        f"processor time to one clean forward, of `vlm.answers` to {GENERATE} of as many tokens: medians within "
        "alternating pairs (quartiles of time in brackets).",
        "",
        "| | " + " | ".join(f"T = {one.cell.tokens} | target" for one in measured) + " |",
        "| --- |" + " ---: | ---: |" * len(measured),
    ]
    for row, what in ROWS.items():
        cells = []
        for one in measured:
            timed, bound = one.rows[row], TARGETS.get((row, one.cell.tokens))
            missed = " (missed)" if bound is not None and timed.cpu_ratio > bound else ""
            low, high = timed.quartiles
            cells.append(f"{timed.cpu_ratio:.2f} ({low:.2f} to {high:.2f}; {timed.pairs} pairs){missed}")
            cells.append("" if bound is None else f"{bound:g}")
        lines.append(f"| {what} | {' | '.join(cells)} |")
    lines += [
        "",
        "Without kept keys and values every further token is a forward of the prompt and of all copies. Of what a "
        "trace and `run_with_cache` cost at all positions, the last row is the part that their logits cost.",
    ]
    return lines


def summary(measured: Sequence[Measured]) -> dict[str, float]:
    """Ratios by row and length, for the JSON object."""
    return {f"{row}_{one.cell.tokens}": timed.cpu_ratio for one in measured for row, timed in one.rows.items()}
