"""When an answer counts as right.

Two scores stand side by side. `paper` is the rule of Luo, Darrell and Bar (ICML 2025): the first generated token is a
prefix of the label, or the label a prefix of it, both stripped and non-empty. `strict` asks for the very token
with which the label begins after the prompt's delimiter. Where several tokens were read, `whole` asks for the whole
label. Where an item has several labels, a hit on any of them is a hit.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence


def paper_hit(predicted: str, answer: str | Sequence[str], *, ignore_case: bool = False) -> bool:
    """Two-way prefix match of a predicted token's text and the label.

    Args:
        predicted: Text of the first generated token.
        answer: The label, or several of which any counts.
        ignore_case: Compare case-insensitively.

    Returns:
        Whether one is a prefix of the other, both non-empty after stripping.
    """
    if not isinstance(answer, str):
        return any(paper_hit(predicted, label, ignore_case=ignore_case) for label in answer)
    left, right = predicted.strip(), answer.strip()
    if ignore_case:
        left, right = left.lower(), right.lower()
    return bool(left and right) and (left.startswith(right) or right.startswith(left))


def strict_hit(predicted_id: int, answer_id: int | Collection[int]) -> bool:
    """Whether the predicted token is a label's first token as it is tokenised in the prompt."""
    return predicted_id == answer_id if isinstance(answer_id, int) else predicted_id in answer_id


def whole_hit(text: str, answer: str | Sequence[str]) -> bool:
    """Whether a continuation begins with the whole label, which ends there as a word.

    Args:
        text: What the model wrote.
        answer: The label, or several of which any counts.

    Returns:
        Whether the stripped text begins with the stripped label and no letter or digit follows.
    """
    if not isinstance(answer, str):
        return any(whole_hit(text, label) for label in answer)
    written, label = text.strip(), answer.strip()
    return bool(label) and written.startswith(label) and not written[len(label) :][:1].isalnum()
