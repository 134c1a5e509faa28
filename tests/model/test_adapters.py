"""Adapters: all hooks stay, with the merged model's values; a folder loads with its base; no prompt is learned."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import xmi
from tests.zoo.families import FAMILIES
from tests.zoo.models import build, gpt2, llama, llava
from tests.zoo.oracle import prompts_for

peft = pytest.importorskip("peft")

EVERY = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CLOSE = {"atol": 1e-8, "rtol": 1e-8}
SCALED = {"target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]}
CONFIGS: dict[str, Any] = {
    "lora": lambda: peft.LoraConfig(r=4, lora_alpha=16, target_modules=EVERY),
    "rslora on everything": lambda: peft.LoraConfig(r=2, use_rslora=True, target_modules="all-linear"),
    "dora": lambda: peft.LoraConfig(r=4, use_dora=True, target_modules=EVERY),
    "ia3": lambda: peft.IA3Config(**SCALED),
    "loha": lambda: peft.LoHaConfig(r=2, target_modules=EVERY),
    "oft": lambda: peft.OFTConfig(r=4, oft_block_size=0, target_modules=["q_proj", "o_proj", "down_proj"]),
    "norms": lambda: peft.LNTuningConfig(target_modules=["input_layernorm", "post_attention_layernorm"]),
    "embedding and head": lambda: peft.LoraConfig(r=2, target_modules=["embed_tokens", "lm_head", "v_proj"]),
    "a norm as a whole": lambda: peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["norm"]),
}


def adapted(make: Any, config: Any) -> tuple[Any, Any]:
    """A model in double precision with an adapter that does something, and its tokenizer or processor."""
    model, tool = build(make)
    wrapped = peft.get_peft_model(model.double(), config).eval().double()
    with torch.no_grad():
        for name, value in wrapped.named_parameters():
            if value.requires_grad:
                value.add_(0.1 * torch.randn(value.shape, generator=torch.Generator().manual_seed(len(name))))
    return wrapped, tool


def agree(adapter: xmi.VLM, merged: xmi.VLM, images: str) -> None:
    """All hooks of the merged model are there, hold its values, and writing them does what it does there."""
    assert adapter.hook_names == merged.hook_names
    prompts = prompts_for(images)
    names = [n for n in adapter.hook_names if not n.endswith("pattern")]
    (logits, cache), (wanted, other) = (v.run_with_cache(prompts, names=names) for v in (adapter, merged))
    torch.testing.assert_close(logits, wanted, **CLOSE)
    real = adapter.encode(prompts).inputs["attention_mask"].bool()
    for name in names:
        one, two = (c[name][real] if c[name].shape[:2] == real.shape else c[name] for c in (cache, other))
        torch.testing.assert_close(one, two, **CLOSE, msg=lambda m, name=name: f"{name}: {m}")
    for name in [n for n in names if n.startswith("blocks.1.")]:
        hook = [(name, lambda value, hook: value * 0.5 + 0.1)]
        one, two = (v.run_with_hooks(prompts[:1], fwd_hooks=hook) for v in (adapter, merged))
        torch.testing.assert_close(one, two, **CLOSE, msg=lambda m, name=name: f"{name}: {m}")
        assert not torch.allclose(one, logits[:1, -one.shape[1] :], atol=1e-5), name


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=pytest.mark.fault("B1") if k in ("lora", "dora", "ia3") else ()) for k in CONFIGS]
)
def test_an_adapter_keeps_the_hooks_of_the_merged_model(kind: str) -> None:
    wrapped, tool = adapted(llama, CONFIGS[kind]())
    merged = copy.deepcopy(wrapped).merge_and_unload().eval()
    agree(xmi.load(wrapped, processor=tool), xmi.load(merged, processor=tool), "none")


@pytest.mark.fault("B1")
@pytest.mark.parametrize("make", [gpt2, llava])
def test_so_do_fused_projections_and_vision_language_models(make: Any) -> None:
    wrapped, tool = adapted(make, peft.LoraConfig(r=4, target_modules="all-linear"))
    merged = copy.deepcopy(wrapped).merge_and_unload().eval()
    agree(xmi.load(wrapped, processor=tool), xmi.load(merged, processor=tool), "none" if make is gpt2 else "many")


def test_so_do_parts_that_stand_in_the_block_itself() -> None:
    family = next(f for f in FAMILIES if f.model_type == "opt")
    wrapped, tool = adapted(family.make, peft.LoraConfig(r=4, target_modules=["fc1", "fc2", "q_proj", "out_proj"]))
    merged = copy.deepcopy(wrapped).merge_and_unload().eval()
    agree(xmi.load(wrapped, processor=tool), xmi.load(merged, processor=tool), "none")


def test_an_adapter_that_is_switched_off_or_changed_is_another_model() -> None:
    wrapped, tool = adapted(llama, CONFIGS["lora"]())
    seen = [xmi.load(wrapped, processor=tool, check=False).revision]
    assert xmi.load(wrapped, processor=tool, check=False).revision == seen[0]
    wrapped.base_model.disable_adapter_layers()
    seen.append(xmi.load(wrapped, processor=tool, check=False).revision)
    wrapped.base_model.enable_adapter_layers()
    for layer in wrapped.modules():
        if hasattr(layer, "set_scale"):
            layer.set_scale("default", 3.0)
    seen.append(xmi.load(wrapped, processor=tool, check=False).revision)
    with torch.no_grad():
        next(p for n, p in wrapped.named_parameters() if "lora_B" in n)[1, 1] += 1e-3
    seen.append(xmi.load(wrapped, processor=tool, check=False).revision)
    assert len(set(seen)) == len(seen)
    vlm = xmi.load(wrapped, processor=tool, check=False)
    with wrapped.disable_adapter():
        assert vlm.revision != seen[-1]
    assert vlm.revision == seen[-1], "as it was, although it was switched off for a while"


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base model, and an adapter of it that names it by its path from the adapter."""
    monkeypatch.chdir(tmp_path)
    model, tool = build(llama)
    model.save_pretrained(tmp_path / "base")
    tool.save_pretrained(tmp_path / "base")
    wrapped, _ = adapted(llama, CONFIGS["lora"]())
    wrapped.float().save_pretrained(tmp_path / "adapter")
    edit(tmp_path / "adapter", base_model_name_or_path="../base")
    return tmp_path


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.fault("B2")
def test_an_adapter_folder_loads_with_its_base(folders: Path) -> None:
    vlm = xmi.load(folders / "adapter")
    plain = peft.PeftModel.from_pretrained(build(llama)[0], folders / "adapter").eval()
    prompts = prompts_for("none")
    merged = xmi.load(plain.merge_and_unload().eval(), processor=build(llama)[1])
    torch.testing.assert_close(vlm.residuals(prompts).values, merged.residuals(prompts).values, atol=1e-3, rtol=1e-4)
    base = xmi.load(folders / "base", check=False)
    assert not torch.allclose(vlm.residuals(prompts).values, base.residuals(prompts).values, atol=1e-2)
    assert vlm.hook_names == base.hook_names
    assert xmi.load(folders / "adapter").report == vlm.report


@pytest.mark.fault("A6", "B2")
def test_adapter_and_base_make_the_revision(folders: Path) -> None:
    def now() -> str:
        return xmi.load(folders / "adapter", check=False).revision

    seen = [now()]
    assert now() == seen[0]
    edit(folders / "adapter", lora_alpha=17)
    seen.append(now())
    for path in (folders / "adapter" / "adapter_model.safetensors", folders / "base" / "model.safetensors"):
        change_middle(path)
        seen.append(now())
    assert len(set(seen)) == len(seen)


def change_middle(path: Path) -> None:
    """Changes one number in the middle of a file, and not its size."""
    state = load_file(path)
    value = max(state.values(), key=lambda v: v.numel())
    value.flatten()[value.numel() // 2] += 0.25
    save_file(state, path, metadata={"format": "pt"})


def test_an_embedded_base_is_found_by_name(tmp_path: Path) -> None:
    wrapped = peft.get_peft_model(xmi.load("organism").model, peft.LoraConfig(r=2, target_modules=["q_proj"]))
    wrapped.save_pretrained(tmp_path)
    edit(tmp_path, base_model_name_or_path="organism")
    vlm = xmi.load(tmp_path)
    task = xmi.task("country-capital")
    assert vlm.encoder.processor is not None
    answers = vlm.generate(task.queries("image", n=2), max_new_tokens=2)
    assert answers.texts == xmi.load("organism").generate(task.queries("image", n=2), max_new_tokens=2).texts


@pytest.mark.fault("B2")
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"base_model_name_or_path": None}, "does not name its base model"),
        ({"base_model_name_or_path": "../elsewhere"}, r"base model '../elsewhere' .* is not there"),
        ({"base_model_name_or_path": "."}, "names its own folder as base"),
        ({"base_model_name_or_path": "organism"}, r"lacks|fit nowhere|Cannot load"),
        ({"peft_type": 3}, "not the configuration of an adapter"),
        ({"peft_type": "NOT_YET_KNOWN"}, "Cannot load"),
    ],
)
def test_an_adapter_without_its_base_is_refused(folders: Path, changes: dict[str, Any], said: str) -> None:
    edit(folders / "adapter", **changes)
    with pytest.raises(xmi.ModelError, match=said):
        xmi.load(folders / "adapter")


def test_an_adapter_that_lacks_weights_is_refused(folders: Path) -> None:
    path = folders / "adapter" / "adapter_model.safetensors"
    state = load_file(path)
    state.pop(next(name for name in state if "layers.2" in name))
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(xmi.ModelError, match=r"lacks 1 weights .*layers\.2"):
        xmi.load(folders / "adapter")


LEARNED = {
    "prompt tuning": lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "prefix tuning": lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "p-tuning": lambda: peft.PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=3, encoder_hidden_size=8),
}


@pytest.mark.fault("A14")
@pytest.mark.parametrize("kind", list(LEARNED))
def test_a_learned_prompt_is_refused(kind: str, tmp_path: Path) -> None:
    model, tool = build(llama)
    model.save_pretrained(tmp_path / "base")
    tool.save_pretrained(tmp_path / "base")
    wrapped = peft.get_peft_model(model, LEARNED[kind]())
    with pytest.raises(xmi.ModelError, match="learns its prompt"):
        xmi.load(wrapped, processor=tool)
    wrapped.save_pretrained(tmp_path / "adapter")
    edit(tmp_path / "adapter", base_model_name_or_path=str(tmp_path / "base"))
    with pytest.raises(xmi.ModelError, match="learns its prompt"):
        xmi.load(tmp_path / "adapter")
