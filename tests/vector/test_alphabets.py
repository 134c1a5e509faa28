"""Labels of any alphabet are scored as exactly as Latin ones, also where tokens are parts of characters."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any
from unicodedata import normalize

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import xmi
from tests.prompt.alphabets import BYTES, LABELS
from xmi.answer import score_answers
from xmi.measure import Answers
from xmi.measure.answers import rivals_of
from xmi.prompt import Encoder, Prompts, Task, free_prompt
from xmi.prompt.prompt import Segment
from xmi.prompt.task import Item
from xmi.prompt.token_bytes import TokenBytes
from xmi.vlm import VLM


def asked(*labels: str, task: str = "t") -> Prompts:
    one = free_prompt("Q:x\nA:")[0]
    return Prompts(tuple(replace(one, task=task, input=str(i), answer=a) for i, a in enumerate(labels)), "no context")


def scored(tokenizer: Any, prompts: Prompts, said: list[list[int]], tokens: int | None = None) -> Answers:
    """What comes out if a model gives these tokens."""
    encoder = Encoder(tokenizer)
    ids = torch.tensor(said)
    zeros = torch.zeros(len(said))
    wanted = [encoder.answer_ids(prompts, prompts.template)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", xmi.XmiWarning)
        return score_answers(encoder, prompts, [(ids, zeros, zeros.long())], wanted, tokens)


def after_delimiter(tokenizer: Any, label: str) -> list[int]:
    whole = tokenizer("\nA:" + label, add_special_tokens=False).encodings[0]
    return [i for i, (_, end) in zip(whole.ids, whole.offsets, strict=True) if end > 3]


@pytest.mark.fault("A7")
@pytest.mark.parametrize("kind", BYTES)
@pytest.mark.parametrize("space", ["", " "])
def test_a_model_that_is_right_is_right_under_every_score(kind: str, space: str) -> None:
    tokenizer = BYTES[kind]()
    rows = [after_delimiter(tokenizer, space + label) for label in LABELS]
    size = max(map(len, rows)) + 1
    [stop] = tokenizer("\n", add_special_tokens=False)["input_ids"][-1:]
    found = scored(tokenizer, asked(*LABELS), [row + [stop] * (size - len(row)) for row in rows], size)
    if space == "":  # with a space of its own the first token is another one
        assert found.strict.all()
        assert found.paper.all()
    elif kind == "byte level":
        assert (found.paper == [t.strip() != "" for t in found.predicted]).all()
    labels = [label for label, hit in zip(LABELS, scored_whole(found), strict=True) if not hit]
    assert labels == []


def scored_whole(found: Answers) -> list[bool]:
    from xmi.measure.answers import hits_of

    return hits_of(found, "whole").tolist()


@pytest.mark.fault("A7")
@pytest.mark.parametrize("kind", BYTES)
def test_paper_hits_are_prefixes_of_bytes(kind: str) -> None:
    """Every token of the vocabulary against every label, by hand."""
    tokenizer = BYTES[kind]()
    of = TokenBytes(tokenizer).of
    tokens = [i for i in range(len(tokenizer)) if of(i) is not None and tokenizer.decode([i]) not in ("<s>", "</s>")]
    for label in LABELS[::3]:
        found = scored(tokenizer, asked(*[label] * len(tokens)), [[i] for i in tokens])
        forms = {label.encode(), normalize("NFC", label).encode()}
        expected = [
            bool(bare := of(i).strip()) and any(f.startswith(bare) or bare.startswith(f) for f in forms) for i in tokens
        ]
        assert found.paper.tolist() == expected, label


@pytest.mark.fault("A7")
def test_labels_that_share_their_first_byte_are_said_to_be_tied() -> None:
    tokenizer = BYTES["gemma"]()
    prompts = asked("东京", "乌克兰", "Paris", "东京")
    said = [[after_delimiter(tokenizer, label)[0]] for label in ("东京", "乌克兰", "Paris", "Paris")]
    found = scored(tokenizer, prompts, said)
    assert found.predicted[:2] == ("<0xE4>", "<0xE4>")
    assert found.paper.tolist() == [True, True, True, False]
    assert found.tied().tolist() == [True, True, False, False]
    assert rivals_of(found)[0] == {"乌克兰", "Paris"}
    encoder = Encoder(tokenizer)
    values = torch.tensor(said), torch.zeros(4), torch.zeros(4).long()
    with pytest.warns(xmi.XmiWarning, match=r"2 of 4 answers .* '<0xE4>' begins '东京' and '乌克兰'"):
        score_answers(encoder, prompts, [values], [encoder.answer_ids(prompts, prompts.template)], None)
    others = replace(prompts, prompts=tuple(replace(p, task=str(i == 1)) for i, p in enumerate(prompts)))
    assert not scored(tokenizer, others, said).tied().any(), "labels of different tasks do not compete"


def speaking(kind: str, token: str) -> VLM:
    """A model that always gives one token, whatever it is asked."""
    tokenizer = BYTES[kind]()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=256, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    model.lm_head = torch.nn.Linear(32, len(tokenizer))
    with torch.no_grad():
        model.lm_head.bias[tokenizer.convert_tokens_to_ids(token)] = 100.0
    return xmi.load(model, processor=tokenizer)


@pytest.fixture(scope="module", params=[("gemma", "<0xE4>"), ("byte level", "ä")], ids=["fallback", "byte level"])
def vlm(request: pytest.FixtureRequest) -> VLM:
    return speaking(*request.param)


def capitals(name: str, labels: str) -> Task:
    splits = ("train",) * 6 + ("validation",) * 2 + ("test",) * 2
    items = [Item(f"{s}{i}", label, None, s) for i, (s, label) in enumerate(zip(splits, labels.split(), strict=True))]
    return Task(name, tuple(items), instructions=("say",), task_words=("首都",))


@pytest.mark.fault("A7")
def test_every_verb_sees_the_bytes(vlm: VLM) -> None:
    one, two = (
        capitals("one", "东一 东二 东三 东四 东五 东六 东七 东八 东九 东十"),
        capitals("two", "乌a 乌b 乌c 乌d 乌e 乌f 乌g 乌h 乌i 乌j"),
    )
    vector = vlm.task_vector(one.icl("text", shots=2, n=4))
    with pytest.warns(xmi.XmiWarning, match="several labels of one task"):
        sweep = vlm.transfer(vector, to=one.queries("text"), max_new_tokens=2)
    assert sweep.predicted == ((("<0xE4>",) * 2,) * 2,)
    assert sweep.paper.all() and sweep.strict.all() and sweep.clean.paper.all() and sweep.tied().all()
    assert sweep.accuracy(layer=0).mean == 1.0 and sweep.accuracy(layer=0, score="whole").mean == 0.0
    assert sweep.continuations[0][0] == ("<0xE4><0xE4>",) * 2
    assert vlm.generate("Q:x\nA:", max_new_tokens=2).texts == ("<0xE4><0xE4>",)
    reading = vlm.lens(one.queries("text"), k=1)
    assert reading.tokens[0][-1] == ("<0xE4>",)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the task word and the inputs begin otherwise
        phases = vlm.phases(one.icl("text", shots=2, n=2))
    with pytest.warns(xmi.XmiWarning, match=r"'<0xE4>' in 2 of 2 prompts"):
        vlm.phases(one.icl("text", shots=2, n=2), task_words=["东"])
    assert phases.top_tokens[-1] == (("<0xE4>", 1.0),)
    assert phases.rank[:, 2, -1].tolist() == [0, 0]
    theirs = vlm.task_vector(two.icl("text", shots=2, n=4))
    contest = vlm.override(one, two, vector=theirs, shots=2)
    assert contest.paper.all() and contest.strict.all()
    assert (contest.winners() == 3).all(), "both labels begin with the byte"


@pytest.mark.fault("A7")
def test_parts_of_characters_are_not_task_words(vlm: VLM) -> None:
    one, two = capitals("one", "一 二 三 四 五 六 七 八 九 十"), capitals("two", "a b c d e f g h i j")
    found = vlm.find_task_words([one.icl("text", shots=1, n=3), two.icl("text", shots=1, n=3)], mass=0.0, times=0.0)
    assert not any("<0x" in token for token in found.tokens)


def test_a_label_in_the_prompt_ends_at_its_bytes(vlm: VLM) -> None:
    prompt = free_prompt("Q:x\nA:")[0]
    segments = (
        Segment("input", "中国"),
        Segment("answer", "東京", example=0),
        Segment("delimiter", "\nA:", query=True),
    )
    batch = vlm.encode(replace(prompt, segments=segments))
    column = int(batch.columns("example[0].answer")[0])
    assert batch.roles(0)[column] == "example[0].answer" and batch.roles(0)[column + 1] == "query.delimiter"
    assert np.count_nonzero(np.array(batch.roles(0)) == "example[0].answer") == 6
