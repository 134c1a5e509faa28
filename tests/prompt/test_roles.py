"""Every token knows its segment: properties over random prompts, and slots by name."""

from __future__ import annotations

import string

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import xmi
from tests.zoo.models import WORDS, build, idefics3, llava, qwen2_vl, tokenizer
from xmi.prompt import Encoder, Prompt, Segment

CONTENT = [w for w in WORDS if w.strip() and w != ":"]


def encoder_of(make: object) -> Encoder:
    _, processor = build(make)
    return Encoder(processor.tokenizer, processor)


TEXT = Encoder(tokenizer())
SEEING = {"llava": encoder_of(llava), "idefics3": encoder_of(idefics3), "qwen2_vl": encoder_of(qwen2_vl)}


def image(seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 255, (int(rng.integers(20, 70)), 40, 3), dtype=np.uint8))


@st.composite
def prompts(draw: st.DrawFn, images: bool) -> Prompt:
    """A prompt of examples and a query, words or images, with awkward words such as the delimiter's own letter."""
    words = st.sampled_from([*CONTENT, "A", "Q", "A A"])
    segments: list[Segment] = []

    def add(example: int | None) -> None:
        query = example is None
        segments.append(Segment("prefix", "Q:", example=example, query=query))
        if images and draw(st.booleans()):
            segments.append(Segment("input", image=image(draw(st.integers(0, 9))), example=example, query=query))
        else:
            segments.append(Segment("input", draw(words), example=example, query=query))
        segments.append(Segment("delimiter", "\nA:", example=example, query=query))

    for k in range(draw(st.integers(0, 3))):
        add(k)
        segments.append(Segment("answer", draw(words), example=k))
        segments.append(Segment("separator", "\n\n", example=k))
    add(None)
    return Prompt(tuple(segments), "t", "x", "Rome")


def check(encoder: Encoder, batch_of: list[Prompt]) -> None:
    batch = encoder.encode(batch_of)
    for row, prompt in enumerate(batch_of):
        roles, tokens = batch.roles(row), batch.tokens[row]
        real = [(r, t) for r, t in zip(roles, tokens, strict=True) if r != "padding"]
        assert [r == "padding" for r in roles] == (batch.inputs["attention_mask"][row] == 0).tolist()
        assert roles[: roles.count("padding")] == ("padding",) * roles.count("padding"), "padding is on the left"
        # The tokens of each text segment spell exactly that segment, in order; nothing is lost or shared.
        for segment in prompt.segments:
            spelled = "".join(t for r, t in real if r == segment.name)
            if segment.image is None:
                assert spelled == segment.text
            else:
                assert spelled.count("<image>") + spelled.count("<|image_pad|>") >= 1
                assert set(spelled) - set(string.ascii_letters + string.digits + "<>|_-\n") == set()
        order = [s.name for s in prompt.segments]
        assert list(dict.fromkeys(r for r, _ in real if r != "special")) == order
        modalities = batch.modalities(row)
        assert len({m for m in modalities if m.startswith("image")}) == len(prompt.images)
        last = int(batch.columns("query.delimiter")[row])
        assert tokens[last] == ":"
        assert last == len(tokens) - 1 == int(batch.columns("last")[row])


@given(st.lists(prompts(images=False), min_size=1, max_size=4))
@settings(max_examples=60)
def test_roles_of_text_prompts(batch_of: list[Prompt]) -> None:
    check(TEXT, batch_of)


@pytest.mark.parametrize("name", list(SEEING))
@given(data=st.data())
@settings(max_examples=25)
def test_roles_of_prompts_with_images(name: str, data: st.DataObject) -> None:
    """One processor repeats an image token, one splits images into announced tiles, one merges patches."""
    drawn = data.draw(
        st.lists(prompts(images=True), min_size=1, max_size=3).filter(lambda ps: any(p.images for p in ps))
    )
    check(SEEING[name], drawn)


def two_shots() -> Prompt:
    parts = [("Q:", "Greece", "\nA:", "Athens"), ("Q:", "Italy", "\nA:", "Rome")]
    segments: list[Segment] = []
    for k, (prefix, x, delimiter, y) in enumerate(parts):
        segments += [Segment("prefix", prefix, example=k), Segment("input", x, example=k)]
        segments += [Segment("delimiter", delimiter, example=k), Segment("answer", y, example=k)]
        segments += [Segment("separator", "\n\n", example=k)]
    return Prompt((*segments, Segment("prefix", "Q:", query=True), Segment("input", "Peru", query=True)))


def test_slots_by_name() -> None:
    batch = TEXT.encode([two_shots()])
    found = {s: batch.tokens[0][int(batch.columns(s)[0])] for s in ("example[0].answer", "example[-1].answer", "last")}
    assert found == {"example[0].answer": "Athens", "example[-1].answer": "Rome", "last": "Peru"}
    first, last = (int(batch.columns(f"example[{k}].delimiter")[0]) for k in (0, -1))
    assert batch.tokens[0][first] == batch.tokens[0][last] == ":"
    assert last - first == 8  # Athens, blank line, Q, :, Italy, newline, A, :


@pytest.mark.parametrize("slot", ["query.delimiter", "example[2].answer", "example[-3].input", "instruction", "???"])
def test_missing_slots_are_refused(slot: str) -> None:
    with pytest.raises(xmi.SlotError, match="last"):
        TEXT.encode([two_shots()]).columns(slot)


def test_a_slot_whose_token_reaches_on_is_refused() -> None:
    """`pa` + `ge` become the one token `page` of this tokenizer, so the slot between them has no token of its own."""
    segments = (Segment("delimiter", "Gre", query=True), Segment("answer", "ece", query=True))
    with pytest.raises(xmi.SlotError, match="ambiguous"):
        TEXT.encode([Prompt(segments)]).columns("query.delimiter")


def test_first_token_follows_the_delimiter() -> None:
    tok = TEXT.tokenizer
    assert TEXT.first_token("\nA:", "Athens") == tok.convert_tokens_to_ids("Athens")
    with pytest.raises(xmi.PromptError, match="merges"):
        TEXT.first_token("Gre", "ece")
    with pytest.raises(xmi.PromptError, match="no token"):
        TEXT.first_token("\nA:", "")


def test_bad_prompts_are_refused(tmp_path: object) -> None:
    seeing = SEEING["llava"]
    with pytest.raises(xmi.PromptError, match=r"2 place\(s\) for images"):
        xmi.free_prompt("<image> and <image>", [image(0)])
    with pytest.raises(xmi.PromptError, match="empty"):
        xmi.free_prompt("")
    with pytest.raises(xmi.PromptError, match="no prompts"):
        seeing.encode([])
    with pytest.raises(xmi.PromptError, match="placeholder"):
        seeing.encode([Prompt((Segment("input", "a <image> b"),))])
    with pytest.raises(xmi.PromptError, match="text-only"):
        TEXT.encode(list(xmi.free_prompt("Q:<image>", [image(0)])))
    with pytest.raises(xmi.PromptError, match="Cannot open the image"):
        seeing.encode(list(xmi.free_prompt("Q:<image>", ["no-such.png"])))
    with pytest.raises(xmi.PromptError, match="takes 8"):
        Encoder(tokenizer(), max_length=8).encode([two_shots()])
    with pytest.raises(xmi.PromptError, match="side by side"):
        seeing.encode(list(xmi.free_prompt("Q:<image><image>", [image(0), image(1)])))


def test_the_processor_keeps_its_tokenizer() -> None:
    seeing = SEEING["llava"]
    before = seeing.processor.tokenizer
    seeing.encode(list(xmi.free_prompt("Q:<image>\nA:", [image(0)])))
    with pytest.raises(xmi.PromptError):
        seeing.encode([Prompt((Segment("input", image=image(0)), Segment("input", image=image(1))))])
    assert seeing.processor.tokenizer is before


def test_transparent_images_lie_on_white() -> None:
    seeing = SEEING["llava"]
    clear, white = Image.new("RGBA", (32, 32), (255, 0, 0, 0)), Image.new("RGB", (32, 32), "white")
    pixels = [seeing.encode(list(xmi.free_prompt("Q:<image>", [i]))).inputs["pixel_values"] for i in (clear, white)]
    assert (pixels[0] == pixels[1]).all()
