"""Images of every kind of file reach the processor alike; what cannot be read is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import xmi
from tests.zoo import grids, models, towers, unusual
from tests.zoo.models import build, llava
from xmi.prompt import Encoder, Prompt
from xmi.prompt.pictures import open_image


def noise(height: int = 24, width: int = 32) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))


def free(text: str, *images: Any) -> Prompt:
    return xmi.free_prompt(text, images)[0]


def test_transparent_images_lie_on_white() -> None:
    _, processor = build(llava)
    encoder = Encoder(processor.tokenizer, processor)
    clear, white = Image.new("RGBA", (32, 32), (255, 0, 0, 0)), Image.new("RGB", (32, 32), "white")
    pixels = [encoder.encode(list(xmi.free_prompt("Q:<image>", [i]))).inputs["pixel_values"] for i in (clear, white)]
    assert (pixels[0] == pixels[1]).all()


RAMP = np.random.default_rng(1).integers(0, 256, (24, 32, 4), dtype=np.uint8)
GREY = RAMP[..., 0]
DEEP = GREY.astype(np.uint16) * 257


def over_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return colour * share + 255 * (1 - share)


def raw(mode: str, *bands: np.ndarray) -> Image.Image:
    """An image of a mode from its bands' bytes."""
    return Image.frombytes(mode, (32, 24), np.ascontiguousarray(np.stack(bands, -1)).tobytes())


def as_seen(mode: str) -> tuple[Image.Image, np.ndarray, float]:
    """An image of a mode, the RGB values it must have by numpy, and how far rounding may move them."""
    red, green, blue, alpha = (RAMP[..., i] for i in range(4))
    grey = np.repeat(GREY[..., None], 3, -1)
    rgb = RAMP[..., :3]
    if mode == "1":
        return Image.fromarray(GREY > 127), np.where(grey > 127, 255, 0), 0
    if mode in ("I;16", "I;16L", "I;16N", "I;16B"):
        order = {"I;16B": ">u2", "I;16N": "=u2"}.get(mode, "<u2")
        return Image.frombytes(mode, (32, 24), DEEP.astype(order).tobytes()), grey, 0
    if mode == "I":
        return Image.fromarray(DEEP.astype(np.int32)), grey, 0
    if mode == "F":
        return Image.fromarray((GREY / 255).astype(np.float32)), grey, 0
    if mode in ("P", "PA"):
        palette = np.random.default_rng(2).integers(0, 256, (256, 3), dtype=np.uint8)
        image = raw("P", GREY)
        image.putpalette(palette.tobytes())
        if mode == "P":
            return image, palette[GREY], 0
        image = image.convert("PA")
        image.putalpha(Image.fromarray(alpha))
        return image, over_white(palette[GREY], alpha), 1
    if mode in ("LA", "La"):
        shown = GREY if mode == "LA" else (GREY * (alpha / 255)).astype(np.uint8)
        return raw(mode, shown, alpha), over_white(grey, alpha), 1 if mode == "LA" else 2
    if mode in ("RGBA", "RGBa"):
        shown = rgb if mode == "RGBA" else (rgb * (alpha[..., None] / 255)).astype(np.uint8)
        return raw(mode, *np.moveaxis(shown, -1, 0), alpha), over_white(rgb, alpha), 1 if mode == "RGBA" else 2
    if mode == "RGBX":
        return raw(mode, red, green, blue, alpha), rgb, 0
    if mode == "CMYK":
        ink = (255 - RAMP.astype(float)) / 255
        return raw(mode, red, green, blue, alpha), 255 * ink[..., :3] * ink[..., 3:], 1
    if mode == "LAB":  # D50 white; no colour, so that the answer is the tone curve of sRGB alone
        middle = np.full_like(GREY, 128)
        light = GREY / 255 * 100
        linear = np.where(light > 8, ((light + 16) / 116) ** 3, light / 903.3)
        tone = np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
        image = Image.merge("LAB", [Image.fromarray(band) for band in (GREY, middle, middle)])
        return image, np.repeat((tone * 255)[..., None], 3, -1), 3
    tolerance = {"HSV": 4, "YCbCr": 3}.get(mode, 0)  # the mode itself holds no more
    return (
        Image.fromarray(rgb).convert(mode) if mode != "L" else Image.fromarray(GREY),
        rgb if mode != "L" else grey,
        tolerance,
    )


MODES = ("1", "L", "P", "LA", "PA", "La", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "F")
MODES += ("I;16", "I;16L", "I;16B", "I;16N")


def test_every_mode_of_pillow_is_tried() -> None:
    known = {m for m in getattr(Image, "_MODES", Image.MODES) if not m.startswith("BGR")}  # dropped by newer ones
    assert known <= set(MODES)


@pytest.mark.fault("A8")
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_keeps_its_range(mode: str) -> None:
    image, expected, tolerance = as_seen(mode)
    opened = open_image(image)
    assert (opened.mode, opened.size, image.mode) == ("RGB", (32, 24), mode)
    gap = np.abs(np.asarray(opened).astype(float) - expected)
    assert np.quantile(gap, 0.98) <= tolerance + 0.5, gap.max()  # a colour at the edge of a space may be clipped


@pytest.mark.fault("A8")
@pytest.mark.parametrize("mode", ["I", "F"])
@pytest.mark.parametrize("top", [1.0, 255.0, 65535.0])
def test_the_range_of_deep_grey_is_read_off_its_values(mode: str, top: float) -> None:
    values = np.linspace(0, top, 24 * 32).reshape(24, 32).astype(np.int32 if mode == "I" else np.float32)
    image = Image.fromarray(values)
    if mode == "F" and top > 255:
        with pytest.raises(xmi.PromptError, match=r"values go from 0 to 65535; in mode F .*0 to 1 or 0 to 255"):
            open_image(image)
        return
    expected = {1.0: np.rint(values * 255), 255.0: values.astype(np.uint8)}.get(top if mode == "F" else 0.0)
    if expected is None:
        expected = values >> 8 if top > 255 else values
    assert (np.asarray(open_image(image)) == expected[..., None]).all()


@pytest.mark.fault("A8")
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -0.5, 256.0])
def test_values_outside_of_every_range_are_refused(bad: float) -> None:
    values = np.zeros((8, 8), np.float32)
    values[3, 3] = bad
    with pytest.raises(xmi.PromptError, match="values go from"):
        open_image(Image.fromarray(values))
    if np.isfinite(bad) and bad < 0:
        with pytest.raises(xmi.PromptError, match="values go from -1 to 0; in mode I"):
            open_image(Image.fromarray(np.full((8, 8), [-1] + [0] * 7, np.int32)))


def test_a_transparent_value_of_deep_grey_lies_on_white(tmp_path: Path) -> None:
    Image.fromarray(DEEP).save(tmp_path / "deep.png", transparency=int(DEEP[0, 0]))
    with Image.open(tmp_path / "deep.png") as image:
        assert image.info["transparency"] == DEEP[0, 0]
        assert open_image(image).getpixel((0, 0)) == (255, 255, 255)


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


ODD = [(1, 1), (1, 40), (3, 3), (40, 3), (600, 2), (2, 600)]
CHOOSY = {"qwen2_vl": models.qwen2_vl, "idefics2": towers.idefics2, "mistral3": towers.mistral3, "emu3": unusual.emu3}
CHOOSY |= {"gemma4": grids.gemma4, "fuyu": unusual.fuyu, "pixtral": towers.pixtral}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.fault("C1")] * (n in ("idefics2", "mistral3", "fuyu"))) for n in CHOOSY]
)
def test_an_image_that_a_model_cannot_take_is_named_with_its_size(name: str, tmp_path: Path) -> None:
    """Whether the processor refuses it or the model's own code stops, and whatever it stands beside."""
    model, processor = build(CHOOSY[name])
    vlm = xmi.load(model, processor=processor, check=False)
    good, refused = noise(56, 56), 0
    for width, height in ODD:
        path = tmp_path / f"{width}x{height}.png"
        noise(height, width).save(path)
        prompts = [free("<image>Q:", good), free("<image>Q:", path), free("<image>Q:A:", noise(height, width))]
        try:
            vlm.run_with_hooks(prompts[1:2], fwd_hooks=[])
        except xmi.PromptError as error:
            refused += 1
            assert f"{path} (image 0 of prompt 0), {width} x {height} pixels" in str(error)
            for several, where in (
                (prompts[:2], f"{path} (image 0 of prompt 1)"),
                (prompts[::2], "image 0 of prompt 1"),
            ):
                try:
                    vlm.run_with_hooks(several, fwd_hooks=[])
                except xmi.PromptError as error:
                    assert f"{where}, {width} x {height} pixels" in str(error)
                else:
                    assert name == "mistral3", "which takes one that is too small, if another is not"
        else:
            vlm.run_with_hooks(prompts[:2], fwd_hooks=[])
    assert refused, "none of these is too much for this model: try another"


@pytest.mark.fault("C1")
def test_a_failure_that_no_image_is_to_blame_for_is_left_as_it_is() -> None:
    model, processor = build(llava)
    vlm = xmi.load(model, processor=processor, check=False)
    prompt = free("<image>Q:", noise())

    def stop(*_: Any) -> None:
        raise ZeroDivisionError("of my own")

    with pytest.raises(ZeroDivisionError, match="of my own"):
        vlm.run_with_hooks(prompt, fwd_hooks=[("blocks.0.hook_resid_post", stop)])
    vlm.model.lm_head.weight = torch.nn.Parameter(torch.zeros(3, 5))  # type: ignore[union-attr]
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        vlm.generate(prompt)


@pytest.mark.fault("C1")
def test_rows_are_not_taken_for_colours() -> None:
    """Emu3's processor looks for an axis of 3, and finds the rows of an image that is three pixels high."""
    _, processor = build(unusual.emu3)
    encoder = Encoder(processor.tokenizer, processor)
    with pytest.raises(xmi.PromptError, match="takes the rows of image 0 of prompt 0, 40 x 3 pixels for colours"):
        encoder.encode([free("<image>Q:", noise(3, 40))])
    encoder.encode([free("<image>Q:", noise(4, 40))])
    _, processor = build(llava)
    Encoder(processor.tokenizer, processor).encode([free("<image>Q:", noise(3, 40))])


@pytest.mark.fault("C1")
@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_an_image_without_pixels_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(xmi.PromptError, match=rf"no pixels \({size[0]} x {size[1]} pixels\)"):
        open_image(Image.new("RGB", size))


@pytest.mark.parametrize("thing", [np.zeros((8, 8, 3), np.uint8), b"bytes", 3, None, [noise()]])
def test_what_is_no_image_is_refused(thing: Any) -> None:
    with pytest.raises(xmi.PromptError, match=r"PIL\.Image\.fromarray"):
        open_image(thing)
