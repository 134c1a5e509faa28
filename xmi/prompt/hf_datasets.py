"""Hugging Face datasets as rows; their images become files, so that results can name and show them."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from xmi.errors import TaskError
from xmi.prompt.items import COLUMNS, Row
from xmi.prompt.tables import Table, pick
from xmi.storage import cache_home, write_file

SCHEME = "hf://"
_SPLITS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}


def image_home() -> Path:
    """The folder in which images of datasets are kept: `images` in xmi's cache."""
    return cache_home() / "images"


def fetch_dataset(address: str) -> Any:
    """Loads `hf://owner/name`, with `@revision` behind it if one is to stand, by the `datasets` library.

    Raises:
        TaskError: The library is missing, or cannot load the dataset.
    """
    try:
        import datasets
    except ImportError as error:
        raise TaskError(f"{address} needs the library datasets: pip install 'xmi[datasets]'.") from error
    name, _, revision = address.removeprefix(SCHEME).partition("@")
    try:
        return datasets.load_dataset(name, revision=revision or None)
    except Exception as error:  # whatever the library and the network may raise
        raise TaskError(f"Cannot load the dataset {name}: {error}") from error


def is_dataset(source: object) -> bool:
    """Whether something is a dataset of the `datasets` library, or several by split; known by what it can do."""
    if isinstance(source, Mapping):
        return bool(source) and all(is_dataset(part) for part in source.values())
    return hasattr(source, "column_names") and hasattr(source, "__getitem__") and hasattr(source, "__len__")


def read_dataset(source: Any, columns: Mapping[str, str] | None = None, root: str | Path | None = None) -> Table:
    """Rows of a dataset, or of several by split.

    Labels that are numbers are named by the dataset's own `ClassLabel`. Without a column for it, the input is the
    row's address (`train-17`), which suits image queries only.

    Args:
        source: A `Dataset`, or a mapping from split to dataset (`DatasetDict`).
        columns: Which column is `input`, `output`, `image`, `split`.
        root: Folder that paths of images are relative to and must not leave; without it no path is followed.

    Raises:
        TaskError: A split that is neither train, validation nor test.
    """
    if not isinstance(source, Mapping):
        return _rows(source, "", columns, root)
    if unknown := [str(name) for name in source if name not in _SPLITS]:
        raise TaskError(f"The dataset has splits {', '.join(unknown)}; use train, validation and test: pass a mapping.")
    found = Table()
    for name, part in source.items():
        found += _rows(part, str(name), columns, root)
    return found


def _rows(part: Any, split: str, columns: Mapping[str, str] | None, root: str | Path | None) -> Table:
    label = split or "row"
    table = pick(Table([Row(f"{label} {k}", part[k]) for k in range(len(part))]), columns, COLUMNS)
    output = (columns or {}).get("output", "output")
    names = getattr((getattr(part, "features", None) or {}).get(output), "int2str", None)
    rows = []
    for number, row in enumerate(table.rows):
        values = {"input": f"{label}-{number}", **row.values}
        if split:
            values["split"] = _SPLITS[split]
        if names is not None and isinstance(values.get("output"), int) and values["output"] >= 0:
            values["output"] = names(values["output"])
        try:
            values["image"] = keep_image(values.get("image"), root)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            table.faults.append(f"{row.place}: the image cannot be read ({error}).")
            values["image"] = None
        rows.append(Row(row.place, values))
    return Table(rows, table.faults)


def keep_image(image: Any, root: str | Path | None = None) -> str | None:
    """Stores an image of a dataset under a name made of its content.

    Args:
        image: A PIL image, bytes of an image file, `{"bytes": ..., "path": ...}`, a path, or None.
        root: Folder that a path is relative to and must not leave; a dataset may name any file of this machine.

    Returns:
        Path of the file, or None without an image.

    Raises:
        OSError: It is not an image; ValueError: it is of another kind; StorageError: it cannot be written.
    """
    if isinstance(image, Mapping):
        image = image.get("bytes") or image.get("path")
    if image is None:
        return None
    if isinstance(image, (str, Path)):
        path = Path(root or "", image).resolve()
        if root is None or not path.is_relative_to(Path(root).resolve()):
            raise ValueError(f"{str(image)!r} is a path; pass the folder in which it lies as root")
        image = path.read_bytes()
    if isinstance(image, Image.Image):
        buffer = io.BytesIO()
        plain = image if image.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16") else image.convert("RGB")
        plain.save(buffer, "PNG")
        image = buffer.getvalue()
    if not isinstance(image, bytes):
        raise ValueError(f"an image must be a PIL image, bytes or a path, not {type(image).__name__}")
    with Image.open(io.BytesIO(image)) as opened:
        suffix = (opened.format or "png").lower()
    target = image_home() / f"{hashlib.sha256(image).hexdigest()[:32]}.{suffix}"
    if not target.is_file() or target.stat().st_size != len(image):
        write_file(target, image)
    return str(target)
