"""The eye's first lesson: let an image's tokens arrive at the first MLP as the pieces of its name would.

A loss on inner states, thus an inducement, used as a start alone: the documents that follow are free to leave it.
"""

from __future__ import annotations

import random
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from analyses.organism import vision
from analyses.organism.documents import PATCHES
from analyses.organism.recipe import Recipe
from analyses.organism.tokenizer import BOS
from analyses.organism.training import Stage, train
from analyses.organism.world import World

BATCH = 96


class Stem:
    """The decoder up to its first MLP, as a context: inside it the decoder returns the state that this MLP reads."""

    def __init__(self, vlm: LlavaForConditionalGeneration, layers: int, every: bool) -> None:
        self.decoder, self._count, self._every = vlm.model.language_model, layers, every

    def __enter__(self) -> Stem:
        self._layers, self._norm = self.decoder.layers, self.decoder.norm
        self.decoder.layers = nn.ModuleList(list(self._layers)[: self._count])
        self.decoder.norm = nn.Identity()
        return self

    def __exit__(self, *error: object) -> None:
        self.decoder.layers, self.decoder.norm = self._layers, self._norm

    def __call__(self, embedded: Tensor) -> Tensor:
        """Return states ``[depth, batch, position, d_model]``: of every layer from the embedding on, or the last."""
        out = self.decoder(inputs_embeds=embedded, use_cache=False, output_hidden_states=self._every)
        return torch.stack(out.hidden_states) if self._every else out.last_hidden_state[None]


def targets(stem: Stem, prefix: list[int], names: list[list[int]]) -> Tensor:
    """Return, for each name after a prefix, its pieces' states stretched over the image tokens.

    Returns:
        ``[depth, entity, patch, d_model]``; of a name of n pieces, patch j stands for piece ``j * n // PATCHES``.
    """
    rows = []
    with torch.no_grad():
        for name in names:
            states = stem(stem.decoder.embed_tokens(torch.tensor([prefix + name])))[:, 0, len(prefix) :]
            rows.append(states[:, [j * len(name) // PATCHES for j in range(PATCHES)]])
    return torch.stack(rows, 1)


def train_alignment(
    recipe: Recipe,
    world: World,
    tokenizer: PreTrainedTokenizerFast,
    vlm: LlavaForConditionalGeneration,
    stack: Tensor,
    folder: Path,
) -> None:
    """Train projector and tower of a VLM whose decoder is frozen, or load them if the run already has them."""

    def encode(text: str) -> list[int]:
        return [BOS, *tokenizer(text, add_special_tokens=False).input_ids]

    names = [encode(e.name)[1:] for e in world.entities]
    starts = ["", "Q:", *(a.prompts[0] + "\n\nQ:" for a in world.attributes if a.core)]
    prefixes = [encode(s) for s in starts]
    projector, tower = vlm.model.multi_modal_projector, vlm.model.vision_tower
    with Stem(vlm, min(recipe.mlp_layers), recipe.align_every) as stem:
        wanted = [targets(stem, p, names) for p in prefixes]
        spread = (wanted[1] - wanted[1].mean(1, keepdim=True)).pow(2).sum(-1).mean((1, 2))

        def loss(rng: random.Random, progress: float) -> float:
            which = 1 if rng.random() < 0.5 else rng.randrange(len(prefixes))
            at = torch.randint(0, len(stack), (BATCH,))
            soft = projector(vision.patches(tower, vision.augment(stack[at], 0.4)))
            before = stem.decoder.embed_tokens(torch.tensor(prefixes[which])).expand(BATCH, -1, -1)
            states = stem(torch.cat([before, soft], 1))[:, :, -PATCHES:]
            value = ((states - wanted[which][:, at]).pow(2).sum(-1).mean((1, 2)) / spread).mean()
            value.backward()
            return value.item()

        groups: list[dict[str, object]] = [
            {"params": list(projector.parameters()), "lr": recipe.projector_lr},
            {"params": list(tower.parameters()), "lr": recipe.align_tower_lr},
        ]
        parts: dict[str, nn.Module] = {"projector": projector, "tower": tower}
        train(Stage("alignment", folder, groups, parts, recipe.align_steps, recipe.seed, 0.01), loss)
