"""Trajectories, decoded vectors and attention patterns against plain Hugging Face and plain arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import rel_entr
from scipy.stats import entropy as plain_entropy

import xmi
from tests.lens.test_tuned import embedded, made, random_lens
from tests.zoo.models import VISION, ZOO
from tests.zoo.oracle import CITIES, plain
from xmi.lens import LogitLens
from xmi.measure import AttentionPattern, Trajectory
from xmi.model.readout import readout
from xmi.prompt import Prompt, Prompts


def read(vlm: Any, lens: Any, state: torch.Tensor, depth: int) -> np.ndarray:
    """Distributions that a lens reads from residuals [row, d_model] at a depth, in float64."""
    if isinstance(lens, xmi.TunedLens) and depth < len(lens.bias):
        state = state + state @ lens.weight[depth].T + lens.bias[depth]
    with torch.no_grad():
        found: np.ndarray = readout(vlm.model, vlm.backbone, state).double().softmax(-1).numpy()
    return found


@pytest.mark.parametrize("name", list(ZOO))
def test_a_trajectory_equals_plain_arithmetic_with_any_lens(name: str) -> None:
    vlm, prompts = made(name)
    blank = [Prompt(prompts[2].segments, "capital")]
    prompts = Prompts((*prompts[:2], *blank), "text ICL", task="capital")
    batch = vlm.encode(prompts)
    logits, blocks = plain(vlm, batch)
    states = [embedded(vlm, batch.inputs), *blocks]
    own = logits[:, -1].double().softmax(-1).numpy()
    ids = [vlm.encoder.tokenizer.convert_tokens_to_ids(city) for city in CITIES[1:3]]
    for lens in (LogitLens(), random_lens(vlm)):
        found = vlm.trajectory(prompts, lens=lens)
        for depth, state in enumerate(states):
            told = read(vlm, lens, state[:, -1], depth)
            np.testing.assert_allclose(found.entropy[:, depth], plain_entropy(told, axis=-1), atol=2e-4)
            np.testing.assert_allclose(found.divergence[:, depth], rel_entr(own, told).sum(-1), atol=2e-4)
            surprise = [-np.log(told[row, token]) for row, token in enumerate(ids)]
            np.testing.assert_allclose(found.cross_entropy[:2, depth], surprise, atol=2e-4)
        assert np.isnan(found.cross_entropy[2]).all() and found.lens == lens.name
        assert np.abs(found.divergence[:, -1]).max() < 1e-6


@pytest.mark.parametrize("name", ["llama", "gemma2", "qwen2_vl"])
def test_a_vector_is_decoded_as_the_residual_it_was_read_from(name: str) -> None:
    """A vector of one prompt reads as that prompt does; scale and soft-capping of the readout included."""
    vlm, prompts = made(name)
    one = prompts[:1]
    vector, lens = vlm.task_vector(one), random_lens(vlm)
    for chosen in (None, lens):
        found, expected = vector.decode(vlm, k=4, lens=chosen), vlm.lens(one, k=4, lens=chosen)
        assert found.tokens[0] == expected.tokens[0][1:] and found.depth == expected.depth[1:]
        np.testing.assert_allclose(found.probabilities[0], expected.probabilities[0, 1:], atol=1e-5)
    difference = (2 * vector).decode(vlm, k=1).tokens[0]
    told = read(vlm, None, 2 * vector[1][None], 2)[0]
    assert difference[1][0] == vlm.encoder.decode(int(told.argmax()))
    with pytest.raises(xmi.VectorError, match=r"shape \[2, 64\] cannot be decoded"):
        vlm.decode(vector.values[:2])
    with pytest.raises(xmi.VectorError, match="NaN"):
        vlm.decode(vector.values / 0)
    other = xmi.TaskVector(vector.values, vector.card.model_copy(update={"revision": "another"}))
    with pytest.warns(xmi.XmiWarning, match="need not mean the same"):
        other.decode(vlm)


@pytest.mark.filterwarnings("ignore:Attention patterns exist only")
@pytest.mark.parametrize("name", ["llama", *VISION])
def test_a_pattern_is_the_models_own_report_of_its_attention(name: str) -> None:
    vlm, prompts = made(name)
    prompt = prompts[1:2]
    found = vlm.pattern(prompt, layer=-1)
    implementation = vlm.engine.attention
    vlm.model.set_attn_implementation("eager")
    with torch.no_grad():
        told = vlm.model(**vlm.encode(prompt).inputs, output_attentions=True).attentions[-1][0]
    vlm.model.set_attn_implementation(implementation)
    np.testing.assert_allclose(found.values, told.numpy(), atol=1e-5)
    assert found.layer == 3 and len(found.tokens) == found.values.shape[1]
    joined = found.joined()
    np.testing.assert_allclose(joined.values.sum(-1), 1, atol=1e-5)
    images = [i for i, kind in enumerate(found.modalities) if kind == "image 0"]
    if images:
        [at] = [i for i, kind in enumerate(joined.modalities) if kind == "image 0"]
        np.testing.assert_allclose(joined.values[:, -1, at], found.values[:, -1, images].sum(-1), atol=1e-6)
        assert joined.tokens[at] == f"image 0 ({len(images)} tokens)"
    assert len(found.figure(join_images=False).data[0].z) == len(found.tokens)
    with pytest.raises(xmi.PromptError, match="one prompt; 3 were given"):
        vlm.pattern(prompts, 0)
    with pytest.raises(xmi.HookError, match="No layer 4"):
        vlm.pattern(prompt, 4)
    with pytest.raises(xmi.ArgumentError, match="There is no head 4"):
        found.figure(head=4)


def test_they_are_saved_and_read_again(tmp_path: Any) -> None:
    vlm, prompts = made("llama")
    found = vlm.trajectory(prompts)
    again = Trajectory.load(found.save(tmp_path / "a.json"))
    assert np.array_equal(again.entropy, found.entropy) and len(again.to_frame()) == 15
    pattern = AttentionPattern(("a", "b"), ("text", "text"), np.full((1, 2, 2), 0.5), 0)
    assert pattern.to_frame().shape == (4, 6)
