"""When an answer counts as right.

Two scores stand side by side. `paper` is the rule of Luo, Darrell and Bar (ICML 2025): the first generated token is a
prefix of the label, or the label a prefix of it, both stripped and non-empty. `strict` asks for the very token
with which the label begins after the prompt's delimiter. Where several tokens were read, `whole` asks for the whole
label. Where an item has several labels, a hit on any of them is a hit.

All alphabets are scored alike. Tokens that are parts of characters are compared byte by byte (a token of the bytes
E4 B8 begins 中). Texts that differ in nothing but how Unicode composes them are the same: `paper` and `whole` compare
composed forms (NFC), and `strict` takes the first token of the label as it is written or composed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache
from unicodedata import category, name, normalize

from xmi.byte_text import raw

_SPACELESS = ("CJK", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA", "BOPOMOFO", "THAI", "LAO", "KHMER", "MYANMAR")
"""How the names of letters begin that are written without spaces between words."""

_PRESENTATION = {0xFE0E: None, 0xFE0F: None}
"""Selectors that say whether a sign is drawn as text or as a picture."""

_JOINERS = "\u200c\u200d\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff"
"""What holds signs together, and skin tones, which belong to the sign before."""


def paper_hit(predicted: str, answer: str | Sequence[str], *, ignore_case: bool = False) -> bool:
    """Two-way prefix match of a predicted token's text and the label.

    Args:
        predicted: Text of the first generated token, as results hold it: parts of characters as `<0xE9>`.
        answer: The label, or several of which any counts.
        ignore_case: Compare case-insensitively.

    Returns:
        Whether one is a prefix of the other, both non-empty after stripping.

    Examples:
        >>> measure.paper_hit(" Par", "Paris"), measure.paper_hit(" London", "Paris")
        (True, False)
    """
    if not isinstance(answer, str):
        return any(paper_hit(predicted, label, ignore_case=ignore_case) for label in answer)
    left, right = _forms(predicted, ignore_case), _forms(answer, ignore_case)
    return any(bool(a and b) and (a.startswith(b) or b.startswith(a)) for a, b in zip(left, right, strict=True))


@lru_cache(maxsize=1 << 14)
def _forms(text: str, ignore_case: bool) -> tuple[bytes, bytes]:
    """The bytes of a text as it is written, and composed."""
    bare = text.strip().lower() if ignore_case else text.strip()
    return raw(bare), raw(normalize("NFC", bare))


def strict_hit(predicted_id: int, answer_id: int | Collection[int]) -> bool:
    """Whether the predicted token is a label's first token as it is tokenised in the prompt.

    Examples:
        >>> measure.strict_hit(7, 7), measure.strict_hit(7, {8, 9})
        (True, False)
    """
    return predicted_id == answer_id if isinstance(answer_id, int) else predicted_id in answer_id


def whole_hit(text: str, answer: str | Sequence[str], rivals: Collection[str] = ()) -> bool:
    """Whether a continuation begins with the whole label, which ends there as a word.

    A word ends where no letter, digit, combining mark or joiner follows. In scripts that are written without spaces
    (Chinese, Japanese, Thai, Lao, Khmer, Burmese) any letter may begin the next word, and so does a letter of another
    script; runs of katakana are one word. There a longer label of the same task that the text begins with, too, is
    what was meant.

    Args:
        text: What the model wrote.
        answer: The label, or several of which any counts.
        rivals: Labels of the same task that do not count.

    Returns:
        Whether the stripped text begins with the stripped label and the label ends there.
    """
    if not isinstance(answer, str):
        return any(whole_hit(text, label, rivals) for label in answer)
    written, label = _plain(text), _plain(answer)
    if not label or not written.startswith(label):
        return False
    after = written[len(label) :][:1]
    if not after:
        return True
    if category(after)[0] == "M" or after in _JOINERS:
        return False
    if not after.isalnum():
        return True
    before, next_ = _script(label[-1]), _script(after)
    if before == next_ and before in ("", "KATAKANA"):
        return False
    if before and next_:
        longer = (plain for rival in rivals if len(plain := _plain(rival)) > len(label))
        return not any(rival.startswith(label) and written.startswith(rival) for rival in longer)
    return True


def _plain(text: str) -> str:
    return normalize("NFC", text.strip()).translate(_PRESENTATION)


def _script(letter: str) -> str:
    """The script of a letter if it is one that is written without spaces, or nothing."""
    return next((script for script in _SPACELESS if name(letter, "").startswith(script)), "")
