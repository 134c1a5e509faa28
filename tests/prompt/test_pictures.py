"""Images of every kind of file reach the processor alike; what cannot be read is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import xmi
from tests.zoo.models import build, llava
from xmi.prompt import Encoder
from xmi.prompt.pictures import open_image


def noise(height: int = 24, width: int = 32) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))


def test_transparent_images_lie_on_white() -> None:
    _, processor = build(llava)
    encoder = Encoder(processor.tokenizer, processor)
    clear, white = Image.new("RGBA", (32, 32), (255, 0, 0, 0)), Image.new("RGB", (32, 32), "white")
    pixels = [encoder.encode(list(xmi.free_prompt("Q:<image>", [i]))).inputs["pixel_values"] for i in (clear, white)]
    assert (pixels[0] == pixels[1]).all()


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "YCbCr", "F", "I"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    opened = open_image(noise().convert("RGB").convert("L").convert(mode) if mode in "FI" else noise().convert(mode))
    assert (opened.mode, opened.size) == ("RGB", (32, 24))
    assert np.asarray(opened).std() > 20


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    grey = np.linspace(0, 65535, 24 * 32).reshape(24, 32).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    opened = np.asarray(open_image(tmp_path / "grey.png"))
    assert (opened == (grey >> 8)[..., None]).all()


def test_a_palette_with_a_transparent_colour_lies_on_white(tmp_path: Path) -> None:
    picture = noise().convert("P")
    picture.save(tmp_path / "hole.png", transparency=int(np.asarray(picture)[0, 0]))
    assert open_image(tmp_path / "hole.png").getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_of_an_animation_the_first_frame_is_taken(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], lossless=True)
    assert open_image(tmp_path / f"a.{suffix}").getpixel((3, 3)) == (255, 0, 0)
    with Image.open(tmp_path / f"a.{suffix}") as picture:
        picture.seek(1)
        assert open_image(picture).getpixel((3, 3)) == (0, 0, 255), "an opened image is taken as it stands"
        assert picture.tell() == 1


def test_a_rotated_photo_stands_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    noise().save(tmp_path / "photo.jpg", exif=exif)
    assert open_image(tmp_path / "photo.jpg").size == (24, 32)


@pytest.mark.parametrize("factor", [1.5, 3.0])  # Pillow warns of the first and refuses the second
def test_a_huge_image_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    noise(60, 60).save(tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(3600 / factor))
    with pytest.raises(xmi.PromptError, match=r"huge\.png is too large.*3600 pixels"):
        open_image(tmp_path / "huge.png")


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif"])
def test_a_truncated_file_is_refused_by_name_and_size(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"half.{suffix}"
    noise(64, 64).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(xmi.PromptError, match=rf"half\.{suffix} \({len(whole) // 2} bytes\)"):
        open_image(path)


def test_a_truncated_image_that_is_open_already_is_refused(tmp_path: Path) -> None:
    noise(64, 64).save(tmp_path / "half.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "half.png").read_bytes()[:3000])
    with Image.open(tmp_path / "half.png") as picture, pytest.raises(xmi.PromptError, match="Cannot read the image"):
        open_image(picture)


def test_no_image_file_at_all(tmp_path: Path) -> None:
    (tmp_path / "words.png").write_text("these are words")
    for path in (tmp_path / "words.png", tmp_path, tmp_path / "none.png"):
        with pytest.raises(xmi.PromptError, match="Cannot open the image"):
            open_image(path)


@pytest.mark.parametrize("thing", [np.zeros((8, 8, 3), np.uint8), b"bytes", 3, None, [noise()]])
def test_what_is_no_image_is_refused(thing: Any) -> None:
    with pytest.raises(xmi.PromptError, match=r"PIL\.Image\.fromarray"):
        open_image(thing)
