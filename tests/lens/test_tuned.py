"""The tuned lens: what it computes against plain Hugging Face, what training does, and whose lens is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import rel_entr

import xmi
from tests.zoo.models import NAMES_AND_CITIES, VISION, ZOO, build
from tests.zoo.oracle import CITIES, plain, prompts_for
from xmi.kernels import lens_kernel
from xmi.kernels.residuals import stream_kernel
from xmi.lens import LensCard, LogitLens, TunedLens
from xmi.lens.tune import fit, hold_out, item
from xmi.model import Engine
from xmi.model.readout import readout
from xmi.prompt import Prompt, Prompts, Segment
from xmi.vlm import VLM

TOLERANCE = 1e-5


def made(name: str) -> tuple[VLM, Prompts]:
    model, tool = build(ZOO[name])
    return xmi.load(model, processor=tool), prompts_for("many" if name in VISION else "none")


def icl(count: int = 24) -> Prompts:
    """Text prompts of one example each, three for every item."""
    rows = []
    for i in range(count):
        (given, said), (asked, answer) = (NAMES_AND_CITIES[k % 8] for k in (i + 1 + i // 8, i))
        parts = [("prefix", "Q:", 0), ("input", given, 0), ("delimiter", "\nA:", 0), ("answer", said, 0)]
        parts += [("separator", "\n\n", 0), ("prefix", "Q:", None), ("input", asked, None), ("delimiter", "\nA:", None)]
        segments = tuple(Segment(role, text, example=k, query=k is None) for role, text, k in parts)
        rows.append(Prompt(segments, "capital", asked, answer))
    return Prompts(tuple(rows), "text ICL", task="capital", task_words=("capital",))


def random_lens(vlm: VLM, size: float = 0.05) -> TunedLens:
    b, generator = vlm.backbone, torch.Generator().manual_seed(3)
    weight = torch.randn(b.n_layers, b.d_model, b.d_model, generator=generator) * size
    bias = torch.randn(b.n_layers, b.d_model, generator=generator) * size
    card = LensCard(
        model=vlm.name, revision=vlm.revision, dtype="float32", trained_on=(), slot="text", prompts=0, tokens=0,
        held_out=0, steps=0, size=1, rate=0, decay=0, seed=0, before=(0.0,) * b.n_layers, after=(0.0,) * b.n_layers,
        versions={},
    )  # fmt: skip
    return TunedLens(weight, bias, card)


def embedded(vlm: VLM, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """What enters the first block in a plain forward."""
    kept: list[torch.Tensor] = []
    block = vlm.model.get_submodule(f"{vlm.backbone.layers}.0")

    def keep(_module: Any, args: Any, kwargs: Any) -> None:
        kept.append(args[0] if args else kwargs["hidden_states"])

    handle = block.register_forward_pre_hook(keep, with_kwargs=True)
    with torch.no_grad():
        vlm.model(**inputs, use_cache=False)
    handle.remove()
    return kept[0]


@pytest.mark.parametrize("name", list(ZOO))
def test_a_lens_equals_plain_arithmetic_at_every_depth(name: str) -> None:
    vlm, prompts = made(name)
    lens, batch = random_lens(vlm), vlm.encode(prompts)
    _, blocks = plain(vlm, batch)
    states = [embedded(vlm, batch.inputs), *blocks]
    found, top = vlm.phases(prompts, lens=lens), vlm.lens(prompts, lens=lens, k=3)
    assert (found.lens, top.lens) == ("tuned lens", "tuned lens")
    tok = vlm.encoder.tokenizer
    for depth, state in enumerate(states):
        here = state[:, -1]
        if depth < len(blocks):
            here = here + torch.stack([lens.weight[depth] @ row for row in here]) + lens.bias[depth]
        with torch.no_grad():
            expected = readout(vlm.model, vlm.backbone, here).softmax(-1)
        answer = [expected[i, tok.convert_tokens_to_ids(a)].item() for i, a in enumerate(CITIES[1:])]
        np.testing.assert_allclose(found.probability[:, depth, 2], answer, atol=TOLERANCE)
        np.testing.assert_allclose(top.probabilities[:, depth], expected.topk(3).values, atol=TOLERANCE)
    logit = vlm.phases(prompts)
    assert np.abs(found.probability - logit.probability)[:, :-1].max() > 1e-3, "else the lens did nothing"
    np.testing.assert_array_equal(found.probability[:, -1], logit.probability[:, -1])


@pytest.mark.parametrize("name", ["gpt2", "llava"])
def test_the_stream_of_any_tokens_equals_a_plain_forward(name: str) -> None:
    vlm, prompts = made(name)
    batch = vlm.encode(prompts)
    rows, columns = torch.nonzero(batch.inputs["attention_mask"], as_tuple=True)
    inputs, back = vlm.engine.reading(batch.inputs, columns)
    found = stream_kernel(vlm.engine.envoy, inputs, vlm.engine.paths, rows, back)
    states = [embedded(vlm, batch.inputs), *plain(vlm, batch)[1]]
    expected = torch.stack([state[rows, columns] for state in states], 1)
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)


@pytest.fixture(scope="module")
def trained() -> tuple[VLM, Prompts, TunedLens]:
    vlm, _ = made("llama")
    prompts = icl()
    return vlm, prompts, vlm.tune_lens(prompts, steps=150, size=64, rate=5e-3)


def test_training_brings_every_depth_nearer_to_the_output(trained: tuple[VLM, Prompts, TunedLens]) -> None:
    vlm, prompts, lens = trained
    table = lens.to_frame()
    assert list(table["depth"]) == ["embed", "0", "1", "2"]
    assert (table["after"] < 0.6 * table["before"]).all(), table
    assert all(p.grad is None for p in vlm.model.parameters()), "the model's own gradients are nobody's business"
    assert (lens.card.prompts, lens.card.held_out) == (18, 6), "two of eight items, three prompts each"
    tokens = vlm.encode(prompts).inputs["attention_mask"].sum(1)
    aside = hold_out([item(p) for p in prompts], 0.2, 0)
    assert lens.card.tokens == sum(int(n) for n, p in zip(tokens, prompts, strict=True) if item(p) not in aside)


def test_divergence_is_that_of_the_distributions_on_held_out_prompts() -> None:
    vlm, _ = made("gemma2")
    prompts = icl()
    lens = vlm.tune_lens(prompts, slot="last", steps=20, size=16)
    aside = hold_out([item(p) for p in prompts], 0.2, 0)
    held = replace(prompts, prompts=tuple(p for p in prompts if item(p) in aside))
    assert lens.card.held_out == len(held) > 0
    size = len(vlm.encoder.tokenizer)

    def divergence(reading: Any) -> list[float]:
        """From the probabilities of the whole vocabulary, in the order of its tokens."""
        ids = [[dict(zip(t, p, strict=True)) for t, p in zip(*row, strict=True)] for row in reading]
        return [np.mean([sum(rel_entr(row[-1][t], row[d][t]) for t in row[-1]) for row in ids]) for d in range(4)]

    for told, by in ((lens.card.before, LogitLens()), (lens.card.after, lens)):
        top = vlm.lens(held, k=size, lens=by)
        assert len(set(top.tokens[0][0])) == size, "tokens must differ in their text"
        np.testing.assert_allclose(told, divergence(zip(top.tokens, top.probabilities, strict=True)), rtol=1e-4)


def test_the_rate_falls_to_nothing() -> None:
    """Adam moves by its rate if the gradient stays as it is: 1 + 3/4 + 2/4 + 1/4 of it in four steps."""
    state, final = torch.tensor([[1.0, -1.0]]), torch.tensor([[3.0, 2.0]])
    options = {"steps": 4, "size": 8, "rate": 1e-4, "decay": 0.0, "device": torch.device("cpu")}
    weight, bias = fit(state, final, lambda x: x, generator=torch.Generator().manual_seed(0), **options)
    np.testing.assert_allclose(bias.abs(), 2.5e-4, rtol=1e-3)
    np.testing.assert_allclose(weight, bias[:, None] * state, rtol=1e-3, err_msg="towards the output, along the state")
    assert bias[0] < 0 < bias[1], "the output says less of the first than the state does"
    shrunk, _ = fit(state, final, lambda x: x, generator=torch.Generator().manual_seed(0), **{**options, "decay": 5e3})
    assert (shrunk.abs() < 0.9 * weight.abs()).all(), "decay leads back to the logit lens"


def test_untrained_it_is_the_logit_lens(trained: tuple[VLM, Prompts, TunedLens]) -> None:
    vlm, prompts, _ = trained
    lens = vlm.tune_lens(prompts, steps=0)
    assert lens.card.before == lens.card.after
    np.testing.assert_array_equal(vlm.phases(prompts, lens=lens).probability, vlm.phases(prompts).probability)
    assert vlm.phases(prompts, lens=LogitLens()).lens == "logit lens"


def test_a_seed_makes_a_lens(trained: tuple[VLM, Prompts, TunedLens]) -> None:
    vlm, prompts, lens = trained
    again = vlm.tune_lens([prompts], steps=150, size=64, rate=5e-3)
    assert torch.equal(again.weight, lens.weight)
    assert again.card == lens.card
    assert not torch.equal(vlm.tune_lens(prompts, steps=150, size=64, rate=5e-3, seed=1).weight, lens.weight)


def test_held_out_prompts_teach_nothing() -> None:
    vlm, _ = made("llama")
    prompts = icl()
    aside = hold_out([item(p) for p in prompts], 0.2, 0)
    assert 0 < sum(item(p) in aside for p in prompts) < len(prompts)

    def other(prompt: Prompt, change: bool) -> Prompt:
        return replace(prompt, segments=prompt.segments[5:]) if change else prompt

    def tuned(change_held: bool) -> TunedLens:
        changed = tuple(other(p, (item(p) in aside) == change_held) for p in prompts)
        return vlm.tune_lens(replace(prompts, prompts=changed), slot="last", steps=20, size=16)

    lens = vlm.tune_lens(prompts, slot="last", steps=20, size=16)
    torch.testing.assert_close(tuned(True).weight, lens.weight, atol=1e-5, rtol=0)
    assert tuned(True).card.after != lens.card.after
    assert (tuned(False).weight - lens.weight).abs().max() > 1e-4


def test_image_tokens_are_not_trained_on() -> None:
    vlm, prompts = made("llava")
    lens = vlm.tune_lens(prompts, steps=1, size=8)
    batch = vlm.encode(prompts)
    image = batch.inputs["input_ids"] == vlm.encoder.tokenizer.convert_tokens_to_ids("<image>")
    text = (batch.inputs["attention_mask"].bool() & ~image).sum(1).tolist()
    assert image.any()
    aside = hold_out([item(p) for p in prompts], 0.2, 0)
    assert lens.card.tokens == sum(n for n, p in zip(text, prompts, strict=True) if item(p) not in aside)


def test_save_load_and_refusals(trained: tuple[VLM, Prompts, TunedLens], tmp_path: Path) -> None:
    vlm, prompts, lens = trained
    again = TunedLens.load(lens.save(tmp_path / "lens.safetensors"))
    assert again.card == lens.card
    assert again.card.trained_on == ("capital · text ICL",)
    assert again.card.versions["torch"]
    np.testing.assert_array_equal(
        vlm.phases(prompts, lens=again).probability, vlm.phases(prompts, lens=lens).probability
    )
    torch.manual_seed(1)
    sibling, tool = ZOO["llama"]()
    with pytest.raises(
        xmi.ModelError, match=r"was trained on LlamaForCausalLM, revision .* train one with vlm.tune_lens"
    ):
        xmi.load(sibling.eval().float(), processor=tool).phases(prompts, lens=again)
    with pytest.raises(xmi.ModelError, match=r"\(3 layers of width 64\).*4 layers"):
        vlm.lens(prompts, lens=TunedLens(lens.weight[:3], lens.bias[:3], lens.card))
    for name, content in (("none", None), ("text", b"no tensors"), ("pickle", b"\x80\x04.")):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(xmi.ModelError, match=name):
            TunedLens.load(tmp_path / name)
    vector = vlm.task_vector(prompts).save(tmp_path / "vector")
    with pytest.raises(xmi.ModelError, match="holds no tuned lens"):
        TunedLens.load(vector)


def test_training_that_means_nothing_is_refused(trained: tuple[VLM, Prompts, TunedLens]) -> None:
    vlm, prompts, _ = trained
    same = replace(prompts, prompts=prompts.prompts[::8])
    with pytest.raises(xmi.PromptError, match=r"two different items.*found 1"):
        vlm.tune_lens(same, steps=1)
    for options, said in (({"steps": -1}, "steps=-1"), ({"size": 0}, "size=0"), ({"held_out": 1.0}, "held_out=1")):
        with pytest.raises(xmi.PromptError, match=said):
            vlm.tune_lens(prompts, **options)
    with pytest.raises(xmi.SlotError, match="example"):
        vlm.tune_lens(prompts, slot="example[3].answer", steps=1)


class Reversed:
    """A lens of a user's own: every state turned round."""

    name = "reversed"

    def translators(self, engine: Engine) -> tuple[torch.Tensor, torch.Tensor]:
        layers, width = engine.backbone.n_layers, engine.backbone.d_model
        return -2 * torch.eye(width).expand(layers, width, width), torch.zeros(layers, width)


def test_a_lens_of_ones_own_needs_two_things(trained: tuple[VLM, Prompts, TunedLens]) -> None:
    vlm, prompts, _ = trained
    size = len(vlm.encoder.tokenizer)
    found, logit = vlm.lens(prompts, lens=Reversed(), k=size), vlm.lens(prompts, k=size)
    assert found.lens == "reversed"
    assert found.tokens[0][2] == logit.tokens[0][2][::-1], "norm and unembedding of the model have no bias"
    assert found.tokens[0][-1] == logit.tokens[0][-1]


def test_the_kernel_takes_builtins_and_tensors_only(trained: tuple[VLM, Prompts, TunedLens]) -> None:
    for kernel in (lens_kernel, stream_kernel):
        assert kernel.__closure__ is None
