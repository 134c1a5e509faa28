"""How the output comes about: a lens followed from depth to depth, in nats."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from xmi.answer import first_of_labels
from xmi.kernels import trajectory_kernel
from xmi.lens.base import Lens, depths
from xmi.lens.logit import LogitLens
from xmi.measure import Trajectory
from xmi.prompt import PromptLike
from xmi.session import Session


def trajectory(session: Session, prompts: PromptLike, *, slot: str = "last", lens: Lens | None = None) -> Trajectory:
    """Cross-entropy, entropy and KL divergence of what a lens reads at each depth (the prediction trajectory).

    The cross-entropy is that of the label's first token, and belongs to the slot that the answer follows. Prompts
    without a label have none (NaN). The divergence is KL(last depth || depth), where the last depth is what the model
    itself says.

    Args:
        prompts: The prompts.
        slot: Where to read.
        lens: The lens, by default the logit lens.

    Returns:
        Three arrays [prompt, depth] in nats; depth `embed` is the input of block 0.

    Raises:
        ModelError: The lens was trained on another model.
        SlotError: A prompt lacks the slot.

    Source: Belrose et al., "Eliciting Latent Predictions from Transformers with the Tuned Lens", 2023.

    Examples:
        >>> found = vlm.trajectory(task.icl("text", n=4))
        >>> found.divergence.shape, float(found.divergence[0, -1])  # prompt, depth
        ((4, 9), 0.0)
        >>> found.to_frame().columns.tolist()
        ['prompt', 'depth', 'cross_entropy', 'entropy', 'divergence']
    """
    engine, chosen, b = session.engine, lens or LogitLens(), session.backbone
    weight, bias = chosen.translators(engine) or (None, None)
    with session.prepared(prompts, "following the lens") as (several, batches):

        def calls() -> Iterator[tuple[None, tuple[Any, ...]]]:
            for batch in batches:
                inputs, back = engine.reading(batch.inputs, batch.columns(slot))
                wanted = first_of_labels(session.encoder, batch.prompts, several.template)
                yield None, (inputs, engine.paths, back, wanted, b.scale, b.softcap, weight, bias)

        parts = [found for _, found in session.each(trajectory_kernel, calls())]
    cross, entropy, divergence = (torch.cat(part) for part in zip(*parts, strict=True))
    unlabelled = torch.tensor([not prompt.answer for prompt in several])
    return Trajectory(
        depths(b.n_layers),
        cross.masked_fill(unlabelled[:, None], float("nan")).numpy(),
        entropy.clamp(min=0).numpy(),
        divergence.clamp(min=0).numpy(),
        slot,
        chosen.name,
    )
