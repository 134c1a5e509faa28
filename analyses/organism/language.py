"""First stage: the base LLM learns the facts, to read a task from examples or an instruction, and to name it."""

from __future__ import annotations

import random
from pathlib import Path

from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from analyses.organism import backbone
from analyses.organism.batching import chunks, total_weight
from analyses.organism.cut import Cut
from analyses.organism.documents import Writer
from analyses.organism.recipe import Recipe
from analyses.organism.training import Stage, train
from analyses.organism.world import World

TEXT = {"examples": 0.5, "instruction": 0.15, "statement": 0.3, "bare": 0.05}


def train_language(recipe: Recipe, world: World, tokenizer: PreTrainedTokenizerFast, folder: Path) -> LlamaForCausalLM:
    """Train the base LLM, or load it if the run already has it.

    Args:
        recipe: Shape, steps and learning rate.
        world: The facts.
        tokenizer: Its tokenizer.
        folder: The run's folder; ``language.pt`` is written there.

    Returns:
        The trained model, its zero MLPs still taken out (`backbone.fill` puts them back).
    """
    model = backbone.build(recipe, len(tokenizer))
    writer = Writer(world, tokenizer, recipe)
    cut = Cut(model.model) if recipe.cut else None

    def loss(rng: random.Random, progress: float) -> float:
        parts = chunks(writer.batch(rng, recipe.language_tokens, False, TEXT))
        total, value = total_weight(parts), 0.0
        hide = rng.random() < recipe.cut
        for part in parts:
            if cut:
                cut.set(rng, part.spans if hide else None)
            hidden = model.model(input_ids=part.ids, use_cache=False).last_hidden_state
            one = backbone.weighted_loss(hidden, model.lm_head.weight, part) / total
            one.backward()
            value += one.item()
        return value

    groups: list[dict[str, object]] = [{"params": list(model.parameters()), "lr": recipe.language_lr}]
    train(Stage("language", folder, groups, {"model": model}, recipe.language_steps, recipe.seed), loss)
    if cut:
        cut.remove()
    return model
