"""What the model answers, and whether that is right."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from xmi.arguments import outside
from xmi.errors import XmiWarning
from xmi.kernels import next_token_kernel
from xmi.measure import Answers, Transfer, paper_hit
from xmi.measure.answers import rivals_of
from xmi.prompt import Encoder, Prompt, PromptLike, Prompts, Template, check_room, new_tokens
from xmi.proof import keeps
from xmi.session import Session


def answers(session: Session, prompts: PromptLike, *, max_new_tokens: int | None = None) -> Answers:
    """The model's next token after each prompt, scored against the labels.

    Where an item has several labels, a hit on any of them counts; log-probability and rank are those of the
    canonical (first) one. Prompts without a label are answered, too, but have no part in accuracies.

    Args:
        prompts: The prompts.
        max_new_tokens: As in `transfer`.

    Raises:
        PromptError: A label cannot be written with the model's tokens.

    Examples:
        >>> answers = vlm.answers(task.icl("text", n=3))
        >>> answers.predicted
        ('Bridgetown', 'Algiers', 'Berlin')
        >>> answers.accuracy().mean
        1.0
    """
    with session.prepared(prompts, "answering") as (several, batches):
        new, encoder = how_many(max_new_tokens), session.encoder

        def calls() -> Iterator[tuple[torch.Tensor, tuple[Any, ...]]]:
            for batch in batches:
                check_room(batch, new, encoder.max_length)
                wanted = first_of_labels(encoder, batch.prompts, several.template)
                inputs, cached = session.engine.forward(batch.inputs), keeps(session, batch, new)
                yield wanted, (inputs, session.engine.paths, wanted, new, cached)

        wanted, said = zip(*session.each(next_token_kernel, calls()), strict=True)
        return score_answers(encoder, several, said, wanted, max_new_tokens)


def score_answers(
    encoder: Encoder,
    prompts: Prompts,
    said: Sequence[tuple[torch.Tensor, ...]],
    wanted: Sequence[torch.Tensor],
    max_new_tokens: int | None,
) -> Answers:
    """Scores next tokens that were read.

    Args:
        encoder: The model's.
        prompts: What was asked.
        said: What `next_token_kernel` gave for each batch.
        wanted: The answer's first token in each row of each batch.
        max_new_tokens: How many tokens were asked for; None for one, and no texts.
    """
    values = (torch.cat(column) for column in list(zip(*said, strict=True))[:3])
    found = answers_of(encoder, prompts, *values, torch.cat(list(wanted)), longer=max_new_tokens is not None)
    announce_ties(found)
    return found


def how_many(asked: int | None) -> int:
    """How many tokens are read if so many are asked for; one if nothing is said."""
    return 1 if asked is None else new_tokens(asked)


def first_of_labels(encoder: Encoder, prompts: Sequence[Prompt], template: Template) -> Int[torch.Tensor, " prompt"]:
    """The first token of each prompt's label; where there is no label, any token, whose numbers are not kept."""
    labelled = [p for p in prompts if p.answer]
    ids = iter(encoder.answer_ids(labelled, template).tolist())
    return torch.tensor([next(ids) if p.answer else 0 for p in prompts])


def answers_of(encoder: Encoder, prompts: Prompts, *values: torch.Tensor, longer: bool = False) -> Answers:
    """From ids [prompt, new], log-probabilities, ranks and wanted ids, each [prompt], to scored answers."""
    return Answers(
        prompts=tuple(p.text for p in prompts), **asked_of(prompts), **scored(encoder, prompts, *values, longer=longer)
    )


def scored(
    encoder: Encoder,
    prompts: Prompts,
    ids: Int[torch.Tensor, "*run prompt new"],
    log_probability: Float[torch.Tensor, "*run prompt"],
    rank: Int[torch.Tensor, "*run prompt"],
    wanted: Int[torch.Tensor, " prompt"],
    *,
    longer: bool,
) -> dict[str, Any]:
    """What was answered and whether it is right, in the fields of a result."""
    first, labels = ids[..., 0].numpy(), [p.answers for p in prompts]
    words = {i: encoder.decode(i) for i in np.unique(first).tolist()}
    right = _right_ids(encoder, prompts, wanted)
    known = torch.tensor([bool(some) for some in labels])
    return {
        "predicted": _nested(first.tolist(), words.__getitem__),
        "log_probability": log_probability.masked_fill(~known, float("nan")).numpy(),
        "rank": rank.masked_fill(~known, -1).numpy(),
        "paper": np.stack([_paper_hits(first[..., n], words, some) for n, some in enumerate(labels)], -1),
        "strict": np.stack([np.isin(first[..., n], list(some)) for n, some in enumerate(right)], -1),
        "continuations": _continuations(encoder, ids) if longer else None,
    }


def _paper_hits(
    ids: Int[np.ndarray, "*run"], words: Mapping[int, str], labels: Sequence[str]
) -> Bool[np.ndarray, "*run"]:
    """Hits of the runs of one prompt, each token scored once."""
    return np.isin(ids, [token for token in np.unique(ids).tolist() if paper_hit(words[token], labels)])


def _continuations(encoder: Encoder, ids: Int[torch.Tensor, "*run prompt new"]) -> Any:
    """The texts of all runs; each is read once, since most runs continue alike."""
    runs, at = np.unique(ids.flatten(0, -2).numpy(), axis=0, return_inverse=True)
    texts = [encoder.text(run) for run in runs.tolist()]
    return _nested(at.reshape(ids.shape[:-1]).tolist(), texts.__getitem__)


def _nested(values: Any, make: Callable[[Any], str]) -> Any:
    """Texts in the nesting of the numbers they are made from."""
    return tuple(_nested(value, make) for value in values) if isinstance(values, list) else make(values)


def _right_ids(encoder: Encoder, prompts: Prompts, wanted: torch.Tensor) -> list[set[int]]:
    """The tokens with which each prompt's labels begin; `wanted` holds that of the canonical one."""
    before = prompts.template.delimiter
    begun = {labels: encoder.first_tokens(before, labels) for labels in {p.answers for p in prompts}}
    pairs = zip(wanted.tolist(), prompts, strict=True)
    return [{token} | begun[p.answers] if p.answers else set() for token, p in pairs]


def announce_ties(found: Answers | Transfer) -> None:
    """Warns of answers that the first token does not tell from other labels of the task."""
    tied = found.tied()
    if not tied.any():
        return
    where = tuple(np.argwhere(tied)[0])
    said: Any = found.predicted
    for place in where:
        said = said[place]
    rival = next(label for label in sorted(rivals_of(found)[where[-1]]) if paper_hit(said, label))
    own = next(label for label in found.accepted[where[-1]] if paper_hit(said, label))
    warnings.warn(
        f"{int(tied.sum())} of {tied.size} answers are hits under `paper` on several labels of one task: {said!r} "
        f"begins {own!r} and {rival!r} ({found.tasks[where[-1]]}). The first token does not distinguish them: read "
        "more (max_new_tokens=...) and take score='whole'.",
        XmiWarning,
        stacklevel=outside(),
    )


def asked_of(prompts: Prompts) -> dict[str, Any]:
    """What was asked, as every result stores it."""
    return {
        "tasks": tuple(p.task for p in prompts),
        "units": tuple(p.unit if p.input else p.text for p in prompts),
        "answers": tuple(p.answer or "" for p in prompts),
        "alternatives": tuple(p.alternatives for p in prompts) if any(p.alternatives for p in prompts) else None,
    }
