"""Images as processors want them: RGB, upright, opaque; what cannot be read is named."""

from __future__ import annotations

import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from xmi.errors import PromptError


def open_image(image: Any) -> Image.Image:
    """Opens an image as RGB, upright, transparent parts on white; of an animation the first frame.

    Raises:
        PromptError: It is no image, cannot be read to its end, or is larger than Pillow's limit.
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
    if upright.mode.startswith("I;16"):  # Pillow would clip 16-bit grey to white
        return Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8)).convert("RGB")
    if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
        white = Image.new("RGBA", upright.size, (255, 255, 255, 255))
        upright = Image.alpha_composite(white, upright.convert("RGBA"))
    return upright.convert("RGB")
