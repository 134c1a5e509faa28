"""Bytes that are not whole characters, as text and back: 0xE9 is shown as `<0xE9>`.

A token may be a part of a character. Its text must not lose which part, because scores compare it and people read it.
"""

from __future__ import annotations

import re

_BYTES = re.compile(r"(?:<0x[89A-F][0-9A-F]>)+")


def shown(raw: bytes) -> str:
    """Bytes as text; what is not part of a whole character is spelled out, byte by byte."""
    text = raw.decode("utf-8", "surrogateescape")
    return "".join(f"<0x{ord(c) - 0xDC00:02X}>" if "\udc80" <= c <= "\udcff" else c for c in text)


def raw(text: str) -> bytes:
    """The bytes of a text that `shown` made."""
    parts, end = [], 0
    for match in _BYTES.finditer(text):
        parts += [text[end : match.start()].encode(), bytes.fromhex(re.sub("<0x|>", "", match[0]))]
        end = match.end()
    return b"".join([*parts, text[end:].encode()])
