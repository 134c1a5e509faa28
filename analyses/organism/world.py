"""The facts: entities with their images, the six tasks, and the further attributes that surround them.

A model in which every entity takes part in two tasks only stores each answer with its entity and never needs to hold
the task apart. So each entity also has real attributes (`attributes.json`), computed ones (letters of its name) and
synthetic ones: words such as ``zin3``, drawn at random once and for all, which no reader can mistake for knowledge.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

TASKS = ("country-capital", "country-currency", "animal-latin", "animal-young", "food-color", "food-flavor")
SYNTHETIC_WORDS = tuple(a + b for b in "nprkl" for a in ("zi", "vo", "ka", "me", "du", "fy"))
SYNTHETIC_VALUES = 7
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "many")


@dataclass(frozen=True)
class Entity:
    """Something with a name and an image; `index` is its row in the image stack."""

    index: int
    domain: str
    name: str
    image: Path


@dataclass
class Attribute:
    """One task, of the six or auxiliary: a word for it, a value per entity name, and ways to ask for it."""

    key: str
    domain: str
    word: str
    values: dict[str, str]
    prompts: list[str]
    core: bool = False
    split: dict[str, str] = field(default_factory=dict)

    def held_out(self, name: str) -> bool:
        """Return whether the pair (this attribute, that entity) must never be trained with an image."""
        return self.split.get(name, "train") != "train"


@dataclass
class World:
    """All entities and attributes."""

    entities: list[Entity]
    attributes: list[Attribute]

    def __post_init__(self) -> None:
        self.domains: dict[str, list[Entity]] = {}
        for entity in self.entities:
            self.domains.setdefault(entity.domain, []).append(entity)
        self.of_domain = {d: [a for a in self.attributes if a.domain == d] for d in self.domains}
        self.by_key = {a.key: a for a in self.attributes}
        self.by_name = {(e.domain, e.name): e for e in self.entities}

    def pairs(self, key: str, split: str) -> list[tuple[Entity, str]]:
        """Return (entity, answer) of one task and split, in the order of the task's file."""
        attribute = self.by_key[key]
        return [
            (self.by_name[attribute.domain, name], value)
            for name, value in attribute.values.items()
            if attribute.split.get(name, "train") == split
        ]


def _rank(*parts: str) -> int:
    """Return a number that depends on the strings alone, the same on every machine."""
    return int.from_bytes(hashlib.sha256("/".join(parts).encode()).digest()[:6], "big")


def _computed(domain: str, names: list[str]) -> list[Attribute]:
    initial = {n: n[0].lower() for n in names}
    final = {n: n[-1].lower() for n in names}
    length = {n: NUMBERS[min(len(n.replace(" ", "")), len(NUMBERS) - 1)] for n in names}
    table = (("initial", initial), ("final", final), ("length", length))
    return [Attribute(f"{domain}:{w}", domain, w, v, _prompts(w, domain)) for w, v in table]


def _prompts(word: str, domain: str) -> list[str]:
    return [f"The {word} of the {domain}:", f"Tell me the {word}:", f"What is the {word} of this {domain}:"]


def load(tasks: Path, synthetic: int, real_extra: bool) -> World:
    """Read the six tasks from `tasks` and surround them with further attributes.

    Args:
        tasks: Folder with ``<task>.json`` and the images they name.
        synthetic: Synthetic attributes per entity.
        real_extra: Whether to add `attributes.json` and the computed attributes.

    Returns:
        The world; the same arguments give the same world.

    Raises:
        ValueError: If more synthetic attributes are asked for than there are words.
    """
    if synthetic > len(SYNTHETIC_WORDS):
        raise ValueError(f"{synthetic} synthetic attributes asked for, words exist for {len(SYNTHETIC_WORDS)}")
    found: dict[tuple[str, str], Path] = {}
    attributes: list[Attribute] = []
    for key in TASKS:
        task = json.loads((tasks / f"{key}.json").read_text(encoding="utf-8"))
        values = {i["input"]: i["output"] for i in task["items"]}
        split = {i["input"]: i["split"] for i in task["items"]}
        for item in task["items"]:
            found.setdefault((task["domain"], item["input"]), tasks / item["image"])
        asks = [task["instruction"], *task["paraphrases"]]
        attributes.append(Attribute(key, task["domain"], task["task_words"][0], values, asks, True, split))
    entities = [Entity(i, d, n, p) for i, ((d, n), p) in enumerate(sorted(found.items()))]
    extra = json.loads((Path(__file__).parent / "attributes.json").read_text(encoding="utf-8"))
    for domain in sorted({e.domain for e in entities}):
        names = [e.name for e in entities if e.domain == domain]
        if real_extra:
            for word, groups in extra[domain].items():
                real = {n: value for value, members in groups.items() for n in members if n in names}
                attributes.append(Attribute(f"{domain}:{word}", domain, word, real, _prompts(word, domain)))
            attributes += _computed(domain, names)
        for word in SYNTHETIC_WORDS[:synthetic]:
            drawn = {n: f"{word}{_rank(word, domain, n) % SYNTHETIC_VALUES + 1}" for n in names}
            attributes.append(Attribute(f"{domain}:{word}", domain, word, drawn, _prompts(word, domain)))
    return World(entities, attributes)
