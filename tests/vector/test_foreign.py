"""Vectors of another model, revision or precision are announced; so are mixtures; what is meant stays quiet."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import xmi
from tests.lens.test_tuned import random_lens
from tests.zoo.models import build, llama
from tests.zoo.oracle import prompts_for
from xmi.prompt import Prompts
from xmi.storage import pack_tensors, write_file
from xmi.vector import TaskVector, base_similarity
from xmi.vlm import VLM


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    return prompts_for("none")


@pytest.fixture(scope="module")
def vlm() -> VLM:
    model, tool = build(llama)
    return xmi.load(model, processor=tool)


@pytest.fixture(scope="module")
def other() -> VLM:
    """The same architecture and name with other weights."""
    model, tool = build(llama)
    with torch.no_grad():
        model.get_output_embeddings().weight *= 1.5
    return xmi.load(model, processor=tool)


def quietly(do: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error", xmi.XmiWarning)
        return do()


def retold(vector: TaskVector, **changes: Any) -> TaskVector:
    return replace(vector, card=vector.card.model_copy(update=changes))


@pytest.mark.fault("A15")
def test_a_vector_of_another_revision_is_announced(vlm: VLM, other: VLM, prompts: Prompts) -> None:
    assert vlm.name == other.name and vlm.revision != other.revision
    mine, theirs = vlm.task_vector(prompts), other.task_vector(prompts)
    quietly(lambda: vlm.transfer(mine, to=prompts))
    with pytest.warns(xmi.XmiWarning, match=f"{theirs.card.revision}.* patched into .*{vlm.revision}") as caught:
        found = vlm.transfer({"mine": mine, "theirs": theirs}, to=prompts)
    assert len(caught) == 1 and caught[0].filename == __file__
    assert isinstance(caught[0].message, UserWarning)
    again = quietly(lambda: vlm.transfer({"mine": mine, "theirs": theirs}, to=prompts, foreign=True))
    assert again.predicted == found.predicted


@pytest.mark.fault("A15")
def test_the_organism_into_its_control_is_announced_and_its_base_after_a_comparison_is_not(prompts: Prompts) -> None:
    """Few layers of few queries: what is looked at is said before anything is computed."""
    tools = {name: xmi.load(name, check=False) for name in ("organism", "organism-control", "organism-llm")}
    task = xmi.task("country-capital")
    queries = task.queries("text", n=2)
    vector = tools["organism"].task_vector(task.icl("text", n=2))
    with pytest.warns(xmi.XmiWarning, match="from organism .* into organism-control"):
        tools["organism-control"].transfer(vector, to=queries, layers=[4])
    base = tools["organism-llm"].task_vector(task.icl("text", n=2))
    with pytest.warns(xmi.XmiWarning, match="from organism-llm .* into organism "):
        tools["organism"].transfer(base, to=queries, layers=[4])
    tools["organism"].compare_base(tools["organism-llm"], "Q:Greece")
    quietly(lambda: tools["organism"].transfer(base, to=queries, layers=[4]))


@pytest.mark.fault("A15")
def test_another_precision_is_announced(vlm: VLM, prompts: Prompts) -> None:
    vector = retold(vlm.task_vector(prompts), dtype="bfloat16")
    with pytest.warns(xmi.XmiWarning, match="read in bfloat16, and .* runs in float32"):
        vlm.transfer(vector, to=prompts)
    lens = random_lens(vlm, 0.0)
    quietly(lambda: vlm.lens(prompts, lens=lens))
    halved = replace(lens, card=lens.card.model_copy(update={"dtype": "float16"}))
    with pytest.warns(xmi.XmiWarning, match="trained on .* in float16, and the model runs in float32"):
        vlm.lens(prompts, lens=halved)


@pytest.mark.fault("A15")
def test_mixtures_are_announced_and_named(vlm: VLM, other: VLM, prompts: Prompts) -> None:
    mine, theirs = vlm.task_vector(prompts), other.task_vector(prompts)
    quietly(lambda: xmi.similarity([mine, mine]))
    with pytest.warns(xmi.XmiWarning, match=f"similarity was given .* 2 .*{vlm.revision}.*{other.revision}"):
        xmi.similarity([mine, theirs])
    with pytest.warns(xmi.XmiWarning, match="ensemble was given vectors of 2"):
        mixed = xmi.ensemble(mine, theirs)
    assert mixed.card.revision == f"{vlm.revision} + {other.revision}"
    with pytest.warns(xmi.XmiWarning, match="patched into"):
        vlm.transfer(mixed, to=prompts)
    quietly(lambda: base_similarity([mine], [theirs]))
    with pytest.raises(xmi.VectorError, match="no query has both"):
        xmi.ensemble(mine, retold(mine, template="other"))


def test_overriding_announces_a_foreign_vector() -> None:
    model = xmi.load("organism", check=False)
    one, two = xmi.task("food-color"), xmi.task("food-flavor")
    vector = retold(model.task_vector(two.icl("text", n=2)), revision="elsewhere")
    with pytest.warns(xmi.XmiWarning, match="revision elsewhere"):
        model.override(one, two, vector=vector, layers=[3])


@pytest.mark.fault("B20")
def test_one_by_one_or_in_one_list(vlm: VLM, prompts: Prompts) -> None:
    a, b = vlm.task_vector(prompts), retold(vlm.task_vector(prompts[:1]), specification="x")
    expected = xmi.ensemble(a, b)
    for given in ([a, b], (a, b), iter([a, b])):
        found = xmi.ensemble(given)
        assert torch.equal(found.values, expected.values) and found.card == expected.card
    pairs = xmi.similarity(a, b), xmi.similarity([a, b]), xmi.similarity({a.name: a, b.name: b})
    assert all((p.values == pairs[0].values).all() and p.labels == pairs[0].labels for p in pairs)
    assert xmi.similarity({"p": a, "q": b}).labels == ("p", "q")


@pytest.mark.fault("B20")
def test_anything_else_is_refused_by_name(vlm: VLM, prompts: Prompts) -> None:
    vector = vlm.task_vector(prompts)
    for verb in (xmi.ensemble, xmi.similarity):
        for given, said in (
            (([vector], vector), "found list"),
            ((vector, [vector, vector]), "found list"),
            (([vector, "x"],), "found str: 'x'"),
            ((vector, vector.values), "found Tensor"),
            ((vlm.residuals(prompts), vector), r"Residuals.*mean\(\)"),
            ((None,), "found NoneType"),
            ((vector,), "two"),
            (([],), "two"),
        ):
            with pytest.raises(xmi.VectorError, match=said):
                verb(*given)
    for wrong in ([vector], None, vector.values):
        with pytest.raises(xmi.VectorError, match="random_like takes one task vector"):
            xmi.random_like(wrong)  # type: ignore[arg-type]


@pytest.mark.fault("A9")
def test_vectors_with_nan_or_zeros(vlm: VLM, prompts: Prompts) -> None:
    vector = vlm.task_vector(prompts)
    broken, empty = vector.values.clone(), vector.values.clone()
    broken[2, 5], empty[1] = float("nan"), 0.0
    bad, zero = replace(vector, values=broken), retold(replace(vector, values=empty), specification="null")
    for use in (xmi.ensemble, xmi.similarity):
        with pytest.raises(xmi.VectorError, match=r"NaN or infinite values at layers \[2\]"):
            use(vector, bad)
    with pytest.raises(xmi.VectorError, match=r"layers \[2\]"):
        xmi.random_like(bad)
    with pytest.warns(xmi.XmiWarning, match=r"null' at layers \[1\]: a zero vector"):
        found = xmi.similarity(vector, zero)
    assert torch.isnan(torch.tensor(found.values[1])).sum() == 3
    assert torch.equal(xmi.random_like(zero).values[1], torch.zeros(vector.d_model))


@pytest.mark.fault("A9")
def test_a_model_that_says_nan_has_no_answers(prompts: Prompts) -> None:
    model, tool = build(llama)
    vlm = xmi.load(model, processor=tool)
    with torch.no_grad():
        model.lm_head.weight[3] = float("nan")
    for ask in (
        lambda: vlm.answers(prompts),
        lambda: vlm.lens(prompts),
        lambda: vlm.phases(prompts),
    ):
        with pytest.raises(xmi.XmiError, match="NaN"):
            ask()


def test_what_is_not_a_vector_file(tmp_path: Path, vlm: VLM, prompts: Prompts) -> None:
    vector = vlm.task_vector(prompts)
    flat = write_file(
        tmp_path / "flat", pack_tensors({"values": vector.values[0]}, {"card": vector.card.model_dump_json()})
    )
    with pytest.raises(xmi.VectorError, match=r"flat holds no task vector of xmi: values of shape \(64,\)"):
        TaskVector.load(flat)
