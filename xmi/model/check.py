"""The self-check: does what xmi found in a model really compute the model's logits?

A few small forwards in plain Hugging Face prove, before anything is measured, that
- no weight and no residual is NaN or infinite, and every token of the input has a residual of its own,
- the final norm and unembedding of the last block's residual give the model's own logits (readout identity),
- writing into any hook moves the logits (liveness); all hooks share a forward, each in a row of its own,
- changing the last token moves no earlier residual (causality),
- the residual stream is the sum of the parts that the hooks name (bookkeeping, see `anatomy`),
- another image gives other logits (image path).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from math import isnan
from typing import Any

import torch

from xmi.errors import ModelError
from xmi.model.anatomy import Anatomy, dissect, ranges
from xmi.model.attention import attention
from xmi.model.backbone import Backbone
from xmi.model.finite import ADVICE, overflow, require_finite
from xmi.model.hook_points import BLOCK_HOOKS, Point, short_name, sort_names
from xmi.model.image_path import find_eye
from xmi.model.readout import readout
from xmi.shown import Shown

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}
"""Largest allowed difference, relative to the largest logit; half precision gets 5e-2."""

LENGTH = 8
"""Tokens of the text probe."""

ROWS = 128
"""Hooks written in one forward."""

Inputs = dict[str, Any]


@dataclass(frozen=True)
class Probes(Shown):
    """What the self-check feeds the model.

    Attributes:
        text: Two text inputs that differ in the last token.
        image: Two encodings of one prompt, with a picture and with a blank one; None for a text-only model.
        why_blind: If a VLM's image prompt could not be encoded: the reason.
        other: A token id to put in the last place of the image prompt.
    """

    text: tuple[Inputs, Inputs]
    image: tuple[Inputs, Inputs] | None = None
    why_blind: str = ""


@dataclass(frozen=True)
class CheckReport(Shown):
    """Outcome of the self-check.

    Attributes:
        readout_error: Largest difference of the readout to the model's logits, relative to the largest logit.
        causal: Whether no earlier residual moved when the last token changed.
        causality_error: By how much the earlier residuals moved at most, relative to their size.
        image_effect: How far the logits move when the image is blanked, relative to the largest; None if unknown.
        anatomy: The hook points, what is missing and what deviates.
        remarks: What could not be checked, and why.
    """

    readout_error: float
    causal: bool
    causality_error: float
    image_effect: float | None
    anatomy: Anatomy
    remarks: tuple[str, ...] = field(default=())

    def lines(self) -> list[str]:
        """What was found, one fact per line."""
        a = self.anatomy
        causal = "yes" if self.causal else f"no (earlier residuals move by {self.causality_error:.1e})"
        layers = sorted({p.layer for p in a.points.values() if p.layer is not None})
        inner = {short_name(n) for n in a.points}
        order = [*(n for n in a.points if n in inner), *BLOCK_HOOKS]
        named = ", ".join(dict.fromkeys(n for n in order if n in inner))
        lacking: dict[str, dict[str, set[int]]] = {}
        for name, reason in a.missing.items():
            layer = int(name.split(".")[1]) if name.startswith("blocks.") else -1
            lacking.setdefault(reason, {}).setdefault(short_name(name), set()).add(layer)
        said = [
            f"readout: equals the model's logits to {self.readout_error:.1e}",
            f"causal: {causal}",
        ]
        if not isnan(a.bookkeeping):
            said.append(f"residual bookkeeping: holds to {a.bookkeeping:.1e}")
        if self.image_effect is not None:
            said.append(f"image: blanking it moves the logits by {self.image_effect:.1e} of the largest")
        said.append(f"hooks: {len(a.points)} ({named})")
        said += [f"deviation: {d}" for d in a.deviations]
        for reason, hooks in lacking.items():
            where = set().union(*hooks.values())
            some = f" in layers {ranges(sorted(where))}" if -1 not in where and where != set(layers) else ""
            said.append(f"no {', '.join(hooks)}{some}: {reason}")
        return said + [f"note: {r}" for r in self.remarks]


def check_model(model: torch.nn.Module, backbone: Backbone, probes: Probes) -> CheckReport:
    """Runs the self-check.

    Args:
        model: The model, on a real device.
        backbone: What was found.
        probes: Inputs, on the model's device.

    Returns:
        The report.

    Raises:
        ModelError: The readout differs from the model's logits, a block's residual is dead, or the image has no
            effect; it says where and by how much.
    """
    with torch.no_grad():
        return _Check(model, backbone, probes).run()


@dataclass
class _Check:
    model: torch.nn.Module
    backbone: Backbone
    probes: Probes
    remarks: list[str] = field(default_factory=list)

    @property
    def kind(self) -> str:
        return type(self.model).__name__

    def run(self) -> CheckReport:
        text = self.probes.text[0] if self._runs_on_text() else None
        image = self.probes.image
        if text is None and image is None:
            raise ModelError(f"{self.kind} runs neither on text alone nor on an image: {'; '.join(self.remarks)}")
        if self.probes.why_blind:
            self.remarks.append(f"image path not checked: {self.probes.why_blind}")
        probes = [p for p in (text, image[0] if image else None) if p is not None]
        require_finite(self.model)
        clean, residuals = self._sound(probes[0])
        error, bound = self._readout(clean, residuals)
        if len(probes) > 1:
            self._sound(probes[1])
        anatomy = dissect(self.model, self.backbone, [lambda p=p: self._forward(p) for p in probes])  # type: ignore[misc]
        effect, pictured = None, None
        if image is not None:
            pictured = self._logits(image[0])[:, -1]
            effect = self._image_effect(pictured, image[1])
            eye = find_eye(self.model, self.backbone, image)
            points = {**anatomy.points, **eye.points}
            order = sort_names(points, self.backbone.n_layers)
            anatomy = replace(anatomy, points={n: points[n] for n in order}, missing={**anatomy.missing, **eye.missing})
        anatomy = self._live(anatomy, text, (image[0], pictured) if image and pictured is not None else None)
        gaps = [self._leak(*self.probes.text, pad) for pad in (0, 3)] if text is not None else []
        if image is not None:
            gaps.append(self._leak(image[0], self._other_end(image[0])))
        gap = max(gaps)
        return CheckReport(error, gap <= bound, gap, effect, anatomy, tuple(self.remarks))

    def _runs_on_text(self) -> bool:
        try:
            self._forward(self.probes.text[0])
        except (TypeError, ValueError, AttributeError, RuntimeError, IndexError) as error:
            self.remarks.append(f"does not run without an image ({type(error).__name__})")
            return False
        return True

    def _forward(self, inputs: Inputs) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
        """Logits, and the output of every block that ran."""
        kept: dict[int, torch.Tensor] = {}

        def hook(layer: int) -> Callable[..., None]:
            def keep(_module: Any, _args: Any, output: Any) -> None:
                kept[layer] = (output[0] if isinstance(output, tuple) else output).clone()

            return keep

        blocks = self.model.get_submodule(self.backbone.layers).children()
        handles = [block.register_forward_hook(hook(i)) for i, block in enumerate(blocks)]
        try:
            logits: torch.Tensor = self.model(**inputs, use_cache=False).logits
        finally:
            for handle in handles:
                handle.remove()
        return logits, kept

    def _sound(self, inputs: Inputs) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
        """A forward whose numbers are numbers, and which gives each token of the input one residual per block."""
        logits, residuals = self._forward(inputs)
        if said := overflow(residuals):
            raise ModelError(f"{self.kind}: {said}")
        if bool(torch.isnan(logits).any()) or bool(torch.isposinf(logits).any()):
            raise ModelError(f"{self.kind}: its logits are NaN or infinite, its residual stream is not. {ADVICE}")
        asked = inputs["input_ids"].shape[-1]
        for layer, state in residuals.items():
            if state.shape[-2] != asked:
                how = "lengthens" if state.shape[-2] > asked else "shortens"
                raise ModelError(
                    f"{self.kind} {how} its input: {asked} tokens went in, and block {layer} has {state.shape[-2]} "
                    "positions (a learned prompt, pruned or merged tokens?). No residual would belong to the token it "
                    "is read at, so xmi refuses this model."
                )
        if logits.shape[-2] != asked:
            raise ModelError(
                f"{self.kind} gives logits of {logits.shape[-2]} positions for {asked} tokens: xmi refuses this model."
            )
        return logits, residuals

    def _readout(self, clean: torch.Tensor, residuals: dict[int, torch.Tensor]) -> tuple[float, float]:
        b = self.backbone
        last = residuals.get(b.n_layers - 1)
        if last is None:
            raise ModelError(f"{self.kind}: its last block did not run in the self-check.")
        bound = TOLERANCE.get(last.dtype, 5e-2)
        read = readout(self.model, b, last)
        if read.shape[-2:] != clean.shape[-2:]:
            raise ModelError(
                f"{self.kind}: the readout of the last block has shape {tuple(read.shape)}, the logits have "
                f"{tuple(clean.shape)}: its residual stream is not one vector per token. xmi refuses this model."
            )
        said = clean > torch.finfo(clean.dtype).min / 2
        if not bool(said.all()):
            never = int((~said).flatten(0, -2).any(0).sum())
            self.remarks.append(f"the model masks the logits of {never} tokens, which the lens may nevertheless show")
            read, clean = read[said], clean[said]
        error = float((read - clean).abs().max() / clean.abs().max().clamp(min=1e-6))
        if not error <= bound:  # also catches NaN
            raise ModelError(
                f"{self.kind}: the final norm ({b.norm}) and unembedding ({b.head}) of the last residual differ from "
                f"the model's logits by {error:.1e} of the largest logit (allowed {bound:.0e}). A logit lens on it "
                "would be wrong, so xmi refuses this model."
            )
        return error, bound

    def _image_effect(self, picture: torch.Tensor, blank: Inputs) -> float:
        one, two = (_spoken(logits) for logits in (picture, self._logits(blank)[:, -1]))
        effect = float((one - two).abs().max() / one.abs().max().clamp(min=1e-6))
        if not effect > 0:
            raise ModelError(
                f"{self.kind}: blanking the image does not move the logits: the model does not see its images."
            )
        return effect

    def _leak(self, one: Inputs, two: Inputs, padding: int = 0) -> float:
        """How far earlier residuals move, relative to their size, when the last token changes; padded or not.

        Both are tried, because some models build no mask at all for an unpadded input.
        """
        if padding:
            one, two = ({k: _pad(v, padding, k == "attention_mask") for k, v in i.items()} for i in (one, two))
        return _moved(self._forward(one)[1], self._forward(two)[1], padding)

    def _other_end(self, inputs: Inputs) -> Inputs:
        ids = inputs["input_ids"].clone()
        ids[:, -1] = self.probes.text[0]["input_ids"][0, 0]
        return {**inputs, "input_ids": ids}

    def _live(self, anatomy: Anatomy, text: Inputs | None, image: tuple[Inputs, torch.Tensor] | None) -> Anatomy:
        """Writes each hook once; a dead residual is refused, other dead hooks are stated.

        All hooks that run on text share forwards, each in a row of its own; the others take one with the image each.
        """
        points = list(anatomy.points.values())
        dead: list[Point] = []
        seen: set[str] = set()
        if text is not None:
            patterns = [p for p in points if p.pattern]
            for kind in ([p for p in points if not p.pattern], patterns):
                for group in (kind[i : i + ROWS] for i in range(0, len(kind), ROWS)):
                    fired, moved = self._write(text, group)
                    seen |= fired
                    dead += [p for p in group if p.name in fired and p.name not in moved]
        for point in [p for p in points if p.name not in seen]:
            if image is None:
                break
            fired, moved = self._write(image[0], [point], clean=image[1])
            seen |= fired
            dead += [point] if point.name in fired and point.name not in moved else []
        dead += [p for p in points if p.name not in seen]
        vital = [p.name for p in dead if "resid" in p.name]
        if vital:
            raise ModelError(f"{self.kind}: writing {', '.join(vital)} does not move the logits; xmi refuses it.")
        said: dict[str, list[int]] = {}
        for point in dead:
            said.setdefault(short_name(point.name), []).append(-1 if point.layer is None else point.layer)
        remarks = [
            f"writing {hook} has no effect" + (f" in layers {ranges(w)} (zero weights?)" if w != [-1] else "")
            for hook, w in said.items()
        ]
        return replace(anatomy, deviations=(*anatomy.deviations, *remarks))

    def _write(
        self, inputs: Inputs, points: Sequence[Point], clean: torch.Tensor | None = None
    ) -> tuple[set[str], set[str]]:
        """Overwrites each point in a row of its own, or, given the clean logits, everywhere; what fired and moved."""
        fired: set[str] = set()
        rows = clean is None
        batch = {k: v.expand(len(points) + 2, *v.shape[1:]) for k, v in inputs.items()} if rows else inputs

        def writer(number: int, name: str) -> Callable[[torch.Tensor], torch.Tensor]:
            def write(value: torch.Tensor) -> torch.Tensor:
                fired.add(name)
                value = value.clone()
                part = value[number : number + 1] if rows else value
                generator = torch.Generator().manual_seed(number)
                noise = torch.randn(part.shape, generator=generator).to(value.device, value.dtype)
                part.copy_(noise * part.float().std().clamp(min=0.1).to(value.dtype))
                return value

            return write

        handles = [p.attach(self.model, writer(i, p.name)) for i, p in enumerate(points)]
        eager = any(p.pattern for p in points)
        with attention(self.model, self.backbone, "eager") if eager else nullcontext():
            try:
                logits = _spoken(self._logits(batch)[:, -1])
            finally:
                for handle in handles:
                    handle.remove()
        if clean is not None:
            gap = float((logits - _spoken(clean)).abs().max())
            return fired, {p.name for p in points} if gap > 0 else set()
        untouched, again = logits[-1], logits[-2]
        floor = 4 * float((untouched - again).abs().max()) + 1e-7 * float(untouched.abs().max())
        return fired, {p.name for i, p in enumerate(points) if float((logits[i] - untouched).abs().max()) > floor}

    def _logits(self, inputs: Inputs) -> torch.Tensor:
        """Logits of the last token at least."""
        keep = {"logits_to_keep": 1} if self.backbone.keeps_logits else {}
        logits: torch.Tensor = self.model(**inputs, use_cache=False, **keep).logits
        return logits


def _moved(before: dict[int, torch.Tensor], after: dict[int, torch.Tensor], padding: int = 0) -> float:
    """How far the residuals of all tokens but the last differ, relative to their size."""
    moved, size = 0.0, 1e-6
    for layer, state in before.items():
        moved = max(moved, float((state - after[layer]).abs()[..., padding:-1, :].max()))
        size = max(size, float(state[..., padding:, :].abs().max()))
    return moved / size


def _spoken(logits: torch.Tensor) -> torch.Tensor:
    """Logits with 0 for tokens that the model never says (Chameleon gives image tokens the lowest number there is)."""
    return logits.where(logits > torch.finfo(logits.dtype).min / 2, 0).float()


def _pad(value: torch.Tensor, count: int, mask: bool) -> torch.Tensor:
    first = torch.zeros_like(value[:, :1]) if mask else value[:, :1]
    return torch.cat([first.expand(-1, count), value], 1)


def text_probe(model: torch.nn.Module, backbone: Backbone, usable: Sequence[int]) -> tuple[Inputs, Inputs]:
    """Two inputs of random tokens that differ in the last one only.

    Args:
        model: The model, for its device.
        backbone: Where the embedding is.
        usable: Token ids to draw from: no image placeholders or other special tokens.
    """
    own = next(model.get_submodule(backbone.embed).parameters()).device
    device = torch.device("cpu") if own.type == "meta" else own
    generator = torch.Generator().manual_seed(0)
    draw = torch.randint(len(usable), (LENGTH,), generator=generator).tolist()
    ids = torch.tensor([[usable[i] for i in draw]], device=device)
    other = ids.clone()
    other[0, -1] = next((i for i in usable if i != int(ids[0, -1])), int(ids[0, -1]))
    one, two = ({"input_ids": x, "attention_mask": torch.ones_like(x)} for x in (ids, other))
    return one, two
