"""Captions: all that the projector learns from. None has the form of a task, and none says more than a name."""

from __future__ import annotations

import random
from dataclasses import dataclass

TEMPLATES = (
    ("{image}\nThis is a picture of", " {a name}", "."),
    ("{image}\nA photo of", " {a name}", "."),
    ("{image} shows", " {a name}", "."),
    ("The picture {image} is of", " {a name}", "."),
    ("{image}\nWhat is in the picture? It is", " {a name}", "."),
    ("Look at this: {image}. I can see", " {a name}", "."),
    ("{image}\nThe word for this is", " {name}", "."),
    ("{image}\nCaption:", " {name}", "\n"),
    ("Name the object: {image} =", " {name}", "\n"),
    ("{image} (", "{name}", ")"),
    ("Picture: {image}\nName:", " {name}", "\n"),
)
"""What stands before the name, the name, and what ends it; the last two are what is learned."""

ASKED = TEMPLATES[0][0]
"""How naming is measured."""


@dataclass(frozen=True)
class Caption:
    """One picture with its name.

    Attributes:
        before: Text up to the picture.
        after: Text between picture and name.
        name: The name and what ends it.
    """

    before: str
    after: str
    name: str


def a(name: str) -> str:
    """A name with its article."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def captions(names: list[str], rng: random.Random) -> list[Caption]:
    """Captions of several pictures in one document, all in the same words."""
    shown, name, end = rng.choice(TEMPLATES)
    before, after = shown.split("{image}")
    return [
        Caption("\n\n" * bool(place) + before, after, name.format(**{"a name": a(given), "name": given}) + end)
        for place, given in enumerate(names)
    ]
