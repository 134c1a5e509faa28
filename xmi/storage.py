"""Files: written whole or not at all, and read as what they say they are, or refused by name.

The one place that knows how a file comes to be. Tensors are kept as safetensors whose header holds a card (texts by
name, usually JSON) and a digest of everything else in the file, so that a changed bit is seen wherever it is.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from safetensors import SafetensorError, safe_open

from xmi.errors import StorageError, XmiError

if TYPE_CHECKING:
    import numpy as np
    import torch

UNFINISHED = ".xmi-*.tmp"
"""The names of files that xmi is writing, or that a process which was killed did not write to the end."""

DIGEST = "sha256"
"""The entry of a safetensors header that holds the digest."""


def cache_home() -> Path:
    """The folder of what xmi keeps between runs: `$XMI_CACHE`, or `xmi` in the user's cache folder."""
    named = os.environ.get("XMI_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(named) if named else Path(base) / "xmi"


def write_file(
    path: str | Path, content: str | bytes, *, error: type[XmiError] = StorageError, advice: str = ""
) -> Path:
    """Writes a file whole or not at all, and to the disk before it returns; folders on the way to it are made.

    Args:
        path: The file. A link is followed; what is not a regular file (a pipe, `/dev/stdout`) is written to directly.
        content: Bytes, or text, which is written as UTF-8.
        error: The class of the error.
        advice: What to do if it cannot be written.

    Returns:
        The path.

    Raises:
        XmiError: It cannot be written; the error is of the class that is asked for and names the file.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise error(f"Expected the path of a file to write, found {type(path).__name__}: {path!r:.80}")
    target = Path(path)
    try:
        data = content.encode("utf-8") if isinstance(content, str) else content
        real = Path(os.path.realpath(target))
        if real.exists() and not real.is_file() and not real.is_dir():
            real.write_bytes(data)
        else:
            _replace(real, data)
    except (OSError, ValueError) as problem:
        why = getattr(problem, "strerror", None) or problem
        raise error(f"Cannot write {target}: {why}. {advice or 'Free room, or choose another place.'}") from problem
    return target


def _replace(target: Path, data: bytes) -> None:
    if target.is_file() and not os.access(target, os.W_OK):
        raise PermissionError(None, "the file is read-only")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as problem:
        raise NotADirectoryError(None, f"{target.parent} is not a folder") from problem
    # The name says whose it is, and is short however long the target's own is.
    draft = target.parent / UNFINISHED.replace("*", f"{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with draft.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(target)
    except BaseException:
        with suppress(OSError):
            draft.unlink()
        raise
    with suppress(PermissionError):  # Windows has no handle of a folder
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def remove_unfinished(*folders: Path) -> None:
    """Removes what processes that were killed did not write to the end.

    Only for who knows that no other process writes there; what others left in the folders, and below them, stays.
    """
    for folder in folders:
        for path in folder.glob(UNFINISHED):
            path.unlink(missing_ok=True)


@contextmanager
def reading(path: str | Path, what: str, *, error: type[XmiError] = StorageError, advice: str = "") -> Iterator[None]:
    """Whatever goes wrong in the block becomes one error that names the file: reading, decoding, or an ill-typed card.

    Args:
        path: The file that is read.
        what: What it should hold: `task vector`, say.
        error: The class of the error.
        advice: What to do.

    Raises:
        XmiError: The error, of the class that is asked for.
    """
    try:
        yield
    except XmiError:
        raise
    except (OSError, SafetensorError, ValueError, LookupError, TypeError, RecursionError, MemoryError) as problem:
        lines = [line.strip() for line in str(problem).splitlines()[:3]]  # pydantic names the field in the second
        why = getattr(problem, "strerror", None) or ": ".join(lines)
        if isinstance(problem, KeyError):
            why = f"{why} is missing"
        holds = f"{path} holds no {what} of xmi: {why or type(problem).__name__}"
        raise error(f"{holds}. {advice}" if advice else holds) from problem


def pack_tensors(
    tensors: Mapping[str, torch.Tensor] | Mapping[str, np.ndarray], card: Mapping[str, str] | None = None
) -> bytes:
    """The content of a safetensors file, the same for the same content.

    Args:
        tensors: All of torch, or all of numpy.
        card: Texts by name.

    Returns:
        Its bytes, with a digest of everything in the header.
    """
    if all(hasattr(value, "untyped_storage") for value in tensors.values()):
        from safetensors import torch as writer
    else:
        from safetensors import numpy as writer  # type: ignore[no-redef]
    packed = writer.save({name: _plain(value) for name, value in tensors.items()})
    size = 8 + int.from_bytes(packed[:8], "little")
    places, data = json.loads(packed[8:size]), memoryview(packed)[size:]
    texts = dict(card or {})
    bare = _header(places, texts)
    digest = hashlib.sha256(bare)
    digest.update(data)
    return b"".join([_header(places, {**texts, DIGEST: digest.hexdigest()}), data])


def _plain(value: Any) -> Any:
    """A tensor or array that lies in memory in the order of its elements, as the library wants it."""
    return value.detach().cpu().contiguous() if hasattr(value, "detach") else value.copy(order="C")


def _header(places: Mapping[str, Any], texts: Mapping[str, str]) -> bytes:
    """The head of a safetensors file; the library's own orders its texts by chance."""
    head = {"__metadata__": dict(sorted(texts.items())), **places}
    text = json.dumps(head, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def read_tensors(
    path: str | Path, *, framework: Literal["pt", "np"] = "pt", device: str = "cpu"
) -> tuple[dict[str, Any], dict[str, str]]:
    """Tensors by name, and the card; to be called in a `reading` block.

    Args:
        path: A safetensors file.
        framework: `pt` for torch, `np` for numpy.
        device: Where tensors of torch go.

    Returns:
        The tensors and the texts of the header without the digest.

    Raises:
        SafetensorError, OSError, ValueError: It cannot be read, or is not what was written.
    """
    options = {"device": device} if framework == "pt" else {}
    with safe_open(str(path), framework=framework, **options) as stream:
        texts = dict(stream.metadata() or {})
        tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 (not a mapping)
    if (told := texts.pop(DIGEST, None)) is not None and told != _digest(Path(path), texts):
        raise ValueError("its content is not what was written: the file is damaged")
    return tensors, texts


def _digest(path: Path, texts: Mapping[str, str]) -> str:
    with path.open("rb") as stream:
        head = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        head.pop("__metadata__", None)
        digest = hashlib.sha256(_header(head, texts))
        while part := stream.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()
