"""Pictures of every entity in several styles, drawn from the packages' vector graphics."""

from __future__ import annotations

import csv
import io
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from analyses.pretrained.styles import STYLES
from xmi.model.packages import fetch

HELD_OUT = ("fluent-flat", "fluent-3d")
"""Styles that are never trained on: both are Microsoft's drawings, so that one would give the other away."""
TRAINED = tuple(style for style in STYLES if style not in HELD_OUT)
SIDE, MARGIN = 224, 12
"""Pixels of a picture, and of the white around what it shows."""


@cache
def entities() -> tuple[dict[str, str], ...]:
    """The rows of data/entities.csv: name, emoji, and what the tasks ask of it (empty where it has no such thing)."""
    with (Path(__file__).parent / "data" / "entities.csv").open(encoding="utf-8", newline="") as file:
        return tuple(csv.DictReader(file))


def draw(style: str, packages: Path) -> dict[int, np.ndarray]:
    """Draws the entities in one style.

    Args:
        style: One of `STYLES`.
        packages: Folder of packages.

    Returns:
        For the number of each entity that the style has: its picture on white, uint8 [SIDE, SIDE, 3].
    """
    folder = fetch(STYLES[style], packages)
    opened = _photograph if style == "fluent-3d" else _vector_graphic
    names = {number: opened(folder, row["emoji"], packages) for number, row in enumerate(entities())}
    return {number: _on_white(picture) for number, picture in names.items() if picture is not None}


def points(emoji: str) -> tuple[str, str]:
    """An emoji's code points as files are named after them: all, and those that are not variation selectors."""
    every = [f"{ord(sign):x}" for sign in emoji]
    return "-".join(every), "-".join(point for point in every if point != "fe0f")


def _photograph(folder: Path, emoji: str, packages: Path) -> Image.Image | None:
    for name in points(emoji):
        for file in (folder / "assets" / f"{name}.webp", folder / "assets" / f"{name}-fe0f.webp"):
            if file.exists():
                return Image.open(file)
    return None


@cache
def _read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def _vector_graphic(folder: Path, emoji: str, packages: Path) -> Image.Image | None:
    """The drawing of an emoji; a set without a table of code points has the same names as Noto."""
    import resvg_py

    icons = _read(folder / "icons.json")
    table = folder / "chars.json"
    characters = _read(table if table.exists() and _read(table) else fetch(STYLES["noto"], packages) / "chars.json")
    for name in dict.fromkeys(characters[point] for point in points(emoji) if point in characters):
        name = icons.get("aliases", {}).get(name, {}).get("parent", name)
        if icon := icons["icons"].get(name):
            wide, high = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
            box = f"{icon.get('left', 0)} {icon.get('top', 0)} {wide} {high}"
            svg = (
                '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
                f'viewBox="{box}" width="{SIDE}" height="{SIDE}">{icon["body"]}</svg>'
            )
            return Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg))))
    return None


def _on_white(picture: Image.Image) -> np.ndarray:
    """Scales what a picture shows to the same room on white."""
    picture = picture.convert("RGBA")
    room = SIDE - 2 * MARGIN
    scale = room / max(picture.size)
    size = tuple(max(1, round(side * scale)) for side in picture.size)
    picture = picture.resize(size, Image.Resampling.LANCZOS)
    ground = Image.new("RGBA", (SIDE, SIDE), "white")
    ground.alpha_composite(picture, ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
    return np.asarray(ground.convert("RGB"))
