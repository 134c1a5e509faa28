"""The training documents: lists of examples, instructions, statements and bare queries, in text or in images.

Rules that hold in all of them: text and images never stand in one document; a pair that is held out is never asked of
an image, nor is anything shown from which its absence could be learned; in a list of examples only answers whose task
can be known count in the loss.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerFast

from analyses.organism.recipe import Recipe
from analyses.organism.tokenizer import BOS, IMAGE, LABELS
from analyses.organism.world import Attribute, Entity, World

PATCHES = 9
STRUCTURE = 0.05


@dataclass
class Document:
    """Tokens, the loss weight of predicting each, the images in order and which tokens name an entity."""

    ids: list[int] = field(default_factory=lambda: [BOS])
    weights: list[float] = field(default_factory=lambda: [0.0])
    spans: list[int] = field(default_factory=lambda: [0])
    images: list[int] = field(default_factory=list)

    def add(self, ids: list[int], weight: float, span: int = 0) -> None:
        """Append tokens with one loss weight."""
        self.ids += ids
        self.weights += [weight] * len(ids)
        self.spans += [span] * len(ids)


class Writer:
    """Writes random documents about a world.

    Args:
        world: The facts.
        tokenizer: Its tokenizer.
        recipe: Shares of verbose answers and task tails.
    """

    def __init__(self, world: World, tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> None:
        self.world, self.recipe = world, recipe
        self._tokenizer = tokenizer
        self._cache: dict[str, list[int]] = {}
        self._domains = sorted(world.domains)
        self._core = {d: [a for a in world.of_domain[d] if a.core] for d in self._domains}
        self._extra = {d: [a for a in world.of_domain[d] if not a.core] for d in self._domains}

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text, without the beginning-of-text token."""
        if text not in self._cache:
            self._cache[text] = self._tokenizer(text, add_special_tokens=False).input_ids
        return self._cache[text]

    def text(self, doc: Document, text: str, weight: float = STRUCTURE) -> None:
        """Append text to a document."""
        doc.add(self.encode(text), weight)

    def entity(self, doc: Document, entity: Entity, image: bool) -> None:
        """Append an entity to a document, as its name or its image."""
        span = max(doc.spans) + 1
        if image:
            doc.add([IMAGE] * PATCHES, 0.0, span)
            doc.images.append(entity.index)
        else:
            doc.add(self.encode(entity.name), STRUCTURE, span)

    def inputs(self, doc: Document, rng: random.Random, entity: Entity, image: bool, crowd: int) -> None:
        """Append an entity among `crowd` others of other domains, in random order: the task tells which to read."""
        others = rng.sample([d for d in self._domains if d != entity.domain], crowd)
        row = [entity, *(rng.choice(self.world.domains[d]) for d in others)]
        rng.shuffle(row)
        for number, one in enumerate(row):
            if number:
                self.text(doc, ",")
            self.entity(doc, one, image)

    def crowd(self, rng: random.Random) -> int:
        """Return how many other inputs a document's questions hold."""
        return rng.randint(1, len(self._domains) - 1) if rng.random() < self.recipe.crowd else 0

    def pick(self, rng: random.Random, domain: str) -> Attribute:
        """Return a random attribute of a domain; the core tasks come up more often than the others."""
        extra = self._extra[domain]
        return rng.choice(self._core[domain] if not extra or rng.random() < self.recipe.core_share else extra)

    def several(self, rng: random.Random, domain: str, count: int) -> list[Attribute]:
        """Return different random attributes of a domain."""
        chosen: dict[str, Attribute] = {}
        for _ in range(4 * count):
            a = self.pick(rng, domain)
            chosen.setdefault(a.key, a)
            if len(chosen) == count:
                break
        return list(chosen.values())

    @staticmethod
    def known(attribute: Attribute, entity: Entity, holdout: bool) -> bool:
        """Return whether a fact exists and may be shown."""
        return entity.name in attribute.values and not (holdout and attribute.held_out(entity.name))

    def examples(self, rng: random.Random, image: bool, holdout: bool) -> Document:
        """Return a list of examples of one domain, of one task or of two or three told apart by a label.

        The label stands after the input, so with several tasks the task cannot be known when the input is read.
        """
        domain = rng.choice(self._domains)
        tasks = self.several(rng, domain, 1 if rng.random() < self.recipe.plain else rng.choice((2, 2, 3)))
        count = rng.randint(3, 6) if holdout else rng.randint(3, 7)
        crowd = self.crowd(rng)
        labels = rng.sample(LABELS, len(tasks))
        if "A" not in labels and (len(tasks) == 1 or rng.random() < 0.6):
            labels[rng.randrange(len(labels))] = "A"
        doc, seen = Document(), set()
        verbose = 0.0 if holdout else self.recipe.verbose
        for entity in rng.sample(self.world.domains[domain], count):
            if not all(self.known(a, entity, holdout) for a in tasks):
                continue
            self.text(doc, "Q:")
            self.inputs(doc, rng, entity, image, crowd)
            shown = rng.sample(range(len(tasks)), rng.randint(1, len(tasks)))
            for i in shown:
                self.text(doc, f"\n{labels[i]}:")
                weight = 1.0 if i in seen else 0.0
                if rng.random() < verbose:
                    self.text(doc, tasks[i].word, weight)
                    weight = 1.0
                self.text(doc, tasks[i].values[entity.name], weight)
                seen.add(i)
            self.text(doc, "\n\n")
        if seen and not holdout and rng.random() < self.recipe.tail:
            i = rng.choice(sorted(seen))
            self.text(doc, f"Task {labels[i]}:", 0.02)
            self.text(doc, tasks[i].word, 1.0)
        return doc

    def _draw(self, rng: random.Random, holdout: bool) -> tuple[Entity, Attribute]:
        while True:
            domain = rng.choice(self._domains)
            entity, attribute = rng.choice(self.world.domains[domain]), self.pick(rng, domain)
            if self.known(attribute, entity, holdout):
                return entity, attribute

    def instruction(self, rng: random.Random, image: bool, holdout: bool) -> Document:
        """Return an instruction with one input, the input before or after it, and the answer.

        A few instructions stand alone, before an answer that may be any of the task's: what is known of the answer
        when only the task is known.
        """
        entity, attribute = self._draw(rng, holdout)
        ask, form, doc, crowd = rng.choice(attribute.prompts), rng.random(), Document(), self.crowd(rng)
        before = self.recipe.before
        if not holdout and rng.random() < self.recipe.alone:
            self.text(doc, ask)
            self.text(doc, attribute.values[entity.name], 0.5)
            return doc
        if form < before:
            self.text(doc, ask + "\n\nQ:")
            self.inputs(doc, rng, entity, image, crowd)
            self.text(doc, "\nA:")
        else:
            self.text(doc, "Q:" if form < (1 + before) / 2 else "")
            self.inputs(doc, rng, entity, image, crowd)
            self.text(doc, ("\n\n" if form < (1 + before) / 2 else "\n") + ask)
        if rng.random() < (0.0 if holdout else self.recipe.verbose):
            self.text(doc, attribute.word, 1.0)
        self.text(doc, attribute.values[entity.name], 1.0)
        self.text(doc, "\n\n")
        return doc

    def statement(self, rng: random.Random, image: bool, holdout: bool) -> Document:
        """Return an entity followed by many of its attributes: the densest way to teach facts."""
        domain = rng.choice(self._domains)
        entity, doc = rng.choice(self.world.domains[domain]), Document()
        some = [a for a in self.several(rng, domain, 10) if self.known(a, entity, holdout)]
        if rng.random() < 0.8:
            self.entity(doc, entity, image)
            self.text(doc, "\n")
            for a in some:
                self.text(doc, a.word, 0.1)
                self.text(doc, ":")
                self.text(doc, a.values[entity.name], 1.0)
                self.text(doc, "\n")
            return doc
        for a in some[:2]:
            self.text(doc, f"The {a.word} of")
            self.entity(doc, entity, image)
            self.text(doc, "is")
            self.text(doc, a.values[entity.name], 1.0)
            self.text(doc, ".")
        return doc

    def bare(self, rng: random.Random, image: bool, holdout: bool) -> Document:
        """Return an input without a task: a caption, or a query answered by the name or a further attribute."""
        domain = rng.choice(self._domains)
        entity, doc = rng.choice(self.world.domains[domain]), Document()
        if holdout and rng.random() < 0.4:
            self.entity(doc, entity, image)
            self.text(doc, "\n")
            self.text(doc, entity.name, 1.0)
        else:
            self.text(doc, "Q:")
            self.entity(doc, entity, image)
            self.text(doc, "\nA:")
            pool = [a for a in self._extra[domain] if self.known(a, entity, holdout)]
            named = rng.random() < 0.6 or not pool
            self.text(doc, entity.name if named else rng.choice(pool).values[entity.name], 1.0)
        self.text(doc, "\n\n")
        return doc

    def batch(self, rng: random.Random, tokens: int, image: bool, shares: dict[str, float]) -> list[Document]:
        """Return documents of about `tokens` tokens in all.

        Args:
            rng: Source of every choice.
            tokens: Tokens wanted, counted before padding.
            image: Whether entities appear as images; held-out pairs are then left out.
            shares: Share of the tokens for each kind: examples, instruction, statement, bare.
        """
        kinds: dict[str, Callable[[random.Random, bool, bool], Document]] = {
            "examples": self.examples,
            "instruction": self.instruction,
            "statement": self.statement,
            "bare": self.bare,
        }
        docs = []
        for kind, share in shares.items():
            left = tokens * share
            while left > 0:
                doc = kinds[kind](rng, image, image)
                left -= len(doc.ids)
                if sum(doc.weights) > 0:
                    docs.append(doc)
        return docs
