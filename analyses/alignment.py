"""One place for a task, whatever the modality and the specification.

**The paper** (claim 1, section 4): the residual at the last delimiter is a task vector, and conceptually equal inputs
map to close vectors, whether the task is given by text, by images or by an instruction.

**Here**: at the layer that validation items chose for patching text examples into image queries, four things are asked
of single prompts and of task vectors. Are text and image prompts of the same task nearer (cosine) than those of
different tasks? Does the nearest centroid of the text prompts name the task of an image prompt, and the reverse, more
often than with the names of the tasks exchanged? Are the vectors of a task from examples and from its instruction
nearer than those of different tasks (Student's interval over tasks)? docs/geometry.md has the measures.

**What came out** on the embedded model (`python -m analyses.alignment`)::

    verdict  claim                                   first  second  difference, 95 % interval  n
    holds    text, image prompts: cosine             0.93   0.45    +0.47 [+0.47, +0.48]       180 prompts
    holds    nearest text centroid of image prompts  1.00   0.17    +0.83 [+0.79, +0.83]       90 prompts
    holds    nearest image centroid of text prompts  1.00   0.17    +0.83 [+0.79, +0.83]       90 prompts
    holds    text ICL, image ICL vectors: cosine     0.99   0.49    +0.50 [+0.42, +0.58]       6 tasks
    holds    text ICL, instruction vectors: cosine   0.82   0.39    +0.43 [+0.30, +0.56]       6 tasks
    holds    image ICL, instruction vectors: cosine  0.80   0.38    +0.42 [+0.28, +0.56]       6 tasks

That text and image prompts lie close follows largely from how the eye was trained (model card, "The aligned eye"). No
loss brought the vectors of instructions and of examples together. Prompts are counted here as if tasks were given: the
tests that exchange the names of the tasks, layer by layer, are in the run's report.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from analyses.common import Finding, chosen, main, over_tasks, row
from xmi.measure import Similarity
from xmi.study import StudyResults

COSINE = "cosine, {} task, across modalities"


def finding(results: StudyResults) -> Finding:
    """How near the vectors of a task lie in the study's main model."""
    model = results.models[0]
    layer = chosen(results, model, "text ICL", "image")
    found, rows = results.alignment(model), list[dict[str, Any]]()

    def at(measure: str) -> Any:
        return found.curve(measure).set_index("layer").loc[layer]

    same, different, margin = (at(COSINE.format(kind)) for kind in ("same", "different", "same minus different"))
    interval = float(margin.low), float(margin.high)
    rows.append(row("text, image prompts: cosine", same.value, different.value, interval, sum(found.n), of="prompts"))
    for (a, b), n in zip(((found.a, found.b), (found.b, found.a)), reversed(found.n), strict=True):
        votes = at(f"centroids, {a} to {b}")
        interval = float(votes.low - votes.chance), float(votes.high - votes.chance)
        rows.append(row(f"nearest {a} centroid of {b} prompts", votes.value, votes.chance, interval, n, of="prompts"))
    for a, b in (("text ICL", "image ICL"), ("text ICL", "instruction"), ("image ICL", "instruction")):
        own, other = cosines(results.similarity(model), a, b, layer)
        rows.append(over_tasks(f"{a}, {b} vectors: cosine", own, other))
    return Finding.of("alignment", __doc__, rows, found.figure(kind="cosine", state="raw"))


def cosines(similarity: Similarity, a: str, b: str, layer: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosine of each task's vector from `a` with its own from `b`, and its mean with those of the other tasks."""
    tasks = list(dict.fromkeys(similarity.groups))
    left, right = ([similarity.labels.index(f"{task} · {source}") for task in tasks] for source in (a, b))
    values = similarity.values[layer][np.ix_(left, right)]
    own = np.diag(values)
    return own, (values.sum(1) - own) / (len(tasks) - 1)


if __name__ == "__main__":
    main(finding, __doc__)
