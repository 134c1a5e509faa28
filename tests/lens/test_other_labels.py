"""The task's other labels in the phases, against the model's own distribution."""

from __future__ import annotations

import numpy as np
import pytest

import xmi
from tests.zoo.models import build, llama
from tests.zoo.oracle import prompts_for


@pytest.mark.fault("A16")
def test_other_labels_have_what_the_model_gives_their_first_tokens() -> None:
    """At the last depth: all labels of the prompts and their examples, but the right one, task words and input."""
    model, tool = build(llama)
    vlm = xmi.load(model, processor=tool)
    prompts = prompts_for("none")
    words = prompts.task_words or ("capital",)
    found = vlm.phases(prompts, task_words=words)
    assert found.other_labels is not None
    assert found.other_labels_rank is not None
    logits, _ = vlm.run_with_cache(list(prompts), names=["ln_final.hook_normalized"])
    share = logits[:, -1].float().softmax(-1).numpy()
    encoder, template = vlm.encoder, prompts.template
    shown = {s.text for p in prompts for s in p.segments if s.role == "answer"} | {
        a for p in prompts for a in p.answers
    }
    labels = {encoder.first_token(template.delimiter, label) for label in prompts.labels or shown}
    task = set(encoder.word_ids(words, template.delimiter))
    for row, prompt in enumerate(prompts):
        right = {encoder.first_token(template.delimiter, a) for a in prompt.answers}
        given = set(encoder.word_ids((prompt.input,), template.prefix))
        rest = sorted(labels - right - task - given)
        assert rest, "there are other labels"
        assert found.other_labels[row, -1] == pytest.approx(share[row, rest].sum(), rel=1e-4)
        order = np.argsort(-share[row])
        assert found.other_labels_rank[row, -1] == min(int(np.flatnonzero(order == i)[0]) for i in rest)
