"""Draw emoji as small square pictures with the open Noto Color Emoji font.

A flag is two regional-indicator characters that the font joins into one glyph, so Pillow must be
built with raqm (its wheels from PyPI are). Every picture is checked: an emoji that the font lacks, or
a sequence that was not joined, is refused instead of being drawn as boxes or as two letters.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, features

SIZE = 96
MARGIN = 2
# The bitmap strikes of the font exist at this one size only.
STRIKE = 109
# SHA-256 of the font file that drew the shipped pictures: Debian fonts-noto-color-emoji 2.042-0+deb12u1.
FONT_SHA256 = "e5899ed38b8ed83e08bd3ac5de09791e9d19d288333a796de1d35ad17396f1ec"
FONT_PLACES = (
    "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf",
    "/usr/share/fonts/noto/NotoColorEmoji.ttf",
    "/usr/share/fonts/google-noto-emoji/NotoColorEmoji.ttf",
    "~/.local/share/fonts/NotoColorEmoji.ttf",
    "~/Library/Fonts/NotoColorEmoji.ttf",
)
HOW_TO_INSTALL = (
    "Install it with `apt-get install fonts-noto-color-emoji` (Debian, Ubuntu), or name the file with "
    "--font PATH or the environment variable XMI_EMOJI_FONT."
)


class PictureError(RuntimeError):
    """A picture cannot be drawn: font or raqm missing, or an emoji that the font does not hold."""


def find_font(given: str | None = None) -> Path:
    """Find the emoji font file.

    Args:
        given: A path that takes precedence over the environment and the usual places.

    Returns:
        The path of an existing font file.

    Raises:
        PictureError: No font was found; the message says how to install it.
    """
    named = given or os.environ.get("XMI_EMOJI_FONT")
    places = [named] if named else list(FONT_PLACES)
    for place in places:
        path = Path(place).expanduser()
        if path.is_file():
            return path
    raise PictureError(f"The font Noto Color Emoji was not found (looked at {', '.join(places)}). {HOW_TO_INSTALL}")


def is_shipped_font(path: Path) -> bool:
    """Tell whether a font file is the one that drew the shipped pictures (same SHA-256)."""
    return hashlib.sha256(path.read_bytes()).hexdigest() == FONT_SHA256


def load_font(path: Path) -> ImageFont.FreeTypeFont:
    """Open the font at the size of its bitmap strikes.

    Returns:
        The font, laid out by raqm.

    Raises:
        PictureError: Pillow lacks raqm, or the file holds no bitmap strikes (the vector edition).
    """
    if not features.check("raqm"):
        raise PictureError("This Pillow lacks raqm, without which flags fall apart. Use the wheel from PyPI.")
    try:
        return ImageFont.truetype(str(path), STRIKE, layout_engine=ImageFont.Layout.RAQM)
    except OSError as error:
        raise PictureError(
            f"{path} is not the bitmap edition of Noto Color Emoji ({error}). {HOW_TO_INSTALL}"
        ) from error


def flag(iso: str) -> str:
    """Return the flag emoji of an ISO 3166-1 alpha-2 code, as two regional indicators."""
    return "".join(chr(0x1F1E6 + ord(letter) - ord("A")) for letter in iso)


def draw(emoji: str, font: ImageFont.FreeTypeFont, name: str) -> Image.Image:
    """Draw one emoji centred on a white square.

    Args:
        emoji: The emoji, possibly a sequence that the font joins into one glyph.
        font: The font from `load_font`.
        name: What the picture shows, for the error message.

    Returns:
        An RGB picture of SIZE x SIZE pixels.

    Raises:
        PictureError: The glyph is missing, blank, or fell apart into several.
    """
    advance = font.getlength(emoji)
    if advance > 1.5 * font.getlength("😀"):
        raise PictureError(f"The emoji of {name} fell apart into several glyphs; the font is too old for it.")
    canvas = Image.new("RGBA", (3 * STRIKE, 2 * STRIKE), (255, 255, 255, 0))
    ImageDraw.Draw(canvas).text((STRIKE // 4, STRIKE // 4), emoji, font=font, embedded_color=True)
    box = canvas.getbbox()
    if box is None:
        raise PictureError(f"The emoji of {name} is blank; the font does not hold it.")
    glyph = canvas.crop(box)
    scale = (SIZE - 2 * MARGIN) / max(glyph.size)
    width, height = (max(1, round(side * scale)) for side in glyph.size)
    # Blending before shrinking keeps the colour of transparent pixels out of the edges.
    backed = Image.new("RGB", glyph.size, "white")
    backed.paste(glyph, mask=glyph.getchannel("A"))
    picture = Image.new("RGB", (SIZE, SIZE), "white")
    picture.paste(backed.resize((width, height), Image.Resampling.LANCZOS), ((SIZE - width) // 2, (SIZE - height) // 2))
    return picture
