"""Half a checkpoint, a damaged one, numbers that are none: refused by name. Damaged notes of a check: made again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import xmi
from tests.zoo.models import build, gpt2, llama, llava
from tests.zoo.oracle import prompts_for
from xmi.model import check as check_module
from xmi.model.remember import keep, recall


def saved(make: Any, folder: Path) -> Path:
    model, tool = build(make)
    model.save_pretrained(folder)
    tool.save_pretrained(folder)
    return folder


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    path = next(folder.glob("*.safetensors"))
    state = load_file(path)
    change(state)
    save_file(state, path, metadata={"format": "pt"})


def configure(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


@pytest.mark.fault("E3")
@pytest.mark.parametrize("make", [llama, llava])
def test_half_of_a_model_is_refused(make: Any, tmp_path: Path) -> None:
    saved(make, tmp_path)
    configure(tmp_path, lambda c: c.get("text_config", c).update(num_hidden_layers=2))
    with pytest.raises(xmi.ModelError, match=r"holds 18 weights that its model has no place for .*layers\.2\."):
        xmi.load(tmp_path)


@pytest.mark.fault("E3")
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("model.layers.1.self_attn.q_proj.bias", (64,)),
        ("model.layers.0.mlp.gate.weight", (8, 64)),
        ("value_head.weight", (1, 64)),
        ("model.layers.1.scale", (64, 64)),
    ],
)
def test_weights_without_a_place_are_refused(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    saved(llama, tmp_path)
    rewrite(tmp_path, lambda state: state.update({name: torch.ones(shape)}))
    with pytest.raises(xmi.ModelError, match=rf"holds 1 weights .*{name.replace('.', '[.]')}"):
        xmi.load(tmp_path, check=False)


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_what_older_versions_saved_beside_the_weights_is_no_weight(form: str, tmp_path: Path) -> None:
    """Rotary frequencies per layer, causal masks, their filling, and the second name of a tied unembedding."""
    masks = {"mask": torch.ones(1, 1, 16, 16).tril(), "bias": torch.ones(16, 16, dtype=torch.bool).tril()}
    saved(llama, tmp_path)

    def add(state: dict[str, torch.Tensor]) -> None:
        state["model.layers.1.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
        state["model.layers.1.self_attn.masked_bias"] = torch.tensor(-1e4)
        state.update({f"model.layers.1.self_attn.{name}": value for name, value in masks.items()})

    rewrite(tmp_path, add)
    if form == "bin":
        path = next(tmp_path.glob("*.safetensors"))
        torch.save(load_file(path), tmp_path / "pytorch_model.bin")
        path.unlink()
    vlm = xmi.load(tmp_path, check=False)
    prompts = prompts_for("none")
    plain = xmi.load(build(llama)[0], processor=build(llama)[1], check=False)
    assert torch.equal(vlm.residuals(prompts).values, plain.residuals(prompts).values)


def test_a_tied_unembedding_may_be_saved_twice(tmp_path: Path) -> None:
    saved(gpt2, tmp_path)
    rewrite(tmp_path, lambda s: s.update({"lm_head.weight": s["transformer.wte.weight"].clone()}))
    xmi.load(tmp_path, check=False)


def cut(share: float) -> Callable[[bytes], bytes]:
    return lambda content: content[: int(len(content) * share)]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": cut(0),
    "halved": cut(0.5),
    "its last byte lost": lambda content: content.rstrip()[:-1],
    "null": lambda content: b"null",
    "a list": lambda content: b"[1, 2]",
    "deep": lambda content: b'{"a":' * 20000,
    "binary": lambda content: b"\xff\xfe\x00" * 50,
    "text": lambda content: b"<html>Not found</html>",
}


QUICK = ("empty", "halved", "deep")


@pytest.mark.parametrize(
    "damage", [pytest.param(d, marks=pytest.mark.fault("E14") if d in QUICK else ()) for d in DAMAGE]
)
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "processor_config.json"])
def test_a_damaged_file_of_a_checkpoint_is_one_error(name: str, damage: str, tmp_path: Path) -> None:
    saved(llava, tmp_path)
    path = tmp_path / name
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    with pytest.raises(xmi.ModelError, match=str(tmp_path)):
        xmi.load(tmp_path)


@pytest.mark.fault("E14")
@pytest.mark.parametrize(
    "change",
    [
        {"num_hidden_layers": "four"}, {"num_hidden_layers": -1}, {"num_hidden_layers": 0}, {"hidden_size": None},
        {"num_attention_heads": 0}, {"vocab_size": 2.5}, {"model_type": 3}, {"model_type": None}, {"hidden_act": "?"},
        {"rope_parameters": []}, {"dtype": "float99"}, {"architectures": 5},
    ],
)  # fmt: skip
def test_wrong_types_in_a_configuration_are_one_error(change: dict[str, Any], tmp_path: Path) -> None:
    saved(llama, tmp_path)
    configure(tmp_path, lambda c: c.update(change))
    try:
        xmi.load(tmp_path)  # what transformers does not read does no harm
    except xmi.ModelError as error:
        assert str(tmp_path) in str(error) or "LlamaForCausalLM" in str(error)


@pytest.mark.fault("E14")
@pytest.mark.parametrize(
    "damage",
    [
        *(DAMAGE[d] for d in ("empty", "halved", "null", "a list", "deep", "binary")),
        lambda b: b.replace(b"resid_post", b"resid_pest"), lambda b: b.replace(b'"causal": true', b'"causal": false'),
        lambda b: b.replace(b"0.0", b'"x"', 1),
    ],
)  # fmt: skip
def test_damaged_notes_of_a_check_are_made_anew(
    damage: Callable[[bytes], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XMI_CACHE", str(tmp_path / "cache"))
    folder = saved(llama, tmp_path / "model")
    report = xmi.load(folder).report
    [note] = (tmp_path / "cache" / "checks").iterdir()
    whole = note.read_bytes()
    note.write_bytes(damage(whole))
    assert note.read_bytes() != whole
    assert xmi.load(folder).report == report
    assert note.read_bytes() == whole


@pytest.mark.fault("E14")
def test_notes_of_another_model_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XMI_CACHE", str(tmp_path / "cache"))
    reports = [xmi.load(saved(make, tmp_path / make.__name__)).report for make in (llama, gpt2)]
    one, two = (tmp_path / "cache" / "checks").iterdir()
    one_note, two_note = one.read_bytes(), two.read_bytes()
    one.write_bytes(two_note)
    two.write_bytes(one_note)
    assert [xmi.load(tmp_path / make.__name__).report for make in (llama, gpt2)] == reports


@pytest.mark.parametrize("option", [{"dtype": "bf16"}, {"attn_implementation": "eager"}])
def test_options_that_change_numbers_are_checked_for_themselves(
    option: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    real = check_module._Check.run
    monkeypatch.setenv("XMI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(check_module._Check, "run", lambda self: (calls.append(1), real(self))[1])
    folder = saved(llama, tmp_path / "model")
    for options in ({}, option, {}, option):
        xmi.load(folder, **options)
    assert len(calls) == 2


def poison(model: torch.nn.Module, name: str, value: float) -> None:
    with torch.no_grad():
        parameter = model.get_parameter(name)
        parameter.view(-1)[parameter.numel() // 2] = value


@pytest.mark.fault("B5")
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (llama, "model.layers.1.mlp.down_proj.weight"),
        (llama, "model.embed_tokens.weight"),  # of a token that the check may never use
        (llama, "model.norm.weight"),
        (llava, "model.vision_tower.encoder.layers.0.mlp.fc1.weight"),
        (llava, "model.multi_modal_projector.linear_1.bias"),
    ],
)
def test_weights_that_are_no_numbers_are_named(make: Any, name: str, value: float) -> None:
    model, tool = build(make)
    name = name if any(n == name for n, _ in model.named_parameters()) else name.replace(
        "vision_tower.", "vision_tower.vision_model.")  # fmt: skip
    poison(model, name, value)
    with pytest.raises(xmi.ModelError, match=rf"{name} holds NaN or infinite values \(1 of \d+, float32\)\."):
        xmi.load(model, processor=tool)


@pytest.mark.fault("B5")
@pytest.mark.parametrize("block", [0, 2])
def test_overflow_names_the_block_it_begins_in(block: int) -> None:
    model, tool = build(llama)
    model = model.to(torch.float16)
    with torch.no_grad():
        model.model.layers[block].mlp.down_proj.weight.mul_(3e4)
    with pytest.raises(
        xmi.ModelError, match=rf"NaN or infinite from block {block} on .*float16 ends at 6\.55e\+04.*dtype='float32'"
    ):
        xmi.load(model, processor=tool)
    xmi.load(model.float(), processor=tool)


@pytest.mark.fault("B5")
def test_logits_that_overflow_are_named() -> None:
    model, tool = build(llama)
    model = model.to(torch.float16)
    with torch.no_grad():
        model.lm_head.weight.mul_(6e4)
    with pytest.raises(xmi.ModelError, match="NaN or infinite"):
        xmi.load(model, processor=tool)


@pytest.mark.fault("B5")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_never_become_answers(value: float) -> None:
    """The check may be put off, and a prompt may overflow where its few tokens did not."""
    model, tool = build(llama)
    vlm = xmi.load(model, processor=tool)
    prompts = prompts_for("none")
    vector = vlm.task_vector(prompts)
    poison(model, "model.layers.2.mlp.down_proj.weight", value)
    said = r"NaN or infinite from block 2 on .*blocks\.2\.hook_resid_post"
    for read in (
        lambda: vlm.residuals(prompts), lambda: vlm.task_vector(prompts), lambda: vlm.answers(prompts),
        lambda: vlm.lens(prompts), lambda: vlm.transfer(vector, to=prompts[:1]), lambda: vlm.phases(prompts),
    ):  # fmt: skip
        with pytest.raises(xmi.ModelError, match=said):
            read()
    with pytest.raises(xmi.HookError, match=r"blocks\.2\.\S+ holds NaN or infinite"):
        vlm.run_with_cache(prompts)
    model.model.layers[2].mlp.down_proj.weight.data.nan_to_num_(0.0, 0.0)
    poison(model, "model.layers.3.mlp.down_proj.weight", value)
    with pytest.raises(xmi.ModelError, match=r"block 3"):
        vlm.residuals(prompts)


def test_a_note_counts_under_its_own_key_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XMI_CACHE", str(tmp_path))
    keep("checks", "one", {"a": [1, None]})
    keep("checks", "two", {"a": [2]})
    one, two = sorted((tmp_path / "checks").iterdir(), key=lambda p: b"two" in p.read_bytes())
    assert (recall("checks", "one"), recall("checks", "two")) == ({"a": [1, None]}, {"a": [2]})
    two.write_bytes(one.read_bytes())
    assert recall("checks", "two") is None
