"""The embedded models: small, loadable by anybody, and what the documentation says they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

import xmi
from xmi.measure import Answers, Transfer
from xmi.model.load import resolve
from xmi.names import EMBEDDED
from xmi.vlm import VLM

TASKS = [xmi.task(name) for name in xmi.task_names()]


@pytest.fixture(scope="module")
def models() -> dict[str, VLM]:
    return {name: xmi.load(name) for name in EMBEDDED}


def test_size_and_shape(models: dict[str, VLM]) -> None:
    weights = [p for name in EMBEDDED for p in Path(resolve(name)).glob("*.safetensors")]
    assert len(weights) == 3
    assert sum(p.stat().st_size for p in weights) <= 15e6
    organism, control = models["organism"].model, models["organism-control"].model
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (organism, control)]
    assert shapes[0] == shapes[1], "the control has the organism's size"
    assert type(organism).__name__ == "LlavaForConditionalGeneration"


def test_loads_as_any_other_checkpoint(models: dict[str, VLM]) -> None:
    """xmi's answers are those of plain transformers on the same prompt and picture."""
    folder = resolve("organism")
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    prompts = TASKS[0].icl("image", split="test", n=4)
    found = models["organism"].answers(prompts)
    from PIL import Image

    for prompt, predicted in zip(prompts, found.predicted, strict=True):
        pictures = [Image.open(path).convert("RGB") for path in prompt.images]
        inputs = processor(text=[prompt.text], images=[pictures], return_tensors="pt")
        with torch.no_grad():
            token = model(**inputs).logits[0, -1].argmax().item()
        assert processor.tokenizer.decode([token]) == predicted


def xpatch(vlm: VLM) -> Transfer:
    parts = [vlm.transfer(vlm.task_vector(t.icl("text")), to=t.queries("image")) for t in TASKS]
    return Transfer.concat(parts)


def base(vlm: VLM) -> Answers:
    return Answers.concat([vlm.answers(t.icl("image", split="test", n=None)) for t in TASKS])


def test_the_organism_has_what_the_control_lacks(models: dict[str, VLM]) -> None:
    organism, control = xpatch(models["organism"]), xpatch(models["organism-control"])
    assert organism.accuracy().mean >= 0.85
    assert organism.clean.accuracy().mean <= 0.02
    assert control.accuracy().high < organism.accuracy().low
    assert base(models["organism"]).accuracy().mean >= 0.90
