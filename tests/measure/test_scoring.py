"""Scores where several labels count as right: a hit on any of them, and on nothing else."""

from __future__ import annotations

from unicodedata import normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xmi.byte_text import shown
from xmi.measure import paper_hit, strict_hit
from xmi.measure.scoring import whole_hit

WORDS = st.text("ab c", max_size=4)


@given(WORDS, st.lists(WORDS, max_size=4))
def test_any_label_counts(said: str, labels: list[str]) -> None:
    assert paper_hit(said, labels) == any(paper_hit(said, label) for label in labels)
    assert whole_hit(said, tuple(labels)) == any(whole_hit(said, label) for label in labels)


@given(st.integers(0, 5), st.sets(st.integers(0, 5)))
def test_any_first_token_counts(said: int, labels: set[int]) -> None:
    assert strict_hit(said, labels) == any(strict_hit(said, label) for label in labels)


def test_by_hand() -> None:
    assert paper_hit("lamb", ["calf", "lambkin"]) and not paper_hit("foal", ["calf", "lambkin"])
    assert paper_hit("Lamb", ["calf", "lamb"], ignore_case=True) and not paper_hit("Lamb", ["calf", "lamb"])
    assert whole_hit("sweet potato.", ["yam", "sweet potato"]) and not whole_hit("sweet", ["yam", "sweet potato"])
    assert not paper_hit("x", []) and not whole_hit("x", []) and not strict_hit(1, set())


ALPHABETS = st.text(st.sampled_from("abéöÅПдЖ中国日ราजी서울مص🍎😀"), min_size=1, max_size=4)


@pytest.mark.fault("A7")
@given(ALPHABETS, st.integers(1, 12), st.booleans())
def test_a_part_of_a_label_is_a_hit_however_it_is_cut(label: str, size: int, space: bool) -> None:
    """Cut anywhere, in the midst of a character, too; and what is no prefix of the bytes is a miss."""
    data = label.encode()
    part = data[:size]
    assert paper_hit(" " * space + shown(part), label)
    assert not paper_hit(shown(bytes([part[0] ^ 1]) + part[1:]), label)
    assert paper_hit(shown(part + b"\xff"), label) == (part == data), "the label may also be a prefix of the token"


def test_a_part_of_a_decomposed_label_is_a_hit() -> None:
    assert paper_hit("e<0xCC>", "e\u0301cole") and not paper_hit("e<0xCD>", "e\u0301cole")


@pytest.mark.fault("A7")
@given(ALPHABETS)
def test_how_unicode_composes_a_label_makes_no_difference(label: str) -> None:
    for said in ("NFC", "NFD"):
        for asked in ("NFC", "NFD"):
            assert paper_hit(normalize(said, label), normalize(asked, label))
            assert whole_hit(normalize(said, label) + ".", normalize(asked, label))


@pytest.mark.fault("A7")
@pytest.mark.parametrize(
    ("text", "label", "rivals", "hit"),
    [
        ("Paris.", "Paris", (), True),
        ("Parisian", "Paris", (), False),
        ("New York City", "New York", ("New York City",), True),  # a word ends at a space, whatever the rivals
        ("中国。", "中国", (), True),
        ("中国的首都", "中国", (), True),
        ("日本です", "日本", ("日",), True),
        ("日本です", "日", ("日本",), False),
        ("日本です", "日", (), True),
        ("日光です", "日", ("日本",), True),
        ("パリは", "パリ", (), True),
        ("パリス", "パリ", (), False),  # runs of katakana are one word
        ("コーヒー", "コーヒ", (), False),
        ("กรุงเทพมหานคร", "กรุงเทพ", ("กรุงเทพมหานคร",), False),
        ("中国is", "中国", (), True),
        ("Paris中", "Paris", (), True),
        ("دمشق", "دمش", (), False),
        ("दिल्ली", "दिल्ल", (), False),  # a vowel sign belongs to its letter
        ("서울은", "서울", (), False),  # a particle, as "s" in "Pariss"
        ("cafe\u0301", "cafe", (), False),
        ("cafe\u0301", "caf\u00e9", (), True),
        ("\U0001f469\u200d\U0001f680", "\U0001f469", (), False),  # an astronaut is not a woman
        ("\U0001f44d\U0001f3fd", "\U0001f44d", (), False),
        ("\u2764\ufe0f.", "\u2764", (), True),
        ("🍎🍎", "🍎", (), True),
        ("中<0xE5>", "中", (), True),  # what was read ends in the midst of a character
        ("", "中", (), False),
    ],
)
def test_a_whole_label_ends_as_a_word(text: str, label: str, rivals: tuple[str, ...], hit: bool) -> None:
    assert whole_hit(text, label, rivals) == hit
