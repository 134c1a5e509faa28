"""Training of the tuned lens: residuals are read once, then each depth is fitted on its own."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch.nn.functional import kl_div

from xmi.errors import ModelError, PromptError
from xmi.kernels.residuals import stream_kernel, translate
from xmi.lens.tuned import LensCard, TunedLens
from xmi.model import Engine
from xmi.model.readout import readout
from xmi.names import label_of
from xmi.progress import track
from xmi.prompt import Batch, Prompt, PromptLike, Prompts
from xmi.session import Session

Decode = Callable[[torch.Tensor], torch.Tensor]
_CHUNK = 256


def tune_lens(
    session: Session,
    prompts: PromptLike | Sequence[PromptLike],
    *,
    slot: str | None = None,
    steps: int = 500,
    size: int = 256,
    rate: float = 1e-3,
    decay: float = 1e-2,
    held_out: float = 0.2,
    seed: int = 0,
) -> TunedLens:
    """Trains a tuned lens on prompts: per depth an affine map after which the readout foresees the model's output.

    Args:
        prompts: Prompts, or several sets of them; the model should be read on prompts of the same kinds.
        slot: Where to train; by default at every token of text.
        steps: Steps of Adam per depth; with 0 the lens is the logit lens.
        size: Tokens per step.
        rate: First learning rate, which falls linearly to 0.
        decay: Weight decay, towards the logit lens.
        held_out: Share of the items whose prompts are not trained on, but compared on (they may still be examples
            in other prompts).
        seed: Seed of what is held out and of what is drawn; the same seed gives the same lens.

    Returns:
        The lens; its `to_frame()` has the divergence from the model's output before and after, on the held-out
        prompts, per depth.

    Raises:
        PromptError: Prompts of fewer than two items, or numbers that mean nothing.
        SlotError: A prompt lacks the slot.

    Source: Belrose et al., "Eliciting Latent Predictions from Transformers with the Tuned Lens", 2023, section 3.

    Examples:
        >>> lens = vlm.tune_lens(task.icl("text", n=8), steps=2)
        >>> lens.to_frame().shape, lens.card.prompts
        ((8, 3), 6)
    """
    if steps < 0 or size < 1 or not 0 < held_out < 1:
        raise PromptError(
            f"A lens needs steps >= 0, size >= 1 and 0 < held_out < 1; got steps={steps}, size={size}, "
            f"held_out={held_out}."
        )
    engine = session.engine
    apart = isinstance(prompts, (list, tuple)) and prompts and all(isinstance(p, Prompts) for p in prompts)
    given: Sequence[Any] = prompts if apart else [prompts]  # type: ignore[assignment]
    with ExitStack() as stack:
        pairs = [stack.enter_context(session.prepared(some, "reading residuals")) for some in given]
        engine.backend.require("training", session.name)
        sets = [several for several, _ in pairs]
        every = [p for several in sets for p in several]
        aside = hold_out([item(p) for p in every], held_out, seed)
        parts = [part for _, batches in pairs for part in _states(session, batches, slot, aside)]
    stream, kept = torch.cat([states for states, _ in parts]), torch.cat([held for _, held in parts])
    options: dict[str, Any] = {"steps": steps, "size": size, "rate": rate, "decay": decay, "seed": seed}
    fitted = [
        _depth(session, stream[:, depth], stream[:, -1], kept, depth, **options)
        for depth in track(range(session.backbone.n_layers), f"{session.name}: tuning the lens")
    ]
    weights, biases, before, after = zip(*fitted, strict=True)
    tested = sum(item(p) in aside for p in every)
    facts = session.card(
        trained_on=tuple(dict.fromkeys(label_of(p.task, p.specification) for p in sets)),
        slot=slot or "text",
        prompts=len(every) - tested,
        tokens=int((~kept).sum()),
        held_out=tested,
        **options,
        before=before,
        after=after,
    )
    return TunedLens(torch.stack(weights), torch.stack(biases), LensCard(**facts))


def _depth(
    session: Session,
    states: Float[torch.Tensor, "token d_model"],
    final: Float[torch.Tensor, "token d_model"],
    kept: Bool[torch.Tensor, " token"],
    depth: int,
    *,
    seed: int,
    rate: float,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor, float, float]:
    """Weight and bias of one depth, and the divergence of held-out tokens before and after training.

    Raises:
        ModelError: Training does not converge.
    """
    decode, generator = _decoder(session.engine), torch.Generator().manual_seed(seed * 1009 + depth)
    pair = fit(
        states[~kept], final[~kept], decode, rate=rate, generator=generator, device=session.engine.device, **options
    )
    identity = (torch.zeros_like(pair[0]), torch.zeros_like(pair[1]))
    before, after = (divergence(states[kept], final[kept], decode, *found) for found in (identity, pair))
    if not math.isfinite(after):
        raise ModelError(
            f"The lens does not converge at depth {depth}: its divergence is {after}. Train with a smaller "
            f"rate than {rate}, or look at the residuals there (vlm.run_with_cache says where they are NaN)."
        )
    return pair[0].cpu(), pair[1].cpu(), before, after


def item(prompt: Prompt) -> str:
    """What a prompt asks about, which must not be on both sides of a comparison: its item, or else its text."""
    return prompt.unit if prompt.input else prompt.text


def hold_out(items: Sequence[str], share: float, seed: int) -> frozenset[str]:
    """Draws the items whose prompts are not trained on.

    Raises:
        PromptError: There are fewer than two different items.
    """
    names = sorted(set(items))
    if len(names) < 2:
        raise PromptError(
            f"A lens needs prompts of at least two different items, one of them to hold out; found {len(names)}."
        )
    count = min(len(names) - 1, max(1, round(share * len(names))))
    return frozenset(random.Random(f"lens/{seed}").sample(names, count))


def fit(
    states: Float[torch.Tensor, "token d_model"],
    final: Float[torch.Tensor, "token d_model"],
    decode: Decode,
    *,
    steps: int,
    size: int,
    rate: float,
    decay: float,
    generator: torch.Generator,
    device: torch.device,
) -> tuple[Float[torch.Tensor, "d_model d_model"], Float[torch.Tensor, " d_model"]]:
    """Fits the translator of one depth: least KL divergence of what it reads from what the model says in the end.

    Args:
        states: Residuals at the depth.
        final: Residuals of the same tokens after the last block.
        decode: From a residual to logits.
        steps: Steps of Adam, whose rate falls linearly to 0.
        size: Tokens per step, drawn with replacement.
        rate: First learning rate.
        decay: Decoupled weight decay; what is left without evidence is the logit lens.
        generator: Draws the tokens.
        device: Where to compute.

    Returns:
        Weight and bias, zero before the first step.
    """
    width = states.shape[-1]
    weight = torch.zeros(width, width, device=device, requires_grad=True)
    bias = torch.zeros(width, device=device, requires_grad=True)
    adam = torch.optim.AdamW([weight, bias], lr=rate, weight_decay=decay)
    fall = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: 1 - step / max(1, steps))
    with torch.enable_grad():
        for _ in range(steps):
            rows = torch.randint(len(states), (size,), generator=generator)
            state, target = states[rows].to(device), final[rows].to(device)
            loss = _kl(decode(translate(state, weight, bias)), decode(target).detach())
            # Only for the translator: the model's own parameters must not gather gradients.
            weight.grad, bias.grad = torch.autograd.grad(loss, [weight, bias])
            adam.step()
            fall.step()
    return weight.detach(), bias.detach()


def divergence(
    states: Float[torch.Tensor, "token d_model"],
    final: Float[torch.Tensor, "token d_model"],
    decode: Decode,
    weight: Float[torch.Tensor, "d_model d_model"],
    bias: Float[torch.Tensor, " d_model"],
) -> float:
    """Mean KL divergence in nats of what a translator reads from what the model says in the end."""
    total = 0.0
    with torch.no_grad():
        for state, target in zip(torch.split(states, _CHUNK), torch.split(final, _CHUNK), strict=True):
            here = state.to(weight.device), target.to(weight.device)
            total += float(_kl(decode(translate(here[0], weight, bias)), decode(here[1]))) * len(state)
    return total / len(states)


def _kl(read: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
    own, target = read.float().log_softmax(-1), said.float().log_softmax(-1)
    return kl_div(own, target, log_target=True, reduction="batchmean")


def _decoder(engine: Engine) -> Decode:
    def decode(residual: torch.Tensor) -> torch.Tensor:
        with engine.alone():
            return readout(engine.model, engine.backbone, residual)

    return decode


def _states(
    session: Session, batches: Iterable[Batch], slot: str | None, aside: frozenset[str]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The residuals of each batch's tokens at all depths, and whether each is of an item that is held out."""

    def calls() -> Iterator[tuple[torch.Tensor, tuple[Any, ...]]]:
        for batch in batches:
            if slot is None:
                rows, columns = (torch.tensor(v) for v in zip(*_text(batch), strict=True))
            else:
                rows, columns = torch.arange(len(batch)), batch.columns(slot)
            inputs, back = session.engine.reading(batch.inputs, columns)
            held = torch.tensor([item(prompt) in aside for prompt in batch.prompts])[rows]
            yield held, (inputs, session.engine.paths, rows, back)

    yield from ((states, held) for held, states in session.each(stream_kernel, calls()))


def _text(batch: Batch) -> list[tuple[int, int]]:
    """Row and column of every token of text: at the tokens of an image a model predicts nothing."""
    return [
        (row, column)
        for row in range(len(batch))
        for column, modality in enumerate(batch.modalities(row))
        if modality == "text"
    ]
