"""Checkpoints: from an id, a folder or a module to a model with its processor and a stable identity."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)
from transformers.utils.hub import extract_commit_hash

from xmi.errors import ModelError, XmiError
from xmi.model.adapter import Adapter, attach, find_adapter
from xmi.model.complete import check_loading
from xmi.model.identity import Mark, Stamp, edits, identify_folder, identify_module, identify_snapshot, short, stamps
from xmi.model.options import find_device, find_dtype, find_quantization
from xmi.model.source import check_revision, embedded_name, hub_options, resolve, suggestion
from xmi.model.unwrap import unwrap
from xmi.names import EMBEDDED, NAMED
from xmi.shown import Shown

__all__ = ["EMBEDDED", "Checkpoint", "embedded_name", "load_checkpoint", "resolve"]


@dataclass(frozen=True)
class Checkpoint(Shown):
    """A loaded model with what encodes its inputs.

    Attributes:
        model: The Hugging Face model, in eval mode.
        processor: The processor of a VLM; None for a text-only model.
        tokenizer: The tokenizer, padding on the left.
        name: What the user asked for: an embedded name, a Hub id, or a folder.
        loaded: Its revision when it was loaded.
        read: Whether model and processor were read from files, which `loaded` identifies.
        mark: What tells whether it was edited since.
    """

    model: torch.nn.Module
    processor: Any | None
    tokenizer: Any
    name: str
    loaded: str
    read: bool
    mark: Mark

    @property
    def stored(self) -> bool:
        """Whether files hold it as it is now."""
        return self.read and edits(self.model) == self.mark

    @property
    def revision(self) -> str:
        """Commit hash of a Hub checkpoint, or `sha256:...` over all bytes of a folder's files or of a module.

        What was edited, put on it or quantised counts, also in the model after it was loaded.
        """
        mark = edits(self.model)
        if mark == self.mark:
            return self.loaded
        if self._edited.get("mark") != mark:
            self._edited.update(mark=mark, revision=identify_module(self.model))
        return str(self._edited["revision"])

    @cached_property
    def _edited(self) -> dict[str, Any]:
        return {}


def load_checkpoint(
    source: str | Path | torch.nn.Module,
    *,
    processor: Any | None = None,
    revision: str | None = None,
    dtype: torch.dtype | str = "auto",
    device: str | torch.device | None = None,
    device_map: str | dict[str, Any] | None = None,
    quantization: str | Any | None = None,
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
) -> Checkpoint:
    """Loads an image-text-to-text model, or a plain causal language model.

    Args:
        source: An embedded name (`organism`, `organism-llm`, `organism-control`), a folder, a Hub id, or a module
            that is loaded already (then `processor` is required). A folder or id may hold an adapter of PEFT, which
            is loaded with its base; a module may be compiled, or wrapped for training in parallel.
        processor: Processor or tokenizer to use instead of the checkpoint's own.
        revision: Hub revision.
        dtype: A torch dtype, its name (`bfloat16`, `bf16`), or `auto` for the checkpoint's own; the half precision of
            a checkpoint becomes float32 where no GPU is used, because CPU half precision is slow and coarse.
        device: Where the model goes; default CUDA if there is one, else CPU. `meta` loads no weights.
        device_map: Spreads the model over devices (`auto`, or module to device); needs accelerate.
        quantization: `8bit` or `4bit` (bitsandbytes), or a quantisation configuration of transformers.
        attn_implementation: Passed on to transformers.
        trust_remote_code: Run code that comes with the checkpoint.

    Returns:
        The checkpoint, in eval mode, its tokenizer padding on the left.

    Raises:
        ModelError: Unknown id or folder, an architecture that is neither, no usable processor, files that are damaged
            or hold other weights than the model has, a device that is not there, or an unknown option.
    """
    if device is not None and device_map is not None:
        raise ModelError(f"Give device={str(device)!r} or device_map={device_map!r}, not both.")
    precision, quantized = find_dtype(dtype), find_quantization(quantization)
    place = find_device(device)
    if isinstance(source, torch.nn.Module):
        asked = {"revision": revision, "attn_implementation": attn_implementation}
        given = device is not None
        return _in_memory(source, processor, precision, place, given, device_map, quantized, asked)
    location = resolve(source)
    if place.type != "meta":  # a host may serve an embedded model under one
        check_revision(source, revision)
    options = {"revision": revision, "trust_remote_code": trust_remote_code, **hub_options(location, revision)}
    extra: dict[str, Any] = {"attn_implementation": attn_implementation} if attn_implementation else {}
    extra |= {"device_map": device_map} if device_map is not None else {}
    extra |= {"quantization_config": quantized} if quantized is not None else {}
    with _refusals(source, extra):
        adapter = find_adapter(location, options)
        if adapter is None:
            model, tool, found = _load(location, str(source), processor, precision, place, options, extra)
        else:
            model, tool, found = _load_adapted(adapter, processor, precision, place, options, extra)
    if quantized is not None:
        said = quantized.to_dict() if hasattr(quantized, "to_dict") else quantized
        found += f"+{quantization if isinstance(quantization, str) else short([json.dumps(said, default=str)])}"
    plain = quantized is None and device_map is None and processor is None
    return _checkpoint(model, tool, str(source), found, stored=plain)


def _in_memory(
    source: torch.nn.Module,
    processor: Any | None,
    dtype: torch.dtype | None,
    place: torch.device,
    placed: bool,
    device_map: Any,
    quantized: Any,
    asked: dict[str, Any],
) -> Checkpoint:
    """A module that is loaded already."""
    if processor is None:
        raise ModelError("A module was given without its processor: pass processor=... (or a tokenizer).")
    if device_map is not None or quantized is not None:
        raise ModelError("A module that is loaded already can be neither spread nor quantised: load it that way.")
    model: Any = unwrap(source)
    if dtype is not None and model.dtype != dtype:
        raise ModelError(f"The module is in {model.dtype}: convert it (model.to({dtype})) in place of passing dtype.")
    if given := [name for name, value in asked.items() if value is not None]:
        raise ModelError(f"{', '.join(given)}: a module is loaded already. Load it that way, or leave this out.")
    here = not next(model.parameters()).is_meta and not hasattr(model, "hf_device_map")
    if placed or (here and not getattr(model, "is_quantized", False)):
        try:
            model = model.to(place)
        except (RuntimeError, ValueError, NotImplementedError) as error:
            raise ModelError(f"The module cannot be moved to {place}: {error}") from error
    return _checkpoint(model, processor, type(model).__name__, identify_module(model), stored=False)


def _load(
    location: str,
    source: str,
    processor: Any | None,
    dtype: torch.dtype | None,
    place: torch.device,
    options: dict[str, Any],
    extra: dict[str, Any],
) -> tuple[torch.nn.Module, Any, str]:
    """A model that is whole in its folder or on the Hub; with its processor and identity."""
    before = _stamps(location)
    config = AutoConfig.from_pretrained(location, **options)
    if commit := _commit(location, options["revision"]):
        options = {**options, "revision": commit}  # whatever is pushed meanwhile
    auto, auto_processor = _classes(config, source)
    wanted = dtype or _own_dtype(config, place)
    tool = processor if processor is not None else auto_processor.from_pretrained(location, **options)
    _tokenizer(tool, source)  # before minutes of loading weights
    if place.type == "meta":
        attention = {k: v for k, v in extra.items() if k == "attn_implementation"}
        code = {"trust_remote_code": options["trust_remote_code"]}
        with torch.device("meta"):
            model = auto.from_config(config, dtype=wanted, **code, **attention)
    else:
        model, loading = auto.from_pretrained(location, dtype=wanted, output_loading_info=True, **extra, **options)
        check_loading(source, loading, _folder(location, commit))
        model = model if "device_map" in extra or "quantization_config" in extra else model.to(place)
    revision = _revision(location, commit)
    if _stamps(location) != before:
        raise ModelError(f"The files of {source} changed while they were read. Load it again when they are complete.")
    return model, tool, revision


def _load_adapted(
    adapter: Adapter,
    processor: Any | None,
    dtype: torch.dtype | None,
    place: torch.device,
    options: dict[str, Any],
    extra: dict[str, Any],
) -> tuple[torch.nn.Module, Any, str]:
    """An adapter on its base; both make its identity."""
    location = resolve(adapter.base)
    own = {**options, "revision": adapter.base_revision, **hub_options(location, adapter.base_revision)}
    if find_adapter(location, own) is not None:
        raise ModelError(f"{adapter.location} is an adapter whose base, {adapter.base}, is an adapter too: merge that.")
    before = _stamps(adapter.location)
    model, tool, base = _load(location, adapter.base, processor, dtype, place, own, extra)
    saved = adapter.tool()
    if processor is None and saved is not None:
        # A tokenizer alone does not make a VLM's processor.
        kind = AutoTokenizer if tool is getattr(tool, "tokenizer", tool) else AutoProcessor
        try:
            tool = kind.from_pretrained(saved, **options)
            _tokenizer(tool, adapter.location)
        except (OSError, ValueError, KeyError) as error:
            if kind is AutoTokenizer:
                raise
            raise ModelError(
                f"{adapter.location} holds part of a processor ({str(error).splitlines()[0]}). Save all of it with the "
                "adapter, or nothing: then the base's is used. Or pass processor=..."
            ) from error
    if place.type != "meta":  # without weights an adapter is the base's layers, widths and prompts
        model = attach(model, adapter, options)
    identity = short([f"adapter:{adapter.identity()}", f"base:{base}"])
    if _stamps(adapter.location) != before:
        raise ModelError(f"The files of {adapter.location} changed while they were read. Load it again.")
    return model, tool, identity


def _commit(location: str, revision: str | None) -> str | None:
    """The commit that a checkpoint of the Hub was found at; None for a folder."""
    if Path(location).is_dir():
        return None
    file = try_to_load_from_cache(location, "config.json", revision=revision)
    return extract_commit_hash(str(file), None) if isinstance(file, str) else None


def _revision(location: str, commit: str | None) -> str:
    if Path(location).is_dir():
        return identify_folder(Path(location))
    if commit is None:
        raise ModelError(
            f"{location}: the Hub does not say which commit this is. Download it into a folder of its own."
        )
    folder = _folder(location, commit)
    return "+".join(filter(None, [commit, identify_snapshot(folder) if folder is not None else ""]))


def _folder(location: str, commit: str | None) -> Path | None:
    """Where a checkpoint's files are: its folder, or its snapshot in the Hub's cache."""
    if Path(location).is_dir():
        return Path(location)
    file = try_to_load_from_cache(location, "config.json", revision=commit)
    return Path(file).parent if isinstance(file, str) else None


def _stamps(location: str) -> dict[str, Stamp]:
    return stamps(Path(location)) if Path(location).is_dir() else {}


@contextmanager
def _refusals(source: Any, asked: dict[str, Any]) -> Iterator[None]:
    """What transformers and its helpers raise while loading, as one kind of error that says what to do."""
    try:
        yield
    except XmiError:
        raise
    except Exception as error:  # of any library: a cut file is a SafetensorError, EOFError, UnpicklingError, ...
        raise ModelError(_not_loadable(source, error, asked)) from error


def _checkpoint(model: torch.nn.Module, tool: Any, name: str, revision: str, *, stored: bool) -> Checkpoint:
    tokenizer = _tokenizer(tool, name)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    held = tool if tool is not tokenizer else None
    return Checkpoint(model.eval(), held, tokenizer, name, revision, stored, edits(model))


def _tokenizer(tool: Any, name: str) -> Any:
    tokenizer = getattr(tool, "tokenizer", tool)
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            f"{name}: xmi needs a fast tokenizer, whose offsets say which token is which; found "
            f"{type(tokenizer).__name__}. Convert it with transformers or pass processor=..."
        )
    return tokenizer


def _classes(config: Any, source: str) -> tuple[Any, Any]:
    kind = config.model_type
    if kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return AutoModelForImageTextToText, AutoProcessor
    if kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not getattr(config, "is_encoder_decoder", False):
        return AutoModelForCausalLM, AutoTokenizer
    raise ModelError(
        f"{source} is a {kind!r} model, which transformers knows neither as image-text-to-text nor as a causal "
        "language model; xmi studies autoregressive decoders only."
    )


def _own_dtype(config: Any, place: torch.device) -> torch.dtype:
    own = getattr(config, "dtype", None) or getattr(config.get_text_config(), "dtype", None) or torch.float32
    return torch.float32 if place.type == "cpu" else own


def _not_loadable(source: Any, error: Exception, asked: dict[str, Any]) -> str:
    text = str(error).strip() or type(error).__name__
    if "trust_remote_code" in text:
        return (
            f"{str(source)!r} comes with code of its own, which runs with your rights. Read it, then pass "
            "trust_remote_code=True (and a fixed revision) if you trust it."
        )
    first = text if isinstance(error, ImportError) else text.splitlines()[0]
    given = ", ".join(f"{name}={value!r:.60}" for name, value in asked.items())
    with_options = f" with {given}" if given else ""
    return (
        f"Cannot load {str(source)!r}{with_options}: {first}{suggestion(str(source))} Models of xmi: "
        f"{', '.join(NAMED)}. Check the spelling, that the folder holds config, weights and "
        "processor, that no file is cut short, and that the Hub can be reached (or the model is in its cache)."
    )
