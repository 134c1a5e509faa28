"""Tasks in a chat frame: the tokens are those of `apply_chat_template`, and slots where truncated conversations end."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Metaspace
from transformers import PreTrainedTokenizerFast

import xmi
from tests.zoo.chat import CHATML, GEMMA, LLAVA, MISTRAL, VICUNA, template_of
from tests.zoo.families import FAMILIES
from tests.zoo.family import Family, build
from tests.zoo.models import NAMES_AND_CITIES, llama, llava, tokenizer
from tests.zoo.oracle import picture
from xmi.prompt import Encoder, Item, Prompts, Task, Template

DAY = "'26 Jul 2024'"
NO_ORACLE = {
    "SmolVLM": "without torchvision its processor has no video part, which its apply_chat_template asks for",
    "GOT-OCR2": "its apply_chat_template nests images, which its processor refuses",
    "IDEFICS": "its processor takes lists of texts and images, which apply_chat_template does not make",
}
"""Families whose own `apply_chat_template` gives nothing to compare with."""
CHAT = [f for f in FAMILIES if not f.refused and f.images != "first" and f.name not in NO_ORACLE]
CLOSED = ("Chameleon",)
"""Families whose processor puts a separator behind every prompt."""
TWICE = ("Emu3",)
"""Families whose processor writes BOS twice, of which xmi keeps one."""
TILED = ("LLaVA-OneVision",)
"""Families in which an image has fewer tokens where there are more, so that the beginning of a conversation differs."""
SYSTEM = "The city"


@cache
def pictures() -> list[Path]:
    folder = Path(mkdtemp(prefix="xmi-frame-"))
    paths = [folder / f"{k}.png" for k in range(4)]
    for k, path in enumerate(paths):
        picture(k).save(path)
    return paths


def task(template: Template, *, images: bool = True) -> Task:
    items = tuple(
        Item(name, city, pictures()[k % 4] if images else None, (("train",) * 5 + ("validation", "test", "test"))[k])
        for k, (name, city) in enumerate(NAMES_AND_CITIES[:8])
    )
    return Task("capital", items, ("The capital of the country:",), ("capital",), template)


def encoder(family: Family) -> Encoder:
    return _encoder(family.name)


@cache
def _encoder(name: str) -> Encoder:
    family = next(one for one in FAMILIES if one.name == name)
    _, tool = family.make()
    own = getattr(tool, "tokenizer", tool)
    processor = tool if own is not tool else None
    place = Encoder(own, processor).placeholder or ""
    tool.chat_template = template_of(family.name, place)
    return Encoder(own, processor)


def messages(prompts: Prompts, system: str, text: bool) -> list[dict[str, Any]]:
    """The conversation of the first prompt, written by hand from the task's items."""
    said: list[dict[str, Any]] = [{"role": "system", "content": [{"type": "text", "text": system}]}] if system else []
    for segment in prompts[0].segments:
        role = "assistant" if segment.role == "answer" else "user"
        if segment.role in ("input", "answer"):
            part = (
                {"type": "text", "text": segment.text}
                if segment.image is None
                else {"type": "image", "image": Image.open(segment.image)}
            )
            said.append({"role": role, "content": [part]})
    return [{**m, "content": m["content"][0]["text"]} for m in said] if text else said


def own_inputs(encoder: Encoder, talk: list[dict[str, Any]], **options: Any) -> dict[str, torch.Tensor]:
    """What the processor, or the tokenizer, itself makes of a conversation."""
    tool = encoder.processor or encoder.tokenizer
    if "strftime_now" in tool.chat_template:
        options["chat_template"] = tool.chat_template.replace("strftime_now('%d %b %Y')", DAY)
    options = {"add_generation_prompt": True, "return_dict": True, "return_tensors": "pt", **options}
    return dict(tool.apply_chat_template(talk, tokenize=True, **options))


@pytest.mark.parametrize("modality", ["text", "image"])
@pytest.mark.parametrize("family", CHAT, ids=lambda family: family.name)
def test_a_framed_task_is_what_the_processor_writes_and_slots_are_where_conversations_end(
    family: Family, modality: str
) -> None:
    code = encoder(family)
    if modality == "image" and code.processor is None:
        pytest.skip("text only")
    system = "" if family.name in ("Pixtral", "Mistral 3") else SYSTEM
    prompts = task(Template.chat(system=system)).icl(modality, shots=2, n=1)
    talk = messages(prompts, system, code.processor is None)
    batch, expected = code.encode(prompts.prompts), own_inputs(code, talk)
    if family.name in TWICE:
        expected = {name: value[:, 1:] for name, value in expected.items() if name.startswith(("input", "att"))}
    for name in set(expected) & set(batch.inputs):
        assert torch.equal(batch.inputs[name], expected[name]), name
    ids = expected["input_ids"][0]
    end = len(ids) - 1 - (family.name in CLOSED)
    assert int(batch.columns("query.delimiter")) == end and int(batch.columns("last")) == len(ids) - 1
    answer, delimiter = (int(batch.columns(f"example[0].{role}")) for role in ("answer", "delimiter"))
    words = [s.text for s in prompts[0].segments if s.role == "answer"]
    assert code.decode(int(ids[answer])).strip() == words[0] and delimiter + 1 == answer
    if modality == "image":
        assert {"image 0", "image 1", "image 2"} <= set(batch.modalities(0))
    if family.name in TILED and modality == "image":
        return
    begun = own_inputs(code, talk[: 1 + bool(system)])["input_ids"][0]  # up to the first generation prompt
    begun = begun[family.name in TWICE : len(begun) - (family.name in CLOSED)]
    assert torch.equal(ids[: len(begun)], begun)
    # Where the template writes a blank before answers, the generation prompt ends one token earlier.
    assert (
        len(begun) in (answer, answer - 1) and not "".join(map(code.decode, ids[len(begun) : answer].tolist())).strip()
    )


def of(template: str | None, make: Any = llava) -> xmi.VLM:
    model, tool = build(make)
    tool.chat_template = template and template.replace("IMAGE", "<image>")
    return xmi.load(model, processor=tool, check=False)


@pytest.mark.parametrize("template", [CHATML, LLAVA, GEMMA, MISTRAL], ids=["chatml", "llava", "gemma", "mistral"])
def test_verbs_run_in_the_frame(template: str) -> None:
    """Answers are scored by the token that the template writes after its generation prompt; one slot, one patch."""
    vlm, framed = of(template), task(Template.chat())
    prompts, queries = framed.icl("image", shots=2, n=3), framed.queries("text")
    answers = vlm.answers(prompts)
    for row, prompt in enumerate(prompts):
        inputs = own_inputs(vlm.encoder, messages(Prompts((prompt,), "x"), "", False))
        with torch.no_grad():
            logits = vlm.model(**inputs).logits[0, -1].log_softmax(-1)
        label = vlm.encoder.tokenizer.convert_tokens_to_ids(str(prompt.answer))
        np.testing.assert_allclose(answers.log_probability[row], float(logits[label]), atol=1e-4)
        assert answers.predicted[row] == vlm.encoder.decode(int(logits.argmax()))
    vector = vlm.task_vector(prompts)
    assert vector.card.template == vlm.encoder.written(framed.template).hash
    sweep = vlm.transfer(vector, to=queries)
    one = vlm.residuals(queries, slot="query.delimiter").values
    torch.testing.assert_close(one, vlm.residuals(queries).values)
    assert sweep.paper.shape == (1, 4, 2) and vlm.phases(prompts).probability.shape == (3, 5, 3)
    assert len(vlm.override(framed, replace(framed, name="other"), shots=1, n=2, layers=[1]).units) == 3
    again = vlm.answers([*prompts])
    assert again.predicted == answers.predicted and again.prompts == answers.prompts
    assert vlm.answers(vlm.encode(prompts)).predicted == answers.predicted
    plain = task(Template()).queries("text")
    with pytest.raises(xmi.VectorError, match="Extract it again with the queries' template"):
        vlm.transfer(vector, to=plain)
    with pytest.raises(xmi.PromptError, match="in a chat frame"):
        vlm.residuals([*prompts, *plain])


TEXT, LOOP = "{{ c['text'] }}", "{% for m in messages %}"
WRONG = [
    (None, {}, "no chat template.*tasks with a plain Template"),
    (MISTRAL, {"system": "Be brief."}, "Only user and assistant roles are supported"),
    (
        CHATML.replace(LOOP, "{% for m in messages if m['role'] != 'system' %}"),
        {"system": "Be brief."},
        "out the system",
    ),
    (CHATML.partition("{% if add_generation_prompt")[0], {}, "would not be the next token"),
    (GEMMA, {"prefix": " The"}, "changes texts of the prompt"),
    (CHATML.replace(TEXT, "..."), {}, "leaves out"),
    (CHATML.replace(TEXT, "{{ c['text'] + c['text'] }}"), {}, "repeats"),
    (CHATML.replace("IMAGE", ""), {}, r"2 image\(s\) and 0 place"),
    (CHATML.replace(LOOP, "{% for m in messages | reverse %}"), {}, "in another order"),
]


@pytest.mark.parametrize(("template", "given", "said"), WRONG, ids=map(str, range(len(WRONG))))
def test_what_cannot_be_framed_is_refused(template: str | None, given: dict[str, str], said: str) -> None:
    vlm, framed = of(template), task(Template.chat(**given))
    with pytest.raises(xmi.PromptError, match=said):
        vlm.encode(framed.icl("image", shots=1, n=1))


def test_roles_that_no_conversation_has_are_refused() -> None:
    with pytest.raises(xmi.PromptError, match="role of message 0 is 'bot'; roles are system"):
        of(CHATML).encode([{"role": "bot", "content": "Q"}])


def test_a_text_only_model_is_given_nothing_that_its_template_does_not_write() -> None:
    """`apply_chat_template` of a tokenizer adds no BOS, though the tokenizer does."""
    tool = tokenizer()
    tool.chat_template = CHATML
    code = Encoder(tool)
    framed = task(Template.chat(), images=False).queries("text", n=2)
    batch = code.encode(framed.prompts)
    for row, prompt in enumerate(framed):
        talk = [{"role": "user", "content": prompt.input}]
        assert batch.inputs["input_ids"][row].tolist()[-1] == own_inputs(code, talk)["input_ids"][0, -1]
        assert code.encode([prompt]).inputs["input_ids"].tolist() == own_inputs(code, talk)["input_ids"].tolist()
    assert of(CHATML, llama).residuals(framed).values.shape == (2, 4, 64)


def test_templates_of_chats_and_plain_ones_keep_their_hashes() -> None:
    assert Template().hash == "257926f17282"  # it stands in the cards of all vectors
    assert len({t.hash for t in (Template(), Template.chat(), Template.chat(system="x"), Template("", "", ""))}) == 4
    with pytest.raises(xmi.XmiError, match="system"):
        Template.chat(system=3)  # type: ignore[arg-type]


def test_a_label_begins_with_the_blank_that_the_template_writes_before_answers() -> None:
    """With tokens of whole words, blank included, as sentencepiece has them: `ASSISTANT:`, then ` Athens`."""
    words = ["<unk>", "USER:", "ASSISTANT:", *(f"{b}{w}" for pair in NAMES_AND_CITIES for w in pair for b in ("", "▁"))]
    raw = Tokenizer(WordLevel({word: i for i, word in enumerate(dict.fromkeys([*words, "▁ASSISTANT:"]))}, "<unk>"))
    raw.pre_tokenizer = Metaspace(prepend_scheme="never")
    tool = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", pad_token="<unk>", eos_token="<unk>")
    tool.chat_template = VICUNA
    code, framed = Encoder(tool), task(Template.chat(), images=False)
    prompts = framed.queries("text", n=1)
    talk = [{"role": "user", "content": prompts[0].input}]
    asked = own_inputs(code, talk)["input_ids"][0]
    told = [*talk, {"role": "assistant", "content": prompts[0].answer}]
    said = own_inputs(code, told, add_generation_prompt=False)["input_ids"][0]
    assert torch.equal(said[: len(asked)], asked)
    assert code.encode(prompts.prompts).inputs["input_ids"].tolist() == [asked.tolist()]
    [label] = code.answer_ids(prompts.prompts, code.written(framed.template)).tolist()
    assert label == int(said[len(asked)]) and tool.convert_ids_to_tokens(label) == f"▁{prompts[0].answer}"
