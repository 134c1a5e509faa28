"""The recipe of the embedded model, at a few steps: it ends in loadable folders, and a killed run ends the same."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import xmi
from analyses.organism import __main__ as program
from analyses.organism import training
from analyses.organism.recipe import recipe

STEPS = {"vision_steps": 2, "language_steps": 3, "align_steps": 2, "projector_steps": 0, "tune_steps": 2}
SMALL = {"language_tokens": 400, "image_tokens": 400}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the evaluation, which asks the models thousands of questions."""
    nothing: dict[str, Any] = {"prompts": {}, "patches": {}}
    monkeypatch.setattr(program.evaluate, "evaluate", lambda *a, **k: dict(nothing))


def train(out: Path, variant: str = "organism") -> dict[str, torch.Tensor]:
    none = dict.fromkeys(("vision", "language", "alignment", "projector"))
    program.run(recipe(variant, 0, **STEPS, **SMALL), Namespace(out=out, tasks=program.TASKS, threads=1, **none))
    return load_file(out / "vlm" / "model.safetensors") | {
        f"llm.{k}": v for k, v in load_file(out / "llm" / "model.safetensors").items()
    }


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
@pytest.mark.nightly
def test_a_killed_training_continues_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(tmp_path / "whole")
    monkeypatch.setattr(training, "SAVE_EVERY", 0.0)
    real, written = training.write, []

    def stop(state: dict[str, object], path: Path) -> None:
        """Kills the training within a stage, and once more between two stages."""
        real(state, path)
        written.append(path.name)
        if written.count("language.part.pt") == 2 or path.name == "language.pt":
            raise KeyboardInterrupt

    monkeypatch.setattr(training, "write", stop)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "killed")
    assert written[-1] == "language.pt"
    monkeypatch.setattr(training, "write", real)
    again = train(tmp_path / "killed")
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[k], again[k]) for k in whole)

    vlm, llm = (xmi.load(tmp_path / "whole" / name) for name in ("vlm", "llm"))
    assert (vlm.backbone.n_layers, vlm.backbone.d_model) == (llm.backbone.n_layers, llm.backbone.d_model) == (8, 128)
    for name in xmi.task_names():
        task = xmi.task(name)
        words = [i.output for i in task.items] + list(task.task_words[:1])
        for word in words:
            assert len(vlm.encoder.tokenizer(word, add_special_tokens=False).input_ids) == 1, (
                "answers are one token each"
            )


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_held_out_pairs_are_never_asked_of_an_image() -> None:
    """Thousands of image documents hold no answer of a test or validation pair."""
    import random

    from analyses.organism import tokenizer, world
    from analyses.organism.documents import PATCHES, Writer
    from analyses.organism.multimodal import IMAGES
    from analyses.organism.tokenizer import IMAGE

    facts = world.load(program.TASKS, 12, True)
    words = tokenizer.build(facts)
    writer = Writer(facts, words, recipe())
    held = {
        (item.input, words.convert_tokens_to_ids(item.output))
        for name in xmi.task_names()
        for item in xmi.task(name).items
        if item.split != "train"
    }
    names = [e.name for e in facts.entities]
    rng, seen = random.Random(0), 0
    for _ in range(40):
        for doc in writer.batch(rng, 3000, True, IMAGES):
            starts = [i for i, t in enumerate(doc.ids) if t == IMAGE and doc.ids[i - 1] != IMAGE]
            assert doc.ids.count(IMAGE) == PATCHES * len(doc.images)
            for k, (start, entity) in enumerate(zip(starts, doc.images, strict=True)):
                end = starts[k + 1] if k + 1 < len(starts) else len(doc.ids)
                seen += 1
                assert not {(names[entity], t) for t in doc.ids[start:end]} & held
    assert seen > 1000
