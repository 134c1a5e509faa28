"""Instructions, and their mean with examples.

**The paper** (claim 5, section 5): an instruction alone gives a task vector, and the mean of an instruction's vector
and an example's is more sample-efficient than examples alone (about 18 % better at few examples).

**Here**: the instruction's vector against no context; the mean of the vectors of the fewest examples and of the
instruction against these examples' vector alone, on the same queries; and the mean of the text examples' and the
instruction's vector against the examples as a cross-modal prompt (the paper's xBase). Layers are chosen on validation
items.

**What came out** on the embedded model (`python -m analyses.instructions_and_ensembles`)::

    verdict       claim                                       first  second  difference, 95 % interval  n
    holds         instruction → image: above no context       1.00   0.00    +1.00 [+0.92, +1.00]       96 items
    holds         instruction → text: above no context        1.00   0.00    +1.00 [+0.92, +1.00]       96 items
    inconclusive  1 example → image: better with instruction  1.00   0.99    +0.01 [-0.03, +0.05]       96 items
    inconclusive  1 example → text: better with instruction   0.98   0.97    +0.01 [-0.03, +0.05]       96 items
    holds         both → image: above xBase                   1.00   0.95    +0.05 [+0.01, +0.10]       96 items

A single example's vector is near the ceiling already, so that an instruction has nothing left to add. Against the
cross-modal prompt the mean of both is better, by an interval that would not survive many more rows like it.
"""

from __future__ import annotations

from typing import Any

import xmi
from analyses.common import Finding, compared, main, patched, row
from xmi.study import StudyResults


def finding(results: StudyResults) -> Finding:
    """What instructions add on the study's main model."""
    model, rows = results.models[0], list[dict[str, Any]]()
    for target in ("image", "text"):
        told = patched(results, model, "instruction", target)
        alone = xmi.compare(told, results.answers(model, f"no context > {target}"))
        rows.append(compared(f"instruction → {target}: above no context", alone))
    for target in ("image", "text"):
        found = next(results.ensembling(model, target).gain().itertuples(name=None, index=False))
        examples, without, with_told, _, low, high, *_, n = found
        count = f"{examples} example" + ("s" if examples > 1 else "")
        rows.append(row(f"{count} → {target}: better with instruction", with_told, without, (low, high), n))
    both = patched(results, model, "text ICL + instruction", "image")
    rows.append(compared("both → image: above xBase", xmi.compare(both, results.answers(model, "text ICL > image"))))
    figure = results.ensembling(model, "image").figure()
    return Finding.of("instructions_and_ensembles", __doc__, rows, figure)


if __name__ == "__main__":
    main(finding, __doc__)
