"""What stands for what: one table of colour, symbol and dash by meaning, the same in every figure.

A look is never given by position, so a thing looks alike in every figure whatever else is drawn there, and legends keep
one order. Things that only the data name (tasks, models, sources of one's own) get their looks by their names in
alphabetical order.

The palette keeps the hues of Okabe and Ito ("Color Universal Design", 2008) and moves their lightness, so that every
colour stands out from a white page and from a dark one (at least 3 to 1, WCAG 2.2, 1.4.11), and any two differ with
every common colour vision. Symbols and dashes say the same again, so that a figure can be read in grey.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from xmi.names import (
    IMAGE_ICL,
    INSTRUCTION,
    MAJORITY,
    MEAN,
    NO_CONTEXT,
    ONE_EXAMPLE,
    OTHER,
    RANDOM,
    SHUFFLED,
    TEXT_ICL,
    UNRELATED,
    control,
    is_control,
    is_of_base,
    mean_of,
    without_base,
)

BLUE, ORANGE, GREEN, VERMILION = "#4A5EDD", "#D97A00", "#107D49", "#D33216"
PURPLE, SKY, OLIVE, GREY = "#DF28A6", "#009AED", "#9B833B", "#8B9186"
PALETTE = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, OLIVE)
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star", "cross", "triangle-down")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")


@dataclass(frozen=True)
class Look:
    """How a thing is drawn.

    Attributes:
        colour: Of line and marker.
        symbol: Of its markers; empty for a line without any.
        dash: Of its line.
        rank: Its place in legends, low ones first.
        width: Of its line, in pixels.
    """

    colour: str
    symbol: str = "circle"
    dash: str = "solid"
    rank: int = 0
    width: float = 2.2

    @property
    def line(self) -> dict[str, Any]:
        """The line, as plotly takes it."""
        return {"color": self.colour, "dash": self.dash, "width": self.width}

    @property
    def hollow(self) -> str:
        """The symbol, not filled."""
        return f"{self.symbol.removesuffix('-open')}-open"

    def marks(self, filled: Iterable[bool]) -> list[str]:
        """Symbols that are filled where something holds, and hollow elsewhere."""
        return [self.symbol if yes else self.hollow for yes in filled]


def _ranked(looks: Mapping[str, Look], start: int) -> dict[str, Look]:
    return {name: replace(look, rank=start + 10 * i) for i, (name, look) in enumerate(looks.items())}


SPECIFICATIONS = _ranked(
    {
        TEXT_ICL: Look(BLUE, "circle"),
        IMAGE_ICL: Look(ORANGE, "square"),
        INSTRUCTION: Look(GREEN, "diamond"),
        mean_of(TEXT_ICL, IMAGE_ICL): Look(VERMILION, "triangle-up"),
        ONE_EXAMPLE: Look(PURPLE, "x"),
    },
    0,
)
CONTROLS = _ranked(
    {
        RANDOM: Look(GREY, "triangle-down", "longdash"),
        OTHER: Look(GREY, "cross", "dash"),
        MEAN: Look(GREY, "star", "dashdot"),
        SHUFFLED: Look(GREY, "hexagon", "dot"),
        UNRELATED: Look(GREY, "bowtie", "longdashdot"),
    },
    600,
)
LEVELS = _ranked(
    {
        NO_CONTEXT: Look(GREY, "", "dot", width=1.6),
        "prompt": Look(OLIVE, "", "longdash", width=1.8),
        "no patch": Look(GREY, "", "dot", width=1.6),
        "system prompt": Look(GREEN, "", "dash", width=1.6),
        "instruction alone": Look(GREEN, "", "dash", width=1.6),
        MAJORITY: Look(GREY, "", "longdashdot", width=1.6),
        "chance": Look(GREY, "", "dot", width=1.6),
        "zero": Look(GREY, "", "dot", width=1.2),
    },
    800,
)
CONTRASTS = _ranked(
    {
        "xPatch vs xBase": Look(BLUE, "circle"),
        "patch vs prompt": Look(ORANGE, "square"),
        "patch vs control": Look(GREEN, "diamond"),
        "ensemble vs part": Look(VERMILION, "triangle-up"),
        "base LLM vs own": Look(PURPLE, "x"),
        "instruction vs examples": Look(SKY, "star"),
        "comparison": Look(BLUE, "circle"),
    },
    0,
)
PHASES = _ranked(
    {
        "input": Look(SKY, "circle", "dot"),
        "task": Look(VERMILION, "square", "solid"),
        "answer": Look(GREEN, "diamond", "dash"),
        "other labels of this task": Look(PURPLE, "x", "dashdot", width=1.8),
        "all three together": Look(GREY, "", "solid", width=1.2),
        "change": Look(GREY, "", "dot", width=1.2),
    },
    0,
)
CHANGES = {"input → task": PHASES["task"], "task → answer": PHASES["answer"]}
"""A change looks like the phase that it begins."""
WINNERS = _ranked(
    {
        "patched": Look(VERMILION, "square", "solid", width=3.6),
        "prompt": Look(BLUE, "circle", "dash", width=1.8),
        "neither": Look(OLIVE, "x", "dot", width=1.6),
        "ambiguous": Look(PURPLE, "diamond", "dashdot", width=1.6),
    },
    0,
)
CLUSTERS = _ranked({"tasks": Look(BLUE, "circle"), "modalities": Look(ORANGE, "square", "dash")}, 0)
LIKENESS = _ranked(
    {
        "same task, across modalities": Look(BLUE, "circle"),
        "same task, within a modality": Look(ORANGE, "square"),
        "different task, across modalities": Look(SKY, "", "dash"),
        "different task, within a modality": Look(PURPLE, "", "dash"),
        "centroids, a to b": Look(BLUE, "circle"),
        "centroids, b to a": Look(ORANGE, "square"),
        "centroids, within a": Look(SKY, "diamond", "dash"),
        "centroids, within b": Look(PURPLE, "triangle-up", "dash"),
        "CKA": Look(BLUE, "circle"),
        "RSA": Look(ORANGE, "square", "dash"),
        "Procrustes": Look(GREEN, "diamond", "dot"),
    },
    0,
)
BASE_SIMILARITY = _ranked(
    {
        "same task, mean": Look(BLUE, "", "solid", width=3.5),
        control("other tasks, mean"): Look(GREY, "", "dash", width=2.5),
    },
    700,
)
EXAMPLES = _ranked(
    {"examples alone": Look(BLUE, "circle"), "examples + instruction": Look(BLUE, "circle-open", "dash")}, 0
)
WORDS = _ranked({"in its task": Look(VERMILION, "square"), "largest in another task": Look(GREY, "circle-open")}, 0)
TRAJECTORY = _ranked(
    {
        "cross-entropy of the label": Look(BLUE, ""),
        "entropy": Look(ORANGE, "", "dash"),
        "divergence from the output": Look(GREEN, "", "dot"),
    },
    0,
)
DIFFERENCE = Look(BLUE, "circle")
MOVED = Look(BLUE, "circle")


_TOLD = mean_of("", INSTRUCTION)


def sources(names: Iterable[str]) -> dict[str, Look]:
    """Looks of sources that are patched in.

    Colour and symbol are the specification's; what adds an instruction is dashed, what comes from the base LLM dotted,
    both with hollow symbols. Controls are grey and differ by symbol and dash.

    Args:
        names: Names of the sources.

    Returns:
        The look of each, in the given order.
    """
    given = list(names)
    families = {name: family(name) for name in given}
    known = SPECIFICATIONS | CONTROLS
    strangers = sorted({f for f in families.values() if f not in known})
    ours = _spare([f for f in strangers if not is_control(f)], _FREE, 300)
    ours |= _spare([f for f in strangers if is_control(f)], _FREE_CONTROLS, 700)
    found = {}
    for name, kin in families.items():
        look = known.get(kin) or ours[kin]
        if is_of_base(name):
            symbol = f"{look.hollow}-dot"
            look = replace(look, dash="dot", symbol=symbol, rank=look.rank + 200 + (5 if name.endswith(_TOLD) else 0))
        elif name != kin:
            look = replace(look, dash="dash", symbol=look.hollow, rank=look.rank + 100)
        found[name] = look
    return found


def family(source: str) -> str:
    """Returns the specification that a source comes from, without what was added to it."""
    if is_control(source):
        return source
    return without_base(source).removesuffix(_TOLD) or source


def named(names: Iterable[str]) -> dict[str, Look]:
    """Looks of things that the data name, such as tasks or models: by name, whatever the order they come in."""
    return _spare(sorted(set(names)), [Look(c, s) for c, s in _pairs(PALETTE, SYMBOLS)], 0)


def contrasts(names: Iterable[str]) -> dict[str, Look]:
    """Looks of kinds of contrasts; ones that xmi does not know get a look each, by name."""
    strangers = sorted({name for name in names if name not in CONTRASTS})
    return CONTRASTS | _spare(strangers, _FREE, 300)


def modalities(names: Iterable[str]) -> dict[str, str]:
    """Symbols of modalities or specifications, those of the sources where they have one."""
    strangers = sorted({name for name in names if name not in SPECIFICATIONS})
    free = [s for s in SYMBOLS if s not in {look.symbol for look in SPECIFICATIONS.values()}]
    known = {name: look.symbol for name, look in SPECIFICATIONS.items()}
    usual = {"text": "circle", "image": "square"}
    return known | {n: usual.get(n, free[i % len(free)]) for i, n in enumerate(strangers)}


def _pairs(colours: tuple[str, ...], symbols: tuple[str, ...]) -> list[tuple[str, str]]:
    """All pairs; neighbours differ in both as long as there are colours."""
    return [(c, symbols[(i + turn) % len(symbols)]) for turn in range(len(symbols)) for i, c in enumerate(colours)]


_FREE = [Look(c, s) for c, s in _pairs((OLIVE, SKY), ("star", "hourglass", "pentagon", "triangle-left", "cross"))]
_FREE_CONTROLS = [
    Look(GREY, symbol, dash)
    for dash in ("dash", "dot", "dashdot", "longdash", "longdashdot")
    for symbol in ("pentagon", "hourglass", "triangle-left", "triangle-right", "octagon")
]


def _spare(names: list[str], free: list[Look], start: int) -> dict[str, Look]:
    return {name: replace(free[i % len(free)], rank=start + i) for i, name in enumerate(names)}
