"""Who wins against whom, and with how many examples: compared with one plain forward per patch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import xmi
from tests.zoo.models import NAMES_AND_CITIES, build, llama
from tests.zoo.oracle import plain
from xmi.measure import EnsembleCurve, Overriding, paper_hit
from xmi.prompt import Item, Task
from xmi.vector import ensembling, random_like, shared_pairs
from xmi.vector.override import asked_prompts, contest
from xmi.vlm import VLM

SPLITS = ("train", "train", "train", "train", "validation", "test", "test", "validation")


def small(name: str, answers: list[str], splits: tuple[str, ...] = SPLITS) -> Task:
    inputs = [a for a, _ in NAMES_AND_CITIES]
    items = tuple(Item(i, o, None, s) for i, o, s in zip(inputs, answers, splits, strict=True))
    return Task(name, items, (f"The {name} of the country:", f"The {name}:"))


CITY = small("city", [b for _, b in NAMES_AND_CITIES])
# Two labels are those of the other task: what hits both must count for neither.
OTHER = small("capital", ["Lima", "Oslo", "Cairo", "Rome", "Oslo", "Athens", "country", "A"], ("train",) * 8)


@pytest.fixture(scope="module")
def vlm() -> VLM:
    model, tool = build(llama)
    return xmi.load(model, processor=tool, batch_size=3)


@pytest.fixture(scope="module")
def contested(vlm: VLM) -> tuple[Task, Task]:
    """The two tasks, such that a random model is right: what it says becomes labels of items that are asked."""
    first = vlm.override(CITY, OTHER, shots=2, n=4)
    says = {u: [run[q] for run in first.predicted] for q, u in enumerate(first.inputs)}
    mine = tuple(replace(i, output=says[i.input][0]) if i.input in says else i for i in CITY.items)
    theirs = tuple(
        replace(i, output=says[i.input][2], alternatives=(says[i.input][4],)) if i.input in says else i
        for i in OTHER.items
    )
    return replace(CITY, items=mine), replace(OTHER, items=theirs)


@pytest.fixture(scope="module")
def found(vlm: VLM, contested: tuple[Task, Task]) -> Overriding:
    return vlm.override(*contested, shots=2, n=4)


def top(vlm: VLM, prompt: object, write: tuple[int, torch.Tensor] | None = None) -> int:
    logits, _ = plain(vlm, vlm.encode(prompt), write)  # type: ignore[arg-type]
    return int(logits[0, -1].argmax())


def test_every_run_equals_a_plain_forward(vlm: VLM, contested: tuple[Task, Task], found: Overriding) -> None:
    mine, theirs = contest(*contested)
    prompts = asked_prompts(mine, "text", "text", 2, 0)
    vector = vlm.task_vector(theirs.icl("text", shots=2, n=4))
    assert len(found.predicted) == 2 + 2 * 4
    assert found.inputs == ("Norway", "is", "Egypt", "city") == tuple(p.input for p in prompts)
    assert found.units == tuple(p.unit for p in prompts), "the same names as in every other result"
    assert found.splits == ("validation", "validation", "test", "test")
    labels = {i.input: i.outputs for i in contested[1].items}
    tok = vlm.encoder.tokenizer
    for q, prompt in enumerate(prompts):
        told = f"The capital of the country:\n\n{prompt.text}"
        ids = [top(vlm, prompt), top(vlm, told)]
        for written in (vector, random_like(vector, 0)):
            ids += [top(vlm, prompt, (layer, written.values[layer][None])) for layer in range(4)]
        assert [run[q] for run in found.predicted] == [tok.decode([i]) for i in ids]
        for k, right in enumerate(([prompt.answer], labels[prompt.input])):
            first = [tok(label, add_special_tokens=False)["input_ids"][0] for label in right]
            assert found.strict[k, :, q].tolist() == [i in first for i in ids]
            assert found.paper[k, :, q].tolist() == [paper_hit(tok.decode([i]), right) for i in ids]
    assert found.strict[0, 0].all()
    assert found.strict[1, [2, 4]].all(), "either label counts"
    assert set(found.winners("strict").flat) >= {0, 1, 2}


def made(paper: np.ndarray, splits: tuple[str, ...], layers: tuple[int, ...]) -> Overriding:
    n = len(splits)
    units = tuple(f"i{k}" for k in range(n))
    texts = (("x",) * n,) * paper.shape[1]
    return Overriding("text ICL", "text ICL", layers, ("a",) * n, ("b",) * n, units, splits, texts, paper, paper)


def test_shares_are_counts_and_both_is_ambiguous(found: Overriding) -> None:
    rng = np.random.default_rng(3)
    splits = ("validation",) * 10 + ("test",) * 15
    result = made(rng.random((2, 6, 25)) < 0.5, splits, (3, 5))
    prompt, patched = result.paper[:, :, 10:]
    counts = {
        "prompt": prompt & ~patched, "patched": patched & ~prompt, "neither": ~prompt & ~patched,
        "ambiguous": prompt & patched,
    }  # fmt: skip
    runs = [("no patch", None, 0), ("system prompt", None, 1), ("patch", 3, 2), ("patch", 5, 3)]
    runs += [("control: random vector", 3, 4), ("control: random vector", 5, 5)]
    frame = result.to_frame()
    for method, layer, run in runs:
        for winner, won in counts.items():
            assert result.share(winner, method, layer).mean == pytest.approx(won[run].mean())
            assert result.share(winner, method, layer).n == 15
        rows = frame[(frame.method == method) & (frame.score == "strict")]
        rows = rows if layer is None else rows[rows.layer == layer]
        assert rows["share"].sum() == pytest.approx(1), "everybody is counted once"
    twice = Overriding.concat([result, replace(result, tasks=("c",) * 25)])
    assert twice.share("patched", "patch", 5).mean == pytest.approx(result.share("patched", "patch", 5).mean)
    lines = [trace.y for trace in result.figure().data if trace.mode == "lines+markers"]
    for winner in counts:
        shares = [result.share(winner, "patch", layer).mean for layer in (3, 5)]
        assert any(np.allclose(line, shares, atol=1e-3) for line in lines), winner


def test_the_layer_is_chosen_on_validation_and_test_is_reported() -> None:
    paper = np.zeros((2, 6, 8), bool)
    paper[1, 2, :3] = True  # layer 3 wins on validation, layer 5 on test
    paper[1, 3, 4:] = True
    result = made(paper, ("validation",) * 4 + ("test",) * 4, (3, 5))
    assert result.best_layer == 3
    assert result.share("patched").mean == 0
    assert result.share("patched", layer=5).mean == 1
    assert result.share("patched", split="validation").mean == 0.75
    gain = result.gain().set_index("against")
    assert gain.loc["system prompt", "gain"] == 0
    paper[1, 2] = True
    paper[1, 1, 4] = True
    gain = made(paper, result.splits, (3, 5)).gain().set_index("against")
    assert tuple(gain.loc["system prompt", ["patch", "other", "gain", "n"]]) == (1, 0.25, 0.75, 4)
    tied = np.zeros((2, 6, 8), bool)
    tied[0, 2] = True  # equal shares: the layer at which the prompt's task wins less
    assert made(tied, result.splits, (3, 5)).best_layer == 5


def test_saved_and_read_again(found: Overriding, tmp_path: Path) -> None:
    again = Overriding.load(found.save(tmp_path / "o.json"))
    assert again.to_frame().equals(found.to_frame())
    assert again.best_layer == found.best_layer


def test_neither_examples_nor_vectors_know_what_is_asked() -> None:
    mine, theirs = contest(CITY, OTHER)
    asked = {i.input for i in mine.items if i.split != "train"}
    assert asked == {"Norway", "Egypt", "city", "is"}
    assert asked.isdisjoint(i.input for i in theirs.items)
    assert asked.isdisjoint(i.input for i in mine.split("train"))
    published = replace(OTHER, items=CITY.items, examples="validation")
    mine, theirs = contest(replace(CITY, examples="validation"), published)
    assert [i.input for i in theirs.items] == ["Norway", "is"], (
        "examples from validation: only test items are kept back"
    )


def test_pairs_are_found_by_shared_inputs() -> None:
    far = Task("far", tuple(replace(i, input=f"no {i.input}") for i in CITY.items))
    train = Task("train", tuple(i for i in CITY.items if i.split == "train"))
    again = replace(CITY, name="again")
    assert shared_pairs([CITY, far, OTHER]) == [(CITY, OTHER)], "the other way round there is nothing to ask"
    assert shared_pairs([CITY, again]) == [(CITY, again), (again, CITY)]
    assert shared_pairs([CITY, train]) == []
    names = [(a.name, b.name) for a, b in shared_pairs([xmi.task(n) for n in xmi.task_names()])]
    assert len(names) == 6
    assert ("country-capital", "country-currency") in names
    with pytest.raises(xmi.TaskError, match="share 0 inputs"):
        contest(CITY, far)


def test_what_cannot_be_overridden_is_refused(vlm: VLM, found: Overriding) -> None:
    with pytest.raises(xmi.TaskError, match="Unknown context"):
        vlm.override(CITY, OTHER, context="sound")
    with pytest.raises(xmi.TaskError, match="no instruction"):
        vlm.override(CITY, replace(OTHER, instructions=()), shots=1, n=2)
    wrong = vlm.task_vector(CITY.icl("text", shots=1, n=2))
    with pytest.raises(xmi.VectorError, match="not a vector of capital"):
        vlm.override(CITY, OTHER, vector=wrong, shots=1)
    right = vlm.task_vector(OTHER.icl("text", shots=1, n=2))
    with pytest.raises(xmi.VectorError, match="Cannot patch layers"):
        vlm.override(CITY, OTHER, vector=right, layers=[9], shots=1)
    with pytest.raises(KeyError, match="Unknown winner"):
        found.share("nobody")
    with pytest.raises(KeyError, match="Unknown method"):
        found.share("prompt", "magic")
    with pytest.raises(KeyError, match="not patched"):
        found.share("prompt", layer=99)
    with pytest.raises(ValueError, match="Unknown score"):
        found.winners("whole")
    with pytest.raises(ValueError, match="concat"):
        Overriding.concat([])


def test_instructions_and_chosen_layers(vlm: VLM) -> None:
    found = vlm.override(CITY, OTHER, context="instruction", shots=1, n=2, layers=[2, 1])
    assert found.context == "instruction prompt"
    assert found.layers == (2, 1)
    assert found.predicted[0][0] == vlm.encoder.decode(top(vlm, "The city of the country:\n\nQ:Norway\nA:"))


def test_ensembling_equals_patching_each_mean_apart(vlm: VLM, tmp_path: Path) -> None:
    curve = vlm.ensembling(CITY, query="text", prompts=(1, 3), shots=2, seeds=(0, 4), layer=2)
    assert curve.examples == (2, 6)
    assert curve.paper.shape == (2, 2, 2, 2)
    told = vlm.task_vector(CITY.instruction())
    queries = CITY.queries("text")
    for s, seed in enumerate((0, 4)):
        every = vlm.residuals(CITY.icl("text", shots=2, n=3, seed=seed)).values
        for c, count in enumerate((1, 3)):
            plain_mean = every[:count].mean(0)
            for kind, value in enumerate((plain_mean, (plain_mean + told.values) / 2)):
                hits = vlm.transfer(xmi.TaskVector(value, told.card), to=queries, layers=[2])
                assert curve.paper[kind, c, s].tolist() == hits.paper[0, 0].tolist()
                assert curve.strict[kind, c, s].tolist() == hits.strict[0, 0].tolist()
    assert curve.told_strict.tolist() == vlm.transfer(told, to=queries, layers=[2]).strict[0, 0].tolist()
    assert curve.clean_strict.tolist() == vlm.answers(queries).strict.tolist()
    again = EnsembleCurve.load(curve.save(tmp_path / "e.json"))
    assert again.to_frame().equals(curve.to_frame())


def test_ensembling_pools_tasks_and_chooses_one_layer(vlm: VLM, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, given = [], []
    real = ensembling.transfer

    def counted(session: VLM, vectors: object, to: object, **options: object) -> object:
        calls.append((len(vectors), to.split))  # type: ignore[arg-type,attr-defined]
        given.append(vectors)
        return real(session, vectors, to, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(ensembling, "transfer", counted)
    capital = replace(OTHER, items=tuple(replace(i, split=s) for i, s in zip(OTHER.items, SPLITS, strict=True)))
    curve = vlm.ensembling([CITY, capital], query="text", prompts=(1, 2), seeds=(0, 1, 2))
    assert calls == [(13, "validation")] * 2 + [(13, "test")] * 2, "one sweep per query set"
    every = vlm.residuals(capital.icl("text", shots=1, n=2, seed=2)).values
    told = vlm.task_vector(capital.instruction()).values
    torch.testing.assert_close(given[1]["1 prompts, seed 2"].values, every[0])
    torch.testing.assert_close(given[1]["2 prompts, seed 2"].values, every.mean(0))
    torch.testing.assert_close(given[3]["1 prompts, seed 2 + instruction"].values, (every[0] + told) / 2)
    assert curve.tasks == ("city",) * 2 + ("capital",) * 2
    assert 0 <= curve.layer < 4
    one = vlm.ensembling(CITY, query="text", prompts=(1, 2), seeds=(0, 1, 2), layer=curve.layer)
    np.testing.assert_array_equal(one.strict, curve.strict[..., :2])


def test_accuracy_and_gain_by_hand() -> None:
    rng = np.random.default_rng(5)
    hits = rng.random((2, 3, 2, 12)) < np.array([0.3, 0.7])[:, None, None, None]
    units, tasks = tuple(f"u{i}" for i in range(12)), ("a",) * 8 + ("b",) * 4
    curve = EnsembleCurve(
        "text ICL", "image", 3, 1, (1, 2, 5), (0, 1), tasks, units, hits, ~hits, *rng.random((4, 12)) < 0.5
    )

    def macro(values: np.ndarray) -> float:
        return (values[..., :8].mean() + values[..., 8:].mean()) / 2

    frame = curve.to_frame().set_index(["examples", "instruction"])
    gain = curve.gain().set_index("examples")
    for c, examples in enumerate((1, 2, 5)):
        for kind in (0, 1):
            found = curve.accuracy(examples, instruction=bool(kind))
            assert (found.mean, found.n) == (pytest.approx(macro(hits[kind, c])), 12)
            assert frame.loc[(examples, bool(kind)), "strict"] == pytest.approx(1 - found.mean)
        expected = macro(hits[1, c]) - macro(hits[0, c])
        assert gain.loc[examples, "gain"] == pytest.approx(expected)
        assert gain.loc[examples, "low"] <= expected <= gain.loc[examples, "high"]
    assert curve.instruction("strict").mean == pytest.approx(macro(curve.told_strict))
    assert curve.no_context().mean == pytest.approx(macro(curve.clean_paper))
    assert len(curve.figure().data) == 6
    with pytest.raises(KeyError, match="4 examples"):
        curve.accuracy(4)
    with pytest.raises(ValueError, match="Unknown score"):
        curve.gain("whole")
    with pytest.raises(ValueError, match="same source"):
        EnsembleCurve.concat([curve, replace(curve, layer=2)])


@pytest.mark.parametrize("prompts", [(), (0, 1), (2, 2), (3, 1)])
def test_counts_must_rise(vlm: VLM, prompts: tuple[int, ...]) -> None:
    with pytest.raises(xmi.VectorError, match="must rise"):
        vlm.ensembling(CITY, query="text", prompts=prompts)


def test_tasks_and_seeds_must_differ(vlm: VLM) -> None:
    with pytest.raises(xmi.VectorError, match="distinct"):
        vlm.ensembling([CITY, CITY], query="text")
    with pytest.raises(xmi.VectorError, match="distinct"):
        vlm.ensembling(CITY, query="text", seeds=(1, 1))
    with pytest.raises(xmi.TaskError, match="no instruction"):
        vlm.ensembling(replace(CITY, instructions=()), query="text")
