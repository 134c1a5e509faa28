"""Three phases: input, task, answer.

**The paper** (claim 2, section 4): read by the logit lens, the last token decodes first to the input, then to a word
for the task, then to the answer, in the same order for text examples, image examples and instructions. In Idefics2 the
input leads for about the first 50 % of the layers, the task for 40 %, the answer for the last 10 %.

**Here**: the relative probability of the three sets of tokens, in this order, is cut where it changes hands
(docs/phases.md); depths are relative, 0 is the embedding and 1 the last layer. First row of each specification: place
of task → answer against place of input → task, the interval being the widest that both intervals allow. The other rows
set each place against the paper's, and ask for agreement within 0.1. Intervals are bootstraps over test items.

**What came out** on the embedded model (`python -m analyses.phases`)::

    verdict        claim                                          first  second  difference, 95 % interval  n
    holds          text ICL: input, task, answer                  0.90   0.07    +0.83 [+0.81, +0.84]       96 items
    does not hold  text ICL: task from 50% on                     0.07   0.50    -0.43 [-0.43, -0.43]       96 items
    holds          text ICL: answer from 90% on                   0.90   0.90    -0.00 [-0.01, +0.01]       96 items
    holds          image ICL: input, task, answer                 0.90   0.07    +0.83 [+0.82, +0.84]       96 items
    does not hold  image ICL: task from 50% on                    0.07   0.50    -0.43 [-0.43, -0.43]       96 items
    holds          image ICL: answer from 90% on                  0.90   0.90    +0.00 [-0.01, +0.01]       96 items
    holds          instruction, text query: input, task, answer   0.87   0.07    +0.80 [+0.78, +0.82]       96 items
    does not hold  instruction, text query: task from 50% on      0.07   0.50    -0.43 [-0.43, -0.43]       96 items
    holds          instruction, text query: answer from 90% on    0.87   0.90    -0.03 [-0.04, -0.01]       96 items
    holds          instruction, image query: input, task, answer  0.87   0.07    +0.80 [+0.78, +0.82]       96 items
    does not hold  instruction, image query: task from 50% on     0.07   0.50    -0.43 [-0.43, -0.43]       96 items
    holds          instruction, image query: answer from 90% on   0.87   0.90    -0.03 [-0.05, -0.01]       96 items

The order is the paper's, the lengths are not: after the first block the task leads already. What decodes to the input
is the embedding of the last token itself, by weights that embedding and unembedding share. That the task's word can be
read in the middle layers was trained (model card, "The task named"); the order was not. An instruction stands alone in
the paper; here a query follows it.
"""

from __future__ import annotations

from typing import Any

import xmi.plot as plot
from analyses.common import Finding, main, row
from xmi.study import StudyResults

PAPER = (0.5, 0.9)  # of Idefics2: where the task takes over, and where the answer does
NEAR = 0.1


def finding(results: StudyResults) -> Finding:
    """Where the phases of the study's main model change."""
    model = results.models[0]
    found, rows = results.boundaries(model).to_frame(), list[dict[str, Any]]()
    for label, pair in found.groupby("label", sort=False):
        task, answer = pair.itertuples()
        low, high = answer.relative_low - task.relative_high, answer.relative_high - task.relative_low
        # Where too many resamples lack a boundary, there may as well be no task phase.
        sure = min(task.found, answer.found) > 0.975
        interval = low if sure else min(low, 0.0), high
        rows.append(row(f"{label}: input, task, answer", answer.relative, task.relative, interval, task.n))
        for name, place, paper in (("task", task, PAPER[0]), ("answer", answer, PAPER[1])):
            interval = place.relative_low - paper, place.relative_high - paper
            claim = f"{label}: {name} from {paper:.0%} on"
            rows.append(row(claim, place.relative, paper, interval, place.n, within=NEAR))
    measured = results.phases(model)
    figure = plot.phases([measured[label] for label in found.label.unique()], x="relative")
    return Finding.of("phases", __doc__, rows, figure)


if __name__ == "__main__":
    main(finding, __doc__)
