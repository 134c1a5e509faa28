"""The exact bytes of a token, by what a tokenizer says of its own decoding.

Two kinds of tokenizers can write any text because their vocabulary holds bytes: byte-level ones, whose tokens are
spelled in an alphabet of 256 letters that stand for bytes (GPT-2's), and those that fall back to tokens such as
`<0xE9>` for what they have no piece for. In both a token may be a part of a character. Others (WordPiece, words) put
their texts together by rules of their own; their tokens have no bytes, and are not needed either.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from xmi.byte_text import shown

_FALLBACK = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_KNOWN = frozenset({"ByteLevel", "ByteFallback", "Replace", "Metaspace", "Fuse", "Strip"})


def byte_alphabet() -> dict[str, int]:
    """The letters by which byte-level vocabularies spell bytes: printable Latin-1 as it is, the others from U+0100 on.

    Source: Radford et al., "Language models are unsupervised multitask learners", 2019, in the code's `encoder.py`.
    """
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(others)}


_ALPHABET = byte_alphabet()


class TokenBytes:
    """What a tokenizer's tokens are made of.

    Attributes:
        known: Whether the tokens of this tokenizer have bytes.
    """

    def __init__(self, tokenizer: Any) -> None:
        """Reads the tokenizer's description of its decoder; the vocabulary is not copied."""
        self.tokenizer = tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._steps = list(_steps(getattr(backend, "decoder", None)))
        kinds = {step["type"] for step in self._steps}
        before = {step["type"] for step in _steps(getattr(backend, "pre_tokenizer", None))}
        self._alphabet = "ByteLevel" in kinds or (not kinds and "ByteLevel" in before)
        self._falls_back = "ByteFallback" in kinds or bool(getattr(getattr(backend, "model", None), "byte_fallback", 0))
        self.known = kinds <= _KNOWN and (self._alphabet or self._falls_back or bool(kinds & {"Metaspace", "Replace"}))

    @cached_property
    def _added(self) -> dict[int, bytes]:
        """Tokens outside the vocabulary are written as they are."""
        added = getattr(self.tokenizer, "added_tokens_decoder", {})
        return {int(i): str(getattr(token, "content", token)).encode() for i, token in added.items()}

    def of(self, token: int) -> bytes | None:
        """The bytes that a token stands for in the middle of a text.

        Args:
            token: Its id.

        Returns:
            The bytes; None if there is no such token, or the tokenizer does not put its texts together from bytes.
        """
        text = self.tokenizer.convert_ids_to_tokens(token) if self.known and token >= 0 else None
        if text is None:
            return None
        if token in self._added and not (self._falls_back and _FALLBACK.fullmatch(text)):
            return self._added[token]
        if self._falls_back and (match := _FALLBACK.fullmatch(text)):
            return bytes([int(match[1], 16)])
        for step in self._steps:
            if step["type"] == "Metaspace":
                text = text.replace(step["replacement"], " ")
            elif step["type"] == "Replace":
                pattern = step["pattern"]
                if "String" in pattern:
                    text = text.replace(pattern["String"], step["content"])
                else:
                    return None  # a regular expression of another language
        if self._alphabet and all(letter in _ALPHABET for letter in text):
            return bytes(_ALPHABET[letter] for letter in text)
        return str(text).encode()

    def joined(self, tokens: Sequence[int]) -> bytes | None:
        """The bytes of several tokens in a row, or None if one of them has none."""
        parts = [self.of(token) for token in tokens]
        return b"".join(part for part in parts if part is not None) if None not in parts else None

    def text(self, tokens: Sequence[int], *, skip_special: bool = True) -> str:
        """The text of tokens as the tokenizer decodes it, but for parts of characters, which are shown as bytes.

        Args:
            tokens: Their ids.
            skip_special: Leave special tokens out.

        Returns:
            The text; without parts of characters it is the tokenizer's own.
        """
        text = str(self.tokenizer.decode(list(tokens), skip_special_tokens=skip_special))
        if "\ufffd" not in text:
            return text
        special = set(self.tokenizer.all_special_ids) if skip_special else set()
        whole = self.joined([token for token in tokens if token not in special])
        if whole is None:
            return text
        return shown(whole.removeprefix(b" ") if self._drops_space else whole)

    @cached_property
    def _drops_space(self) -> bool:
        """Whether the space that was put before a text is taken away again."""
        return any(
            (step["type"] == "Strip" and step["content"] == " " and step["start"] > 0)
            or (step["type"] == "Metaspace" and step.get("prepend_scheme", "always") != "never")
            for step in self._steps
        )


def _steps(part: Any) -> Iterator[dict[str, Any]]:
    """The steps of a decoder or a pre-tokenizer as they are described in a tokenizer's file."""
    if part is None:
        return
    described = json.loads(part.__getstate__())
    waiting = [described]
    while waiting:
        step = waiting.pop(0)
        inner = step.get("decoders") or step.get("pretokenizers")
        if step["type"] == "Sequence" and inner is not None:
            waiting = [*inner, *waiting]
        else:
            yield step
