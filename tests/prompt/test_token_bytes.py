"""The bytes of a text's tokens are the bytes of the text, whatever the alphabet and the kind of tokenizer."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers.convert_slow_tokenizer import bytes_to_unicode

from tests.night import times
from tests.prompt.alphabets import BYTES, LABELS, byte_level, gemma, llama, pieces, word_pieces
from xmi.byte_text import raw, shown
from xmi.errors import PromptError
from xmi.prompt import Encoder
from xmi.prompt.token_bytes import TokenBytes, byte_alphabet

TEXTS = st.one_of(
    st.text(st.sampled_from(" \nabQ:AéöПд中国日ราजी😀\u0301\u200d\u3000\ufffd"), max_size=12), st.text(max_size=8)
)


def bytes_of(tokenizer: Any, text: str) -> bytes | None:
    return TokenBytes(tokenizer).joined(tokenizer(text, add_special_tokens=False)["input_ids"])


def test_the_alphabet_is_gpt2s() -> None:
    assert byte_alphabet() == {letter: byte for byte, letter in bytes_to_unicode().items()}


@pytest.mark.fault("A7")
@pytest.mark.parametrize("kind", BYTES)
@given(text=TEXTS)
@settings(max_examples=times(60), deadline=None)
def test_tokens_join_to_the_text(kind: str, text: str) -> None:
    before = " " if kind == "llama" and text else ""
    assert bytes_of(BYTES[kind](), text) == (before + text).encode()


@pytest.mark.fault("A7")
@pytest.mark.parametrize("kind", BYTES)
@given(text=TEXTS, cut=st.integers(0, 6))
@settings(max_examples=times(60), deadline=None)
@example(text="中国 é", cut=1)
def test_texts_are_the_tokenizers_own_but_for_parts_of_characters(kind: str, text: str, cut: int) -> None:
    tokenizer = BYTES[kind]()
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    ids = ids[: len(ids) - cut] if cut else ids
    found = TokenBytes(tokenizer)
    own, whole = tokenizer.decode(ids, skip_special_tokens=True), found.joined(ids)
    assert whole is not None
    if "\ufffd" not in own:
        assert found.text(ids) == own
    else:
        dropped = b" " if kind == "llama" else b""
        assert raw(found.text(ids)) == whole.removeprefix(dropped)
    assert found.text(ids).encode().decode() == found.text(ids), "no lone surrogates leave"


@pytest.mark.fault("A7")
def test_different_bytes_never_look_the_same() -> None:
    for tokenizer in (llama(), gemma(), byte_level()):
        encoder = Encoder(tokenizer)
        found = TokenBytes(tokenizer)
        texts = [encoder.decode(i) for i in range(len(tokenizer)) if not encoder.is_whole(i)]
        assert len(texts) == len(set(texts)) >= 128
        assert not any("\ufffd" in text for text in texts)
        for i in range(len(tokenizer)):
            if (made := found.of(i)) is not None and not encoder.is_whole(i):
                assert raw(encoder.decode(i)) == made
    assert Encoder(gemma()).decode(gemma().convert_tokens_to_ids("<0xE9>")) == "<0xE9>"


@given(st.binary(max_size=12))
def test_shown_bytes_are_read_back(data: bytes) -> None:
    assert raw(shown(data)) == data
    if data.decode("utf-8", "ignore").encode() == data:
        assert shown(data) == data.decode()


def test_added_tokens_are_written_as_they_are() -> None:
    tokenizer = byte_level()
    assert TokenBytes(tokenizer).of(tokenizer.convert_tokens_to_ids("é!")) == "é!".encode()
    assert TokenBytes(tokenizer).of(tokenizer.bos_token_id) == b"<s>"
    assert TokenBytes(tokenizer).of(10**6) is None
    assert TokenBytes(tokenizer).of(-1) is None


def test_pieces_have_bytes_and_word_pieces_have_none() -> None:
    assert bytes_of(pieces(), "Paris is") == b" Paris is"
    assert bytes_of(word_pieces(), "paris is") is None
    assert Encoder(word_pieces()).decode(3) == "##is"
    assert Encoder(word_pieces()).text([1, 2]) == "paris is"
    assert Encoder(word_pieces()).is_whole(3)


@pytest.mark.fault("A7")
@pytest.mark.parametrize("kind", BYTES)
@pytest.mark.parametrize("label", LABELS)
def test_the_first_token_of_a_label_begins_its_bytes(kind: str, label: str) -> None:
    tokenizer = BYTES[kind]()
    encoder = Encoder(tokenizer)
    begun = TokenBytes(tokenizer).of(encoder.first_token("\nA:", label))
    assert begun and label.encode().startswith(begun)
    assert encoder.length("\nA:", label) >= 1


def test_labels_that_the_vocabulary_lacks_are_refused() -> None:
    with pytest.raises(PromptError, match=r"'東京' cannot be written with this model's tokens"):
        Encoder(word_pieces()).first_token("the ", "東京")
    assert Encoder(word_pieces()).word_ids(["東京"], "the") == ()
