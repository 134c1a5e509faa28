"""Which model it is: a hash over every byte that makes it.

A folder is identified by all of its files (weights of any format, configuration, tokenizer, processor, templates, code,
adapters), a module in memory by all of its tensors, settings and classes. Files are large and rarely change, so the
digest of each is remembered beside what the file system says of it; one that was written a moment ago is not, since
clocks are too coarse to show a second change.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from xmi.model.remember import keep, recall

NO_PART = {".md", ".rst", ".pdf", ".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp", ".mp4", ".html", ".ipynb", ".log"}
"""Files that no model is made of. Anything else counts, whatever it is: what is unknown may be read by somebody."""

OTHERS = {"study.json", "trainer_state.json"}
"""A subfolder with one of these is a run of xmi, or a checkpoint of a training: no part of the model above it."""

SETTLED = 2_000_000_000
"""Nanoseconds after which a second change of a file has another time: no file system counts more coarsely."""

CHUNK = 1 << 22
"""Bytes that are read at a time."""

Mark = tuple[list[tuple[str, int, int]], list[str]]
"""What `edits` gives."""

Stamp = list[int]
"""What the file system says of a file's content: size, times of the last changes, inode and device."""


def identify_folder(folder: Path) -> str:
    """The identity of a local checkpoint, or adapter.

    Args:
        folder: Its folder.

    Returns:
        `sha256:` and 16 hexadecimal digits over the names and bytes of its files, subfolders included.

    Raises:
        OSError: A file cannot be read.
    """
    digests = digest_files(model_files(folder))
    return short([f"{path.relative_to(folder).as_posix()}:{digest}" for path, digest in sorted(digests.items())])


def identify_snapshot(folder: Path) -> str:
    """How a snapshot in the Hub's cache differs from what the Hub sent.

    Its files are links to others that are named by their content, as a SHA-256, or a SHA-1 as git makes it.

    Args:
        folder: The snapshot's folder, named by its commit.

    Returns:
        The identity of the files that are not what they were; empty if there are none, or the cache holds plain
        copies, which say nothing of what they were.

    Raises:
        OSError: A file cannot be read.
    """
    paths = list(model_files(folder))
    if not any(path.is_symlink() for path in paths):
        return ""
    digests = digest_files(paths)
    edited = []
    for path, digest in sorted(digests.items()):
        name = path.resolve().name if path.is_symlink() else ""
        if digest != name and (len(name) != 40 or _git(path) != name):
            edited.append(f"{path.relative_to(folder).as_posix()}:{digest}")
    return short(edited) if edited else ""


def identify_module(model: torch.nn.Module) -> str:
    """The identity of a model in memory.

    Args:
        model: The model; on the meta device its tensors count by name, shape and precision.

    Returns:
        `sha256:` and 16 hexadecimal digits over its classes, its settings (those of every module, such as the
        strength of an adapter), and all bytes of its parameters and buffers.
    """
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    unique = list({id(value): value for _, value in tensors}.values())
    with ThreadPoolExecutor(_threads()) as pool:
        digests = dict(zip(map(id, unique), pool.map(_tensor, unique), strict=True))
    config: Any = getattr(model, "config", None)
    said = config.to_dict() if hasattr(config, "to_dict") else {}
    for own in ("_name_or_path", "transformers_version"):  # where it came from, not what it is
        said.pop(own, None)
    lines = [json.dumps(said, sort_keys=True, default=str)]
    lines += [f"{name}:{_class(module)}:{_settings(module)}" for name, module in model.named_modules()]
    lines += [f"{name}:{tuple(value.shape)}:{value.dtype}:{digests[id(value)]}" for name, value in tensors]
    return short(lines)


def edits(model: torch.nn.Module) -> Mark:
    """What changes when a model in memory is edited in place, and can be had at once.

    PyTorch counts the writings of each tensor (but those through `.data`); adapters hold their strength and whether
    they are on as plain attributes.
    """
    written = [(name, id(value), value._version) for name, value in model.named_parameters()]
    switched = [
        f"{name}:{_settings(module)}"
        for name, module in model.named_modules()
        if any("adapter" in attribute for attribute in vars(module))
    ]
    return written, switched


def short(lines: Iterable[str]) -> str:
    """An identity over lines of text."""
    return f"sha256:{hashlib.sha256(chr(10).join(lines).encode()).hexdigest()[:16]}"


def stamps(folder: Path) -> dict[str, Stamp]:
    """What the file system says of each of a folder's files: equal if none was changed."""
    return {str(path): _stamp(path) for path in model_files(folder)}


def model_files(folder: Path) -> Iterator[Path]:
    """Files of a folder that a model may be made of, those in its subfolders included."""
    seen: set[tuple[int, int]] = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        here = Path(root)
        status = here.stat()
        if (status.st_dev, status.st_ino) in seen or (here != folder and OTHERS & set(files)):
            folders.clear()  # a link that leads in a circle, or no part of the model
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f != "__pycache__")
        for name in sorted(files):
            path = here / name
            if not name.startswith(".") and path.suffix.lower() not in NO_PART and path.is_file():
                yield path


def digest_files(paths: Iterable[Path]) -> dict[Path, str]:
    """The SHA-256 of all bytes of each file, remembered while the file stays as it is.

    Raises:
        OSError: A file cannot be read.
    """
    wanted = list(paths)
    with ThreadPoolExecutor(_threads()) as pool:  # hashing and reading both let other threads run
        return dict(zip(wanted, pool.map(_digest_file, wanted), strict=True))


def _digest_file(path: Path) -> str:
    key, stamp = str(path.resolve()), _stamp(path)
    known = recall("digests", key)
    if isinstance(known, dict) and known.get("stamp") == stamp and isinstance(known.get("digest"), str):
        return str(known["digest"])
    begun = time.time_ns()
    with path.open("rb") as stream:
        digest = _read(stream, hashlib.sha256())
    if _stamp(path) == stamp and begun - max(stamp[1:3]) > SETTLED:
        keep("digests", key, {"stamp": stamp, "digest": digest})
    return digest


def _read(stream: Any, digest: Any) -> str:
    while part := stream.read(CHUNK):
        digest.update(part)
    return str(digest.hexdigest())


def _stamp(path: Path) -> Stamp:
    found = path.stat()
    # The time of the last change of any kind cannot be set by a user, unlike that of the last writing.
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev]


def _git(path: Path) -> str:
    """The name by which git, and so the Hub, knows a small file."""
    with path.open("rb") as stream:
        return _read(stream, hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False))


def _threads() -> int:
    return min(8, os.cpu_count() or 1)


def _tensor(value: torch.Tensor) -> str:
    if value.is_meta:
        return "meta"
    flat = value.detach().reshape(-1).contiguous()
    parts = flat.view(torch.uint8) if flat.element_size() > 1 else flat
    digest = hashlib.sha256()
    for part in torch.split(parts, 16 * CHUNK):  # a piece at a time leaves a GPU
        digest.update(part.cpu().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _class(module: torch.nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _settings(module: torch.nn.Module) -> str:
    """A module's plain attributes: numbers, words, and collections of them (LoRA keeps its strength in one)."""
    own = {name: _plain(value) for name, value in vars(module).items() if _counts(name) and value is not None}
    return json.dumps({name: value for name, value in own.items() if value is not _NOT}, sort_keys=True)


def _counts(name: str) -> bool:
    """Whether an attribute says what a module computes; private ones are notes of a library, but for adapters'."""
    notes = {"training", "name_or_path", "warnings_issued"}
    return name not in notes and (not name.startswith("_") or "adapter" in name)


_NOT = object()


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (torch.dtype, torch.Size)):
        return str(value)
    if isinstance(value, dict):
        pairs = {str(k): _plain(v) for k, v in value.items()}
        return {k: v for k, v in pairs.items() if v is not _NOT}
    if isinstance(value, (set, frozenset)):
        return sorted(str(v) for v in value if isinstance(v, (bool, int, float, str)))
    if isinstance(value, (list, tuple)):
        return [v for v in map(_plain, value) if v is not _NOT]
    return _NOT
