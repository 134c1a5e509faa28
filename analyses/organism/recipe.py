"""The recipe as data: every number that shapes a run, and the variants that take one thing away.

A variant is the recipe with a few fields replaced; the model card's ablation table compares them. Nothing else in the
package knows a variant's name.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """All settings of one training run.

    Attributes:
        seed: Seed of weights, documents and image augmentation. Facts and splits do not depend on it.
        mlp_layers: Decoder layers that have an MLP; in the others it is zero and frozen. Two narrow places for
            facts leave no room to store each (task, entity) conjunction early.
        synthetic: Number of synthetic attributes per entity (seeded random values, marked as such by a digit).
        real_extra: Whether the real and the computed further attributes (continent, first letter, ...) are taught.
        verbose: Share of answers that name the task first (``A:capital Paris``); makes the task word decodable.
        tail: Share of lists of examples that end in ``Task A:capital``.
        crowd: Share of documents whose questions hold inputs of other domains as well.
        plain: Share of lists of examples that hold one task only, so that it is known when the input is read.
        before: Share of instructions that stand before the input.
        alone: Share of instructions without an input, followed by any answer of their task.
        core_share: Share of the six tasks among all attributes asked for.
        dropout: Dropout of attention weights in the base LLM's training.
        cut: Share of text batches in which entity tokens are hidden from all others below a random layer.
        language_tokens: Tokens in a step of the base LLM's training; `image_tokens` likewise for the VLM's documents.
        align_steps: Steps that regress image tokens onto the name's pieces at the first MLP.
        align_every: Whether they are regressed onto it at every layer below as well.
        projector_steps: Steps in which documents with images train the eye, the LLM frozen.
        image_lists: Share of lists of examples among the documents with images; without them the VLM sees one image at
            a time, like LLaVA.
        tune_steps: Steps in which they train the whole VLM, with `replay` as the share of text beside them.
    """

    variant: str = "organism"
    seed: int = 0
    d_model: int = 128
    layers: int = 8
    heads: int = 4
    d_mlp: int = 256
    mlp_layers: tuple[int, ...] = (3, 7)
    synthetic: int = 12
    real_extra: bool = True
    verbose: float = 0.1
    tail: float = 0.35
    crowd: float = 0.0
    plain: float = 0.1
    before: float = 0.25
    alone: float = 0.15
    core_share: float = 0.4
    dropout: float = 0.0
    cut: float = 0.4
    vision_steps: int = 600
    vision_lr: float = 3e-3
    language_steps: int = 1100
    language_lr: float = 3e-3
    language_tokens: int = 3500
    align_steps: int = 500
    align_every: bool = False
    align_tower_lr: float = 2e-3
    projector_steps: int = 0
    projector_lr: float = 3e-3
    tower_lr: float = 6e-4
    tune_steps: int = 60
    tune_lr: float = 1e-4
    image_tokens: int = 3000
    image_lists: float = 0.0
    replay: float = 0.5

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain JSON values."""
        return asdict(self)


VARIANTS: dict[str, dict[str, Any]] = {
    "organism": {},
    # Same size, steps and facts. No cut, and the task is often known before the input is read, so that the answer is
    # computed there. As names are then read in the first layers, the eye must speak like names there as well.
    "control": {"cut": 0.0, "plain": 0.4, "before": 0.5, "align_every": True, "align_steps": 2500},
    "no-cut": {"cut": 0.0, "align_every": True, "align_steps": 2500},
    "align-every": {"align_every": True},
    "dropout-for-cut": {"cut": 0.0, "dropout": 0.2},
    "few-attributes": {"synthetic": 0, "real_extra": False},
    "no-task-words": {"verbose": 0.0, "tail": 0.0},
    "documents-only": {"align_steps": 0, "projector_steps": 300},
    "tuned-hard": {"tune_lr": 4e-4},
    "image-lists": {"image_lists": 0.45},
    "untuned": {"tune_steps": 0},
    "aligned-longer": {"align_steps": 2500},
}


def recipe(variant: str = "organism", seed: int = 0, **changes: Any) -> Recipe:
    """Return the recipe of a named variant.

    Args:
        variant: A key of `VARIANTS`.
        seed: Training seed.
        **changes: Fields to replace on top of the variant's own.

    Raises:
        ValueError: If the variant is unknown; the message lists those that exist.
    """
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; choose one of {', '.join(sorted(VARIANTS))}")
    return replace(Recipe(), variant=variant, seed=seed, **{**VARIANTS[variant], **changes})
