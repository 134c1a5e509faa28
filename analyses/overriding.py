"""Overriding: one task in the prompt, another patched in.

**The paper** (claim 6, section 5): with one task in the prompt and another one's vector patched in, the model follows
the patched one more often than it follows a system prompt, by 27 to 59 points in three of four settings.

**Here**: for every ordered pair of tasks that share inputs (a country's capital and its currency, say), prompts of the
one with the other one's vector patched in; in place of it the other task's instruction before the prompt ("system
prompt"), nothing, or a random vector of the same norm. A query counts for the patched task if its label is answered and
that of the prompt's task is not. The layer is chosen on validation queries, intervals are paired over test queries.

**What came out** on the embedded model (`python -m analyses.overriding`)::

    verdict  claim                                                first  second  difference, 95 % interval  n
    holds    text ICL prompt: patch beats system prompt           1.00   0.05    +0.95 [+0.87, +0.98]       96 queries
    holds    text ICL prompt: patch beats no patch                1.00   0.00    +1.00 [+0.92, +1.00]       96 queries
    holds    text ICL prompt: patch beats control: random vector  1.00   0.09    +0.91 [+0.84, +0.96]       96 queries

One setting was tried: text examples in the prompt, a vector of text examples, text queries. The system prompt moves
this model little: the examples after it decide. The random vector of the same norm destroys the prompt's task nearly as
well as the patch does, but puts no other one in its place.
"""

from __future__ import annotations

from analyses.common import Finding, main, row
from xmi.study import StudyResults


def finding(results: StudyResults) -> Finding:
    """Who wins on the study's main model."""
    found = results.overriding(results.models[0])
    rows = [
        row(f"{found.context} prompt: patch beats {r.against}", r.patch, r.other, (r.low, r.high), r.n, of="queries")
        for r in found.gain().itertuples()
    ]
    return Finding.of("overriding", __doc__, rows, found.figure())


if __name__ == "__main__":
    main(finding, __doc__)
