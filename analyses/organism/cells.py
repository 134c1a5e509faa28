"""What is measured of a trained model: prompts answered, vectors patched, the last token decoded layer by layer."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from analyses.organism.oracle import Oracle, Prompt
from analyses.organism.world import TASKS, Attribute, Entity, World

REPEATS, PROMPTS, SHOTS = 7, 30, 5
TEXT, IMAGE = False, True


@dataclass
class Sheet:
    """Hits of every query, by cell: ``hits[cell][layer]`` is a 0/1 tensor over all queries of all tasks."""

    hits: dict[str, list[Tensor]]

    def add(self, cell: str, layer: int, hit: Tensor) -> None:
        """Append the hits of one task's queries to a cell; prompts without a patch use layer 0."""
        rows = self.hits.setdefault(cell, [])
        while len(rows) <= layer:
            rows.append(torch.zeros(0))
        rows[layer] = torch.cat([rows[layer], hit.float()])


class Bench:
    """Asks a VLM, and its base LLM, about held-out pairs.

    Args:
        world: The facts.
        vlm: The model under test.
        llm: Its base LLM.
        seed: Seed of examples and queries.
    """

    def __init__(self, world: World, vlm: Oracle, llm: Oracle, seed: int) -> None:
        self.world, self.vlm, self.llm = world, vlm, llm
        self.rng = random.Random(f"bench/{seed}")
        self.layers = len(vlm.decoder.layers)

    def context(self, key: str, entity: Entity, shots: int, shown: bool, asked: bool, start: str = "") -> Prompt:
        """Return a prompt of `shots` train examples (never the query) and the query, each in its modality."""
        prompt = Prompt(start)
        pool = [p for p in self.world.pairs(key, "train") if p[0] != entity]
        for example, answer in self.rng.sample(pool, shots):
            prompt = prompt.item(example, shown, answer)
        return prompt.item(entity, asked, None)

    def _unrelated(self, key: str) -> Entity:
        return self.rng.choice(self.world.pairs(key, "train"))[0]

    def vectors(self, attribute: Attribute) -> dict[str, Tensor]:
        """Return one draw of every task vector of a task, ``[layer + 1, d_model]`` each, from train pairs alone."""
        key = attribute.key

        def mean(oracle: Oracle, shots: int, count: int, shown: bool) -> Tensor:
            prompts = [self.context(key, self._unrelated(key), shots, shown, shown) for _ in range(count)]
            return oracle.run(prompts).residual.mean(1)

        told = self.vlm.run([Prompt(attribute.prompts[0])]).residual.mean(1)
        asks = self.vlm.run([Prompt(p) for p in attribute.prompts]).residual.mean(1)
        found = {
            "text": mean(self.vlm, SHOTS, PROMPTS, TEXT),
            "image": mean(self.vlm, SHOTS, PROMPTS, IMAGE),
            "instruction": told,
            "instructions": asks,
            "llm": mean(self.llm, SHOTS, PROMPTS, TEXT),
            "one example": mean(self.vlm, 1, 1, TEXT),
        }
        found["one example + instruction"] = (found["one example"] + told) / 2
        found["text + instruction"] = (found["text"] + told) / 2
        random_like = torch.randn_like(found["text"])
        scale = found["text"].norm(dim=-1, keepdim=True) / random_like.norm(dim=-1, keepdim=True)
        found["random"] = random_like * scale
        return found

    def prompts(self, attribute: Attribute, split: str, repeats: int, sheet: Sheet) -> None:
        """Answer every pair of a split `repeats` times under each kind of prompt."""
        key = attribute.key
        pairs = self.world.pairs(key, split) * repeats
        labels = torch.tensor([self.vlm.token(answer) for _, answer in pairs])
        first = attribute.prompts[0] + "\n\n"
        kinds: dict[str, Callable[[Entity], Prompt]] = {
            "no context, text": lambda e: Prompt().item(e, TEXT, None),
            "no context, image": lambda e: Prompt().item(e, IMAGE, None),
            "text ICL": lambda e: self.context(key, e, SHOTS, TEXT, TEXT),
            "image ICL": lambda e: self.context(key, e, SHOTS, IMAGE, IMAGE),
            "xBase text->image": lambda e: self.context(key, e, SHOTS, TEXT, IMAGE),
            "xBase image->text": lambda e: self.context(key, e, SHOTS, IMAGE, TEXT),
            "text ICL, one example": lambda e: self.context(key, e, 1, TEXT, TEXT),
            "instruction prompt, text": lambda e: Prompt(first).item(e, TEXT, None),
            "instruction prompt, image": lambda e: Prompt(first).item(e, IMAGE, None),
        }
        for cell, make in kinds.items():
            sheet.add(cell, 0, self.vlm.run([make(e) for e, _ in pairs]).top == labels)
        base = [self.context(key, e, SHOTS, TEXT, TEXT) for e, _ in pairs]
        sheet.add("text ICL of the base LLM", 0, self.llm.run(base).top == labels)

    def patches(self, attribute: Attribute, split: str, repeats: int, sheet: Sheet) -> None:
        """Patch `repeats` independent draws of each vector into context-free queries, at every layer."""
        pairs = self.world.pairs(attribute.key, split)
        labels = torch.tensor([self.vlm.token(answer) for _, answer in pairs]).repeat(repeats)
        draws = [self.vectors(attribute) for _ in range(repeats)]
        queries = {m: [Prompt().item(e, m, None) for e, _ in pairs] * repeats for m in (TEXT, IMAGE)}
        cells = [("text", TEXT), ("image", TEXT), ("instruction", TEXT), *((s, IMAGE) for s in draws[0])]
        for source, modality in cells:
            name = f"{source}->{'image' if modality else 'text'}"
            for layer in range(self.layers):
                rows = torch.stack([d[source][layer + 1] for d in draws]).repeat_interleave(len(pairs), 0)
                sheet.add(name, layer, self.vlm.run(queries[modality], (layer, rows)).top == labels)

    def phases(self, attribute: Attribute, split: str, repeats: int) -> dict[str, Tensor]:
        """Return the lens at the last token: relative probability of input, task word and answer, ``[3, layer + 1]``.

        Relative means divided by the sum of the three; embedding first, then the layers' outputs.
        """
        pairs = self.world.pairs(attribute.key, split) * repeats
        key, at = attribute.key, torch.arange(len(pairs))
        answers = torch.tensor([self.vlm.token(a) for _, a in pairs])
        inputs = torch.tensor([self.vlm.token(e.name) for e, _ in pairs])
        kinds = {
            "text ICL": [self.context(key, e, SHOTS, TEXT, TEXT) for e, _ in pairs],
            "image ICL": [self.context(key, e, SHOTS, IMAGE, IMAGE) for e, _ in pairs],
            "instruction": [Prompt(p) for p in attribute.prompts],
        }
        curves = {}
        for name, prompts in kinds.items():
            n = len(prompts)
            p = self.vlm.lens(self.vlm.run(prompts).residual)
            three = torch.stack(
                [
                    p[:, at[:n], inputs[:n]],
                    p[:, :, self.vlm.token(attribute.word)],
                    p[:, at[:n], answers[:n]],
                ]
            )
            curves[name] = (three / three.sum(0)).mean(-1)
        return curves


def tasks(world: World) -> list[Attribute]:
    """Return the six tasks."""
    return [world.by_key[k] for k in TASKS]
