"""The VLM: first projector and tower learn to speak to a frozen LLM, then the whole learns a little from images."""

from __future__ import annotations

import copy
import random
from pathlib import Path

from torch import Tensor
from transformers import (
    CLIPVisionModel,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from analyses.organism import backbone, vision
from analyses.organism.alignment import train_alignment
from analyses.organism.batching import Chunk, chunks, total_weight
from analyses.organism.documents import PATCHES, Writer
from analyses.organism.language import TEXT
from analyses.organism.recipe import Recipe
from analyses.organism.tokenizer import BOS, EOS, IMAGE, PAD
from analyses.organism.training import Stage, train
from analyses.organism.world import World

IMAGES = {"instruction": 0.35, "statement": 0.3, "bare": 0.35}


def build(llm: LlamaForCausalLM, eye: CLIPVisionModel) -> LlavaForConditionalGeneration:
    """Return a LLaVA around a copy of the LLM, whose zero MLPs are still taken out, and the tower."""
    plain = copy.deepcopy(llm)
    backbone.fill(plain.model)
    config = LlavaConfig(
        vision_config=eye.config,
        text_config=llm.config,
        image_token_index=IMAGE,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        image_seq_length=PATCHES,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    vlm = LlavaForConditionalGeneration(config)
    vlm.model.language_model.load_state_dict(plain.model.state_dict())
    vlm.model.vision_tower.load_state_dict(eye.state_dict())
    keep = tuple(i for i, layer in enumerate(llm.model.layers) if not isinstance(layer.mlp, backbone.NoMLP))
    backbone.strip(vlm.model.language_model, keep)
    return vlm


def processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """Return the processor that belongs to `build`."""
    return LlavaProcessor(
        image_processor=vision.image_processor(),
        tokenizer=tokenizer,
        patch_size=vision.PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def states(vlm: LlavaForConditionalGeneration, chunk: Chunk, stack: Tensor) -> Tensor:
    """Return the decoder's final states, ``[batch, position, d_model]``, images augmented."""
    decoder = vlm.model.language_model
    embedded = decoder.embed_tokens(chunk.ids)
    if len(chunk.images):
        seen = vision.patches(vlm.model.vision_tower, vision.augment(stack[chunk.images]))
        soft = vlm.model.multi_modal_projector(seen).reshape(-1, embedded.shape[-1])
        embedded = embedded.masked_scatter(chunk.image_mask[..., None].expand_as(embedded), soft)
    hidden: Tensor = decoder(inputs_embeds=embedded, use_cache=False).last_hidden_state
    return hidden


def train_multimodal(
    recipe: Recipe,
    world: World,
    tokenizer: PreTrainedTokenizerFast,
    llm: LlamaForCausalLM,
    eye: CLIPVisionModel,
    folder: Path,
) -> LlavaForConditionalGeneration:
    """Train the VLM's two stages, or load what the run already has.

    Returns:
        The trained model, its zero MLPs still taken out.
    """
    vlm, stack, writer = build(llm, eye), vision.image_stack(world), Writer(world, tokenizer, recipe)
    decoder = vlm.model.language_model
    mix = {"examples": recipe.image_lists, **{k: v * (1 - recipe.image_lists) for k, v in IMAGES.items()}}

    def loss(rng: random.Random, progress: float, replay: float) -> float:
        parts = chunks(writer.batch(rng, recipe.image_tokens, True, mix))
        sources = [parts]
        if rng.random() < replay:
            sources.append(chunks(writer.batch(rng, recipe.image_tokens, False, TEXT)))
        value = 0.0
        for source in sources:
            total = total_weight(source)
            for part in source:
                one = backbone.weighted_loss(states(vlm, part, stack), vlm.lm_head.weight, part) / total
                one.backward()
                value += one.item() if source is parts else 0.0
        return value

    eyes: list[dict[str, object]] = [
        {"params": list(vlm.model.multi_modal_projector.parameters()), "lr": recipe.projector_lr},
        {"params": list(vlm.model.vision_tower.parameters()), "lr": recipe.tower_lr},
    ]
    for p in decoder.parameters():
        p.requires_grad_(False)
    if recipe.align_steps:
        train_alignment(recipe, world, tokenizer, vlm, stack, folder)
    first = Stage("projector", folder, eyes, {"vlm": vlm}, recipe.projector_steps, recipe.seed, 0.02)
    train(first, lambda rng, progress: loss(rng, progress, 0.0))
    for p in decoder.parameters():
        p.requires_grad_(True)
    slow = [{**g, "lr": recipe.tune_lr} for g in eyes]
    slow.append({"params": list(decoder.parameters()), "lr": recipe.tune_lr})
    second = Stage("tune", folder, slow, {"vlm": vlm}, recipe.tune_steps, recipe.seed, 0.02)
    train(second, lambda rng, progress: loss(rng, progress, recipe.replay))
    return vlm
