"""Forwards with hooks: plain Hugging Face, so what they give is what the model gives."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int

from xmi.eager.cache import ActivationCache
from xmi.errors import HookError, PromptError
from xmi.kernels import cache_kernel, generate_kernel
from xmi.model import Anatomy, Engine, attention, select
from xmi.prompt import Batch

Names = str | Sequence[str] | Callable[[str], bool]


@dataclass(frozen=True)
class Hook:
    """What a hook function is told beside the activation.

    Attributes:
        name: Full name of the hook.
    """

    name: str

    def layer(self) -> int:
        """The block's number.

        Raises:
            HookError: The hook is in no block.
        """
        if not self.name.startswith("blocks."):
            raise HookError(f"{self.name} belongs to no layer.")
        return int(self.name.split(".")[1])


HookFunction = Callable[[torch.Tensor, Hook], torch.Tensor | None]
"""Gets the activation and its hook; returns what takes its place, or None to leave it as it is."""

Hooks = Sequence[tuple[Names, HookFunction]]


def run_with_cache(
    engine: Engine,
    anatomy: Anatomy,
    batch: Batch,
    names: Names | None,
    positions: str | Sequence[str] | None,
    device: str | torch.device | None,
    card: dict[str, Any],
) -> tuple[Float[torch.Tensor, "batch position vocab"], ActivationCache]:
    """One forward that keeps activations; see `VLM.run_with_cache`."""
    everything = list(anatomy.points)
    chosen = (
        [n for n in everything if not anatomy.points[n].pattern]
        if names is None
        else select(names, everything, anatomy.missing)
    )
    length = batch.inputs["input_ids"].shape[1]
    slots = None if positions is None else _columns(batch, positions) - length
    if engine.host is not None:
        arguments = engine.forward(batch.inputs, keep=length if slots is None else -int(slots.min()))
        places = [[anatomy.points[n].module, anatomy.points[n].side] for n in chosen]
        [(logits, values)] = engine.map(cache_kernel, [(arguments, places, slots)])
        kept = {n: value.to(device) if device is not None else value for n, value in zip(chosen, values, strict=True)}
        _check_finite(kept, batch.inputs["attention_mask"].bool() if slots is None else None)
        return logits, ActivationCache(kept, {**card, "attention": str(engine.host.facts.get("attention", ""))})
    shelf = _Shelf(slots)
    with ExitStack() as stack:
        if any(anatomy.points[n].pattern for n in chosen):
            stack.enter_context(_patterns(engine))
        for name in chosen:
            point = anatomy.points[name]
            stack.callback(point.attach(engine.model, shelf.keeper(name, point.pattern, device)).remove)
        with torch.no_grad():
            arguments = engine.forward(batch.inputs, keep=length if slots is None else -int(slots.min()))
            logits = engine.model(**arguments).logits
    lacking = [n for n in chosen if n not in shelf.kept]
    if lacking and names is not None:
        raise HookError(
            f"{', '.join(lacking[:3])}{', ...' if len(lacking) > 3 else ''} did not run for these prompts: the model "
            "skips that part without an image. Give every prompt an image, or leave these names out."
        )
    kept = {n: shelf.kept[n] for n in chosen if n in shelf.kept}
    _check_finite(kept, batch.inputs["attention_mask"].bool() if slots is None else None)
    used = "eager" if any(anatomy.points[n].pattern for n in chosen) else engine.attention
    return shelf.cut(logits), ActivationCache(kept, {**card, "attention": used})


@contextmanager
def hooked(engine: Engine, anatomy: Anatomy, hooks: Hooks) -> Iterator[None]:
    """Every forward inside runs with the hooks; see `VLM.hooks`."""
    if engine.host is not None:
        raise HookError(
            "Hook functions run where the model does, and a host runs no code of yours but in a trace: write with "
            "vlm.trace(...), or load the model here."
        )
    with ExitStack() as stack:
        wanted = [(select(names, list(anatomy.points), anatomy.missing), function) for names, function in hooks]
        if any(anatomy.points[n].pattern for names, _ in wanted for n in names):
            stack.enter_context(_patterns(engine))
        for names, function in wanted:
            for name in names:
                stack.callback(anatomy.points[name].attach(engine.model, _caller(name, function)).remove)
        engine.hooked.append(1)
        stack.callback(engine.hooked.pop)
        yield


def run(engine: Engine, batch: Batch) -> Float[torch.Tensor, "batch position vocab"]:
    """Logits of every position of a plain forward."""
    length = batch.inputs["input_ids"].shape[1]
    with torch.no_grad():
        logits: torch.Tensor = engine.model(**engine.forward(batch.inputs, keep=length)).logits
    return logits


@dataclass(frozen=True)
class Generation:
    """What a model wrote.

    Attributes:
        texts: The continuation of each prompt, without special tokens.
        ids: Its tokens, padded on the right where a row ended earlier.
    """

    texts: tuple[str, ...]
    ids: Int[torch.Tensor, "batch new"]


def generate(engine: Engine, batch: Batch, options: dict[str, Any]) -> Generation:
    """Continues left-padded prompts with the model's own `generate`; see `VLM.generate`."""
    if not bool(batch.inputs["attention_mask"][:, -1].all()):
        raise PromptError("generate continues prompts that are padded on the left; this batch is padded on the right.")
    inputs = engine.forward(batch.inputs)
    for name in ("use_cache", "logits_to_keep", "position_ids"):  # generate makes its own
        inputs.pop(name, None)
    tokenizer = engine.checkpoint.tokenizer
    asked = {"pad_token_id": tokenizer.pad_token_id, "do_sample": False, **options}
    if engine.host is not None:
        [made] = engine.map(generate_kernel, [(inputs, asked)])
    else:
        with torch.no_grad():
            made = engine.model.generate(**{**inputs, **asked})  # type: ignore[operator]
    if not isinstance(made, torch.Tensor):
        raise PromptError("generate returns tokens only: leave out return_dict_in_generate.")
    length = batch.inputs["input_ids"].shape[1]
    begins = made.shape[1] >= length and torch.equal(made[: len(batch), :length].cpu(), batch.inputs["input_ids"])
    ids = made[:, length:] if begins else made  # some models return the new tokens only
    return Generation(tuple(tokenizer.batch_decode(ids, skip_special_tokens=True)), ids.cpu())


def _columns(batch: Batch, positions: str | Sequence[str]) -> Int[torch.Tensor, "row slot"]:
    names = [positions] if isinstance(positions, str) else positions
    if not isinstance(names, (list, tuple)) or not names or not all(type(n) is str for n in names):
        raise PromptError(
            f"positions={positions!r}: name the slots ('last', 'query.delimiter', 'example[-1].delimiter'); numbers "
            "mean different tokens in rows of different length."
        )
    return torch.stack([batch.columns(n) for n in names], 1)


def _unplaced(name: str) -> bool:
    """Whether an activation has no position axis of the prompt's: image features before they enter the prompt."""
    return name in ("vision.hook_out", "projector.hook_out")


class _Shelf:
    """Activations of one forward, cut to the slots that are wanted.

    Attributes:
        kept: By hook name.
    """

    def __init__(self, slots: Int[torch.Tensor, "row slot"] | None) -> None:
        """Takes the slots' columns, counted from the end, or None for all positions."""
        self.kept: dict[str, torch.Tensor] = {}
        self.slots = slots
        # With left padding the last token stands in one column; a slice of it is cheaper than an index.
        shared = slots is not None and slots.shape[1] == 1 and bool((slots == slots[0]).all())
        self.column = int(slots[0, 0]) if slots is not None and shared else None
        self.placed: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = {}

    def keeper(self, name: str, pattern: bool, device: str | torch.device | None) -> Callable[[torch.Tensor], None]:
        """What keeps one activation when it is handed it."""

        def keep(value: torch.Tensor) -> None:
            part = value if _unplaced(name) else self.cut(value, 2 if pattern else 1)
            # A view would hold the whole.
            part = part.to(device) if device is not None else part
            part = part.clone() if part.untyped_storage().data_ptr() == value.untyped_storage().data_ptr() else part
            # A tower may look at tiles one by one.
            again = name in self.kept and _unplaced(name)
            self.kept[name] = torch.cat([self.kept[name], part]) if again else part

        return keep

    def cut(self, value: torch.Tensor, axis: int = 1) -> torch.Tensor:
        """The slots' part of something [row, position, ...], or with axis 2 [row, head, position, ...]."""
        if self.slots is None:
            return value
        if self.column is not None:
            return value.narrow(axis, value.shape[axis] + self.column, 1)
        if value.device not in self.placed:
            rows = torch.arange(len(self.slots), device=value.device)[:, None]
            self.placed[value.device] = (rows, self.slots.to(value.device))
        rows, columns = self.placed[value.device]
        return value[rows, columns] if axis == 1 else value[rows, :, columns].transpose(1, 2)


def _check_finite(found: dict[str, torch.Tensor], real: torch.Tensor | None = None) -> None:
    """Refuses NaN at real tokens; at padding some attention implementations leave anything."""
    flags: dict[torch.device, list[torch.Tensor]] = {}
    for value in found.values():
        flags.setdefault(value.device, []).append(torch.isfinite(value).all())
    if all(bool(torch.stack(some).all()) for some in flags.values()):  # one wait per device
        return
    for name, value in found.items():
        finite = torch.isfinite(value)
        if real is not None and value.shape[:2] == real.shape:
            finite = finite.flatten(2).all(-1) | ~real.to(value.device)
        bad = (~finite).flatten(1).any(-1).nonzero().flatten().tolist()
        if bad and not (real is not None and name.endswith("pattern")):
            raise HookError(
                f"{name} holds NaN or infinite values in rows {bad}. In half precision load the model with "
                "dtype='float32' (or bfloat16 in place of float16); else look at the first hook that has them."
            )


def _caller(name: str, function: HookFunction) -> Callable[[torch.Tensor], torch.Tensor]:
    hook = Hook(name)

    def call(value: torch.Tensor) -> torch.Tensor:
        result = function(value, hook)
        if result is None:
            result = (
                value  # it may have been changed in place, also where the hook was handed a copy (fused projections)
            )
        if not isinstance(result, torch.Tensor):
            raise HookError(f"The hook at {name} returned {type(result).__name__}: return a tensor, or None.")
        if result.shape != value.shape or result.dtype != value.dtype:
            raise HookError(
                f"The hook at {name} returned {list(result.shape)} {_dtype(result)} in place of {list(value.shape)} "
                f"{_dtype(value)}: return the same shape and dtype."
            )
        _check_finite({name: result})
        return result.to(value.device)

    return call


def _dtype(value: torch.Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


@contextmanager
def _patterns(engine: Engine) -> Iterator[None]:
    before = engine.attention
    if before != "eager":
        warnings.warn(
            f"Attention patterns exist only in eager attention: this call runs with it in place of {before}, which "
            "changes numbers within rounding.",
            stacklevel=6,
        )
    with attention(engine.model, engine.backbone, "eager"):
        yield
