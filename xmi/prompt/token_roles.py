"""Which segment a token comes from: the prompt's text is found again in what the processor tokenised.

A role is not guessed from ids: the processor's tokenizer is watched, the prompt's own text is found in what it was
given, and its character offsets say which token is which segment. What lies between two texts is the image that
stands there. Some processors insert or replace ids after tokenising; then the text's ids are found in the final row.
Everything is found once from the left and once from the right; where the two disagree, the prompt is refused.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, groupby
from typing import Any

import numpy as np
from jaxtyping import Int

from xmi.errors import PromptError
from xmi.prompt.prompt import Segment

_PADDING = ("padding", "pad_to_multiple_of", "padding_side", "return_tensors")
PADDING, SPECIAL = -1, -2
"""Segment numbers of tokens that belong to no segment: padding, and what the tokenizer or processor added."""


@dataclass(frozen=True)
class Piece:
    """One text that a tokenizer was given, with the real tokens it gave back and their character spans."""

    text: str
    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    added: Mapping[int, str]

    @cached_property
    def characters(self) -> tuple[Int[np.ndarray, " token"], Int[np.ndarray, " token"]]:
        """First and last character of each token."""
        first, last = ([end(span) for span in self.spans] for end in (_first, _last))
        return np.array(first, dtype=int), np.array(last, dtype=int)

    def searched(self, literals: Sequence[str]) -> str:
        """The text without the letters of added tokens such as `[IMG_END]`, but for those that the prompt spells."""
        letters = list(self.text)
        for i, (start, end) in zip(self.ids, self.spans, strict=True):
            if i not in self.added or self.added[i].strip() != (text := self.text[start:end]).strip():
                continue
            if not any(text in literal for literal in literals):
                letters[start:end] = [c if c.isspace() else "\0" for c in letters[start:end]]
        return "".join(letters)


class Recorder:
    """Stands in for a processor's tokenizer during one call and keeps what it was given and gave back."""

    def __init__(self, tokenizer: Any, complete: Collection[str] = ()) -> None:
        """Watches a tokenizer; to texts that are complete it adds nothing."""
        self.tokenizer = tokenizer
        self.complete = frozenset(complete)
        self.added = {i: str(token) for i, token in getattr(tokenizer, "added_tokens_decoder", {}).items()}
        self.calls: list[list[Piece]] = []

    def __call__(self, text: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Tokenises as the tokenizer does, but for a second BOS in each text that begins with one already."""
        texts = [text] if isinstance(text, str) else list(text)
        bos = str(getattr(self.tokenizer, "bos_token", None) or "")
        begun = [(bos != "" and str(t).startswith(bos)) or t in self.complete for t in texts]
        if any(begun) and not all(begun):
            result = self._apart(texts, begun, *args, **kwargs)
        else:
            result = self.tokenizer(text, *args, **(kwargs | {"add_special_tokens": False} if any(begun) else kwargs))
        self.calls.append([self._piece(t, e) for t, e in zip(texts, result.encodings or [], strict=False)])
        return result

    def _apart(self, texts: list[Any], begun: list[bool], *args: Any, **kwargs: Any) -> Any:
        """Tokenises each text for itself, because one call adds special tokens to all of its texts or to none."""
        padding = {name: kwargs.pop(name) for name in _PADDING if name in kwargs}
        if not kwargs.get("truncation") and "max_length" in kwargs:
            padding["max_length"] = kwargs.pop("max_length")
        rows = []
        for text, has in zip(texts, begun, strict=True):
            rows.append(self.tokenizer([text], *args, **(kwargs | {"add_special_tokens": False} if has else kwargs)))
        padded = self.tokenizer.pad(
            {name: [row[name][0] for row in rows] for name in rows[0]}, **({"padding": False} | padding)
        )
        return type(rows[0])(dict(padded), encoding=[row.encodings[0] for row in rows if row.encodings])

    @property
    def init_kwargs(self) -> dict[str, Any]:
        """The settings without the side of padding, which a processor would force on all of its tokenizers."""
        return {k: v for k, v in self.tokenizer.init_kwargs.items() if k != "padding_side"}

    def encode(self, text: Any, *args: Any, **kwargs: Any) -> Any:
        """Tokenises one text to ids."""
        return self(text, *args, **kwargs)["input_ids"]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)

    def pieces(self, row: int, rows: int) -> list[Piece]:
        """What may have become a row: its own text where a whole batch was tokenised, and every single text."""
        own = [call[row] for call in self.calls if len(call) == rows]
        return [*own, *(piece for call in self.calls if len(call) != rows for piece in call)]

    def _piece(self, text: Any, encoding: Any) -> Piece:
        real = [j for j, m in enumerate(encoding.attention_mask) if m]
        ids, spans = encoding.ids, encoding.offsets
        return Piece(str(text), tuple(ids[j] for j in real), tuple(spans[j] for j in real), self.added)


@dataclass(frozen=True)
class _Run:
    """A maximal stretch of text segments, or of images side by side."""

    image: bool
    segments: tuple[int, ...]
    text: str


def trace_row(
    segments: Sequence[Segment],
    ids: Sequence[int],
    pieces: Sequence[Piece],
    *,
    edge: frozenset[int] = frozenset(),
    frame: tuple[Sequence[int], Sequence[int]] = ((), ()),
    expansions: Mapping[int, Sequence[int]] | None = None,
    show: Callable[[Sequence[int]], str] = str,
) -> tuple[list[int], list[int]]:
    """Finds the segments in which each token of a row begins and ends.

    Args:
        segments: The prompt's segments.
        ids: The row's real tokens.
        pieces: What was tokenised.
        edge: Ids that may frame an image without being part of it (BOS, EOS, padding).
        frame: What stands before and behind a prompt without images.
        expansions: The ids of each image on its own, to separate images that follow each other.
        show: Writes ids as tokens, for messages.

    Returns:
        Two segment numbers per token, or `SPECIAL` for what is neither the prompt's text nor an image.

    Raises:
        PromptError: The prompt cannot be found in the tokens, or in several ways, or an image has none.
    """
    held = [i for i, segment in enumerate(segments) if segment.image is not None or segment.text]
    runs = [
        _Run(image, group, "".join(segments[i].text for i in group))
        for image, members in groupby(held, lambda i: segments[i].image is not None)
        for group in [tuple(members)]
    ]
    texts = [run for run in runs if not run.image]
    first, last = [SPECIAL] * len(ids), [SPECIAL] * len(ids)
    bounds: list[tuple[int, int]] = []
    for run, (piece, start), at in zip(texts, *_place(texts, ids, pieces, show), strict=True):
        inside = _inside(piece, start, len(run.text))
        stops = list(accumulate((len(segments[i].text) for i in run.segments), initial=start))[1:]
        for column, j in enumerate(inside, at):
            first[column], last[column] = _ends(run, stops, len(segments), piece.spans[j], start)
        bounds.append((at, at + len(inside)))
    # Texts and images alternate, so an image has what lies between its neighbours.
    ends = [0, *(end for _, end in bounds)] if runs and runs[0].image else [end for _, end in bounds]
    starts = [start for start, _ in bounds[not runs[0].image :]] + [len(ids)] if runs else []
    for run, begin, end in zip([run for run in runs if run.image], ends, starts, strict=False):
        column, stop = _trim(ids, begin, end, edge, frame)
        for segment, length in _shares(run, list(ids[column:stop]), expansions, show):
            first[column : column + length] = last[column : column + length] = [segment] * length
            column += length
    return first, last


def _trim(
    ids: Sequence[int], begin: int, end: int, edge: frozenset[int], frame: tuple[Sequence[int], Sequence[int]]
) -> tuple[int, int]:
    """An image's tokens without what stands around every prompt and without BOS and the like at their ends."""
    before, behind = (list(part) for part in frame)
    if begin == 0 and list(ids[: len(before)]) == before:
        begin = len(before)
    if behind and end == len(ids) and list(ids[-len(behind) :]) == behind:
        end = max(begin, end - len(behind))
    while begin < end and ids[begin] in edge:
        begin += 1
    while begin < end and ids[end - 1] in edge:
        end -= 1
    return begin, end


def _place(
    texts: list[_Run], ids: Sequence[int], pieces: Sequence[Piece], show: Callable[[Sequence[int]], str]
) -> tuple[list[tuple[Piece, int]], list[int]]:
    """For each text run, the piece and character where it stands, and the column of its first token."""
    literals = [run.text for run in texts]
    problem = f"The processor changed the text {_short(max(literals, key=len, default=''))}"
    if not literals:
        return [], []
    searched = [(piece, piece.searched(literals)) for piece in pieces]
    wholes = [[(piece, start) for start in starts] for piece, text in searched if (starts := _find(literals, text))]
    if not wholes and any(_find(literals, text, unique=False) for _, text in searched):
        problem = "It cannot be determined which tokens are text and which image"
    # Some processors tokenise each stretch of text for itself and put the ids together.
    parts = [next(((p, 0) for p in pieces if p.text == literal), None) for literal in literals]
    if len(literals) > 1 and None not in parts:
        wholes.append([part for part in parts if part is not None])
    for found in sorted(wholes, key=lambda f: f[0][0].ids != tuple(ids)):
        ranges = [_inside(piece, start, len(text)) for (piece, start), text in zip(found, literals, strict=True)]
        for (piece, start), text, inside in zip(found, literals, ranges, strict=True):
            end = max((piece.spans[j][1] for j in inside), default=start)
            if not inside:
                raise PromptError(f"The text {_short(text)} has no token of its own: {show(ids)}")
            if end < start + len(text.rstrip()):
                rest = piece.text[end : start + len(text)]
                raise PromptError(f"The tokenizer cut the prompt off before {_short(rest)}: {show(ids)}")
        if _stayed(found, ranges, ids):
            return found, [inside.start for inside in ranges]
        wanted = [_letters([piece.ids[j] for j in inside]) for (piece, _), inside in zip(found, ranges, strict=True)]
        columns = _find(wanted, _letters(ids))
        if columns:
            return found, columns
        if _find(wanted, _letters(ids), unique=False):
            problem = "It cannot be determined which tokens are text and which image"
    raise PromptError(f"{problem}; the tokens' roles cannot be traced: {show(ids)}")


def _stayed(found: Sequence[tuple[Piece, int]], ranges: Sequence[range], ids: Sequence[int]) -> bool:
    """Whether every token of text stands where the tokenizer put it, whatever else the processor replaced."""
    piece = found[0][0]
    whole = len(piece.ids) == len(ids) and all(other is piece for other, _ in found)
    return whole and all(piece.ids[j] == ids[j] for inside in ranges for j in inside)


def _find(parts: Sequence[str], whole: str, *, unique: bool = True) -> list[int]:
    """Where the parts stand in the whole, in order; nothing if they do not or, for `unique`, in several ways."""
    left: list[int] = []
    for part in parts:
        left.append(whole.find(part, left[-1] + len(parts[len(left) - 1]) if left else 0))
        if left[-1] < 0:
            return []
    right: list[int] = []
    for part in reversed(parts):
        right.insert(0, whole.rfind(part, 0, right[0] if right else len(whole)))
    return left if left == right or not unique else []


def _letters(ids: Sequence[int]) -> str:
    """Ids as one character each, so that they can be searched as text is."""
    return "".join(chr(i) if 0 <= i < 0x10FFFF else chr(0x10FFFF) for i in ids)


def _inside(piece: Piece, start: int, length: int) -> range:
    """The tokens of a piece that hold characters of a stretch of its text."""
    first, last = piece.characters
    found = np.flatnonzero((start <= last) & (first < start + length))
    return range(int(found[0]), int(found[-1]) + 1) if len(found) else range(0)


def _first(span: tuple[int, int]) -> int:
    """A token's first character; many tokenizers cut blanks off a token's span, which leaves nothing of a lone one."""
    return span[0] if span[1] > span[0] else span[0] - 1


def _last(span: tuple[int, int]) -> int:
    return span[1] - 1


def _ends(run: _Run, stops: list[int], count: int, span: tuple[int, int], start: int) -> tuple[int, int]:
    """The segments, of so many, in which a token of a text run begins and ends; `stops` are the ends of the run's."""
    numbers = []
    for character in (_first(span), _last(span)):
        if character < start:  # the token begins in what stands before
            numbers.append(max(run.segments[0] - 1, 0))
        elif character >= stops[-1]:
            numbers.append(min(run.segments[-1] + 1, count - 1))
        else:
            numbers.append(run.segments[bisect_right(stops, character)])
    return numbers[0], numbers[1]


def _shares(
    run: _Run,
    ids: list[int],
    expansions: Mapping[int, Sequence[int]] | None,
    show: Callable[[Sequence[int]], str],
) -> list[tuple[int, int]]:
    """How many of the tokens between two texts belong to each image that stands there."""
    if not ids:
        raise PromptError("The processor gives the image no tokens of its own; xmi cannot place it among the tokens.")
    if len(run.segments) == 1:
        return [(run.segments[0], len(ids))]
    alone = [list((expansions or {}).get(i, ())) for i in run.segments]
    if [i for tokens in alone for i in tokens] != ids:
        raise PromptError(
            "Two images stand side by side without text between them, and it cannot be determined where one ends; put "
            f"a separator there. Their tokens: {show(ids)}"
        )
    return [(i, len(tokens)) for i, tokens in zip(run.segments, alone, strict=True)]


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")
