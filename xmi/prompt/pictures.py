"""Images as processors want them: RGB, upright, opaque; what cannot be read is named."""

from __future__ import annotations

import warnings
from base64 import b64encode
from functools import lru_cache
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image, ImageOps

from xmi.errors import PromptError
from xmi.faults import short
from xmi.shown import Html

SMALL = 72
"""Pixels of a thumbnail's longer side."""


def open_image(image: Any) -> Image.Image:
    """Opens an image as RGB, upright, transparent parts on white; of an animation the first frame.

    Grey of more than 8 bits is scaled to 8. Of `I;16` and its variants the upper 8 bits are kept. An image of mode `I`
    is read as 8 bits if no value is above 255, and as 16 bits (the upper 8 kept) if one is; an image of mode `F` as
    0 to 1 if no value is above 1, and as 0 to 255 if one is. Other values are refused.

    Raises:
        PromptError: It is not an image, has no pixels, cannot be read to its end, is larger than Pillow's limit, or
            holds values outside of these ranges.
    """
    if isinstance(image, Image.Image):
        try:
            return _plain(image)
        except (OSError, SyntaxError, ValueError) as error:
            raise PromptError(f"Cannot read the image {image!r}: {error}") from error
    if not isinstance(image, (str, Path)):
        raise PromptError(
            f"An image must be a file or a PIL image, not {type(image).__name__}; an array becomes one with "
            "PIL.Image.fromarray."
        )
    path = Path(image)
    try:
        status = path.stat()
        return _read(path, status.st_mtime_ns, status.st_size)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PromptError(f"The image {image} is too large: {error} Scale it down.") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        size = f" ({path.stat().st_size} bytes)" if path.is_file() else ""
        raise PromptError(f"Cannot open the image {image}{size}: {error}") from error


@lru_cache(maxsize=512)
def _read(path: Path, _modified: int, _size: int) -> Image.Image:
    """Reads a file; a study shows the same few images thousands of times."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path) as picture:
            return _plain(picture)


def _plain(picture: Image.Image) -> Image.Image:
    if getattr(picture, "is_animated", False) and picture.tell() != 0:
        picture = picture.copy()  # the caller's frame is theirs
    upright = ImageOps.exif_transpose(picture)
    if 0 in upright.size:
        raise ValueError(f"it has no pixels ({described(upright)})")
    clear = upright.info.get("transparency")
    if upright.mode in ("I", "F") or upright.mode.startswith("I;16"):  # Pillow would clip these to white or black
        grey = Image.fromarray(_grey(np.asarray(upright), upright.mode))
        if isinstance(clear, int):
            grey.paste(255, mask=Image.fromarray(np.asarray(upright) == clear))
        return grey.convert("RGB")
    upright = upright.convert(_STRAIGHT.get(upright.mode, upright.mode))
    if upright.mode in ("RGBA", "LA", "PA") or clear is not None:
        white = Image.new("RGBA", upright.size, (255, 255, 255, 255))
        upright = Image.alpha_composite(white, upright.convert("RGBA"))
    return upright.convert("RGB")


def _grey(values: Shaped[np.ndarray, "row column"], mode: str) -> UInt8[np.ndarray, "row column"]:
    """Grey values of more than 8 bits as 8 bits, by the range that `open_image` states."""
    low, high = values.min(), values.max()
    top = 1 if mode == "F" and high <= 1 else 255 if mode in ("I", "F") and high <= 255 else 65535
    if not (low >= 0 and high <= (255 if mode == "F" else 65535)):  # NaN is in no range
        allowed = "0 to 1 or 0 to 255" if mode == "F" else "0 to 255 or 0 to 65535"
        raise ValueError(
            f"its values go from {low:g} to {high:g}; in mode {mode} they must be in {allowed}: scale them"
        )
    if top == 1:
        values, top = np.rint(values * 255), 255
    kept: UInt8[np.ndarray, "row column"] = (values if top == 255 else values >> 8).astype(np.uint8)
    return kept


_STRAIGHT = {"RGBa": "RGBA", "La": "LA"}
"""Modes whose colours were multiplied by their opacity, and those in which they were not."""


def thumbnail(image: Any) -> Html:
    """An image as a small one for a notebook, carried by the page itself; one that cannot be read is named."""
    try:
        small = open_image(image).copy()
    except PromptError:
        return Html(escape(f"<image: {short(image)}>"))
    small.thumbnail((SMALL, SMALL))
    buffer = BytesIO()
    small.save(buffer, "JPEG")
    data = b64encode(buffer.getvalue()).decode()
    return Html(f'<img src="data:image/jpeg;base64,{data}" alt="" style="display:inline;vertical-align:middle">')


def described(image: Image.Image) -> str:
    """An image's size, for messages."""
    return f"{image.width} x {image.height} pixels"
