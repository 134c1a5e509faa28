"""Loading, finding the backbone, and the self-check that proves it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

import xmi
from tests.zoo.models import ZOO, build, llama, llava, tokenizer
from tests.zoo.oracle import prompts_for
from xmi.backend.local import LocalBackend
from xmi.model import Engine, find_backbone, load_checkpoint
from xmi.model.load import Checkpoint


@pytest.mark.parametrize("name", list(ZOO))
def test_backbone_is_found_and_proven(name: str) -> None:
    model, tool = build(ZOO[name])
    vlm = xmi.load(model, processor=tool)
    assert (vlm.backbone.n_layers, vlm.backbone.d_model) == (4, 64)
    assert vlm.report.causal
    assert vlm.report.readout_error == 0.0
    assert model.get_submodule(vlm.backbone.head) is model.get_output_embeddings()


def test_a_wrong_norm_is_refused() -> None:
    model, tool = build(llama)
    wrong = replace(find_backbone(model), norm="model.layers.0.input_layernorm")
    torch.nn.init.uniform_(model.get_submodule(wrong.norm).weight)
    engine = Engine(load_checkpoint(model, processor=tool), wrong, LocalBackend())
    with pytest.raises(xmi.ModelError, match=r"differ from the model's logits by .* of the largest logit"):
        engine.examine(None)


def test_a_dead_layer_is_refused() -> None:
    model, tool = build(llama)

    class Ignored(torch.nn.Module):
        """A block whose output the next one replaces."""

        def __init__(self, block: torch.nn.Module) -> None:
            super().__init__()
            self.block = block

        def forward(self, hidden: torch.Tensor, **kwargs: object) -> torch.Tensor:
            return self.block(kept[0], **kwargs)

    kept: list[torch.Tensor] = []
    model.model.layers[1].register_forward_pre_hook(lambda _m, args: kept.__setitem__(slice(None), [args[0]]))
    model.model.layers[2] = Ignored(model.model.layers[2])
    with pytest.raises(xmi.ModelError, match=r"writing .*blocks\.1\.hook_resid_post.* does not move the logits"):
        xmi.load(model, processor=tool)


def test_attention_that_looks_ahead_is_noticed_and_its_runs_are_not_packed() -> None:
    model, tool = build(llama)
    real = model.model.forward

    def everything_visible(*args: object, **kwargs: object) -> object:
        ids = kwargs["input_ids"]
        if kwargs["attention_mask"].bool().all():  # like PaliGemma: no mask at all unless there is padding
            kwargs["attention_mask"] = torch.ones(1, 1, ids.shape[1], ids.shape[1], dtype=torch.bool)
        return real(*args, **kwargs)

    model.model.forward = everything_visible
    assert not xmi.load(model, processor=tool).report.causal
    queries = prompts_for("none")[:1]
    for check in (True, False):
        vlm = xmi.load(model, processor=tool, check=check)
        vector = vlm.task_vector(queries)
        with pytest.warns(UserWarning, match=r"patched runs cannot share a forward here .* Each becomes a row"):
            vlm.transfer(vector, to=queries)


@pytest.mark.parametrize("make", [llama, llava])
def test_folder_round_trip(make: object, tmp_path: Path) -> None:
    model, tool = build(make)
    model.save_pretrained(tmp_path)
    tool.save_pretrained(tmp_path)
    vlm = xmi.load(tmp_path)
    prompts = xmi.free_prompt("Q:Greece\nA:")
    assert torch.equal(vlm.residuals(prompts).values, xmi.load(model, processor=tool).residuals(prompts).values)
    assert vlm.revision.startswith("sha256:")
    before = vlm.revision
    weights = next(tmp_path.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    assert xmi.load(tmp_path, check=False).revision != before


def test_weights_that_the_files_lack_are_not_made_up(tmp_path: Path) -> None:
    model, tool = build(llava)
    model.save_pretrained(tmp_path)
    tool.save_pretrained(tmp_path)
    weights = next(tmp_path.glob("*.safetensors"))
    state = {k: v for k, v in load_file(weights).items() if "vision_tower" not in k}
    save_file(state, weights, metadata={"format": "pt"})
    with pytest.raises(xmi.ModelError, match=r"lacks \d+ of its model's weights .*vision_tower"):
        xmi.load(tmp_path)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("no-such-model", "Cannot load 'no-such-model'"),
        ("someone/no-such-model", "Cannot load"),
        ("./no/such/folder", "No model folder"),
        (Path("/no/such/folder"), "No model folder"),
    ],
)
def test_unknown_models_name_what_was_asked(source: str | Path, said: str) -> None:
    with pytest.raises(xmi.ModelError, match=said) as caught:
        xmi.load(source)
    assert "organism" in str(caught.value)


def test_encoder_only_model_is_refused(tmp_path: Path) -> None:
    config = hf.ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    hf.ViTModel(config).save_pretrained(tmp_path)
    with pytest.raises(xmi.ModelError, match="neither as image-text-to-text nor as a causal"):
        xmi.load(tmp_path)


def test_module_without_processor_is_refused() -> None:
    model, _ = build(llama)
    with pytest.raises(xmi.ModelError, match="processor"):
        xmi.load(model)


def test_unknown_dtype_is_refused(tmp_path: Path) -> None:
    model, tool = build(llama)
    model.save_pretrained(tmp_path)
    tool.save_pretrained(tmp_path)
    with pytest.raises(xmi.ModelError, match="float99"):
        xmi.load(tmp_path, dtype="float99")


def test_slow_tokenizer_is_refused() -> None:
    model, tool = build(llama)

    class Slow:
        is_fast = False

    with pytest.raises(xmi.ModelError, match="fast tokenizer"):
        load_checkpoint(model, processor=Slow())
    assert isinstance(load_checkpoint(model, processor=tokenizer()), Checkpoint)
    assert tool is not None


def test_a_module_without_weights_can_be_looked_at() -> None:
    model, tool = build(ZOO["llama"])
    vlm = xmi.load(model.to("meta"), processor=tool, device="meta")
    assert not vlm.engine.dispatched
    assert vlm.encode("Q:Oslo\nA:").inputs["input_ids"].shape[0] == 1
