"""A folder or repository that holds an adapter (LoRA and the like, as PEFT saves them), loaded with its base model."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.utils.hub import extract_commit_hash
from transformers.utils.peft_utils import find_adapter_config_file

from xmi.errors import ModelError
from xmi.model.identity import identify_folder, identify_snapshot
from xmi.model.source import CONFIGS
from xmi.model.unwrap import refuse_prompts
from xmi.names import NAMED

CONFIG = "adapter_config.json"


@dataclass(frozen=True)
class Adapter:
    """An adapter that was found.

    Attributes:
        folder: Where its files are, in the Hub's cache if it is from there.
        location: Its folder or Hub id.
        base: The base model: an embedded name, a folder, or a Hub id.
        base_revision: Hub revision of the base, if the adapter names one.
        revision: Hub revision of the adapter itself.
    """

    folder: Path
    location: str
    base: str
    base_revision: str | None
    revision: str | None

    def identity(self) -> str:
        """The commit of a Hub adapter (and what was edited since), or a hash over its files."""
        commit = extract_commit_hash(str(self.folder / CONFIG), None)
        if commit is None:
            return identify_folder(self.folder)
        return "+".join(filter(None, [commit, identify_snapshot(self.folder)]))

    def tool(self) -> str | None:
        """Where the processor or tokenizer that was saved with the adapter is, if one was."""
        names = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json", "tokenizer.json")
        return self.location if any((self.folder / name).is_file() for name in names) else None


def find_adapter(location: str, options: dict[str, Any]) -> Adapter | None:
    """What `adapter_config.json` says, if there is one.

    Args:
        location: A folder or Hub id.
        options: How the Hub is asked (revision, local_files_only).

    Raises:
        ModelError: It cannot be read, names no base, or one that is not there.
    """
    asked = {k: v for k, v in options.items() if k in ("revision", "local_files_only")}
    try:
        path = find_adapter_config_file(location, **asked)
    except Exception:  # a Hub that does not have it; loading the model itself says what is wrong
        path = None
    if path is None:
        return None
    try:
        said = json.loads(Path(path).read_text(encoding="utf-8"))
        base, revision = said.get("base_model_name_or_path"), said.get("revision")
        if not isinstance(said.get("peft_type"), str):
            raise ValueError("it names no peft_type")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise ModelError(f"{path} is not the configuration of an adapter: {error}") from error
    if not isinstance(base, str) or not base:
        raise ModelError(
            f"The adapter {location} does not name its base model. Write it into {path} (base_model_name_or_path), or "
            "load the base, put the adapter on it with PEFT, and pass the module with processor=..."
        )
    return Adapter(
        Path(path).parent, location, _base(base, Path(path)), revision if isinstance(revision, str) else None,
        options.get("revision"),
    )  # fmt: skip


def _base(named: str, config: Path) -> str:
    """The base model: relative to the adapter's folder, or to the current one, or a name of xmi or a Hub id."""
    if named in NAMED:
        return named
    places = [config.parent / named, Path(named).expanduser()]
    here = list(dict.fromkeys(p.resolve() for p in places if any((p / name).is_file() for name in CONFIGS)))
    if config.parent.resolve() in here:
        raise ModelError(
            f"{config} names its own folder as base model. Keep adapter and base in folders of their own, and name "
            "the base in base_model_name_or_path."
        )
    if len(here) > 1:
        raise ModelError(
            f"{config} names the base model {named!r}, and there are two: {here[0]} and {here[1]}. Write the whole "
            "path into base_model_name_or_path."
        )
    if not here and (named.startswith((".", "/", "~")) or named.count("/") > 1):
        raise ModelError(
            f"The base model {named!r} that {config} names is not there. Write where it is into "
            "base_model_name_or_path."
        )
    return str(here[0]) if here else named


def attach(base: torch.nn.Module, adapter: Adapter, options: dict[str, Any]) -> torch.nn.Module:
    """Puts an adapter on its base.

    Args:
        base: The base model, with weights.
        adapter: What `find_adapter` found.
        options: How the Hub is asked.

    Returns:
        The base, its modules wrapped by the adapter's.

    Raises:
        ModelError: PEFT is not installed, the adapter lacks weights or has some that fit nowhere, or learns a prompt.
    """
    try:
        from peft import PeftConfig, PeftModel
    except ImportError as error:
        raise ModelError(
            f"{adapter.location} is an adapter, which needs PEFT: pip install 'xmi[peft]' (or pip install peft)."
        ) from error
    asked = {k: v for k, v in options.items() if k in ("revision", "local_files_only")}
    config = PeftConfig.from_pretrained(adapter.location, **asked)
    refuse_prompts({"default": config}, adapter.location)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Found missing adapter keys")  # an error, below
        wrapped: Any = PeftModel.from_pretrained(base, adapter.location, config=config, **asked)
    # A second time into the same places: only this call says which weights fit.
    result = wrapped.load_adapter(adapter.location, "default", **asked)
    lacking, unknown = list(result.missing_keys), list(result.unexpected_keys)
    if lacking or unknown:
        what = f"lacks {_some(lacking)}" if lacking else f"has {_some(unknown)}, which fit nowhere in the base"
        raise ModelError(
            f"The adapter {adapter.location} {what}. Its files are incomplete, or its base is another model than "
            f"{adapter.base}."
        )
    inner: torch.nn.Module = wrapped.base_model.model
    return inner


def _some(names: list[str]) -> str:
    shown = ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} weights ({shown})"
