"""What a user names: an embedded model, a folder, or an id of the Hub; misspelt, it is answered at once."""

from __future__ import annotations

import difflib
from importlib.resources import files
from pathlib import Path
from typing import Any

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from xmi.errors import ModelError
from xmi.model.pretrained import pretrained_folder
from xmi.names import ASSEMBLED, EMBEDDED, NAMED

CONFIGS = ("config.json", "adapter_config.json")
"""A folder with one of these holds a model."""

PATIENCE = 5.0
"""Seconds in which the Hub must answer once."""


def resolve(source: str | Path) -> str:
    """Returns the folder of a model that xmi names (the pretrained one is made first) or of a path, or a Hub id.

    Raises:
        ModelError: The source is not a name, looks like a path and is not a folder, or is a name that can only be a
            misspelling: close to an embedded model or to a folder at that place.
    """
    if not isinstance(source, (str, Path)):
        raise ModelError(f"Expected an embedded model's name, a folder, a Hub id or a module, found {_said(source)}.")
    text = str(source)
    if text in EMBEDDED:
        return str(files("xmi") / "data" / "organism" / EMBEDDED[text])
    if text in ASSEMBLED:
        return str(pretrained_folder(ASSEMBLED[text]))
    if not text.strip():
        raise ModelError(f"No model is named {source!r}. Give a folder, a Hub id, or one of: {', '.join(NAMED)}.")
    folder = Path(text).expanduser()
    if _is(folder, "dir"):
        return str(folder)
    if _is(folder, "file"):
        raise ModelError(f"{text!r} is a file. Give the folder that holds config, weights and processor.")
    if isinstance(source, Path) or text.startswith((".", "/", "~")) or text.count("/") > 1 or "\\" in text:
        raise ModelError(
            f"No model folder {_cut(text)!r}.{suggestion(text)} Give an existing folder, a Hub id, or one of: "
            f"{', '.join(NAMED)}."
        )
    # With an owner it is a whole id of the Hub, whatever folders are called.
    if "/" not in text and (near := suggestion(text)) and not _cached(text):
        raise ModelError(
            f"No model {text!r}.{near} Models of xmi: {', '.join(NAMED)}. A model of the Hub is named with its "
            f"owner: owner/{text}."
        )
    try:
        validate_repo_id(text)
    except HFValidationError as error:
        raise ModelError(
            f"No model folder {_cut(text)!r}, and no such id can be on the Hub: {error} Models of xmi: "
            f"{', '.join(NAMED)}."
        ) from error
    return text


def check_revision(source: str | Path, revision: str | None) -> None:
    """Refuses a revision of what is not on the Hub.

    Raises:
        ModelError: As in `resolve`; or there is a revision, and the source is a folder or an embedded model.
    """
    if revision is not None and _is(Path(resolve(source)), "dir"):
        raise ModelError(f"revision={revision!r} is one of the Hub's; {str(source)!r} is a folder here. Leave it out.")


def embedded_name(location: str) -> str | None:
    """Returns the name of the embedded model in a folder that `resolve` gave, if it is one."""
    return next((name for name in EMBEDDED if resolve(name) == location), None)


def hub_options(location: str, revision: str | None) -> dict[str, Any]:
    """How to load what `resolve` gave: from the cache alone if the Hub does not answer.

    The Hub's client tries for half a minute; one short try says as much.

    Returns:
        `{"local_files_only": True}`, or nothing.
    """
    if _is(Path(location), "dir") or constants.HF_HUB_OFFLINE:
        return {}
    try:
        get_hf_file_metadata(hf_hub_url(location, "config.json", revision=revision), timeout=PATIENCE)
    except HfHubHTTPError:
        pass  # it answers; what it says is for the loading itself to report
    except Exception:  # of whichever HTTP library: the Hub is out of reach
        return {"local_files_only": True}
    return {}


def suggestion(text: str) -> str:
    """What a name may have been meant to be, as a question: an embedded model, or a model's folder beside it."""
    folder = Path(text).expanduser()
    close = difflib.get_close_matches(text.lower(), NAMED, n=1, cutoff=0.75)
    if not close:
        try:
            beside = [p.name for p in folder.parent.iterdir() if any((p / name).is_file() for name in CONFIGS)]
        except (OSError, ValueError):
            return ""
        names = difflib.get_close_matches(folder.name, beside, n=1, cutoff=0.75)
        close = [str(folder.parent / name) for name in names]
    return f" Did you mean {close[0]!r}?" if close else ""


def _cached(text: str) -> bool:
    """Whether the Hub's cache holds a model of that very name."""
    try:
        return isinstance(try_to_load_from_cache(text, "config.json"), str)
    except HFValidationError:
        return False


def _is(path: Path, kind: str) -> bool:
    try:
        return path.is_dir() if kind == "dir" else path.is_file()
    except OSError:  # a name that is too long for a file
        return False


def _cut(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:120]}..."


def _said(source: Any) -> str:
    """What was given instead of a model, and what to give."""
    kind = type(source).__name__
    if hasattr(source, "_module"):
        return f"a {kind} of nnsight. Pass the module in it with its processor: xmi.load(x._module, processor=...)"
    if hasattr(source, "model") and hasattr(source, "tokenizer"):
        return (
            f"a {kind}. Pass its model and what encodes for it: xmi.load(x.model, processor=x.processor) "
            "(or x.tokenizer for a text-only model)"
        )
    return f"{kind}: {_cut(repr(source))}"
