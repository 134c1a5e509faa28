"""What differs between a VLM and its base LLM, and the cosines of their vectors, against numbers by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf

import xmi
from tests.zoo.grids import gemma4
from tests.zoo.models import TEXT, build, ids, llama, llava, tokenizer
from xmi.measure import BaseComparison, BaseSimilarity
from xmi.vector import base_similarity
from xmi.vlm import VLM

PROMPTS = ["Q:Greece\nA:", "The capital city of the country:"]


def language(tok: Any = None, seed: int = 0, **changes: Any) -> VLM:
    """A llama of the zoo's sizes with some settings changed."""
    tok = tok or tokenizer("<image>")
    torch.manual_seed(seed)
    model = hf.LlamaForCausalLM(hf.LlamaConfig(**{**TEXT, **ids(tok), **changes}))
    return xmi.load(model.eval().float(), processor=tok)


@pytest.fixture(scope="module")
def vlm() -> VLM:
    model, tool = build(llava)
    return xmi.load(model, processor=tool)


def base_of(vlm: VLM, **changes: Any) -> VLM:
    """The language part of a VLM as a model of its own."""
    base = language(seed=1, **changes)
    state = {k: v.clone() for k, v in vlm.model.model.language_model.state_dict().items()}
    base.model.model.load_state_dict(state)
    base.model.lm_head.load_state_dict(vlm.model.lm_head.state_dict())
    return base


def test_its_own_language_model_differs_in_nothing(vlm: VLM, tmp_path: Path) -> None:
    found = vlm.compare_base(base_of(vlm), PROMPTS)
    assert found.warnings == ()
    assert found.places == ("embed", "blocks.0", "blocks.1", "blocks.2", "blocks.3", "norm", "unembed")
    assert (found.moved == 0).all()
    assert found.related
    assert not found.to_frame()["differs"].any()
    again = BaseComparison.load(found.save(tmp_path / "base_comparison.json"))
    assert again.to_frame().equals(found.to_frame())
    assert len(found.figure().data[0].x) == len(found.weights()) == 7


def test_moved_is_the_relative_norm_of_the_difference(vlm: VLM) -> None:
    base = base_of(vlm)
    with torch.no_grad():
        for parameter in base.model.model.layers[2].parameters():
            parameter.mul_(2)  # then the VLM's are half of the base's
        base.model.lm_head.weight[0] += 1
    found = vlm.compare_base(base, PROMPTS)
    moved = dict(zip(found.places, found.moved, strict=True))
    assert moved["blocks.2"] == pytest.approx(0.5)
    expected = np.sqrt(64 / float(base.model.lm_head.weight.detach().double().square().sum()))
    assert moved["unembed"] == pytest.approx(expected, rel=1e-5)
    assert moved["blocks.1"] == moved["embed"] == 0


def test_unrelated_weights_are_told(vlm: VLM) -> None:
    found = vlm.compare_base(language(seed=7), PROMPTS)
    assert not found.related
    independent = [m for p, m in zip(found.places, found.moved, strict=True) if p.startswith("blocks")]
    assert all(0.9 < m < 1.6 for m in independent)


def test_settings_that_differ_are_put_in_words(vlm: VLM) -> None:
    rope = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}
    base = language(num_key_value_heads=4, rms_norm_eps=1e-5, rope_parameters=rope)
    found = vlm.compare_base(base, PROMPTS)
    rows = found.to_frame().set_index("aspect")
    assert set(rows.index[rows["differs"]]) == {
        "key/value heads", "final norm", "rotary theta", "rotary type", "factor", "block weights of its own",
    }  # fmt: skip
    assert tuple(rows.loc["key/value heads", ["vlm", "base"]]) == ("2", "4")
    assert tuple(rows.loc["rotary theta", ["vlm", "base"]]) == ("10000", "500000")
    assert tuple(rows.loc["factor", ["vlm", "base"]]) == ("none", "2")
    text = " ".join(found.warnings)
    assert "RMSNorm, eps 1e-05" in text
    assert "Positions" in text


def test_weights_of_one_model_alone_are_named_and_left_out(vlm: VLM) -> None:
    base = language(attention_bias=True)
    state = vlm.model.model.language_model.state_dict()
    base.model.model.load_state_dict(state, strict=False)
    found = vlm.compare_base(base, PROMPTS)
    assert (found.moved[1:5] == 0).all()
    row = found.to_frame().set_index("aspect").loc["block weights of its own"]
    assert row["vlm"] == "none"
    assert row["base"].startswith("4: 'self_attn.k_proj.bias (32,)'")


def test_tokenizers_that_differ_are_put_in_words(vlm: VLM) -> None:
    plain = language(tokenizer())  # without <image> every later id is one less
    rows = vlm.compare_base(plain, PROMPTS).to_frame().set_index("aspect")
    assert rows.loc["tokens of its own", "vlm"] == "1: '<image>'"
    assert rows.loc["tokens of its own", "base"] == "none"
    for side, model in (("vlm", vlm), ("base", plain)):
        zero = model.encoder.tokenizer.get_vocab()["0"]
        assert f"'0' = {zero}, " in rows.loc["ids of shared tokens", side]
    assert "first of 2 of 2" in rows.loc["prompts", "vlm"]
    assert rows.loc["vocabulary rows", "vlm"] != rows.loc["vocabulary rows", "base"]


def test_only_the_middle_of_a_prompt_differs(vlm: VLM) -> None:
    tok = tokenizer("<image>")
    swapped = tok.backend_tokenizer.to_str().replace('"Greece":', '"x@":').replace('"Italy":', '"Greece":')
    other = hf.PreTrainedTokenizerFast(
        tokenizer_object=type(tok.backend_tokenizer).from_str(swapped.replace('"x@":', '"Italy":')),
        pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>", padding_side="left",
    )  # fmt: skip
    text = "The city of Greece is the capital"
    found = vlm.compare_base(language(other), [text]).to_frame().set_index("aspect").loc["prompts"]
    assert found["differs"]
    assert " at " in found["vlm"]


@pytest.mark.parametrize("changes", [{"num_hidden_layers": 3}, {"hidden_size": 32}])
def test_other_shapes_are_refused(vlm: VLM, changes: dict[str, int]) -> None:
    layers, width = changes.get("num_hidden_layers", 4), changes.get("hidden_size", 64)
    with pytest.raises(xmi.VectorError, match=f"{layers} layers of width {width}.*4 of width 64"):
        vlm.compare_base(language(**changes), PROMPTS)


def test_without_weights_nothing_moved_is_claimed() -> None:
    found = xmi.load("organism", device="meta").compare_base(xmi.load("organism-llm", device="meta"), PROMPTS)
    assert np.isnan(found.moved).all()
    assert found.related is None
    assert found.warnings == ()


def test_the_organisms_base_is_read_with_the_usual_prompts() -> None:
    found = xmi.load("organism", check=False).compare_base(xmi.load("organism-llm", check=False))
    prompts = found.to_frame().set_index("aspect").loc["prompts"]
    assert prompts["vlm"] == prompts["base"] == "the same tokens for all of 48"
    assert 0 < found.moved[1:9].max() < 0.1
    assert found.related


def test_cosines_of_both_models(vlm: VLM, tmp_path: Path) -> None:
    names = ("country-capital", "food-color", "animal-young")
    base = language(seed=3)
    made = [[m.task_vector(xmi.task(t).icl("text", shots=1, n=2)) for t in names] for m in (vlm, base)]
    own, theirs = made
    found = base_similarity(own, theirs[::-1])  # matched by task
    cosine = torch.nn.functional.cosine_similarity
    for i, a in enumerate(own):
        for j, b in enumerate(theirs):
            np.testing.assert_allclose(found.cosine[:, i, j], cosine(a.values, b.values, dim=-1), atol=1e-5)
    np.testing.assert_allclose(found.other[:, 0], found.cosine[:, 0, 1:].mean(1))
    frame = found.to_frame()
    assert len(frame) == 4 * 4
    assert frame[frame.task == "mean"]["same"].to_numpy() == pytest.approx(found.same.mean(1))
    centred = base_similarity(own, theirs, centred=True)
    mean = [torch.stack([v.values for v in vectors]).mean(0) for vectors in made]
    by_hand = cosine(own[1].values - mean[0], theirs[1].values - mean[1], dim=-1)
    np.testing.assert_allclose(centred.same[:, 1], by_hand, atol=1e-5)
    assert len(found.figure().data) == 5
    np.testing.assert_array_equal(BaseSimilarity.load(found.save(tmp_path / "k.json")).cosine, found.cosine)
    same = base_similarity(own, own)
    np.testing.assert_allclose(same.same, 1)
    with pytest.raises(xmi.VectorError, match="one vector per task"):
        base_similarity(own, theirs[:2])
    with pytest.raises(xmi.VectorError, match="two or more tasks"):
        base_similarity(own[:1], theirs[:1], centred=True)
    other_slot = xmi.TaskVector(theirs[0].values, theirs[0].card.model_copy(update={"slot": "query.input"}))
    with pytest.raises(xmi.VectorError, match="slot last"):
        base_similarity(own, [other_slot, *theirs[1:]])


def test_llama_of_the_zoo_has_the_same_shape(vlm: VLM) -> None:
    model, tool = build(llama)
    assert "ids of shared tokens" in " ".join(vlm.compare_base(xmi.load(model, processor=tool), PROMPTS).warnings)


def test_heads_that_differ_between_layers_are_all_told() -> None:
    """Gemma 4 has a configuration for each layer, and as a whole says nothing of them."""
    model, tool = gemma4()
    vlm = xmi.load(model, processor=tool)
    rows = vlm.compare_base(vlm, PROMPTS).to_frame().set_index("aspect")
    assert rows.loc["head width", "vlm"] == "16, 32"
