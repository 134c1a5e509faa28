"""Files are written whole or not at all, and read as what they say they are or refused by name."""

from __future__ import annotations

import errno
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save as library_save

import xmi
from tests.night import times
from xmi import storage
from xmi.errors import RunError, StorageError, XmiError
from xmi.storage import UNFINISHED, cache_home, pack_tensors, read_tensors, reading, remove_unfinished, write_file

TENSORS = {"b": torch.arange(6, dtype=torch.bfloat16).reshape(2, 3), "a": torch.zeros(0, 4), "c": torch.tensor([True])}
CARD = {"card": json.dumps({"model": "Ö</script>"}), "order": '["b"]'}


def load(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    with reading(path, "thing"):
        return read_tensors(path)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = write_file(tmp_path / "new" / "folders" / "x", pack_tensors(TENSORS, CARD))
    tensors, texts = load(path)
    assert texts == CARD
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[k], v) and tensors[k].dtype == v.dtype for k, v in TENSORS.items())
    assert pack_tensors(TENSORS, dict(reversed(CARD.items()))) == path.read_bytes()
    arrays = {"z": np.arange(4, dtype=np.float32)}
    with reading(path, "arrays"):
        found, _ = read_tensors(write_file(path, pack_tensors(arrays)), framework="np")
    np.testing.assert_array_equal(found["z"], arrays["z"])
    assert [p.name for p in path.parent.iterdir()] == ["x"]


def test_files_of_other_writers_have_no_digest_and_are_read(tmp_path: Path) -> None:
    path = tmp_path / "plain"
    path.write_bytes(library_save(TENSORS, CARD))
    assert load(path)[1] == CARD


@pytest.mark.fault("E14")
@given(data=st.data())
@settings(max_examples=times(150), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_file_is_one_error_that_names_it(tmp_path: Path, data: st.DataObject) -> None:
    whole = pack_tensors(TENSORS, CARD)
    kind = data.draw(st.sampled_from(["flip", "cut", "grown", "foreign"]))
    if kind == "flip":
        place = data.draw(st.integers(0, 8 * len(whole) - 1))
        content = bytearray(whole)
        content[place // 8] ^= 1 << place % 8
    elif kind == "cut":
        content = bytearray(whole[: data.draw(st.integers(0, len(whole) - 1))])
    elif kind == "grown":
        content = bytearray(whole + data.draw(st.binary(min_size=1, max_size=9)))
    else:
        head = data.draw(st.sampled_from([b"", b"[" * 9000, b"{}", b'{"__metadata__":3}', b'{"a":{"dtype":"F32"}}']))
        content = bytearray(len(head).to_bytes(8, "little") + head + data.draw(st.binary(max_size=20)))
    path = tmp_path / "damaged"
    path.write_bytes(content)
    try:
        tensors, texts = load(path)
    except StorageError as error:
        assert str(path) in str(error)
    else:  # an empty file of the format, or a flip in the digest's own name
        if kind == "foreign":
            assert not tensors
        else:
            assert {name: texts.get(name) for name in CARD} == CARD
            assert all(torch.equal(tensors[k], v) for k, v in TENSORS.items())


@pytest.mark.fault("B21")
@pytest.mark.parametrize("step", ["open", "fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    path = write_file(tmp_path / "x", "old")

    def full(*_args: Any, **_options: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os if step == "fsync" else Path, step, full)
        with pytest.raises(RunError, match=rf"Cannot write {path}: No space left on device\. Buy a disk\."):
            write_file(path, "new", error=RunError, advice="Buy a disk.")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


@pytest.mark.fault("B21")
def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "below", tmp_path / "folder", tmp_path / ("n" * 300), f"{tmp_path}/a\0b"):
        with pytest.raises(StorageError, match="Cannot write "):
            write_file(path, "x")
    for path in (None, 3, b"x", object()):
        with pytest.raises(StorageError, match="Expected the path"):
            write_file(path, "x")  # type: ignore[arg-type]
    with pytest.raises(StorageError, match="surrogates"):
        write_file(tmp_path / "text", "\ud800")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]
    longest = tmp_path / ("n" * 255)
    assert write_file(longest, "x").read_text() == "x"


def test_links_and_pipes_keep_being_what_they_are(tmp_path: Path) -> None:
    real = write_file(tmp_path / "real", "old")
    link = tmp_path / "link"
    link.symlink_to(real)
    write_file(link, "new")
    assert link.is_symlink()
    assert real.read_text() == "new"
    if sys.platform == "win32":
        return
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    heard: list[str] = []
    reader = threading.Thread(target=lambda: heard.append(pipe.read_text()))
    reader.start()
    write_file(pipe, "said")
    reader.join()
    assert heard == ["said"]


def test_a_read_only_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_file(tmp_path / "kept", "old")
    path.chmod(0o444)
    monkeypatch.setattr(os, "access", lambda *_: False)  # the tests may run as root
    with pytest.raises(StorageError, match="read-only"):
        write_file(path, "new")
    assert path.read_text() == "old"


@pytest.mark.fault("E5")
def test_only_own_unfinished_files_are_removed(tmp_path: Path) -> None:
    own = UNFINISHED.replace("*", "123-abc")
    kept = [".hers.tmp", "mine.tmp", ".xmi-notes", f"below/{own}", "x.part"]
    for name in [*kept, own]:
        write_file(tmp_path / name, "x")
    remove_unfinished(tmp_path)
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()) == sorted(kept)


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("XMI_CACHE", raising=False)
    assert cache_home() == tmp_path / "xmi"
    monkeypatch.setenv("XMI_CACHE", str(tmp_path / "here"))
    assert cache_home() == tmp_path / "here"


def test_errors_that_are_no_fault_of_the_file_pass(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), reading(tmp_path, "thing"):
        _ = 1 / 0
    with pytest.raises(xmi.TaskError), reading(tmp_path, "thing"):
        raise xmi.TaskError("x")
    assert issubclass(StorageError, XmiError)
    assert storage.DIGEST == "sha256"
