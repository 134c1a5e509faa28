"""What may be given as a prompt, and that every verb means the same by it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import xmi
from tests.night import times
from tests.prompt.test_alone import picture, vlm_of
from xmi.prompt import Batch, Prompt, Prompts, Segment, Template, as_prompts
from xmi.vlm import VLM

TEXT = "Q:Greece\nA:"


@cache
def vlm() -> VLM:
    return xmi.load("organism")


@cache
def task() -> xmi.prompt.Task:
    return xmi.task("country-capital")


@cache
def other() -> Prompts:
    return xmi.task("food-color").icl("text", shots=1, n=2)


@cache
def vector() -> Any:
    return vlm().task_vector(task().icl("text", n=4))


def labelled(text: str = TEXT) -> Prompt:
    delimiter = Segment("delimiter", "\nA:", query=True)
    return Prompt((Segment("text", text.removesuffix("\nA:")), delimiter), "country-capital", "Greece", "Athens")


VERBS: dict[str, Callable[[Any], Any]] = {
    "encode": lambda p: vlm().encode(p),
    "run_with_cache": lambda p: vlm().run_with_cache(p, names="resid_post", positions="last"),
    "run_with_hooks": lambda p: vlm().run_with_hooks(p, fwd_hooks=[]),
    "generate": lambda p: vlm().generate(p, max_new_tokens=2),
    "residuals": lambda p: vlm().residuals(p),
    "residuals_at": lambda p: vlm().residuals_at(p, ["last"]),
    "vectors_at": lambda p: vlm().vectors_at(p, ["last"]),
    "nested_vectors": lambda p: vlm().nested_vectors(p, [1]),
    "task_vector": lambda p: vlm().task_vector(p),
    "answers": lambda p: vlm().answers(p),
    "lens": lambda p: vlm().lens(p, k=2),
    "trajectory": lambda p: vlm().trajectory(p),
    "pattern": lambda p: vlm().pattern(p, 3),
    "phases": lambda p: vlm().phases(p, task_words=["capital"]),
    "phases_and_answers": lambda p: vlm().phases_and_answers(p, task_words=["capital"]),
    "find_task_words": lambda p: vlm().find_task_words([p, other()]),
    "tune_lens": lambda p: vlm().tune_lens(p, steps=1),
    "transfer": lambda p: vlm().transfer(vector(), to=p, layers=[2]),
    "compare_base": lambda p: vlm().compare_base(vlm(), p),
}
LABELLED = ("phases", "phases_and_answers", "find_task_words", "tune_lens")


def trace(prompt: Any) -> Any:
    with vlm().trace(prompt):
        found = vlm().resid_post[5].save()
    return found


ALL = {**VERBS, "trace": trace}


@pytest.mark.fault("A4")
def test_every_verb_that_takes_prompts_is_tried() -> None:
    taking = {
        name
        for name, member in inspect.getmembers(VLM, inspect.isfunction)
        if not name.startswith("_") and {"prompt", "prompts", "to"} & {*inspect.signature(member).parameters}
    }
    shared = {"accepted", "encoded", "prepared", "batches"}  # what verbs make batches with
    assert taking - shared - {"ensembling", "ensembling_of"} == set(ALL)  # there it is a list of numbers


def numbers(result: Any) -> list[torch.Tensor]:
    """All numbers of a result, whatever it is, and the letters of what was answered."""
    if hasattr(result, "predicted"):
        return [torch.tensor([ord(c) for c in str(result.predicted)]), *numbers(vars(result))]
    if isinstance(result, (torch.Tensor, np.ndarray)):
        return [torch.as_tensor(result).double()] if torch.as_tensor(result).dtype != torch.bool else []
    if isinstance(result, (list, tuple)):
        return [n for part in result for n in numbers(part)]
    if hasattr(result, "keys") and not isinstance(result, Batch):
        return [n for key in result.keys() for n in numbers(result[key])]  # noqa: SIM118
    if isinstance(result, Batch):
        return numbers(list(result.inputs.values()))
    return [n for part in vars(result).values() for n in numbers(part)] if hasattr(result, "__dict__") else []


def equal(one: Any, two: Any) -> None:
    pairs = list(zip(numbers(one), numbers(two), strict=True))
    assert pairs
    for a, b in pairs:
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5, equal_nan=True)


UNLABELLED = [name for name in ALL if name not in LABELLED]


@pytest.mark.fault("A4")
@pytest.mark.parametrize("verb", UNLABELLED)
def test_text_is_one_prompt_and_never_a_sequence_of_characters(verb: str) -> None:
    expected = ALL[verb](xmi.free_prompt(TEXT))
    for same in (TEXT, [TEXT], (TEXT,), xmi.free_prompt(TEXT)[0], [xmi.free_prompt(TEXT)], iter([TEXT])):
        equal(ALL[verb](same), expected)


@pytest.mark.fault("A4")
@pytest.mark.parametrize("verb", [*LABELLED, "answers", "transfer"])
def test_verbs_that_need_labels_take_them_from_wherever_they_stand(verb: str) -> None:
    if verb == "tune_lens":
        two = [labelled(), replace(labelled("Q:Italy\nA:"), input="Italy")]
        equal(VERBS[verb](two), VERBS[verb](Prompts(tuple(two), "free")))
        return
    expected = VERBS[verb](Prompts((labelled(),), "free", task="country-capital"))
    for same in (labelled(), [labelled()], vlm().encode(labelled()), vlm().encode(labelled(), padding_side="right")):
        equal(VERBS[verb](same), expected)


@pytest.mark.fault("A4")
@pytest.mark.parametrize(
    "verb", [name for name in ALL if name not in (*LABELLED, "compare_base", "trace", "generate", "pattern")]
)
def test_a_batch_is_read_as_it_is_on_whichever_side_it_is_padded(verb: str) -> None:
    prompts = [TEXT, "The city", *task().icl("image", n=2)]
    expected = ALL[verb](prompts)
    equal(ALL[verb](vlm().encode(prompts)), expected)
    if verb not in ("encode", "run_with_cache", "run_with_hooks"):
        equal(ALL[verb](vlm().encode(prompts, padding_side="right")), expected)


@pytest.mark.fault("A3")
@pytest.mark.parametrize("form", ["processor", "tokenizer", "lists", "numpy", "ids"])
def test_what_the_models_own_processor_gives_is_taken_as_such(form: str) -> None:
    """Beside what xmi encodes itself; a prompt's segments are not known, its last token and images are."""
    processor, tool = vlm().encoder.processor, vlm().encoder.tokenizer
    texts = ["Q:<image>\nA:", "The city Q:<image>\nA:"] if form == "processor" else [TEXT, "The city of Greece"]
    image = picture(112, 112)
    prompts = [xmi.free_prompt(text, [image] * text.count("<image>")) for text in texts]
    if form == "processor":
        made: Any = processor(text=texts, images=[[image], [image]], padding=True, return_tensors="pt")
    elif form == "ids":
        prompts, made = prompts[:1], tool(texts[:1], return_tensors="pt")["input_ids"]
    else:
        made = tool(texts, **({"padding": True, "return_tensors": "np"} if form == "numpy" else {}))
    expected, found = vlm().encode(prompts), vlm().encode(made)
    for name, value in expected.inputs.items():
        assert torch.equal(found.inputs[name], value), name
    for row in range(len(expected)):
        assert found.modalities(row) == expected.modalities(row)
        assert found.roles(row) == expected.roles(row)
    assert (found.patches == expected.patches).all()
    assert [p.answer for p in found.prompts] == [None] * len(found)
    for verb in ("run_with_cache", "generate", "residuals", "lens", "trace", "answers", "transfer"):
        if form == "processor" and verb == "transfer":  # a way of sweeping is proven on prompts that are encoded again
            vlm().engine.ways.clear()
            with pytest.raises(xmi.PromptError, match="Give them as text and images"):
                ALL[verb](made)
        expected = ALL[verb](prompts)
        equal(ALL[verb](made), expected)
    with pytest.raises(xmi.PromptError, match="Both models encode"):
        VERBS["compare_base"](made)


@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "idefics3", "pixtral", "gemma3", "paligemma"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_encoded_images_of_other_families(name: str, side: str) -> None:
    """An image is where xmi's own encoding has it, with or without what frames it."""
    one = vlm_of(name)
    prompts = [xmi.free_prompt(f"<image>{text}", picture(40, 48)) for text in ("Q:Greece\nA:", "Italy")]
    expected = one.encode(prompts, padding_side=side)  # type: ignore[arg-type]
    given = {k: v for k, v in expected.inputs.items() if k != "position_ids"}
    found = one.encode(given, padding_side="left")
    wanted = expected.padded("left")
    assert all(torch.equal(found.inputs[key], value) for key, value in wanted.inputs.items() if key in given)
    for row in range(2):
        pairs = list(zip(found.modalities(row), wanted.modalities(row), strict=True))
        assert {b for a, b in pairs if a == "image 0"} == {"image 0"}
        assert {a for a, b in pairs if b == "text"} == {"text"}
        assert found.prompts[row].images and len(found.prompts[row].images) == 1
    _, cache = one.run_with_cache(found, names="resid_post", positions="last")
    _, right = one.run_with_cache(expected, names="resid_post", positions="last")
    torch.testing.assert_close(cache.stack("resid_post"), right.stack("resid_post"), atol=1e-4, rtol=1e-4)


@pytest.mark.fault("A3")
@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"input_ids": [[1, 2], [3]], "attention_mask": [[1, 1]]}, "attention_mask is"),
        ({"input_ids": torch.zeros(2, 2)}, "whole numbers"),
        ({"input_ids": "Q:"}, "str 'Q:', not numbers"),
        ({"input_ids": [["a"]]}, "not numbers"),
        ({"input_ids": []}, "not numbers"),
        ({"input_ids": torch.zeros(2, 0, dtype=torch.long)}, "whole numbers"),
        ({"input_ids": torch.tensor([[3, 1, 5]])}, "attention_mask that says"),
        ({"input_ids": torch.tensor([[1, 5]]), "attention_mask": torch.tensor([[0, 0]])}, r"Row\(s\) \[0\]"),
        ({"input_ids": torch.tensor([[1, 5]]), "pixels": torch.ones(1, 3)}, "hold pixels, which .* does not take"),
        (
            {"input_ids": torch.tensor([[1, 5]]), "pixel_values": [np.ones(3)]},
            "pixel_values of the encoded .*return_tensors",
        ),
        (torch.ones(1, 5000, dtype=torch.long), "5000 tokens, the model takes"),
        ({"input_ids": torch.tensor([[1, 5]]), 3: torch.ones(1)}, "hold 3, which"),
        (torch.tensor([[1, 99999]]), "Tokens 1 to 99999 are given, the model has 0 to"),
        (torch.tensor([[-5, 1]]), "Tokens -5 to 1 are given"),
    ],
)
def test_encoded_inputs_that_cannot_be_are_refused(made: Any, message: str) -> None:
    with pytest.raises(xmi.PromptError, match=message):
        vlm().encode(made)


@pytest.mark.fault("A3")
def test_ids_of_another_model_are_refused() -> None:
    with pytest.raises(xmi.PromptError, match="Tokens 5 to 99999 are given, the model has 0 to"):
        vlm_of("llama").encode(torch.tensor([[5, 99999]]))


@pytest.mark.fault("A3")
def test_encoded_images_are_not_encoded_anew() -> None:
    """A sweep encodes some of its prompts again, which it cannot from inputs alone; text it can."""
    image = vlm().encode(dict(vlm().encode(task().queries("image")[:2]).inputs))
    with pytest.raises(xmi.PromptError, match="cannot be put into another batch"):
        vlm().encode(list(image.prompts))
    text = vlm().encode({"input_ids": vlm().encode([TEXT]).inputs["input_ids"]})
    equal(vlm().encode(list(text.prompts)), text)


class Odd:
    def __repr__(self) -> str:
        raise RuntimeError


NOT_PROMPTS: list[Any] = [
    None, 3, 2.5, True, b"Q:", {TEXT}, frozenset([TEXT]), {}, {"keys": 1}, {"text": TEXT}, {1: 2}.keys(), object(),
    Odd(), [], (), iter([]), [None], [[TEXT]], [3, 4], [b"Q:"], [[]], Path("a.png"), picture(8, 8), np.array([TEXT]),
    len, torch.tensor(3.5), [{"role": "user", "content": "x"}, TEXT], Prompts((), "free"), Prompts((TEXT,), "free"),  # type: ignore[arg-type]
    "", [""], Prompt(()), Prompt((Segment("text", ""),)), "\ud800", "Q:\udfff", ["a\ud83d", TEXT],
]  # fmt: skip


@pytest.mark.fault("C3")
@pytest.mark.parametrize("verb", ALL)
def test_what_is_not_a_prompt_is_refused_by_every_verb(verb: str) -> None:
    for wrong in [*NOT_PROMPTS[verb == "compare_base" :], task()]:  # there None means usual prompts
        with pytest.raises(xmi.PromptError) as raised:
            ALL[verb](wrong)
        str(raised.value).encode()  # it can be printed


@pytest.mark.fault("C3")
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (None, "^None is not a prompt"),
        ([TEXT, 3], r"^int 3 \(number 1 of the list\) is not a prompt.*Token ids are given as a tensor"),
        (b"Q:", "^bytes b'Q:' is not a prompt.*Decode"),
        ({"text": "Q:"}, r"^dict .*A mapping is a chat message.*\['text'\]"),
        ({TEXT}, "^set .*make a list"),
        (Path("a.png"), r"^PosixPath .*xmi.free_prompt\('<image>"),
        ([], "no prompts: an empty list"),
        ("Q:\udfff", "lone surrogate, '\\\\udfff'.*place 2"),
    ],
)
def test_the_refusal_names_what_was_found_and_what_to_do(wrong: Any, message: str) -> None:
    with pytest.raises(xmi.PromptError, match=message):
        vlm().encode(wrong)


@pytest.mark.fault("C3")
@settings(max_examples=times(60))
@given(
    st.recursive(
        st.none() | st.integers() | st.floats() | st.text() | st.binary(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["role", "content", "input_ids", "text"]), inner, max_size=3)
        ),
        max_leaves=6,
    )
)
def test_whatever_is_given_is_encoded_or_refused_in_words(thing: Any) -> None:
    try:
        vlm().encode(thing)
    except xmi.XmiError as error:
        str(error).encode()


@pytest.mark.fault("A4")
def test_a_set_keeps_what_is_known_of_it() -> None:
    icl = task().icl("text", n=4)
    assert as_prompts(icl) is icl
    assert as_prompts([icl[:2], icl[2:]]) == icl
    mixed = as_prompts([icl[0], icl[1]])
    assert (mixed.task, mixed.template, mixed.prompts) == (icl.task, icl.template, icl.prompts[:2])
    with pytest.raises(xmi.PromptError, match=r"different templates, with delimiter '\\nA:' and ' ->'"):
        vlm().answers([labelled(), Prompt((Segment("delimiter", " ->", query=True),), answer="Athens")])
    arrows = Prompt((Segment("input", "Greece", query=True), Segment("delimiter", " ->", query=True)), answer="Athens")
    assert as_prompts(arrows).template == Template(delimiter=" ->"), "labels follow the prompt's own delimiter"


@pytest.mark.fault("B14")
@pytest.mark.parametrize("kind", ["str", "Path", "PIL"])
def test_one_image_needs_no_list(kind: str, tmp_path: Path) -> None:
    picture(40, 40).save(tmp_path / "one.png")
    image: Any = {"str": str(tmp_path / "one.png"), "Path": tmp_path / "one.png", "PIL": picture(40, 40)}[kind]
    expected = vlm().encode(xmi.free_prompt("Q:<image>\nA:", [picture(40, 40)]))
    equal(vlm().encode(xmi.free_prompt("Q:<image>\nA:", image)), expected)
    equal(vlm().encode(xmi.free_prompt("Q:<image>\nA:", (image,))), expected)


@pytest.mark.fault("B14")
@pytest.mark.parametrize("images", [None, 3, b"x", np.zeros((8, 8, 3)), {"a.png"}])
def test_images_that_are_not_are_refused(images: Any) -> None:
    with pytest.raises(xmi.PromptError, match="images is one file or PIL image, or a list"):
        xmi.free_prompt("Q:<image>", images)


OWN = {"llava": "<image>", "qwen2_vl": "<|image_pad|>", "idefics3": "<image>", "pixtral": "[IMG]"}
FRAMED = {"qwen2_vl": "<|vision_start|><|image_pad|><|vision_end|>"}


@pytest.mark.fault("B16")
@pytest.mark.parametrize("name", OWN)
def test_the_models_own_placeholder_is_a_marker(name: str) -> None:
    one = vlm_of(name)
    images = [picture(40, 48), picture(64, 30)]
    expected = one.encode(xmi.free_prompt("The <image>Q:<image>\nA:", images))
    for text in (OWN[name], FRAMED.get(name, OWN[name])):
        found = one.encode(xmi.free_prompt(f"The {text}Q:{text}\nA:", images, marker=OWN[name]))
        equal(found, expected)
        assert (found.roles(0), found.modalities(0)) == (expected.roles(0), expected.modalities(0))
    if name == "qwen2_vl":
        mixed = "The <|vision_start|><image><|vision_end|>Q:<image>\nA:"
        equal(one.encode(xmi.free_prompt(mixed, images)), expected)
        with pytest.raises(xmi.PromptError, match="framed on one side only"):
            one.encode(xmi.free_prompt("The <|vision_start|><image>Q:", images[0]))


@pytest.mark.fault("B16")
@pytest.mark.parametrize(
    "text", ["<|vision_start|><|image_pad|><|vision_end|>", "<|image_pad|>", "[IMG]", "<start_of_image>"]
)
def test_a_placeholder_that_is_not_the_marker_is_pointed_out(text: str) -> None:
    marker = "<|image_pad|>" if "pad" in text else text
    said = rf"pass marker='{marker}'".replace("|", r"\|").replace("[", r"\[")
    with pytest.raises(xmi.PromptError, match=f"0 place.s. for images.*{said}"):
        xmi.free_prompt(f"{text}Q:", picture(40, 48))
    if "pad" in text:
        with pytest.raises(xmi.PromptError, match=rf"image placeholder .*{said.removeprefix('pass ')}"):
            vlm_of("qwen2_vl").encode(f"{text}Q:")


def test_a_placeholder_in_two_segments_is_seen() -> None:
    with pytest.raises(xmi.PromptError, match="contains the image placeholder"):
        vlm_of("qwen2_vl").encode(Prompt((Segment("text", "<|image"), Segment("text", "_pad|>"))))
