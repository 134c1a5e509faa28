"""Training of the tuned lens: residuals are read once, then each depth is fitted on its own."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch.nn.functional import kl_div

from xmi.errors import ModelError, PromptError
from xmi.kernels.residuals import stream_kernel, translate
from xmi.lens.tuned import LensCard, TunedLens
from xmi.model import Engine
from xmi.model.readout import readout
from xmi.names import label_of
from xmi.progress import track
from xmi.prompt import Batch, Prompt, Prompts

Decode = Callable[[torch.Tensor], torch.Tensor]
_CHUNK = 256


def tune_lens(
    engine: Engine,
    prompts: Sequence[Prompts],
    read: Callable[[Prompts], Iterable[Batch]],
    *,
    slot: str | None,
    steps: int,
    size: int,
    rate: float,
    decay: float,
    held_out: float,
    seed: int,
    versions: dict[str, str],
) -> TunedLens:
    """Trains a lens; see `VLM.tune_lens`.

    Args:
        engine: The model.
        prompts: Sets of prompts.
        read: Encodes a set, batch by batch.
        slot: Where to read, None for every text token.
        steps: Steps per depth.
        size: Tokens per step.
        rate: First learning rate.
        decay: Weight decay.
        held_out: Share of the prompts that is not trained on.
        seed: Seed of everything drawn.
        versions: What to put into the card.

    Raises:
        PromptError: Too few prompts, or numbers that mean nothing.
        ModelError: The model is on a host, or training does not converge.
    """
    if steps < 0 or size < 1 or not 0 < held_out < 1:
        raise PromptError(
            f"A lens needs steps >= 0, size >= 1 and 0 < held_out < 1; got steps={steps}, size={size}, "
            f"held_out={held_out}."
        )
    if engine.host is not None:
        raise ModelError(
            f"{engine.checkpoint.name} is on a host, and a lens is trained through the model's own unembedding: train "
            "it on a machine that has the weights, save it, and read with lens=TunedLens.load(...) here."
        )
    every = [p for several in prompts for p in several]
    aside = hold_out([item(p) for p in every], held_out, seed)
    parts = [part for several in prompts for part in _states(engine, read(several), slot, aside)]
    stream, kept = torch.cat([states for states, _ in parts]), torch.cat([held for _, held in parts])
    weights, biases = [], []
    before: list[float] = []
    after: list[float] = []
    for depth in track(range(engine.backbone.n_layers), f"{engine.checkpoint.name}: tuning the lens"):
        generator = torch.Generator().manual_seed(seed * 1009 + depth)
        pair = fit(
            stream[:, depth][~kept], stream[:, -1][~kept], _decoder(engine), steps=steps, size=size, rate=rate,
            decay=decay, generator=generator, device=engine.device,
        )  # fmt: skip
        identity = (torch.zeros_like(pair[0]), torch.zeros_like(pair[1]))
        for told, found in ((before, identity), (after, pair)):
            told.append(divergence(stream[:, depth][kept], stream[:, -1][kept], _decoder(engine), *found))
        if not math.isfinite(after[-1]):
            raise ModelError(
                f"The lens does not converge at depth {depth}: its divergence is {after[-1]}. Train with a smaller "
                f"rate than {rate}, or look at the residuals there (vlm.run_with_cache says where they are NaN)."
            )
        weights.append(pair[0].cpu())
        biases.append(pair[1].cpu())
    tested = sum(item(p) in aside for p in every)
    card = LensCard(
        model=engine.checkpoint.name,
        revision=engine.checkpoint.revision,
        dtype=str(engine.dtype).removeprefix("torch."),
        trained_on=tuple(dict.fromkeys(label_of(p.task, p.specification) for p in prompts)),
        slot=slot or "text",
        prompts=len(every) - tested,
        tokens=int((~kept).sum()),
        held_out=tested,
        steps=steps,
        size=size,
        rate=rate,
        decay=decay,
        seed=seed,
        before=tuple(before),
        after=tuple(after),
        versions=versions,
    )
    return TunedLens(torch.stack(weights), torch.stack(biases), card)


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
    engine: Engine, batches: Iterable[Batch], slot: str | None, aside: frozenset[str]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The residuals of each batch's tokens at all depths, and whether each is of an item that is held out."""
    kept: list[torch.Tensor] = []

    def arguments() -> Iterator[tuple[Any, ...]]:
        for batch in batches:
            if slot is None:
                rows, columns = (torch.tensor(v) for v in zip(*_text(batch), strict=True))
            else:
                rows, columns = torch.arange(len(batch)), batch.columns(slot)
            inputs, back = engine.reading(batch.inputs, columns)
            kept.append(torch.tensor([item(prompt) in aside for prompt in batch.prompts])[rows])
            yield inputs, engine.paths, rows, back

    yield from zip(engine.map(stream_kernel, arguments()), kept, strict=True)


def _text(batch: Batch) -> list[tuple[int, int]]:
    """Row and column of every token of text: at the tokens of an image a model predicts nothing."""
    return [
        (row, column)
        for row in range(len(batch))
        for column, modality in enumerate(batch.modalities(row))
        if modality == "text"
    ]
