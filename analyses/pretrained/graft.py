"""The projector between tower and language model, and how it is trained."""

from __future__ import annotations

import random
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from analyses.organism.training import Stage, train
from analyses.pretrained.captions import captions
from xmi.model.pretrained import IMAGE, PATCHES, WIDTH, image_tokenizer

IGNORED = -100
"""A target that is none."""


@dataclass(frozen=True)
class Recipe:
    """How the projector is trained.

    Attributes:
        steps: Optimiser steps.
        batch: Pictures a step.
        several: Share of steps whose documents have two pictures.
        learning_rate: Its peak.
        copies: Changed copies of each picture.
        strength: How far they are changed.
        seed: Seed of weights and data.
    """

    steps: int = 1400
    batch: int = 32
    several: float = 0.25
    learning_rate: float = 1e-3
    copies: int = 8
    strength: float = 0.7
    seed: int = 0


def projector(width: int, std: float) -> nn.Module:
    """Returns an untrained projector from features of a standard deviation, with the names of FastVLM's."""
    layers = {"linear_1": nn.Linear(WIDTH, width), "act": nn.GELU(), "linear_2": nn.Linear(width, width)}
    layers["linear_1"].weight.data /= std
    return nn.Sequential(OrderedDict(layers))


@dataclass(frozen=True)
class Pictures:
    """Features of the pictures that are trained on.

    Attributes:
        features: bfloat16 [copies, n, patches, width].
        names: The name of each picture, [n].
    """

    features: Tensor
    names: list[str]

    @cached_property
    def of(self) -> dict[str, list[int]]:
        """The numbers of each name's pictures."""
        return {name: [i for i, found in enumerate(self.names) if found == name] for name in dict.fromkeys(self.names)}


def train_projector(settings: Recipe, seen: Pictures, language: Path, folder: Path) -> tuple[dict[str, Tensor], float]:
    """Trains the projector to make a frozen language model say what is in a picture; a killed training continues.

    The loss is on names alone, each in captions of many wordings (see `captions`); documents of several pictures teach
    to look at the nearest one.

    Returns:
        The projector's weights in bfloat16, and the seconds that training took.
    """
    torch.manual_seed(settings.seed)
    # On a CPU the backward pass of eager attention takes half the time.
    llm = AutoModelForCausalLM.from_pretrained(language, dtype=torch.bfloat16, attn_implementation="eager")
    llm.requires_grad_(False).eval()
    words = image_tokenizer(AutoTokenizer.from_pretrained(language), llm.config.max_position_embeddings)
    module = projector(llm.config.hidden_size, float(seen.features[0].float().std()))
    stage = Stage(
        name="projector", folder=folder, groups=[{"params": [*module.parameters()], "lr": settings.learning_rate}],
        modules={"projector": module}, steps=settings.steps, seed=settings.seed,
    )  # fmt: skip

    def loss(rng: random.Random, progress: float) -> float:
        ids, targets, chosen = _documents(settings, seen, words, rng)
        embedded = llm.get_input_embeddings()(ids)
        where = (ids == words.image_token_id).nonzero(as_tuple=True)
        patches = module(torch.stack([seen.features[copy, number] for copy, number in chosen]).float())
        embedded = embedded.index_put(where, patches.flatten(0, 1).to(embedded.dtype))
        states = llm.model(inputs_embeds=embedded, use_cache=False).last_hidden_state[:, :-1]
        asked = targets[:, 1:] != IGNORED
        value = functional.cross_entropy(llm.lm_head(states[asked]).float(), targets[:, 1:][asked])
        value.backward()
        return value.item()

    train(stage, loss)
    seconds = float(torch.load(stage.done, weights_only=True)["seconds"])
    return {name: value.detach().to(torch.bfloat16) for name, value in module.state_dict().items()}, seconds


def _documents(
    settings: Recipe, seen: Pictures, words: PreTrainedTokenizerFast, rng: random.Random
) -> tuple[Tensor, Tensor, list[tuple[int, int]]]:
    """Draws a step's documents: ids and targets [batch, position], and (copy, picture) of each image in turn."""
    rows: list[list[int]] = []
    targets: list[list[int]] = []
    chosen: list[tuple[int, int]] = []
    count = 2 if rng.random() < settings.several else 1  # alike within a step, which wastes no room on padding
    for _ in range(settings.batch // count):
        row: list[int] = []
        target: list[int] = []
        names = [rng.choice([*seen.of]) for _ in range(count)]
        for caption, name in zip(captions(names, rng), names, strict=True):
            chosen.append((rng.randrange(len(seen.features)), rng.choice(seen.of[name])))
            given = words(caption.before + IMAGE * PATCHES + caption.after, add_special_tokens=False).input_ids
            learned = words(caption.name, add_special_tokens=False).input_ids
            row += [*given, *learned]
            target += [*[IGNORED] * len(given), *learned]
        rows.append(row)
        targets.append(target)
    longest = max(map(len, rows))
    # What follows a document cannot change what a causal model says within it: padding needs no mask.
    ids = torch.tensor([[*row, *[words.pad_token_id] * (longest - len(row))] for row in rows])
    goals = torch.tensor([[*row, *[IGNORED] * (longest - len(row))] for row in targets])
    return ids, goals, chosen
