"""The layer sweep of one batch: packed into few forwards where that is exact, otherwise one row per patched run."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial

import torch
from jaxtyping import Float, Int

from xmi.arguments import outside
from xmi.backend.base import Rows
from xmi.errors import VectorError
from xmi.kernels import sweep_kernel
from xmi.model import Engine
from xmi.model.engine import CRASHES, first_line
from xmi.prompt import Batch, Prompt
from xmi.proof import first_alike, seen
from xmi.session import Session
from xmi.vector.memory import load_of

MODES = ("overwrite", "add", "interpolate")

WAYS = ("growing, cached", "packed, cached", "growing", "packed", "rows")
"""How patched runs are done, fastest first: copies of the prompt's end that join the sequence when they are patched,
copies that are there from the start, or a row for each. Cached ways keep keys and values for tokens after the first;
the others compute the prompt again for each."""

MAX_ROWS = 32
"""How many patched runs are rows of one forward, where they cannot be packed."""


@dataclass(frozen=True)
class Patch:
    """What is written where.

    Attributes:
        vectors: What to write at each of the layers.
        layers: After which blocks.
        slot: Where in the prompt.
        mode: `overwrite`, `add` (residual + strength * vector), or `interpolate` ((1 - strength) * residual + strength
            * vector).
        strength: See `mode`.
    """

    vectors: Float[torch.Tensor, "set layer d_model"]
    layers: tuple[int, ...]
    slot: str = "last"
    mode: str = "overwrite"
    strength: float = 1.0

    def part(self, sets: slice, layers: slice) -> Patch:
        """Some of the sets at some of the layers."""
        return Patch(self.vectors[sets, layers], self.layers[layers], self.slot, self.mode, self.strength)


@dataclass(frozen=True)
class Swept:
    """What came out; entry 0 is the clean run, entry 1 + s * len(layers) + i is set s patched after layers[i].

    There is an axis of rows, except in what is put together row by row.

    Attributes:
        ids: The greedy continuation.
        log_probability: Of the answer's first token, in nats.
        rank: Of it, 0 = top.
        certain: Log-probability of each token of the continuation, in nats.
    """

    ids: Int[torch.Tensor, "*row entry new"]
    log_probability: Float[torch.Tensor, "*row entry"]
    rank: Int[torch.Tensor, "*row entry"]
    certain: Float[torch.Tensor, "*row entry new"]

    @classmethod
    def put(cls, parts: Sequence[Swept], join: Callable[[list[torch.Tensor]], torch.Tensor]) -> Swept:
        """Several, each attribute joined by a function."""
        return cls(*(join([getattr(part, field.name) for part in parts]) for field in fields(cls)))


def sweep(session: Session, batch: Batch, patch: Patch, targets: Int[torch.Tensor, " row"], new: int = 1) -> Swept:
    """Patches every vector at every layer into every row of a batch, and continues greedily.

    Args:
        session: The model.
        batch: Encoded prompts, padded on the left.
        patch: What is written where.
        targets: The answer's first token in each row.
        new: How many tokens to continue.

    Returns:
        The outcome, the clean run included.

    Raises:
        VectorError: Unknown mode.
        SlotError: A row lacks the slot.
        HookError: Hooks on the model are active.
    """
    if patch.mode not in MODES:
        raise VectorError(f"Unknown mode {patch.mode!r}; use one of {', '.join(MODES)}.")
    with session.engine.backend.hold(session.engine):  # how a kind of sweep is done is found once
        return _swept(session, batch, patch, targets, new)


def _swept(session: Session, batch: Batch, patch: Patch, targets: Int[torch.Tensor, " row"], new: int) -> Swept:
    engine = session.engine
    place, more = "last" if patch.slot == "last" else "earlier", "one" if new == 1 else "more"
    kind = f"{place}, {more}, {seen(batch)}"
    if kind not in engine.ways:
        _prove(session, batch, patch, targets, new, kind)
    while engine.ways[kind] != "rows":
        try:
            return _packed(engine, batch, patch, targets, new, engine.ways[kind])
        except torch.cuda.OutOfMemoryError:
            if not engine.ways[kind].endswith("cached"):
                raise
            torch.cuda.empty_cache()  # one copy does not fit in addition to the prompts' keys and values
            _resort(engine, kind, engine.ways[kind].removesuffix(", cached"), "")
        except CRASHES as error:  # another batch may have what the first had not: an image behind the slot
            _resort(engine, kind, WAYS[WAYS.index(engine.ways[kind]) + 1], first_line(error))
    return _rows(session, batch, patch, targets, new)


def _resort(engine: Engine, kind: str, way: str, why: str) -> None:
    """Remembers how runs of a kind are done, and says so once if they cannot share a forward."""
    engine.ways[kind] = way
    if way == "rows":
        warnings.warn(
            f"{engine.checkpoint.name}: patched runs cannot share a forward here ({why}). Each becomes a row of its "
            "own: just as exact, but slower.",
            stacklevel=outside(),
        )


def _prove(
    session: Session,
    batch: Batch,
    patch: Patch,
    targets: Int[torch.Tensor, " row"],
    new: int,
    kind: str,
) -> None:
    """Finds the fastest way that gives what rows of their own give; once per model and kind of sweep.

    Packing rests on attention that is causal and obeys a mask. A convolution or a recurrence between tokens does not.
    Copies that join late rest on blocks that nothing outside of them touches; a cache, on layers that keep nothing but
    keys and values. A few prompts show it: the shortest and the longest of a batch, and its ends.
    """
    engine = session.engine
    order = batch.inputs["attention_mask"].sum(1).argsort(stable=True).tolist()
    some = sorted({0, len(batch) - 1, order[0], order[-1]})
    batch, targets = session.encoder.encode([batch.prompts[i] for i in some]), targets[some]
    places = sorted({0, len(patch.layers) // 2})
    few = Patch(
        patch.vectors[:1, places], tuple(patch.layers[i] for i in places), patch.slot, patch.mode, patch.strength
    )
    ways = {
        way: partial(_packed, engine, batch, few, targets, new, way)
        for way in WAYS[2 * (new == 1) : -1]  # one token needs no cache
    }
    way, why = first_alike(engine, ways, partial(_rows, session, batch, few, targets, new))
    _resort(engine, kind, way or WAYS[-1], why)


def _packed(
    engine: Engine, batch: Batch, patch: Patch, targets: Int[torch.Tensor, " row"], new: int, way: str
) -> Swept:
    """Copies of the prompt's end share a forward, as many as fit."""
    sets, count = patch.vectors.shape[:2]
    back = batch.columns(patch.slot) - batch.inputs["input_ids"].shape[1]
    growing, cached = way.startswith("growing"), way.endswith("cached")
    fixed = targets, patch.mode, patch.strength, new, engine.backbone.keeps_logits, growing, cached
    load = load_of(engine, batch.inputs["input_ids"].shape, -int(back.min()), new, cached=cached)
    while True:
        some, groups = load.parts(sets, count)
        inputs = engine.forward(batch.inputs)
        rows = [
            [patch.part(slice(s, s + groups), slice(i, i + some)) for i in range(0, count, some)]
            for s in range(0, sets, groups)
        ]
        try:
            with engine.backend.masked(engine):
                found = engine.map(
                    sweep_kernel,
                    ((inputs, engine.paths, p.vectors, list(p.layers), back, *fixed) for row in rows for p in row),
                )
            break
        except torch.cuda.OutOfMemoryError:
            if some * groups == 1:
                raise
            torch.cuda.empty_cache()
            engine.learned.budget = load.bytes(some * groups // 2)  # memory turned out to hold less
    across = len(rows[0])
    return Swept.put([Swept(*part) for part in found], lambda parts: _joined(parts, across, some))


def _joined(parts: Sequence[torch.Tensor], across: int, some: int) -> torch.Tensor:
    """Entries of all parts as [set, layer] in one axis, after the clean run.

    Args:
        parts: Of each group of sets, of each range of layers: [row, entry, ...].
        across: How many ranges of layers there are.
        some: Layers in each but the last.
    """
    clean, groups = parts[0][:, :1], []
    for start in range(0, len(parts), across):
        row = [part[:, 1:] for part in parts[start : start + across]]
        sets = row[0].shape[1] // some
        groups.append(torch.cat([part.reshape(len(part), sets, -1, *part.shape[2:]) for part in row], 2))
    return torch.cat([clean, torch.cat(groups, 1).flatten(1, 2)], 1)


def _rows(session: Session, batch: Batch, patch: Patch, targets: Int[torch.Tensor, " row"], new: int) -> Swept:
    """Every patched run is a row: exact for whatever model.

    A forward holds runs of one prompt, encoded as often as needed, so that nothing is padded: some models (Kosmos-2 in
    transformers 5.23, when it generates) treat padded rows otherwise.
    """
    sets, count = patch.vectors.shape[:2]
    entries: list[tuple[int, int] | None] = [None, *((s, i) for s in range(sets) for i in range(count))]
    chunks = [entries[i : i + MAX_ROWS] for i in range(0, len(entries), MAX_ROWS)]
    runs = session.engine.together(
        partial(_run_rows, session, prompt, patch, target, new, chunk)
        for prompt, target in zip(batch.prompts, targets, strict=True)
        for chunk in chunks
    )
    each = [runs[start : start + len(chunks)] for start in range(0, len(runs), len(chunks))]
    return Swept.put([Swept.put(parts, torch.cat) for parts in each], torch.stack)


def _run_rows(
    session: Session,
    prompt: Prompt,
    patch: Patch,
    target: torch.Tensor,
    new: int,
    entries: Sequence[tuple[int, int] | None],
) -> Swept:
    """Some of the runs of one prompt, each a row; results without the row axis."""
    engine, batch = session.engine, session.encoder.encode([prompt] * len(entries))
    back = batch.columns(patch.slot) - batch.inputs["input_ids"].shape[1]
    inputs = engine.forward(batch.inputs, keep=-int(back.min()))
    patched = Rows(
        patch.vectors,
        list(patch.layers),
        [list(entry or ()) for entry in entries],
        back,
        target.expand(len(entries)),
        patch.mode,
        patch.strength,
        new,
    )
    return Swept(*engine.backend.rows(engine, inputs, patched))
