"""From the base LLM to the VLM.

**The paper** (claim 4, section 5): task vectors of the base LLM work in the VLM that was fine-tuned from it. Text
vectors patched into image queries: .37 from Vicuna against .32 of LLaVA-1.5's own, .52 from Mistral against .51 of
Idefics2's own. Their cosine similarity to the VLM's own is 0.89 to 0.95.

**Here**: accuracy of the base LLM's vectors against no context, and against the VLM's own, which they should match
within 0.1; each at the layer that validation items chose. Cosines of both models' text vectors at the layer chosen for
the base LLM's, of the same task against different tasks, and against the paper's lowest (Student's intervals over
tasks).

**What came out** on the embedded model (`python -m analyses.llm_to_vlm`)::

    verdict  claim                                      first  second  difference, 95 % interval  n
    holds    LLM text ICL → image: works                0.95   0.00    +0.95 [+0.88, +0.99]       96 items
    holds    LLM text ICL → image: as the VLM's own     0.95   0.96    -0.01 [-0.05, +0.04]       96 items
    holds    LLM instruction → image: works             1.00   0.00    +1.00 [+0.92, +1.00]       96 items
    holds    LLM instruction → image: as the VLM's own  1.00   1.00    +0.00 [-0.04, +0.04]       96 items
    holds    LLM text ICL → text: works                 0.99   0.00    +0.99 [+0.91, +1.00]       96 items
    holds    LLM text ICL → text: as the VLM's own      0.99   0.99    +0.00 [-0.04, +0.04]       96 items
    holds    LLM instruction → text: works              1.00   0.00    +1.00 [+0.92, +1.00]       96 items
    holds    LLM instruction → text: as the VLM's own   1.00   1.00    +0.00 [-0.04, +0.04]       96 items
    holds    cosine: same above different task          1.00   0.48    +0.52 [+0.45, +0.59]       6 tasks
    holds    cosine: above 0.89, as in the paper        1.00   0.89    +0.11 [+0.10, +0.11]       6 tasks

Cosines this close to one say that little was changed: the base LLM was frozen while the eye was aligned to it, and
tuned only briefly afterwards (model card, "What is induced"; `results.base_comparison(model).weights()` says how far
weights moved). Real VLMs are tuned longer.
"""

from __future__ import annotations

from typing import Any

import xmi
from analyses.common import Finding, chosen, compared, main, over_tasks, patched
from xmi.study import StudyResults

CLOSE, PAPER = 0.1, 0.89


def finding(results: StudyResults) -> Finding:
    """What the base LLM's vectors do in the study's main model."""
    model, rows = results.models[0], list[dict[str, Any]]()
    table = results.comparisons(model)
    for target in ("image", "text"):
        nothing = results.answers(model, f"no context > {target}")
        for kind in ("text ICL", "instruction"):
            works = xmi.compare(patched(results, model, f"base LLM {kind}", target), nothing)
            rows.append(compared(f"LLM {kind} → {target}: works", works))
            mine = table[(table.contrast == "base LLM vs own") & (table.target == target)]
            (found,) = mine[mine.b == f"{kind}: patch"].itertuples()
            rows.append(compared(f"LLM {kind} → {target}: as the VLM's own", found, within=CLOSE))
    cosines = results.base_similarity(model)
    layer = chosen(results, model, "base LLM text ICL", "image")
    same, other = cosines.same[layer], cosines.other[layer]
    rows.append(over_tasks("cosine: same above different task", same, other))
    rows.append(over_tasks(f"cosine: above {PAPER}, as in the paper", same, PAPER))
    return Finding.of("llm_to_vlm", __doc__, rows, cosines.figure(every=False))


if __name__ == "__main__":
    main(finding, __doc__)
