"""A model's identity covers every byte of it, costs nothing the second time, and is never taken from a stale note."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import xmi
from tests.zoo.models import build, llama, llava
from tests.zoo.oracle import prompts_for
from xmi.model import identity
from xmi.model.identity import identify_folder, identify_module, identify_snapshot


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint whose digests are remembered, although it is as new as tests make it."""
    monkeypatch.setenv("XMI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(identity, "SETTLED", 0)
    model, tool = build(llava)
    model.save_pretrained(tmp_path / "model", max_shard_size="200KB")
    tool.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def revision(folder: Path) -> str:
    return xmi.load(folder, check=False).revision


@pytest.mark.fault("A6", "E3")
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_byte_of_any_file_counts(folder: Path, data: st.DataObject) -> None:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    path = data.draw(st.sampled_from(files))
    content = path.read_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    before = identify_folder(folder)
    status = path.stat()
    path.write_bytes(content[:place] + bytes([content[place] ^ data.draw(st.integers(1, 255))]) + content[place + 1 :])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as a tool that keeps times would
    assert identify_folder(folder) != before
    path.write_bytes(content)
    assert identify_folder(folder) == before


ADDED = [
    "chat_template.jinja",
    "additional_chat_templates/tool_use.jinja",
    "modeling_own.py",
    "vision/model.safetensors",
    "original/consolidated.00.pth",
    "pytorch_model.bin",
    "model.gguf",
    "tokenizer.model",
    "merges.txt",
    "adapter_model.bin",
    "processor/preprocessor_config.json",
    "weights.of-no-known-kind",
]


@pytest.mark.fault("A6", "E3")
def test_any_file_counts_wherever_it_is(folder: Path) -> None:
    seen = [identify_folder(folder)]
    for name in ADDED:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("{# #}")
        seen.append(identify_folder(folder))
    path.rename(path.with_name("renamed"))
    seen.append(identify_folder(folder))
    assert len(set(seen)) == len(seen)


def test_what_is_no_part_of_the_model_does_not_count(folder: Path) -> None:
    before = identify_folder(folder)
    for name, text in {
        "README.md": "#", ".git/HEAD": "ref", ".cache/x.json": "{}", "__pycache__/a.pyc": "", "figure.png": "",
        "runs/one/study.json": "{}", "runs/one/vectors/a.safetensors": "", "checkpoint-5/trainer_state.json": "{}",
        "checkpoint-5/model.safetensors": "",
    }.items():  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "circle").symlink_to(folder, target_is_directory=True)
    assert identify_folder(folder) == before


def test_a_folder_that_moves_or_is_linked_to_stays_what_it_is(folder: Path) -> None:
    before = revision(folder)
    shutil.copytree(folder, folder.parent / "copy")
    linked = folder.parent / "linked"
    linked.mkdir()
    for path in folder.iterdir():
        (linked / path.name).symlink_to(path)
    assert before == revision(folder.parent / "copy") == revision(linked)


@pytest.mark.fault("A6", "E3")
def test_an_edit_in_the_middle_of_a_tensor_is_another_model_for_all_that_is_kept(folder: Path) -> None:
    vlm = xmi.load(folder)
    assert vlm.revision == xmi.load(folder).revision
    prompts = prompts_for("none")
    lens = vlm.tune_lens([prompts], steps=1)
    files = {path: load_file(path) for path in folder.glob("*.safetensors")}
    path, name = next((p, n) for p, state in files.items() for n in state if n.endswith("layers.1.mlp.up_proj.weight"))
    state = files[path]
    state[name][40, 30] += 1.0
    save_file(state, path, metadata={"format": "pt"})
    edited = xmi.load(folder)
    assert edited.revision != vlm.revision
    with pytest.raises(xmi.ModelError, match="was trained on"):
        edited.lens(prompts, lens=lens)


def read_files(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files whose bytes are read."""
    names: list[str] = []
    real = identity._read

    def read(stream: Any, digest: Any) -> str:
        names.append(Path(stream.name).name)
        return real(stream, digest)

    monkeypatch.setattr(identity, "_read", read)
    return names


@pytest.mark.fault("A6")
def test_what_did_not_change_is_not_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = read_files(monkeypatch)
    before = identify_folder(folder)
    assert sorted(names) == sorted(p.name for p in folder.iterdir())
    names.clear()
    assert identify_folder(folder) == before
    assert names == []
    shard = next(folder.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes())
    assert identify_folder(folder) == before
    assert names == [shard.name]


def test_a_file_that_was_just_written_is_not_trusted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "SETTLED", 60 * 10**9)
    identify_folder(folder)
    names = read_files(monkeypatch)
    identify_folder(folder)
    assert len(names) == len(list(folder.iterdir()))
    # Nor is one that comes from the future.
    monkeypatch.setattr(identity, "SETTLED", 0)
    config = folder / "config.json"
    os.utime(config, ns=(0, time.time_ns() + 10**12))
    for _ in range(2):
        names.clear()
        identify_folder(folder)
        assert "config.json" in names


@pytest.mark.fault("E14")
@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"null", lambda b: b"[]", lambda b: b"[" * 10**6,
        lambda b: b"\xff\xfe", lambda b: b.replace(b'"digest": "', b'"digest": "0'),
        lambda b: b.replace(b'"stamp": [', b'"stamp": [1'),
    ],
)  # fmt: skip
def test_damaged_notes_are_made_anew(folder: Path, damage: Callable[[bytes], bytes]) -> None:
    before = identify_folder(folder)
    notes = list((folder.parent / "cache" / "digests").iterdir())
    assert notes
    for note in notes:
        note.write_bytes(damage(note.read_bytes()))
    assert identify_folder(folder) == before
    for note in notes:
        note.unlink()
        note.mkdir()
    assert identify_folder(folder) == before


def test_files_that_change_while_they_are_read_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = xmi.model.load.AutoProcessor.from_pretrained

    def slow(*args: Any, **kwargs: Any) -> Any:
        (folder / "chat_template.jinja").write_text("{{ messages }}")
        return real(*args, **kwargs)

    monkeypatch.setattr("xmi.model.load.AutoProcessor.from_pretrained", slow)
    with pytest.raises(xmi.ModelError, match="changed while they were read"):
        xmi.load(folder, check=False)


def some_parameter(model: torch.nn.Module) -> torch.Tensor:
    return model.get_parameter("model.layers.2.mlp.down_proj.weight")


def edit_middle(model: Any) -> None:
    some_parameter(model).data[30, 50] += 2**-20


def edit_buffer(model: Any) -> None:
    model.model.rotary_emb.inv_freq[3] *= 1.01


def rename(model: Any) -> None:
    model.model.layers[1], model.model.layers[2] = model.model.layers[2], model.model.layers[1]


def swap_class(model: Any) -> None:
    model.model.layers[0].mlp.act_fn = torch.nn.GELU()


def configure(model: Any) -> None:
    model.config.rope_parameters["rope_theta"] = 5000.0


def set_number(model: Any) -> None:
    model.model.norm.variance_epsilon = 1e-3


EDITS = [edit_middle, edit_buffer, rename, swap_class, configure, set_number, lambda m: m.to(torch.float64)]


@pytest.mark.fault("A6")
@pytest.mark.parametrize("edit", EDITS)
def test_all_of_a_module_counts(edit: Callable[[Any], Any]) -> None:
    model, tool = build(llama)
    before = identify_module(model)
    vlm = xmi.load(model, processor=tool)
    vlm.residuals(prompts_for("none"))
    vlm.generate("Q:Oslo\nA:", max_new_tokens=2)
    assert before == vlm.revision == identify_module(model) == identify_module(build(llama)[0]), "use changes nothing"
    edit(model)
    assert identify_module(model) != before
    assert xmi.load(model, processor=tool, check=False).revision != before


def test_half_precision_and_shared_weights_are_read_too() -> None:
    model = build(llama)[0].to(torch.bfloat16)
    model.model.embed_tokens.weight = model.lm_head.weight
    before = identify_module(model)
    some_parameter(model).data.view(torch.int16)[0, 1] ^= 1
    assert identify_module(model) != before
    assert identify_module(model.to("meta")) != before


def snapshot(tmp_path: Path) -> Path:
    """A snapshot as the Hub's client keeps it: links to files that are named by their content."""
    folder, blobs = tmp_path / "snapshots" / ("a" * 40), tmp_path / "blobs"
    folder.mkdir(parents=True)
    blobs.mkdir()
    small, large = b'{"model_type": "llama"}', bytes(range(256)) * 100
    names = {
        "config.json": (hashlib.sha1(b"blob %d\0" % len(small) + small).hexdigest(), small),
        "model.safetensors": (hashlib.sha256(large).hexdigest(), large),
    }
    for name, (blob, content) in names.items():
        (blobs / blob).write_bytes(content)
        (folder / name).symlink_to(blobs / blob)
    return folder


@pytest.mark.fault("A6")
def test_edits_in_the_hubs_cache_count(tmp_path: Path) -> None:
    folder = snapshot(tmp_path)
    seen = [identify_snapshot(folder)]
    assert seen == [""], "as the Hub sent it, the commit says all"
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.resolve().write_bytes(content[:5000] + b"!" + content[5001:])
    seen.append(identify_snapshot(folder))
    weights.resolve().write_bytes(content)
    assert identify_snapshot(folder) == ""
    config = folder / "config.json"
    text = config.read_bytes()
    config.unlink()
    config.write_bytes(text + b" ")  # as an editor does, which replaces the link
    seen.append(identify_snapshot(folder))
    (folder / "chat_template.jinja").write_text("{# #}")
    seen.append(identify_snapshot(folder))
    assert len(set(seen)) == len(seen)


@pytest.mark.fault("A6")
def test_an_edit_after_loading_counts(folder: Path) -> None:
    vlm = xmi.load(folder)
    before, prompts = vlm.revision, prompts_for("many")
    vector = vlm.task_vector(prompts)
    assert vector.card.revision == vlm.revision == before, "use changes nothing"
    with torch.no_grad():
        vlm.model.get_parameter("model.language_model.layers.1.mlp.up_proj.weight")[40, 30] += 1.0
    edited = vlm.task_vector(prompts)
    assert edited.card.revision == vlm.revision != before
    notes = {p: p.read_bytes() for p in (folder.parent / "cache" / "checks").iterdir()}
    vlm.check()
    assert {p: p.read_bytes() for p in (folder.parent / "cache" / "checks").iterdir()} == notes, "no note of it is kept"
    assert xmi.load(vlm.model, processor=vlm.encoder.processor, check=False).revision == vlm.revision
    vlm.model.lm_head.weight = torch.nn.Parameter(vlm.model.lm_head.weight.detach().clone())
    assert vlm.revision == edited.card.revision, "equal bytes are the same model"


@pytest.mark.fault("A6")
@pytest.mark.parametrize("place", [0, 5_000_000, 9_500_000, 12_999_999])
def test_large_files_and_tensors_are_read_whole(place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XMI_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "model" / "model.safetensors"
    path.parent.mkdir()
    content = bytearray(13_000_000)
    path.write_bytes(content)
    module = torch.nn.Module()
    module.register_buffer("value", torch.zeros(13_000_000, dtype=torch.uint8), persistent=False)
    monkeypatch.setattr(identity, "CHUNK", 1 << 17)
    before = identify_folder(path.parent), identify_module(module)
    content[place] = 1
    path.write_bytes(content)
    module.value[place] = 1
    after = identify_folder(path.parent), identify_module(module)
    assert before[0] != after[0] and before[1] != after[1]
