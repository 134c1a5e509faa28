"""Tokens are traced to their segments whatever a processor does with them, or the prompt is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers.models import BPE

import xmi
from tests.zoo import unusual
from tests.zoo.models import build, llava, tokenizer
from xmi.prompt import Encoder, Prompt, Segment

PICTURE = Image.fromarray(np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3))


class Plain:
    """A processor in the manner of models whose code comes with the checkpoint; `text` becomes `ids` as they like."""

    image_token = "<image>"

    def __init__(self, tok: Any, between: tuple[int, ...] = (4, 4, 4)) -> None:
        self.tokenizer = tok
        self.between = between

    def __call__(self, text: list[str], images: Any = None, padding: Any = None, return_tensors: Any = None) -> Any:
        rows = [self.row(t) for t in text]
        width = max(map(len, rows))
        mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows])
        return {"input_ids": torch.tensor([[0] * (width - len(r)) + r for r in rows]), "attention_mask": mask}

    def row(self, text: str) -> list[int]:
        return self.tokenizer(text)["input_ids"]


class Chunks(Plain):
    """Tokenises what stands between images, piece by piece, and puts numbers of its own between."""

    def row(self, text: str) -> list[int]:
        ids = [1]
        for k, chunk in enumerate(text.split("<image>")):
            ids += [*self.between] * (k > 0) + self.tokenizer.encode(chunk, add_special_tokens=False) * bool(chunk)
        return ids


class Shouts(Plain):
    def row(self, text: str) -> list[int]:
        return super().row(text.upper())


class Cuts(Plain):
    def row(self, text: str) -> list[int]:
        return self.tokenizer(text, truncation=True, max_length=8)["input_ids"]


class Adds(Plain):
    """Writes BOS and words of its own around the prompt."""

    def row(self, text: str) -> list[int]:
        return super().row("<s>The city." + text.replace("<image>", "<image>" * 3) + ".")


class Forgets(Plain):
    def row(self, text: str) -> list[int]:
        return super().row(text.replace("<image>", ""))


class Mumbles(Plain):
    """Repeats the prompt's own words where the image stands, so that neither can be told from the other."""

    def row(self, text: str) -> list[int]:
        return super().row(text.replace("<image>", "Q:<image>Q:"))


def byte_level() -> Any:
    """Bytes as letters, with blanks cut off the spans of tokens, as in GPT-2 and Llama 3."""
    raw = Tokenizer(BPE())
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", "<unk>", "<image>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(["Q: Greece\nA: Athens\n\n"] * 5, trainer)
    bos = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    raw.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), bos])
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return hf.PreTrainedTokenizerFast(tokenizer_object=raw, additional_special_tokens=["<image>"], **names)


def metaspace(scheme: str) -> Any:
    """Blanks as letters, one more before the text or before every piece of it, and bytes for what is not known."""
    raw = Tokenizer(BPE(byte_fallback=True, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    special = ["<pad>", "<s>", "</s>", "<unk>", "<image>", *(f"<0x{i:02X}>" for i in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    raw.train_from_iterator(["Q: Greece\nA: Athens\n\n"], trainer)
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    raw.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return hf.PreTrainedTokenizerFast(tokenizer_object=raw, additional_special_tokens=["<image>"], **names)


@pytest.mark.parametrize(
    "tok", [byte_level(), *map(metaspace, ("first", "always", "never"))], ids=["bytes", "first", "always", "never"]
)
def test_blanks_and_letters_of_several_bytes_keep_their_segment(tok: Any) -> None:
    texts = ["Q: ", " \u65e5\u672c \u00c9mile \U0001f642 Athens ", "Q: Greece\nA: "]
    segments = [Segment("prefix", texts[0]), Segment("input", image=PICTURE), Segment("answer", texts[1])]
    segments += [Segment("input", image=PICTURE), Segment("delimiter", texts[2])]
    encoder = Encoder(tok, Plain(tok))
    batch = encoder.encode([Prompt(tuple(segments))])
    assert "special" not in batch.roles(0)[1:], "a lone blank is text"
    runs = [[i for i, r in enumerate(batch.roles(0)) if r == name] for name in ("prefix", "answer", "delimiter")]
    for columns, text in zip(runs, texts, strict=True):
        assert columns == list(range(columns[0], columns[-1] + 1))
        assert tok.decode(batch.inputs["input_ids"][0, columns]).strip() == text.strip()
    assert batch.modalities(0).count("image 0") == batch.modalities(0).count("image 1") == 1
    assert all(t == "<image>" for t, m in zip(batch.tokens[0], batch.modalities(0), strict=True) if m != "text")


def encoder(kind: type[Plain], *special: str, **options: Any) -> Encoder:
    tok = tokenizer("<image>", *special)
    return Encoder(tok, kind(tok, **options))


def prompt(text: str) -> list[Prompt]:
    return list(xmi.free_prompt(text, [PICTURE] * text.count("<image>")))


def spelled(batch: Any, row: int = 0) -> list[tuple[str, str]]:
    """Runs of one role and modality with their tokens."""
    runs: list[list[str]] = []
    for token, role, seen in zip(batch.tokens[row], batch.roles(row), batch.modalities(row), strict=True):
        kind = role if role in ("special", "padding") else seen
        if runs and runs[-1][0] == kind:
            runs[-1][1] += token
        else:
            runs.append([kind, token])
    return [(kind, text) for kind, text in runs]


@pytest.mark.parametrize("between", [(4, 4, 4), (-1, -1), (7, 4, 9)])
def test_texts_that_are_tokenised_piece_by_piece(between: tuple[int, ...]) -> None:
    chunks = encoder(Chunks, between=between)
    batch = chunks.encode([*prompt("Q:<image>\nA:Rome\n\nQ:<image>\nA:"), *prompt("<image>Q:\nA:")])
    shown = "".join(chunks._feeder.spell(between))
    assert spelled(batch) == [
        ("special", "<s>"),
        ("text", "Q:"),
        ("image 0", shown),
        ("text", "\nA:Rome\n\nQ:"),
        ("image 1", shown),
        ("text", "\nA:"),
    ]
    assert [s for s in spelled(batch, 1) if s[0] != "padding"] == [
        ("special", "<s>"),
        ("image 0", shown),
        ("text", "Q:\nA:"),
    ]


def test_what_a_processor_adds_around_the_prompt_is_special() -> None:
    batch = encoder(Adds).encode(prompt("Q:<image>\nA:"))
    assert spelled(batch) == [
        ("special", "<s>The city."),
        ("text", "Q:"),
        ("image 0", "<image><image><image>"),
        ("text", "\nA:"),
        ("special", "."),
    ]
    alone = encoder(Adds).encode(prompt("<image>"))
    assert spelled(alone) == [
        ("special", "<s>The city."),
        ("image 0", "<image><image><image>"),
        ("special", "."),
    ], "the image is told from what stands around every prompt"
    words = encoder(Adds).encode(prompt("Q:\nA:"))
    assert spelled(words) == [("special", "<s>The city."), ("text", "Q:\nA:"), ("special", ".")]


def test_a_special_token_that_the_prompt_spells_is_its_text() -> None:
    batch = encoder(Adds, "<turn>").encode(prompt("<turn>Q:<image><turn>A:"))
    assert [text for kind, text in spelled(batch) if kind == "text"] == ["<turn>Q:", "<turn>A:"]


def test_letters_inside_special_tokens_are_no_text() -> None:
    """`A` also stands in the tokens of this image's frame."""

    class Frames(Plain):
        def row(self, text: str) -> list[int]:
            return super().row(text.replace("<image>", "[A]<image><image>[A]"))

    batch = encoder(Frames, "[A]").encode(prompt("A<image>A"))
    assert spelled(batch) == [
        ("special", "<s>"),
        ("text", "A"),
        ("image 0", "[A]<image><image>[A]"),
        ("text", "A"),
    ]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Shouts, "changed the text 'Greece'.*'Q' ':'"),
        (Cuts, "cut the prompt off before.*'Q' ':'"),
        (Forgets, "no tokens of its own"),
        (Mumbles, "cannot be determined which tokens are text.*'Q' ':' '<image>' 'Q'"),
    ],
)
def test_a_prompt_that_cannot_be_traced_is_refused_with_its_tokens(kind: type[Plain], message: str) -> None:
    text = {Shouts: "Greece", Forgets: "Q:<image>A:", Mumbles: "Q:<image>Q:"}.get(kind, "Q:Greece\nA:Athens\n\nQ:Italy")
    seeing = encoder(kind)
    seeing._feeder._way = "placeholder"  # such processors fail the trial already
    if kind is Shouts:
        message = "changed the text 'Greece'"
    with pytest.raises(xmi.PromptError, match=f"(?s){message}"):
        seeing.encode(prompt(text))


def test_a_text_only_tokenizer_that_cuts_is_refused() -> None:
    class Cutting:
        def __init__(self) -> None:
            self.inner = tokenizer()
            self.padding_side = "left"

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return self.inner(*args, truncation=True, max_length=6, **kwargs)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

    with pytest.raises(xmi.PromptError, match=r"cut the prompt off before '\\n\\nQ:'.*'Athens'"):
        Encoder(Cutting()).encode([Prompt((Segment("text", "Q:A:Athens\n\nQ:"),))])


def test_a_model_that_gives_images_no_tokens_is_refused() -> None:
    _, processor = build(unusual.git)
    with pytest.raises(xmi.PromptError, match=r"(?s)GitProcessor shows no way.*no tokens of its own"):
        Encoder(processor.tokenizer, processor).encode(prompt("<image>Q:"))


def test_a_processor_that_fails_is_named_with_its_reason() -> None:
    _, processor = build(llava)
    seeing = Encoder(processor.tokenizer, processor)
    seeing.encode(prompt("Q:<image>"))
    processor.image_processor = None
    with pytest.raises(xmi.PromptError, match=r"LlavaProcessor refused the prompts: .*NoneType.*begins 'Q:<image>'"):
        seeing.encode(prompt("Q:<image>"))
    assert processor.tokenizer is seeing.tokenizer


def test_a_second_bos_is_not_added() -> None:
    """The tokenizer adds BOS by itself, but not to a text into which the processor wrote one."""
    _, processor = build(unusual.emu3)
    seeing = Encoder(processor.tokenizer, processor)
    for text in ("Q:<image>\nA:", "Q:\nA:"):
        assert seeing.encode(prompt(text)).tokens[0].count("<s>") == 1
    _, processor = build(llava)
    without = Encoder(processor.tokenizer, processor, add_special_tokens=False)
    assert without.encode(prompt("Q:<image>\nA:")).tokens[0].count("<s>") == 0


def test_padding_in_the_middle_is_moved() -> None:
    """BLIP-2 puts an image's tokens before the padding; every tensor per token moves along, others do not."""
    _, processor = build(unusual.instructblip)
    seeing = Encoder(processor.tokenizer, processor, positions=True)
    both = [*prompt("<image>Q:\nA:"), *prompt("<image>Q:Greece\nA:")]
    batch = seeing.encode(both)
    assert batch.roles(0)[:1] == ("padding",)
    assert batch.inputs["attention_mask"][0].tolist() == [0] + [1] * 11
    assert batch.inputs["position_ids"][0].tolist() == [0, *range(11)]
    assert batch.inputs["qformer_attention_mask"][0].tolist() == [1] * 6 + [0], (
        "the other tokenizer pads on its own side"
    )


def test_replaced_ids_may_be_those_of_the_text() -> None:
    """Kosmos-2's image has the ids of ordinary words; the text's tokens are where the tokenizer put them."""
    _, processor = build(unusual.kosmos2)
    for text in ("A", "A:", "Q"):
        batch = Encoder(processor.tokenizer, processor).encode(prompt(f"<image>{text}"))
        assert [t for kind, t in spelled(batch) if kind == "text"] == [text]
        assert batch.tokens[0][2:7] == ("<image>", "</image>", "Q", "A", ":"), "the image's ids"
