"""Chat messages are written by the model's own template, with every text and image in its place, or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import xmi
from tests.night import times
from tests.prompt.test_alone import picture
from tests.zoo import grids, models
from tests.zoo.family import build
from xmi.prompt import Encoder

TURNS = "{% for m in messages %}<|turn|>{{ m['role'] }}: "
PARTS = "{% for c in m['content'] %}{% if c['type'] == 'image' %}IMAGE{% else %}{{ c['text'] | trim }}{% endif %}"
CLOSE = "{{ '\\n' }}{% endfor %}{% if add_generation_prompt %}<|turn|>assistant: {% endif %}"
BY_PARTS = f"{TURNS}{PARTS}{{% endfor %}}{CLOSE}"
BY_TEXT = TURNS + "{{ m['content'] }}" + CLOSE
IMAGES_FIRST = (
    TURNS
    + "{% for c in m['content'] if c['type'] == 'image' %}IMAGE{% endfor %}"
    + "{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] }}{% endfor %}"
    + CLOSE
)
LOSES = f"{TURNS}{PARTS}{{% endfor %}}{CLOSE}".replace("{{ c['text'] | trim }}", "...")
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
PLACES = {
    models.llava: "<image>",
    models.qwen2_vl: "<|vision_start|><|image_pad|><|vision_end|>",
    models.idefics3: "<image>",
    grids.mllama: "<|image|>",
}


def seeing(template: str, make: Callable[[], Any] = models.llava) -> Encoder:
    """An encoder whose processor has a template."""
    _, processor = build(make)
    processor.chat_template = template.replace("IMAGE", PLACES[make])
    return Encoder(processor.tokenizer, processor)


def reading(template: str | None) -> Encoder:
    """An encoder of a text-only model."""
    tool = models.tokenizer("<|turn|>")
    tool.chat_template = template
    return Encoder(tool)


def say(text: str, *images: Any, role: str = "user") -> dict[str, Any]:
    return {"role": role, "content": [*({"type": "image", "image": i} for i in images), {"type": "text", "text": text}]}


@pytest.mark.fault("A3")
@pytest.mark.parametrize("make", PLACES, ids=lambda make: make.__name__)
def test_messages_become_what_the_processor_makes_of_them(make: Callable[[], Any]) -> None:
    """Beside `apply_chat_template(tokenize=True)` of the processor itself."""
    encoder = seeing(f"{{{{ bos_token }}}}{BY_PARTS}", make)
    image = picture(56, 56)
    talk = [
        say("The city", role="system"),
        say("Q: Greece", image),
        say("A: Athens", role="assistant"),
        say("Italy", image),
    ]
    expected = encoder.processor.apply_chat_template(
        talk, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    batch = encoder.encode([encoder.chat(talk)])
    for name in set(expected) & set(batch.inputs):
        assert torch.equal(batch.inputs[name], expected[name]), name
    assert {"image 0", "image 1"} < set(batch.modalities(0))
    assert batch.tokens[0].count("<s>") == 1


@pytest.mark.fault("A3")
@pytest.mark.parametrize("template", [BY_TEXT, BY_PARTS])
def test_a_text_only_model_is_given_the_form_of_content_that_its_template_reads(template: str) -> None:
    encoder = reading(template)
    for content in ("Q: Greece", [{"type": "text", "text": "Q: Greece"}]):
        prompt = encoder.chat([{"role": "user", "content": content}])
        assert prompt.text == "<|turn|>user: Q: Greece\n<|turn|>assistant: "


@pytest.mark.fault("A3")
@pytest.mark.parametrize("content", ["Q: Greece", [{"type": "text", "text": "Q: Greece"}]])
def test_text_of_a_template_that_reads_parts_is_not_lost(content: Any) -> None:
    """A template that loops over parts makes nothing of a string, without an error."""
    assert (
        seeing(BY_PARTS).chat([{"role": "user", "content": content}]).text
        == "<|turn|>user: Q: Greece\n<|turn|>assistant: "
    )


@pytest.mark.fault("A3")
def test_a_conversation_a_lone_message_and_several_conversations() -> None:
    model, processor = build(models.llava)
    processor.chat_template = BY_PARTS.replace("IMAGE", "<image>")
    vlm = xmi.load(model, processor=processor, check=False)
    one, two = say("Q: Greece"), say("Q: Rome", picture(40, 40))
    expected = ["<|turn|>user: Q: Greece\n<|turn|>assistant: ", "<|turn|>user: <image>Q: Rome\n<|turn|>assistant: "]
    for given_, texts in (
        (one, expected[:1]),
        ([one], expected[:1]),
        ([[one], [two]], expected),
        (([two], "Italy"), [expected[1], "Italy"]),
    ):
        assert [p.text for p in vlm.encode(given_).prompts] == texts
    both = vlm.encode([one, say("Athens", role="assistant")]).prompts
    assert [p.text for p in both] == ["<|turn|>user: Q: Greece\n<|turn|>assistant: Athens\n<|turn|>assistant: "]
    torch.testing.assert_close(vlm.residuals([two]).values, vlm.residuals([[two]]).values)
    assert vlm.generate(two, max_new_tokens=2).ids.shape == (1, 2)


@pytest.mark.parametrize("source", ["image", "path", "url"])
def test_an_image_may_be_a_file(source: str, tmp_path: Path) -> None:
    picture(40, 40).save(tmp_path / "a.png")
    message = {
        "role": "user",
        "content": [{"type": "image", source: str(tmp_path / "a.png")}, {"type": "text", "text": "Q"}],
    }
    prompt = seeing(BY_PARTS).chat([message])
    assert [str(image) for image in prompt.images] == [str(tmp_path / "a.png")]


@pytest.mark.fault("A3")
@pytest.mark.parametrize(
    ("encoder", "messages", "message"),
    [
        (lambda: reading(None), [say("Q")], "no chat template"),
        (lambda: reading(BY_TEXT), [say("Q", picture(8, 8))], "its tokenizer's and does not handle images"),
        (lambda: reading(BY_TEXT), [say("Q", role="user") | {"content": [say("a")["content"][0]] * 2}], "as code"),
        (lambda: seeing(LOSES), [say("Q: Greece")], "leaves out 'Q: Greece'"),
        (lambda: seeing(NO_SYSTEM + BY_PARTS), [say("Q", role="system")], "System role not supported"),
        (lambda: seeing(BY_PARTS.replace("IMAGE", "")), [say("Q", picture(8, 8))], r"1 image\(s\) and 0 place"),
        (lambda: seeing(BY_PARTS), [say("What is <image>?")], r"0 image\(s\) and 1 place"),
        (lambda: seeing(BY_PARTS), [{"role": "user"}], r"content of message 0 \('user'\) is None"),
        (lambda: seeing(BY_PARTS), [{"role": 3, "content": "Q"}], "role of message 0 is 3"),
        (lambda: seeing(BY_PARTS), [{"role": "user", "content": []}], r"is \[\]"),
        (
            lambda: seeing(BY_PARTS),
            [{"role": "user", "content": [{"type": "video", "video": "a.mp4"}]}],
            "A part of message 0",
        ),
        (lambda: seeing(BY_PARTS), [{"role": "user", "content": [{"type": "image"}]}], "A part of message 0"),
        (
            lambda: seeing(BY_PARTS),
            [{"role": "user", "content": [{"type": "image", "url": "https://a/b.png"}]}],
            "file or a PIL",
        ),
        (lambda: seeing(BY_PARTS), [{"role": "user", "content": ["Q"]}], "A part of message 0"),
    ],
)
def test_messages_that_cannot_be_written_are_refused(
    encoder: Callable[[], Encoder], messages: Any, message: str
) -> None:
    with pytest.raises(xmi.PromptError, match=message):
        encoder().chat(messages)


def test_a_template_may_put_images_first() -> None:
    content = [
        {"type": "text", "text": "Q"},
        {"type": "image", "image": picture(40, 40)},
        {"type": "text", "text": "A"},
    ]
    prompt = seeing(IMAGES_FIRST).chat([{"role": "user", "content": content}])
    assert prompt.text == "<|turn|>user: <image>QA\n<|turn|>assistant: "


@settings(max_examples=times(40))
@given(
    st.lists(st.tuples(st.sampled_from(["user", "assistant", "system"]), st.text(min_size=1, max_size=20)), min_size=1)
)
def test_every_text_is_in_the_prompt_in_order(turns: list[tuple[str, str]]) -> None:
    try:
        text = reading(BY_TEXT).chat([{"role": role, "content": said} for role, said in turns]).text
    except xmi.PromptError:
        return
    assert text == "".join(f"<|turn|>{role}: {said}\n" for role, said in turns) + "<|turn|>assistant: "


def test_a_prompt_of_messages_needs_a_model() -> None:
    with pytest.raises(xmi.PromptError, match="give them to a model"):
        xmi.prompt.as_prompts([say("Q")])
