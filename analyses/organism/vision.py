"""Images as tensors, their augmentation, and the tower's pretraining: which entity is shown?"""

from __future__ import annotations

import random
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel

from analyses.organism.recipe import Recipe
from analyses.organism.training import Stage, train
from analyses.organism.world import World

SIZE, PATCH, WIDTH, BATCH = 48, 16, 96, 160


def image_processor() -> CLIPImageProcessorPil:
    """Return the processor that is shipped with the model; training sees images through it as well."""
    side = {"height": SIZE, "width": SIZE}
    return CLIPImageProcessorPil(
        do_resize=True,
        size=side,
        do_center_crop=False,
        crop_size=side,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        do_convert_rgb=True,
    )


def image_stack(world: World) -> Tensor:
    """Return all entities' images as the model sees them, ``[entity, 3, 48, 48]``; missing or broken files raise."""
    images = []
    for e in world.entities:
        with Image.open(e.image) as image:
            images.append(image.convert("RGB"))
    stack: Tensor = image_processor()(images, return_tensors="pt")["pixel_values"]
    flat = stack.flatten(1)
    for e, spread in zip(world.entities, flat.std(1), strict=True):
        if spread < 0.02:
            raise ValueError(f"the image of {e.name} ({e.image}) is blank")
    distance = torch.cdist(flat, flat) + torch.eye(len(flat)) * 1e6
    if distance.min() < 0.5:
        a, b = divmod(int(distance.argmin()), len(flat))
        raise ValueError(f"the images of {world.entities[a].name} and {world.entities[b].name} look the same")
    return stack


def augment(images: Tensor, clean: float = 0.25) -> Tensor:
    """Return images turned, moved, scaled, tinted and grained at random, but for a share of `clean`."""
    n = len(images)
    keep = torch.rand(n) < clean
    zoom, angle = torch.empty(n).uniform_(0.9, 1.25), torch.empty(n).uniform_(-0.2, 0.2)
    affine = torch.zeros(n, 2, 3)
    affine[:, 0, 0] = affine[:, 1, 1] = zoom * torch.cos(angle)
    affine[:, 1, 0] = zoom * torch.sin(angle)
    affine[:, 0, 1] = -affine[:, 1, 0]
    affine[:, :, 2] = torch.empty(n, 2).uniform_(-0.15, 0.15)
    grid = nn.functional.affine_grid(affine, list(images.shape), align_corners=False)
    # white lies at 1, so what moves in from outside is white as well
    moved = nn.functional.grid_sample(images - 1, grid, align_corners=False) + 1
    gain, shift = torch.empty(n, 1, 1, 1).uniform_(0.8, 1.15), torch.empty(n, 3, 1, 1).uniform_(-0.1, 0.1)
    moved = (moved * gain + shift + torch.randn_like(moved) * 0.04).clamp(-1, 1)
    return torch.where(keep[:, None, None, None], images, moved)


def patches(tower: CLIPVisionModel, images: Tensor) -> Tensor:
    """Return the states that LLaVA hands to its projector, ``[image, patch, width]``."""
    states: Tensor = tower(pixel_values=images, output_hidden_states=True).hidden_states[-1][:, 1:]
    return states


def tower() -> CLIPVisionModel:
    """Return an untrained CLIP vision tower of four layers: 9 patches of 16 px."""
    return CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=WIDTH,
            intermediate_size=256,
            num_hidden_layers=4,
            num_attention_heads=4,
            image_size=SIZE,
            patch_size=PATCH,
            projection_dim=WIDTH,
            hidden_act="gelu",
        )
    )


def train_vision(recipe: Recipe, world: World, folder: Path) -> CLIPVisionModel:
    """Train the tower to tell the entities apart in every patch, or load it if the run already has it."""
    stack, eye = image_stack(world), tower()
    names = nn.Embedding(len(stack), WIDTH)
    nn.init.normal_(names.weight, std=0.1)
    head = nn.ModuleDict({"norm": nn.LayerNorm(WIDTH), "names": names})

    def loss(rng: random.Random, progress: float) -> float:
        at = torch.randint(0, len(stack), (BATCH,))
        states = nn.functional.normalize(head["norm"](patches(eye, augment(stack[at]))), dim=-1)
        scores = 14 * states @ nn.functional.normalize(names.weight, dim=-1).T
        every = nn.functional.cross_entropy(scores.flatten(0, 1), at.repeat_interleave(scores.shape[1]))
        value = nn.functional.cross_entropy(scores.mean(1), at) + 0.5 * every
        value.backward()
        return value.item()

    groups: list[dict[str, object]] = [{"params": [*eye.parameters(), *head.parameters()], "lr": recipe.vision_lr}]
    modules: dict[str, nn.Module] = {"tower": eye, "head": head}
    train(Stage("vision", folder, groups, modules, recipe.vision_steps, recipe.seed, 0.02), loss)
    return eye
