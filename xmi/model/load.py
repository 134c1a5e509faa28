"""Checkpoints: from an id, a folder or a module to a model with its processor and a stable identity."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    BitsAndBytesConfig,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from xmi.errors import ModelError

EMBEDDED = {"organism": "vlm", "organism-llm": "llm", "organism-control": "control"}
"""Names of the embedded models and their folders in `xmi/data/organism`; hosts know them as `xmi/<name>`."""


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model with what encodes its inputs.

    Attributes:
        model: The Hugging Face model, in eval mode.
        processor: The processor of a VLM; None for a text-only model.
        tokenizer: The tokenizer, padding on the left.
        name: What the user asked for: an embedded name, a Hub id, or a folder.
        revision: Commit hash of a Hub checkpoint, or `sha256:...` over a local folder's files.
        stored: Whether it was read from files, which the revision identifies.
    """

    model: torch.nn.Module
    processor: Any | None
    tokenizer: Any
    name: str
    revision: str
    stored: bool = True


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
            that is loaded already (then `processor` is required).
        processor: Processor or tokenizer to use instead of the checkpoint's own.
        revision: Hub revision.
        dtype: A torch dtype, its name, or `auto` for the checkpoint's own; the half precision of a checkpoint
            becomes float32 where no GPU is used, because CPU half precision is slow and coarse.
        device: Where the model goes; default CUDA if there is one, else CPU. `meta` loads no weights.
        device_map: Spreads the model over devices (`auto`, or module to device); needs accelerate.
        quantization: `8bit` or `4bit` (bitsandbytes), or a quantisation configuration of transformers.
        attn_implementation: Passed on to transformers.
        trust_remote_code: Run code that comes with the checkpoint.

    Returns:
        The checkpoint, in eval mode, its tokenizer padding on the left.

    Raises:
        ModelError: Unknown id or folder, an architecture that is neither, or no usable processor.
    """
    if device is not None and device_map is not None:
        raise ModelError(f"Give device={str(device)!r} or device_map={device_map!r}, not both.")
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if isinstance(source, torch.nn.Module):
        if processor is None:
            raise ModelError("A module was given without its processor: pass processor=... (or a tokenizer).")
        if device_map is not None or quantization is not None:
            raise ModelError("A module that is loaded already can be neither spread nor quantised: load it that way.")
        moved = source.to(place) if device is not None or next(source.parameters()).device.type != "meta" else source
        return _checkpoint(moved, processor, type(source).__name__, _hash_state(source), stored=False)

    location = resolve(source)
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    with _refusals(source):
        config = AutoConfig.from_pretrained(location, **options)
    auto, auto_processor = _classes(config, str(source))
    wanted = _dtype(dtype, config, place)
    extra: dict[str, Any] = {"attn_implementation": attn_implementation} if attn_implementation else {}
    with _refusals(source):
        tool = processor if processor is not None else auto_processor.from_pretrained(location, **options)
        _tokenizer(tool, str(source))  # before minutes of loading weights
        if place.type == "meta":
            with torch.device("meta"):
                model = auto.from_config(config, dtype=wanted, trust_remote_code=trust_remote_code, **extra)
        else:
            extra |= {"device_map": device_map} if device_map is not None else {}
            extra |= {"quantization_config": _quantization(quantization)} if quantization is not None else {}
            model, loading = auto.from_pretrained(location, dtype=wanted, output_loading_info=True, **extra, **options)
            _check_complete(source, loading)
            model = model if device_map is not None or quantization is not None else model.to(place)
    found = getattr(config, "_commit_hash", None) or _hash_folder(Path(location))
    return _checkpoint(model, tool, str(source), found, stored=quantization is None and device_map is None)


@contextmanager
def _refusals(source: Any) -> Iterator[None]:
    """What transformers and its helpers raise while loading, as one kind of error that says what to do."""
    try:
        yield
    except (OSError, ValueError, ImportError, KeyError, RuntimeError, AttributeError, TypeError) as error:
        raise ModelError(_not_loadable(source, error)) from error


def _quantization(wanted: str | Any) -> Any:
    if not isinstance(wanted, str):
        return wanted
    if wanted not in ("4bit", "8bit"):
        raise ModelError(f"Unknown quantization {wanted!r}; use '8bit', '4bit' or a configuration of transformers.")
    chosen: dict[str, Any] = {f"load_in_{wanted}": True}
    return BitsAndBytesConfig(**chosen)  # type: ignore[no-untyped-call]


def resolve(source: str | Path) -> str:
    """Returns the folder of an embedded model, or the source itself.

    Raises:
        ModelError: The source looks like a path and is no folder.
    """
    text = str(source)
    if text in EMBEDDED:
        return str(files("xmi") / "data" / "organism" / EMBEDDED[text])
    folder = Path(text).expanduser()
    if folder.is_dir():
        return str(folder)
    if isinstance(source, Path) or text.startswith((".", "/", "~")) or text.count("/") > 1:
        raise ModelError(
            f"No model folder {text!r}. Give an existing folder, a Hub id, or one of: {', '.join(EMBEDDED)}."
        )
    return text


def embedded_name(location: str) -> str | None:
    """Returns the name of the embedded model in a folder that `resolve` gave, if it is one."""
    return next((name for name in EMBEDDED if resolve(name) == location), None)


def _checkpoint(model: torch.nn.Module, tool: Any, name: str, revision: str, *, stored: bool) -> Checkpoint:
    tokenizer = _tokenizer(tool, name)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return Checkpoint(model.eval(), tool if tool is not tokenizer else None, tokenizer, name, revision, stored)


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


def _dtype(dtype: torch.dtype | str, config: Any, place: torch.device) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype != "auto":
        found = getattr(torch, dtype, None)
        if not isinstance(found, torch.dtype):
            raise ModelError(f"Unknown dtype {dtype!r}; use a torch dtype such as float32, bfloat16 or auto.")
        return found
    own = getattr(config, "dtype", None) or getattr(config.get_text_config(), "dtype", None) or torch.float32
    return torch.float32 if place.type == "cpu" else own


def _not_loadable(source: Any, error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    if "trust_remote_code" in text:
        return (
            f"{str(source)!r} comes with code of its own, which runs with your rights. Read it, then pass "
            "trust_remote_code=True (and a fixed revision) if you trust it."
        )
    first = text if isinstance(error, ImportError) else text.splitlines()[0]
    return (
        f"Cannot load {str(source)!r}: {first} Embedded models: {', '.join(EMBEDDED)}. "
        "Check the spelling, that the folder holds config, weights and "
        "processor, and that the Hub can be reached (or the model is in its cache)."
    )


def _check_complete(source: Any, loading: dict[str, Any]) -> None:
    """Refuses a model with weights that the checkpoint does not hold: transformers fills them at random."""
    lacking = sorted(str(name) for kind in ("missing_keys", "mismatched_keys") for name in loading.get(kind, ()))
    if lacking:
        shown = ", ".join(lacking[:4]) + (", ..." if len(lacking) > 4 else "")
        raise ModelError(
            f"{source} lacks {len(lacking)} of its model's weights ({shown}); they would be random. The files are "
            "incomplete, or were saved by another version of transformers: get them again, or install that version."
        )


def _hash_folder(folder: Path) -> str:
    """Identity of a local checkpoint: configuration whole, weights by size and both ends (they may be large)."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.glob("*") if p.suffix in {".json", ".safetensors", ".bin"}):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size};".encode())
        with path.open("rb") as stream:
            digest.update(stream.read(1 << 22))
            if size > 1 << 22:
                stream.seek(-(1 << 20), 2)
                digest.update(stream.read())
    return f"sha256:{digest.hexdigest()[:16]}"


def _hash_state(model: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        known = [] if value.is_meta else value.detach().reshape(-1)[:64].to("cpu", torch.float32).tolist()
        digest.update(f"{name}:{tuple(value.shape)}:{known}".encode())
    return f"sha256:{digest.hexdigest()[:16]}"
