"""Hook points and deviations, found by measuring; and the self-check's other findings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import xmi
from tests.zoo.families import FAMILIES
from tests.zoo.family import build
from tests.zoo.models import gpt2, llama, llava
from tests.zoo.oracle import family_vlm, plain, prompts_for
from xmi.model import check as check_module


def vlm_of(name: str) -> xmi.VLM:
    return family_vlm(next(f for f in FAMILIES if f.model_type == name))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("qwen3_vl", "changes between blocks, after layers 0-1 (image features"),
        ("mllama", "layers 1, 3 run only with an image"),
        ("mllama", "layers 1, 3: the residual stream receives hook_attn_out times 0.462"),
        ("gemma4", "post_per_layer_input_norm adds to the residual stream besides hook_mlp_out"),
        ("granite", "the residual stream receives hook_mlp_out times 0.5"),
        ("granite", "resid_pre of layer 0 is hook_embed times 3"),
        ("cohere", "attention and MLP run in parallel: there is no resid_mid"),
        ("gemma2", "hook_attn_out is read after post_attention_layernorm, a norm on what self_attn returns"),
        ("gpt2", "resid_pre of layer 0 is not hook_embed alone"),
        ("mixtral", "no mlp.hook_pre, mlp.hook_post: mlp (MixtralSparseMoeBlock) is not a plain MLP"),
        ("qwen3_5", "linear_attn is a Qwen3_5GatedDeltaNet, not softmax attention"),
        ("fuyu", "no vision.hook_out: no vision tower"),
        ("emu3", "images become discrete tokens of the vocabulary"),
        ("paligemma", "causal: no"),
        ("bloom", "its parts add the residual stream themselves"),
    ],
)
def test_deviations_are_stated(name: str, said: str) -> None:
    assert said in vlm_of(name).describe()


@pytest.mark.parametrize("name", ["llama", "llava", "idefics3"])
def test_a_plain_model_deviates_in_nothing(name: str) -> None:
    report = vlm_of(name).report
    assert report.anatomy.deviations == ()
    assert report.anatomy.missing == {}
    assert report.remarks == ()
    assert report.anatomy.bookkeeping == 0.0, "adding in the model's own precision gives the stream bit by bit"


@pytest.mark.parametrize("name", ["gpt2", "phi3", "gpt_neox", "falcon"])
def test_fused_projections_are_split_rightly(name: str) -> None:
    """Attention rebuilt from the hooks' queries, keys and values at the first position, where it sees itself only."""
    vlm, prompts = vlm_of(name), prompts_for("none")
    _, cache = vlm.run_with_cache(prompts[1:2], names=["q", "k", "v", "z"])
    v, z = cache["v", 1], cache["z", 1]
    torch.testing.assert_close(z[:, 0], v[:, 0].repeat_interleave(z.shape[2] // v.shape[2], dim=1))
    assert cache["q", 1].shape == z.shape
    assert cache["k", 1].shape == v.shape
    # Queries and keys exchanged must give another model, and writing them back the same one.
    for hook in "qkv":
        held = cache[hook, 1]
        same = vlm.run_with_hooks(prompts[1:2], fwd_hooks=[(f"blocks.1.attn.hook_{hook}", lambda x, hook, h=held: h)])
        assert torch.equal(same, plain(vlm, vlm.encode(prompts[1:2]))[0])


def test_queries_of_a_fused_projection_are_queries() -> None:
    """With the queries at zero attention is uniform, whatever the keys; with the keys at zero too."""
    model, tool = build(gpt2)
    vlm, prompt = xmi.load(model, processor=tool), prompts_for("none")[1:2]
    with pytest.warns(UserWarning, match="eager"):
        for letter in "qk":
            with vlm.hooks([(f"blocks.1.attn.hook_{letter}", lambda x, hook: x * 0)]):
                _, cache = vlm.run_with_cache(prompt, names="blocks.1.attn.hook_pattern")
            last = cache["pattern", 1][0, :, -1]
            torch.testing.assert_close(last, torch.full_like(last, 1 / last.shape[-1]))


def test_a_blind_model_is_refused() -> None:
    model, tool = build(llava)
    with torch.no_grad():
        for parameter in model.model.multi_modal_projector.parameters():
            parameter.zero_()
    with pytest.raises(xmi.ModelError, match="does not see its images"):
        xmi.load(model, processor=tool)


def test_hooks_without_effect_are_stated() -> None:
    model, tool = build(llama)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.zero_()
    said = xmi.load(model, processor=tool).describe()
    assert "writing mlp.hook_post has no effect in layers 1 (zero weights?)" in said


def test_a_stream_that_is_no_sum_is_stated() -> None:
    model, tool = build(llama)
    real = model.model.layers[2].forward
    model.model.layers[2].forward = lambda *args, **kwargs: real(*args, **kwargs).tanh()
    report = xmi.load(model, processor=tool).report
    assert any("layers 2: what the block adds" in d for d in report.anatomy.deviations)
    assert "blocks.2.hook_mlp_out" in report.anatomy.missing
    assert "blocks.1.hook_mlp_out" in report.anatomy.points


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XMI_CACHE", str(tmp_path / "cache"))
    model, tool = build(llava)
    model.save_pretrained(tmp_path / "model")
    tool.save_pretrained(tmp_path / "model")
    return tmp_path


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []
    real = check_module._Check.run

    def run(self: Any) -> Any:
        calls.append(1)
        return real(self)

    monkeypatch.setattr(check_module._Check, "run", run)
    return calls


def test_a_check_is_remembered_per_files_and_versions(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch)
    first = xmi.load(folder / "model").report
    again = xmi.load(folder / "model")
    assert again.report == first
    assert len(calls) == 1
    again.check()
    assert len(calls) == 2, "asked for, it is made again"
    stored = next((folder / "cache" / "checks").glob("*.json"))
    stored.write_text(stored.read_text()[:100])
    assert xmi.load(folder / "model").report == first
    assert len(calls) == 3, "a broken file counts for nothing"
    monkeypatch.setattr("xmi.model.check_cache.version", lambda name: "another")
    xmi.load(folder / "model")
    assert len(calls) == 4
    monkeypatch.undo()


def test_changed_weights_are_checked_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XMI_CACHE", str(folder / "cache"))
    calls = counted(monkeypatch)
    vlm = xmi.load(folder / "model")
    with torch.no_grad():
        vlm.model.lm_head.weight.mul_(2)
    vlm.model.save_pretrained(folder / "model")
    xmi.load(folder / "model")
    assert len(calls) == 2


def test_models_in_memory_are_always_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch)
    model, tool = build(llama)
    for _ in range(2):
        xmi.load(model, processor=tool)
    assert len(calls) == 2


def test_without_a_check_nothing_runs_until_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch)
    model, tool = build(llama)
    vlm = xmi.load(model, processor=tool, check=False)
    vlm.residuals(prompts_for("none"))
    assert not calls
    vlm.run_with_cache(prompts_for("none"), names="resid_post")
    assert len(calls) == 1


def test_code_that_comes_with_a_model_needs_consent(tmp_path: Path) -> None:
    marker = tmp_path / "it-ran"
    (tmp_path / "configuration_own.py").write_text(f"open({str(marker)!r}, 'w')\n")
    config = {"model_type": "own", "auto_map": {"AutoConfig": "configuration_own.OwnConfig"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(xmi.ModelError, match=r"code of its own.*trust_remote_code=True"):
        xmi.load(tmp_path)
    assert not marker.exists()


def test_a_folder_without_its_processor_is_refused_before_the_weights(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (folder / "model").iterdir():
        if path.name != "config.json" and path.suffix != ".safetensors":
            path.unlink()
    monkeypatch.setattr("xmi.model.load.AutoModelForImageTextToText.from_pretrained", None)
    with pytest.raises(xmi.ModelError, match=r"Cannot load .*processor"):
        xmi.load(folder / "model")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"device": "cpu", "device_map": "auto"}, "not both"),
        ({"quantization": "3bit"}, "Unknown quantization '3bit'"),
    ],
)
def test_options_that_do_not_go_together(folder: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(xmi.ModelError, match=said):
        xmi.load(folder / "model", **options)
    with pytest.raises(xmi.ModelError):
        xmi.load(build(llama)[0], processor=build(llama)[1], **options)


def test_a_device_map_gives_the_same_numbers(folder: Path) -> None:
    whole = xmi.load(folder / "model", check=False)
    spread = xmi.load(folder / "model", device_map={"": "cpu"})
    prompts = prompts_for("many")
    assert torch.equal(whole.residuals(prompts).values, spread.residuals(prompts).values)
    with pytest.raises(xmi.ModelError, match="Cannot load"):
        xmi.load(folder / "model", device_map="sideways")


def test_blocks_that_do_not_run_without_an_image_are_named() -> None:
    vlm = vlm_of("mllama")
    with pytest.raises(xmi.ModelError, match=r"skips its blocks \[1, 3\] without an image"):
        vlm.residuals(prompts_for("none"))
    with pytest.raises(xmi.HookError, match=r"blocks\.1\.hook_resid_post, blocks\.3\.hook_resid_post did not run"):
        vlm.run_with_cache(prompts_for("none"), names="resid_post")
    _, cache = vlm.run_with_cache(prompts_for("none"), names="blocks.2.hook_resid_post")
    assert list(cache) == ["blocks.2.hook_resid_post"]


@pytest.mark.parametrize("name", ["llava_next", "idefics3", "paligemma", "mllama", "gpt2"])
def test_a_folder_gives_what_the_module_gave(name: str, tmp_path: Path) -> None:
    vlm = vlm_of(name)
    vlm.model.save_pretrained(tmp_path)
    (vlm.encoder.processor or vlm.encoder.tokenizer).save_pretrained(tmp_path)
    loaded = xmi.load(tmp_path)
    one, two = loaded.report.anatomy, vlm.report.anatomy
    assert (one.points, one.missing, one.deviations, one.conditional) == (
        two.points, two.missing, two.deviations, two.conditional,
    )  # fmt: skip
    assert one.bookkeeping == pytest.approx(two.bookkeeping, abs=1e-6)  # loaded elsewhere, sums may round otherwise
    assert loaded.backbone == vlm.backbone
    # Remembered, it comes back equal to what was found.
    assert xmi.load(tmp_path).report == loaded.report
