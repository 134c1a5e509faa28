"""The contrasts of a study: which methods are set against which, and what comes out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from xmi.measure.answers import Answers, Transfer
from xmi.measure.compare import compare_all
from xmi.measure.paired import CONFIDENCE, RESAMPLES, benjamini_hochberg, holm
from xmi.measure.sides import answers_at
from xmi.names import (
    ASKED,
    IMAGE_ICL,
    INSTRUCTION,
    LEVELS,
    SPECIFICATIONS,
    TEXT_ICL,
    cell_parts,
    is_control,
    is_of_base,
    modality_of,
    parts_of,
    sweep_name,
    without_base,
)


@dataclass(frozen=True)
class _Side:
    """One method on one kind of query; a patch has a layer, a prompt None."""

    name: str
    layer: int | None
    answers: Answers


class _Target:
    """What was measured on the queries of one modality.

    Attributes:
        modality: Of the queries.
        cells: Answers to prompts by source, and without context.
        sources: The sources that were patched into test queries.
    """

    def __init__(
        self,
        modality: str,
        cells: Mapping[str, Answers],
        validation: Transfer | None,
        test: Transfer | None,
        chosen_by: str,
        ties: str,
    ) -> None:
        self.modality, self.cells, self._test = modality, cells, test
        self.sources = test.sources if test is not None else ()
        known = validation.sources if validation is not None else ()
        # Controls are patched where the source is that they are a control of: they need no layer of their own.
        own = [s for s in self.sources if s in known and not is_control(s)]
        self._layers = (
            {s: validation.best_layer_of(s, chosen_by, ties=ties) for s in own} if validation is not None else {}
        )
        self._made: dict[tuple[str, int], _Side] = {}

    def patch(self, source: str, at: str | None = None) -> _Side | None:
        """A source's patch at its own layer, or at that of the source named by `at`; None if that was not measured."""
        layer = self._layers.get(at or source)
        if self._test is None or layer is None or source not in self.sources:
            return None
        if (source, layer) not in self._made:
            side = _Side(f"{source}: patch", layer, answers_at(self._test, source, layer))
            self._made[source, layer] = side
        return self._made[source, layer]

    def prompt(self, source: str) -> _Side | None:
        """The prompting cell of a source, or a level to beat; None if it was not measured."""
        name = source if source in LEVELS else f"{source}: prompt"
        return _Side(name, None, self.cells[source]) if source in self.cells else None


def comparisons(
    answers: Mapping[str, Answers],
    transfers: Mapping[str, Transfer],
    *,
    score: str = "paper",
    chosen_by: str | None = None,
    ties: str = "likelihood",
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """The contrasts of a study, each with interval and corrected p-value.

    - `patch vs prompt`: a vector against the prompt it was read from; from the other modality than the query's it is
      `xPatch vs xBase`.
    - `patch vs control`: text ICL, image ICL and instruction against every `control: ...` source **at the same layer**,
      and against the cells `no context` and `majority` (`majority_answers`).
    - `ensemble vs part`: a source named `x + y` against `x` and against `y`.
    - `base LLM vs own`: a source named `base LLM x` against `x`.
    - `instruction vs examples`: the instruction's vector against those of text and image examples.

    Except for controls each source stands at its own layer, the one that `best_layer_of` chooses on validation items;
    hits are of test items. A contrast of which a side is absent is left out.

    Args:
        answers: Prompting cells by `source > target`.
        transfers: Sweeps by `target.validation` and `target.test`.
        score: `paper`, `strict` or `whole`.
        chosen_by: The score that chooses layers on validation items, by default the same.
        ties: Which of equally good layers, as in `Transfer.best_layer_of`.
        confidence: Coverage of the intervals.
        resamples: Bootstrap resamples, and random sign patterns of the test.
        seed: Seed of both.

    Returns:
        One row per contrast: contrast, target, a, b, layer_a, layer_b (missing for prompts), score, accuracy_a,
        accuracy_b, difference, low, high, p, p_holm, p_bh (corrected over all rows of the table), n (items), seeds
        (answers per item), answers_a, answers_b, lowest_seed, highest_seed (difference under single seeds).

    Raises:
        MeasureError: The sides of a contrast were asked different items, or the score is unknown.

    Examples:
        >>> vector = vlm.task_vector(task.icl("text"))
        >>> vectors = {"text ICL": vector, "control: random": xmi.random_like(vector)}
        >>> splits = {kind: task.queries("text", split=kind) for kind in ("validation", "test")}
        >>> sweeps = {f"text.{kind}": vlm.transfer(vectors, to=queries) for kind, queries in splits.items()}
        >>> measure.comparisons({}, sweeps)[["contrast", "a", "b"]]
                   contrast                a                       b
        0  patch vs control  text ICL: patch  control: random: patch
    """
    found = [
        (contrast, target.modality, a, b)
        for target in _targets(answers, transfers, chosen_by or score, ties)
        for contrast, a, b in _contrasts(target)
        if a is not None and b is not None
    ]
    results = compare_all(
        [(a.answers, b.answers, (a.name, b.name)) for _, _, a, b in found],
        score=score, confidence=confidence, resamples=resamples, seed=seed,
    )  # fmt: skip
    rows = [
        {"contrast": contrast, "target": target, "layer_a": a.layer, "layer_b": b.layer,
         **result.to_frame().iloc[0]}
        for (contrast, target, a, b), result in zip(found, results, strict=True)
    ]  # fmt: skip
    p = np.array([result.p for result in results])
    table = pd.DataFrame(rows).assign(p_holm=holm(p), p_bh=benjamini_hochberg(p))
    return table.reindex(columns=COLUMNS).astype({"layer_a": "Int64", "layer_b": "Int64"})


COLUMNS = [
    "contrast", "target", "a", "b", "layer_a", "layer_b", "score", "accuracy_a", "accuracy_b", "difference", "low",
    "high", "p", "p_holm", "p_bh", "n", "seeds", "answers_a", "answers_b", "lowest_seed", "highest_seed",
]  # fmt: skip
"""The columns of a table of comparisons."""


def _targets(
    answers: Mapping[str, Answers], transfers: Mapping[str, Transfer], chosen_by: str, ties: str
) -> Iterator[_Target]:
    cells: dict[str, dict[str, Answers]] = {}
    for name, value in answers.items():
        source, modality = cell_parts(name)
        cells.setdefault(modality, {})[source] = value
    swept = [name.rpartition(".")[0] for name in transfers]
    for modality in dict.fromkeys([*cells, *swept]):
        validation, test = (transfers.get(sweep_name(modality, split)) for split in ASKED)
        yield _Target(modality, cells.get(modality, {}), validation, test, chosen_by, ties)


def _contrasts(target: _Target) -> Iterator[tuple[str, _Side | None, _Side | None]]:
    """Every contrast that the sources' names ask for; sides that were not measured are None."""
    sources = [s for s in target.sources if not is_control(s)]
    for source in (s for s in target.cells if s not in LEVELS):
        crossed = modality_of(source) not in (None, target.modality)
        yield "xPatch vs xBase" if crossed else "patch vs prompt", target.patch(source), target.prompt(source)
    for source in SPECIFICATIONS:
        for control in (s for s in target.sources if is_control(s)):
            yield "patch vs control", target.patch(source), target.patch(control, at=source)
        for level in LEVELS:
            yield "patch vs control", target.patch(source), target.prompt(level)
    for source in (s for s in sources if len(parts_of(s)) > 1):
        for part in parts_of(source):
            yield "ensemble vs part", target.patch(source), target.patch(part)
    for source in (s for s in sources if is_of_base(s)):
        yield "base LLM vs own", target.patch(source), target.patch(without_base(source))
    for examples in (TEXT_ICL, IMAGE_ICL):
        yield "instruction vs examples", target.patch(INSTRUCTION), target.patch(examples)
