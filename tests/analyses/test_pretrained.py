"""The training of the pretrained model's projector, and the tasks that come with it."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf

import xmi
from analyses.organism import training
from analyses.pretrained import captions, eye, graft, tasks
from analyses.pretrained.__main__ import keep_recipe
from analyses.pretrained.pictures import entities
from tests.zoo.models import TEXT, ids, tokenizer
from xmi.model.pretrained import PATCHES, PIXELS, SPARE, WIDTH

SHIPPED = Path(xmi.__file__).parent / "data" / "pretrained" / "tasks"
NAMES = ["city", "country", "capital"]
SETTINGS = graft.Recipe(steps=6, batch=4, several=0.5)


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny language model with a spare token."""
    out = tmp_path_factory.mktemp("language")
    words = tokenizer(SPARE)
    torch.manual_seed(0)
    hf.LlamaForCausalLM(hf.LlamaConfig(**TEXT, **ids(words))).to(torch.bfloat16).save_pretrained(out)
    words.save_pretrained(out)
    return out


@pytest.fixture(scope="module")
def seen() -> graft.Pictures:
    """Two copies of features of six pictures with three names."""
    generator = torch.Generator().manual_seed(0)
    return graft.Pictures(torch.randn(2, 6, PATCHES, WIDTH, generator=generator).to(torch.bfloat16), NAMES * 2)


def test_captions_have_no_tasks_form() -> None:
    for shown, _, end in captions.TEMPLATES:
        assert shown.count("{image}") == 1 and not {"Q:", "A:"} & {*shown.split()} and end.strip() in (".", ")", "")
    given = captions.captions(["owl", "cow"], random.Random(0))
    assert [caption.name.strip(" .)\n").split()[-1] for caption in given] == ["owl", "cow"]
    assert given[1].before.startswith("\n\n") and (captions.a("owl"), captions.a("cow")) == ("an owl", "a cow")


def test_only_names_are_learned(language: Path, seen: graft.Pictures) -> None:
    words = graft.image_tokenizer(hf.AutoTokenizer.from_pretrained(language), 99)
    for step in range(4):
        tokens, targets, chosen = graft._documents(SETTINGS, seen, words, random.Random(step))
        assert tokens.shape == targets.shape
        assert int((tokens == words.image_token_id).sum()) == PATCHES * len(chosen) == PATCHES * SETTINGS.batch
        learned = targets != graft.IGNORED
        assert torch.equal(tokens[learned], targets[learned])
        said = [words.decode(row[row != graft.IGNORED]) for row in targets]
        named = [seen.names[number] for _, number in chosen]
        assert all(name in "".join(said) for name in named) and "picture" not in "".join(said)


def test_a_killed_training_ends_as_an_undisturbed_one(
    language: Path, seen: graft.Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = graft.train_projector(SETTINGS, seen, language, tmp_path / "whole")
    monkeypatch.setattr(training, "SAVE_EVERY", 0.0)
    documents, drawn = graft._documents, []

    def killed(*given: object) -> object:
        drawn.append(1)
        if len(drawn) == 4:
            raise KeyboardInterrupt
        return documents(*given)

    with monkeypatch.context() as cut:
        cut.setattr(graft, "_documents", killed)
        with pytest.raises(KeyboardInterrupt):
            graft.train_projector(SETTINGS, seen, language, tmp_path / "cut")
    resumed, seconds = graft.train_projector(SETTINGS, seen, language, tmp_path / "cut")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole) and seconds > 0
    fresh = graft.projector(TEXT["hidden_size"], 1.0).state_dict()
    assert {name: value.shape for name, value in fresh.items()} == {name: v.shape for name, v in whole.items()}


def test_a_folder_of_another_recipe_is_not_continued(tmp_path: Path) -> None:
    keep_recipe(SETTINGS, tmp_path / "run")
    keep_recipe(SETTINGS, tmp_path / "run")
    with pytest.raises(SystemExit, match="another recipe"):
        keep_recipe(replace(SETTINGS, seed=1), tmp_path / "run")


def test_changed_pictures_stay_pictures() -> None:
    shown = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    first, again = (eye.changed(shown, 0.7, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, again) and float(first.min()) >= 0 and float(first.max()) <= 1
    assert not torch.equal(first[0], first[1]) and torch.isfinite(first).all()
    white = eye.changed(torch.ones(4, 3, 32, 32), 1e-9, torch.Generator().manual_seed(1))
    assert torch.allclose(white, torch.ones_like(white), atol=1e-4), "what comes in from outside is white"


def test_features_are_computed_once(tmp_path: Path) -> None:
    calls = []

    class Tower(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> object:
            calls.append(pixels.shape)
            return type("Out", (), {"last_hidden_state": pixels[:, :1, ::32, ::32]})

    pictures = np.random.default_rng(0).integers(0, 255, (3, 40, 40, 3), dtype=np.uint8)
    given = (tmp_path / "features.safetensors", Tower(), pictures)
    first = eye.kept(*given, copies=2, strength=0.5)
    assert first.shape == (2, 3, PATCHES, 1) and calls == [(3, 3, PIXELS, PIXELS)] * 2
    assert torch.equal(eye.kept(*given, copies=2, strength=0.5), first) and len(calls) == 2


def test_the_tasks_that_come_with_xmi_are_those_that_are_written(tmp_path: Path) -> None:
    shown = {number: np.full((8, 8, 3), 255, dtype=np.uint8) for number in range(len(entities()))}
    files = tasks.write(shown, tmp_path)
    assert sorted(file.stem for file in files) == list(xmi.task_names("pretrained"))
    for file in files:
        assert file.read_bytes() == (SHIPPED / file.name).read_bytes()
    assert {p.name for p in (tmp_path / "images").iterdir()} == {p.name for p in (SHIPPED / "images").iterdir()}


def test_an_entity_is_tested_in_every_task_or_in_none() -> None:
    given = [xmi.task(name) for name in xmi.task_names("pretrained")]
    split: dict[str, set[str]] = {}
    for task in given:
        assert len(task.items) >= 120 and len(task.split("test")) >= 35 and len(task.split("validation")) >= 18
        assert all(item.image is not None for item in task.items) and len(task.instructions) >= 3
        for item in task.items:
            split.setdefault(item.input, set()).add(item.split)
    assert len(given) >= 8 and all(len(found) == 1 for found in split.values())
    labels = {task.name: {item.input: item.output for item in task.items} for task in given}
    assert labels["plural"]["mouse"] == "mice" and labels["article"]["owl"] == "an owl"
    assert labels["uppercase"]["ice cream"] == "ICE CREAM" and labels["capitalize"]["dog"] == "Dog"
    assert labels["living"]["dog"] == "yes" and labels["living"]["car"] == "no" and "apple" not in labels["living"]
