"""What a prompt becomes is a function of that prompt alone, whatever stands beside it in a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import xmi
from tests.prompt.test_token_roles import Plain, prompt, tokenizer
from tests.zoo import grids, models, towers
from tests.zoo.family import build
from xmi.prompt import Encoder, Prompt, Segment
from xmi.vlm import VLM

Side = Literal["left", "right"]
FAMILIES: dict[str, Callable[[], Any]] = {
    "organism": lambda: None,
    "llama": models.llama,
    "gpt2": models.gpt2,
    "llava": models.llava,
    "qwen2_vl": models.qwen2_vl,
    "idefics3": models.idefics3,
    "gemma3": towers.gemma3,
    "pixtral": towers.pixtral,
    "paligemma": towers.paligemma,
    "mllama": grids.mllama,
    "gemma4": grids.gemma4,
}
FAST = ("organism", "llava", "qwen2_vl")


@cache
def vlm_of(name: str) -> VLM:
    if name == "organism":
        return xmi.load("organism")
    model, tool = build(FAMILIES[name])
    return xmi.load(model, processor=tool, check=False)


def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width).integers(0, 255, (height, width, 3), dtype=np.uint8))


def pool(name: str) -> list[Prompt]:
    """Prompts that differ in all that has ever mattered: BOS, images, how many and how large, and length."""
    vlm = vlm_of(name)
    bos = vlm.encoder.tokenizer.bos_token or ""
    texts = ["Q:Greece\nA:", f"{bos}Q:Greece\nA:", f"{bos}{bos}Italy", "The capital city of Italy is Rome.", "A"]
    plain = [Prompt((Segment("text", text),)) for text in texts]
    if vlm.encoder.processor is None:
        return plain
    one, two = Segment("input", image=picture(40, 48)), Segment("input", image=picture(64, 30))
    tail = Segment("text", "Q:\nA:")
    first = [Prompt((one, tail)), Prompt((two, tail)), Prompt((one, Segment("text", "The capital of Italy")))]
    if name == "paligemma":  # it takes one image before a text, and cannot be given others beside it
        return first
    seeing = [*first, Prompt((Segment("text", f"{bos}The city"), one, Segment("text", " of Rome"), two, tail))]
    return seeing if name == "mllama" else [*plain, *seeing]


def real(vlm: VLM, prompts: Sequence[Prompt], side: Side) -> list[tuple[Any, ...]]:
    """For each prompt its tokens, roles, modalities and places, and its residuals, without padding."""
    batch = vlm.encode(prompts, padding_side=side)
    _, cache = vlm.run_with_cache(batch, names="resid_post")
    stream = cache.stack("resid_post")
    found = []
    for row in range(len(prompts)):
        kept = (batch.inputs["attention_mask"][row] > 0).nonzero().flatten().tolist()
        ids, roles, seen = batch.inputs["input_ids"][row].tolist(), batch.roles(row), batch.modalities(row)
        places = batch.places(row)[kept].tolist()
        found.append(([ids[i] for i in kept], [(roles[i], seen[i]) for i in kept], places, stream[:, row, kept]))
    return found


@cache
def alone(name: str, index: int) -> tuple[Any, ...]:
    return real(vlm_of(name), [pool(name)[index]], "left")[0]


def check(name: str, chosen: Sequence[int], side: Side) -> None:
    vlm, prompts = vlm_of(name), pool(name)
    if name == "mllama" and len({len(prompts[i].images) for i in chosen}) > 1:
        with pytest.raises(xmi.PromptError, match="change each other's numbers"):
            real(vlm, [prompts[i] for i in chosen], side)
        return
    for index, found in zip(chosen, real(vlm, [prompts[i] for i in chosen], side), strict=True):
        expected = alone(name, index)
        assert found[:3] == expected[:3], prompts[index].text
        torch.testing.assert_close(found[3], expected[3], atol=2e-4, rtol=2e-4)


SIDES = st.sampled_from(["left", "right"])


@pytest.mark.fault("A1")
@pytest.mark.parametrize("name", FAST)
@settings(max_examples=8)
@given(data=st.data())
def test_batch_mates_change_nothing(name: str, data: st.DataObject) -> None:
    count = len(pool(name))
    check(name, data.draw(st.lists(st.integers(0, count - 1), min_size=2, max_size=5)), data.draw(SIDES))


@pytest.mark.parametrize("name", [n for n in FAMILIES if n not in FAST])
@settings(max_examples=8)
@given(data=st.data())
def test_batch_mates_change_nothing_in_other_families(name: str, data: st.DataObject) -> None:
    count = len(pool(name))
    check(name, data.draw(st.lists(st.integers(0, count - 1), min_size=2, max_size=4)), data.draw(SIDES))


@pytest.mark.fault("A1")
@pytest.mark.parametrize("name", ["organism", "llava", "llama", "gpt2"])
def test_each_text_decides_about_its_own_bos(name: str) -> None:
    """Beside the plain tokenizer: a text that begins with BOS gets no second one, any other gets what it gets alone."""
    tool = vlm_of(name).encoder.tokenizer
    texts = [f"{tool.bos_token}Greece is", "The city of Greece is", tool.bos_token, f" {tool.bos_token}A"]
    expected = [tool(t, add_special_tokens=not t.startswith(tool.bos_token))["input_ids"] for t in texts]
    for side in ("left", "right"):
        batch = vlm_of(name).encode(texts, padding_side=side)
        rows = zip(batch.inputs["input_ids"], batch.inputs["attention_mask"] > 0, strict=True)
        assert [ids[mask].tolist() for ids, mask in rows] == expected


@pytest.mark.fault("A1")
def test_prompts_with_other_numbers_of_images_are_read_in_forwards_of_their_own() -> None:
    """In Mllama text before an image attends to every image column of the batch."""
    vlm = vlm_of("mllama")
    prompts = pool("mllama")
    whole = vlm.residuals(prompts).values
    torch.testing.assert_close(whole, torch.cat([vlm.residuals([p]).values for p in prompts]), atol=1e-4, rtol=1e-4)
    batch = vlm.encode(prompts)
    for verb in (vlm.run_with_cache, vlm.generate, vlm.residuals, lambda b: vlm.run_with_hooks(b, fwd_hooks=[])):
        with pytest.raises(xmi.PromptError, match="1 to 2 images"):
            verb(batch)


@pytest.mark.fault("A1")
def test_a_processor_that_encodes_text_otherwise_beside_images_is_refused() -> None:
    vlm = vlm_of("paligemma")
    with pytest.raises(xmi.PromptError, match="prompt 0, which has no image, differently when other"):
        vlm.encode([Prompt((Segment("text", "Q:Greece\nA:"),)), pool("paligemma")[0]])


def test_pieces_of_a_prompt_are_not_taken_for_a_batch() -> None:
    """A processor that tokenises the pieces of one prompt in one call, of as many pieces as there are prompts."""

    class Pieces(Plain):
        def row(self, text: str) -> list[int]:
            rows = self.tokenizer(text.split("<image>"), add_special_tokens=False)["input_ids"]
            return [1, *(i for k, row in enumerate(rows) for i in ([4] * 3 * (k > 0) + row))]

    tok = tokenizer("<image>")
    encoder = Encoder(tok, Pieces(tok))
    prompts = [*prompt("Q:<image>\nA:"), *prompt("Greece<image>Rome")]
    batch = encoder.encode(prompts)
    for row, single in enumerate(prompts):
        assert batch.roles(row)[-len(encoder.encode([single]).tokens[0]) :] == encoder.encode([single]).roles(0)
