"""What a run folder says of itself: `study.json`, and the index of all that was made from finished cells."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xmi.errors import RunError
from xmi.storage import write_file
from xmi.study.sealed import digest_of, seal, unseal

FORMAT = 4
"""How run folders are laid out; those of other versions are neither continued nor read."""

STUDY = "study.json"
"""What was asked, and how it was done."""

FINISHED = "results/index.json"
"""Written last: a folder without it is unfinished."""

RECORDS = "records.jsonl"
"""Every model answer."""

JOBS = "jobs"
"""Where a study on a host keeps its jobs."""

ANEW = "Run the same command again: what is missing or damaged is rebuilt, and nothing else."


def read_study(folder: Path) -> dict[str, Any]:
    """Reads `study.json`.

    Raises:
        RunError: It is not there, is damaged, or was written by a version that lays out folders otherwise.
    """
    file = folder / STUDY
    try:
        data = file.read_bytes()
    except FileNotFoundError as error:
        raise RunError(f"{folder} holds no {STUDY}, so it is not a run folder of xmi.") from error
    except OSError as error:
        raise RunError(f"Cannot read {file}: {error.strerror}.") from error
    try:
        content = unseal(data)
    except (ValueError, RecursionError) as error:
        if (other := _format(data)) is not None:
            raise RunError(_other_format(file, other)) from error
        raise RunError(
            f"{file} cannot be used: {error}. Delete it and run the same command again: finished cells of the same "
            "study are kept. Or choose another folder with --out."
        ) from error
    if content.get("format") != FORMAT:
        raise RunError(_other_format(file, content.get("format")))
    return content


def read_index(folder: Path) -> dict[str, Any]:
    """Reads the index of a finished run, and every file that it lists.

    Returns:
        `tables` and `results` (paths by model and name), `files` (digests by path), `study` (the identity of what they
        were made from), `cells` (the seal of each cell by its key), `made_with` (versions, and how many cells).

    Raises:
        RunError: The run is unfinished; or a file is missing, damaged or another one.
    """
    file = folder / FINISHED
    try:
        index = unseal(file.read_bytes())
    except FileNotFoundError as error:
        raise RunError(f"The study in {folder} is unfinished: run the same command again to complete it.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{file} cannot be used: {error}. {ANEW}") from error
    if index.get("format") != FORMAT:
        raise RunError(_other_format(file, index.get("format")))
    for name, digest in index["files"].items():
        if digest_of(folder / name) != digest:
            raise RunError(f"{folder / name} is missing, damaged or another file. {ANEW}")
    return index


def write_index(folder: Path, study: Mapping[str, Any], index: Mapping[str, Any]) -> Path:
    """Writes the index of a run, which finishes it.

    Args:
        folder: The run folder.
        study: The study's identity.
        index: As in `read_index`, but `files` only names those that stand in neither `tables` nor `results`.

    Raises:
        RunError: It cannot be written.
    """
    listed = [path for kind in ("tables", "results") for own in index[kind].values() for path in own.values()]
    files = {name: digest_of(folder / name) for name in sorted({*listed, *index["files"]})}
    content = {"format": FORMAT, "study": study, **index, "files": files}
    return write_file(folder / FINISHED, seal(content, indent=1), error=RunError)


def _format(data: bytes) -> int | None:
    """The format that a file of an earlier version names."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return None
    found = content.get("format", 1) if isinstance(content, dict) and "digest" not in content else None
    return found if isinstance(found, int) and found != FORMAT else None


def _other_format(file: Path, found: object) -> str:
    return (
        f"{file} is in format {found}; this version of xmi reads and writes {FORMAT}. Finish and read the run with the "
        "version that began it, or choose another folder with --out."
    )
