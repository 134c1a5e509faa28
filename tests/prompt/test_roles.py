"""Every token knows its segment: properties over random prompts, and slots by name."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import xmi
from tests.night import times
from tests.zoo import unusual
from tests.zoo.models import WORDS, build, idefics3, llava, qwen2_vl, tokenizer
from xmi.prompt import Encoder, Prompt, Segment

CONTENT = [w for w in WORDS if w.strip() and w != ":"]


def encoder_of(make: object) -> Encoder:
    _, processor = build(make)
    return Encoder(processor.tokenizer, processor)


SIDES = st.sampled_from(["left", "right"])
TEXT = Encoder(tokenizer(), positions=True)
ANYWHERE = (llava, idefics3, qwen2_vl, unusual.janus, unusual.emu3, unusual.chameleon, unusual.idefics)
"""One image token repeated; announced tiles; a chat template's placeholder; frames; sizes in text; an end; lists."""
SEEING = {make.__name__: encoder_of(make) for make in ANYWHERE}
BEFORE = (unusual.fuyu, unusual.blip_2, unusual.instructblip, unusual.kosmos2)
"""Processors that put one image before the text: in the text, by ids before BOS, or by replaced ids."""
FIRST = {make.__name__: encoder_of(make) for make in BEFORE}


def image(seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 255, (int(rng.integers(20, 70)), 40, 3), dtype=np.uint8))


@st.composite
def prompts(draw: st.DrawFn, images: bool, first: bool = False) -> Prompt:
    """A prompt of examples and a query, words or images, with awkward words such as the delimiter's own letter."""
    words = st.sampled_from([*CONTENT, "A", "Q", "A A", "I", "R", "e"])
    segments: list[Segment] = [Segment("image", image=image(draw(st.integers(0, 9))))] if first else []

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


def check(encoder: Encoder, batch_of: list[Prompt], side: Literal["left", "right"] = "left") -> None:
    before = encoder.tokenizer.padding_side
    batch = encoder.encode(batch_of, padding_side=side)
    assert encoder.tokenizer.padding_side == before
    mask = batch.inputs["attention_mask"]
    if encoder.positions:
        assert all(
            p[m > 0].tolist() == list(range(int(m.sum())))
            for p, m in zip(batch.inputs["position_ids"], mask, strict=True)
        )
    for row, prompt in enumerate(batch_of):
        roles, tokens = batch.roles(row), batch.tokens[row]
        real = [(r, t) for r, t in zip(roles, tokens, strict=True) if r != "padding"]
        assert [r == "padding" for r in roles] == (mask[row] == 0).tolist()
        padding = roles[: roles.count("padding")] if side == "left" else roles[len(real) :]
        assert set(padding) <= {"padding"}, "padding is on its side"
        # The tokens of each text segment spell exactly that segment, in order; nothing is lost or shared.
        for segment in prompt.segments:
            spelled = "".join(t for r, t in real if r == segment.name)
            assert spelled == segment.text if segment.image is None else spelled
        assert not any(t in ("<s>", "</s>", "<sep>", "<pad>") for r, t in real if r != "special")
        order = [s.name for s in prompt.segments]
        assert list(dict.fromkeys(r for r, _ in real if r != "special")) == order
        modalities = batch.modalities(row)
        assert len({m for m in modalities if m.startswith("image")}) == len(prompt.images)
        assert len(batch.places(row)) == len(tokens)
        assert all(
            m.startswith("image") for m, place in zip(modalities, batch.places(row), strict=True) if place.max() >= 0
        )
        last, end = (int(batch.columns(slot)[row]) for slot in ("query.delimiter", "last"))
        assert tokens[last] == ":"
        # Behind the prompt stands nothing but what the processor ends every prompt with.
        assert set(roles[last + 1 : end + 1]) <= {"special"}
        assert set(roles[end + 1 :]) <= {"padding"}


@given(st.lists(prompts(images=False), min_size=1, max_size=4), SIDES)
@settings(max_examples=times(60))
def test_roles_of_text_prompts(batch_of: list[Prompt], side: Literal["left", "right"]) -> None:
    check(TEXT, batch_of, side)


@pytest.mark.parametrize("name", [*SEEING, *FIRST])
@given(st.lists(prompts(images=False), min_size=1, max_size=3), SIDES)
@settings(max_examples=8)
def test_roles_of_text_prompts_with_a_processor(
    name: str, batch_of: list[Prompt], side: Literal["left", "right"]
) -> None:
    check({**SEEING, **FIRST}[name], batch_of, side)


@pytest.mark.parametrize("name", list(SEEING))
@given(data=st.data())
@settings(max_examples=times(25))
def test_roles_of_prompts_with_images(name: str, data: st.DataObject) -> None:
    drawn = data.draw(
        st.lists(prompts(images=True), min_size=1, max_size=3).filter(lambda ps: any(p.images for p in ps))
    )
    check(SEEING[name], drawn, data.draw(SIDES))


@pytest.mark.parametrize("name", list(FIRST))
@given(st.lists(prompts(images=False, first=True), min_size=1, max_size=3), SIDES)
@settings(max_examples=times(25))
def test_roles_of_prompts_that_begin_with_an_image(
    name: str, batch_of: list[Prompt], side: Literal["left", "right"]
) -> None:
    check(FIRST[name], batch_of, side)


@pytest.mark.parametrize("name", list(FIRST))
def test_an_image_elsewhere_is_refused_where_it_must_be_first(name: str) -> None:
    for text in ("Q:<image>\nA:", "<image>Q:<image>\nA:"):
        prompt = xmi.free_prompt(text, [image(0)] * text.count("<image>"))
        with pytest.raises(xmi.PromptError, match="before the text"):
            FIRST[name].encode(list(prompt))
    with pytest.raises(xmi.PromptError, match="prompts without images separately"):
        FIRST[name].encode([*xmi.free_prompt("<image>Q:", [image(0)]), *xmi.free_prompt("Q:")])


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
    for name, typed in (("qwen2_vl", "<|image_pad|>"), ("janus", "<image_placeholder>"), ("fuyu", "|SPEAKER|")):
        with pytest.raises(xmi.PromptError, match="contains the image placeholder"):
            {**SEEING, **FIRST}[name].encode(list(xmi.free_prompt(f"Q:{typed}A:")))
    with pytest.raises(xmi.PromptError, match="text-only"):
        TEXT.encode(list(xmi.free_prompt("Q:<image>", [image(0)])))
    with pytest.raises(xmi.PromptError, match="Cannot open the image"):
        seeing.encode(list(xmi.free_prompt("Q:<image>", ["no-such.png"])))
    with pytest.raises(xmi.PromptError, match="takes 8"):
        Encoder(tokenizer(), max_length=8).encode([two_shots()])
    with pytest.raises(xmi.PromptError, match="padding_side"):
        seeing.encode(list(xmi.free_prompt("Q:")), padding_side="top")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", list(SEEING))
def test_images_side_by_side(name: str) -> None:
    """Each gets the tokens it gets alone; where the processor joins them, the prompt is refused."""
    encoder = SEEING[name]
    sizes = [(64, 64), (64, 128), (32, 32)]
    pictures = [Image.fromarray(np.full((h, w, 3), 40 * i, np.uint8)) for i, (h, w) in enumerate(sizes)]
    apart, joined = (
        list(xmi.free_prompt(t, pictures)) for t in ("Q:<image>is<image>is<image>A", "Q:<image><image><image>A")
    )
    if name == "idefics":
        with pytest.raises(xmi.PromptError, match="side by side"):
            encoder.encode(joined)
        return
    found = []
    for prompts_of in (apart, joined):
        batch = encoder.encode(prompts_of)
        kinds = batch.modalities(0)
        found.append([[t for t, m in zip(batch.tokens[0], kinds, strict=True) if m == f"image {k}"] for k in range(3)])
    assert found[0] == found[1]
    assert all(found[0])


def test_empty_segments_are_as_if_they_were_not_there() -> None:
    """A template may have no separator; its images still have their own tokens."""
    image_of = [Segment("input", image=image(k), example=k) for k in range(2)]
    nothing = [Segment("separator", "", example=k) for k in range(2)]
    prompt = Prompt((nothing[0], image_of[0], nothing[1], image_of[1], Segment("delimiter", ":", query=True)))
    batch = SEEING["llava"].encode([prompt])
    assert batch.roles(0) == ("special", *["example[0].input"] * 4, *["example[1].input"] * 4, "query.delimiter")
    before = FIRST["blip_2"].encode([Prompt((nothing[0], image_of[0], Segment("delimiter", "\nA:", query=True)))])
    assert before.roles(0) == (*["example[0].input"] * 5, "special", *["query.delimiter"] * 3)


def test_the_processor_keeps_its_tokenizer() -> None:
    seeing = SEEING["llava"]
    before = seeing.processor.tokenizer
    seeing.encode(list(xmi.free_prompt("Q:<image>\nA:", [image(0)])))
    with pytest.raises(xmi.PromptError):
        seeing.encode([Prompt((Segment("input", image="no-such.png"),))])
    idefics = SEEING["idefics"]
    with pytest.raises(xmi.PromptError, match="side by side"):
        idefics.encode([Prompt((Segment("input", image=image(0)), Segment("input", image=image(1))))])
    assert seeing.processor.tokenizer is before
    assert idefics.processor.tokenizer is idefics.tokenizer
