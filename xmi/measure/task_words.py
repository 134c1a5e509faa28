"""Words that sum up a task, found among a model's own top decodings.

The rule, for each task apart. A token is taken if, at the depth at which it stands out most,

1. it is among the top tokens of at least a given share of the task's prompts, with a least mean mass;
2. its mean mass is several times that in any other task's prompts;
3. it is a word: not a fragment of an input or an answer of the task's prompts, nor of the template.

Nothing is known of the model but what the lens reads. Measure phases on other prompts than those the words were found
on, else the task phase is in part what the search picked.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from xmi.errors import MeasureError
from xmi.measure.result import Result


@dataclass(frozen=True)
class TaskWords(Result):
    """Tokens that sum up tasks, by task and then by how far they stand out.

    Attributes:
        tasks: The task of each token.
        tokens: The tokens as text.
        ids: Their ids in the model's vocabulary.
        depth: Where each stands out most: `embed`, `0`, `1`, ...
        mass: Its mean probability there over the task's prompts.
        elsewhere: The largest of its mean probabilities there in the other tasks.
        share: Share of the task's prompts that have it among their top tokens there.
        searched: All tasks that were searched, found or not.
        revision: Revision of the model, whose vocabulary the ids are of.
        lens: Name of the lens.
        slot: Where it was read.
    """

    tasks: tuple[str, ...]
    tokens: tuple[str, ...]
    ids: tuple[int, ...]
    depth: tuple[str, ...]
    mass: Float[np.ndarray, " token"]
    elsewhere: Float[np.ndarray, " token"]
    share: Float[np.ndarray, " token"]
    searched: tuple[str, ...]
    revision: str = ""
    lens: str = "logit lens"
    slot: str = "last"

    def of(self, task: str) -> tuple[str, ...]:
        """Returns a task's tokens, the most outstanding first; none if none were found."""
        self._require(task)
        return tuple(token for t, token in zip(self.tasks, self.tokens, strict=True) if t == task)

    def ids_of(self, task: str) -> tuple[int, ...]:
        """Returns the ids of a task's tokens."""
        self._require(task)
        return tuple(i for t, i in zip(self.tasks, self.ids, strict=True) if t == task)

    def to_frame(self) -> pd.DataFrame:
        """Returns one row per token: task, token, id, depth, mass, elsewhere, share."""
        return pd.DataFrame(
            {
                "task": self.tasks, "token": self.tokens, "id": self.ids, "depth": self.depth,
                "mass": self.mass, "elsewhere": self.elsewhere, "share": self.share,
            }
        )  # fmt: skip

    def _require(self, task: str) -> None:
        if task not in self.searched:
            raise MeasureError(f"No words were searched for {task!r}; the tasks are {', '.join(self.searched)}.")


def choose_task_words(
    tasks: Sequence[str],
    ids: Int[np.ndarray, "prompt depth k"],
    probabilities: Float[np.ndarray, "prompt depth k"],
    texts: Mapping[int, str],
    taken: Mapping[str, Collection[str]],
    depth: Sequence[str],
    *,
    share: float = 0.5,
    mass: float = 0.02,
    times: float = 2.0,
    limit: int = 5,
) -> TaskWords:
    """Applies the rule of this module to top tokens; what is below the top k of a prompt counts as mass 0.

    Args:
        tasks: The task of each prompt.
        ids: Top tokens.
        probabilities: Their probabilities.
        texts: The text of each token; a token without one is never taken.
        taken: For each task the words of its inputs, answers and template.
        depth: Names of the depths.
        share: Least share of the task's prompts that have the token among their top tokens.
        mass: Least mean probability.
        times: How many times the mean probability in any other task.
        limit: Most tokens per task.

    Returns:
        The tokens found; a task may have none.

    Raises:
        MeasureError: Fewer than two tasks, so that nothing can stand out; or probabilities that are not finite.
    """
    searched = tuple(dict.fromkeys(tasks))
    if len(searched) < 2:
        raise MeasureError(f"Task words stand out against other tasks: give prompts of at least two, not {searched}.")
    if not np.isfinite(probabilities).all():
        raise MeasureError("The probabilities hold NaN or infinite values: check the dtype the model ran in.")
    vocabulary, place = np.unique(ids, return_inverse=True)
    table = np.zeros((2, len(searched), len(depth), len(vocabulary)))  # mean mass and share of prompts
    for number, task in enumerate(searched):
        rows = np.flatnonzero(np.array(tasks) == task)
        where = (np.arange(len(depth))[None, :, None], place.reshape(ids.shape)[rows])
        np.add.at(table[0, number], where, probabilities[rows] / len(rows))
        np.add.at(table[1, number], where, 1 / len(rows))
    names: list[tuple[str, str, int, str]] = []
    numbers: list[tuple[float, float, float]] = []
    every = np.arange(len(vocabulary))
    for number, task in enumerate(searched):
        own, others = table[0, number], np.delete(table[0], number, 0).max(0)
        best = (own - others).argmax(0)
        here, there, spread = own[best, every], others[best, every], table[1, number, best, every]
        good = (here >= mass) & (here >= times * there) & (spread >= share - 1e-9)
        words = {word.casefold() for phrase in taken.get(task, ()) for word in phrase.split()}
        ranked = [i for i in np.argsort(there - here, kind="stable") if good[i]]
        chosen = [i for i in ranked if _is_word(texts.get(int(vocabulary[i]), ""), words)][:limit]
        names += [(task, texts[int(vocabulary[i])], int(vocabulary[i]), depth[best[i]]) for i in chosen]
        numbers += [(float(here[i]), float(there[i]), float(spread[i])) for i in chosen]
    owners, tokens, found, depths = zip(*names, strict=True) if names else ((), (), (), ())
    here, there, spread = np.array(numbers).reshape(-1, 3).T
    return TaskWords(owners, tokens, found, depths, here, there, spread, searched)


def _is_word(token: str, taken: Collection[str]) -> bool:
    """Whether a token is a word of its own: letters, and no part or extension of a word that is taken."""
    word = token.strip().casefold()
    if not any(c.isalpha() for c in word) or "\ufffd" in word or (len(word) == 1 and word.isascii()):
        return False
    return not any(word in other or word.startswith(other) for other in taken)
