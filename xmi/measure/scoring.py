"""When an answer counts as right.

Two scores stand side by side. `paper` is the rule of Luo, Darrell and Bar (ICML 2025): the first generated token is a
prefix of the label, or the label a prefix of it, both stripped and non-empty. `strict` asks for the very token
with which the label begins after the prompt's delimiter. Where several tokens were read, `whole` asks for the whole
label.
"""

from __future__ import annotations


def paper_hit(predicted: str, answer: str, *, ignore_case: bool = False) -> bool:
    """Two-way prefix match of a predicted token's text and the label.

    Args:
        predicted: Text of the first generated token.
        answer: The label.
        ignore_case: Compare case-insensitively.

    Returns:
        Whether one is a prefix of the other, both non-empty after stripping.
    """
    left, right = predicted.strip(), answer.strip()
    if ignore_case:
        left, right = left.lower(), right.lower()
    return bool(left and right) and (left.startswith(right) or right.startswith(left))


def strict_hit(predicted_id: int, answer_id: int) -> bool:
    """Whether the predicted token is the label's first token as it is tokenised in the prompt."""
    return predicted_id == answer_id


def whole_hit(text: str, answer: str) -> bool:
    """Whether a continuation begins with the whole label, which ends there as a word.

    Args:
        text: What the model wrote.
        answer: The label.

    Returns:
        Whether the stripped text begins with the stripped label and no letter or digit follows.
    """
    written, label = text.strip(), answer.strip()
    return bool(label) and written.startswith(label) and not written[len(label) :][:1].isalnum()
