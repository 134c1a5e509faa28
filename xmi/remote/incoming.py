"""What a host hands over, checked before anything else sees it.

A host is another machine, run by others. Its words are cleaned (the API key is taken out, characters that steer a
terminal are written out), its JSON is plain and bounded, every field that xmi reads has a type and a length, and its
results are tensors and builtins, read from an archive that xmi rewrote. Whatever is not as it should be ends in a
`RemoteError` that names the host and the field.
"""

from __future__ import annotations

import base64
import io
import json
import math
import os
import re
import zipfile
from collections.abc import Callable, Iterator
from typing import Annotated, Any, TypeVar
from urllib.parse import quote

import torch
import zstandard
from nnsight.ndif import CRITICAL_PACKAGES
from nnsight.schema.response import Status
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

from xmi.errors import RemoteError

ANSWER_BYTES = 8 * 2**20
"""The longest answer to a question; results are bounded by what was asked for."""
ANSWER_SECONDS = 120.0
"""Seconds for a question and its whole answer, repetitions included."""
RESULT_BYTES = 4 * 2**30
"""The largest result whose size does not follow from what was asked; `XMI_RESULT_BYTES` sets another."""
DEPTH = 32
"""How deep JSON and results may nest; xmi asks for four levels."""
NODES = 10**6
"""How many values a result may hold whose structure is not known beforehand."""
SAID = 20_000  # characters kept of what a host says of a job; the end of a traceback is what tells
ZSTD = b"\x28\xb5\x2f\xfd"
"""How compressed bytes begin."""

# Texts


def plain(text: str) -> str:
    """A text in which characters that steer a terminal or cannot be written are written out as escapes."""
    return "".join(c if c.isprintable() or c in "\n\t" else _escape(c) for c in text.replace("\r\n", "\n"))


def _escape(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def without(key: str, text: str) -> str:
    """A text without an API key, as it is, or as it stands in an address, a header or a quoted string."""
    if not key:
        return text
    encoded = base64.b64encode(key.encode()).decode()
    for form in dict.fromkeys((key, quote(key, safe=""), repr(key)[1:-1], json.dumps(key)[1:-1], encoded)):
        text = re.sub(re.escape(form), "(API key)", text, flags=re.IGNORECASE)
    return text


# JSON


def parse(content: bytes | str, where: str) -> Any:
    """JSON as the standard has it: UTF-8, one value per name, finite numbers, not deep.

    Args:
        content: What came.
        where: What an error names.

    Raises:
        RemoteError: It is something else.
    """
    try:
        text = content.decode() if isinstance(content, bytes) else content
        found = json.loads(
            text, object_pairs_hook=_once, parse_constant=_finite, parse_float=_finite, parse_int=_integer
        )
        _shallow(found)
        return found
    except RecursionError:
        reason = "it nests too deeply"
    except ValueError as error:  # of JSON and of Unicode, too; the latter's text would quote what came
        reason = "it is not UTF-8" if isinstance(error, UnicodeError) else str(error)
    raise RemoteError(f"{where} cannot be read as JSON: {reason}.")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is not finite")
    return number


def _integer(text: str) -> int:
    if len(text) > 19:
        raise ValueError("an integer is longer than 64 bits")
    return int(text)


def _shallow(value: Any) -> None:
    level = [value]
    for _ in range(DEPTH):
        level = [part for one in level if isinstance(one, (dict, list)) for part in _parts(one)]
        if not level:
            return
    raise ValueError("it nests too deeply")


def _parts(value: Any) -> Iterator[Any]:
    return iter(value.values()) if isinstance(value, dict) else iter(value)


def cleaned(value: Any, clean: Callable[[str], str]) -> Any:
    """Nested JSON with every text, names included, cleaned."""
    if isinstance(value, dict):
        return {clean(key): cleaned(part, clean) for key, part in value.items()}
    if isinstance(value, list):
        return [cleaned(part, clean) for part in value]
    return clean(value) if isinstance(value, str) else value


# Fields

Short = Annotated[str, StringConstraints(max_length=200)]
Key = Annotated[str, StringConstraints(max_length=2000)]
Version = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+!_-]{0,99}$")]
JOB_ID = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,127}$"
"""What becomes part of an address: no dots, slashes or percent signs."""


def _critical(packages: Any) -> Any:
    """The packages whose versions are compared; a broken installation of any other does not get a host refused."""
    if not isinstance(packages, dict):
        return packages
    return {name: version for name, version in packages.items() if name.lower() in CRITICAL_PACKAGES}


def _end(text: Any) -> Any:
    return text[-SAID:] if isinstance(text, str) else text


def _first(text: Any) -> Any:
    return next(iter(text.split()), text) if isinstance(text, str) else text


def _brief(value: Any) -> Any:
    if len(json.dumps(value)) > SAID:
        raise ValueError(f"is longer than {SAID} characters")
    return value


def _dtype(name: str) -> str:
    if not isinstance(getattr(torch, name, None), torch.dtype):
        raise ValueError("is not the name of a dtype")
    return name


class _Answer(BaseModel):
    """What xmi reads of an answer; what else a host says is dropped."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, protected_namespaces=())


class Environment(_Answer):
    """`/env`: the interpreter, and the packages that matter."""

    python_version: Annotated[Version, BeforeValidator(_first)]
    packages: Annotated[dict[Short, Version], BeforeValidator(_critical)]


class Deployment(_Answer):
    """One deployed model."""

    model_key: Key | None = None
    deployment_level: Short | None = None
    application_state: Short | None = None


class Deployments(_Answer):
    """`/status`: what is deployed."""

    deployments: dict[Key, Deployment] | None = None


class Identity(_Answer):
    """`/whoami`: whose key it is."""

    email: Annotated[str, StringConstraints(max_length=320)] | None = None


class Reply(_Answer):
    """The status of a job.

    Attributes:
        id: The host's name for it.
        status: How far it is.
        description: What the host says of it.
        data: Address of the result of a completed job.
        meta: What the host says it took.
    """

    id: Annotated[str, StringConstraints(pattern=JOB_ID)]
    status: Annotated[Status, Field(strict=False)]
    description: Annotated[str, BeforeValidator(_end)] = ""
    data: Annotated[str, StringConstraints(max_length=16_000)] | None = None
    meta: Annotated[dict[str, Any], AfterValidator(_brief)] | None = None


class Facts(_Answer):
    """What `facts_kernel` found in the host's process."""

    dtype: Annotated[str, AfterValidator(_dtype)]
    device: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,30}(:\d{1,4})?$")]
    accelerator: Short
    attention: Short
    torch: Version
    transformers: Version
    finite: bool


M = TypeVar("M", bound=_Answer)


def read(kind: type[M], found: Any, where: str, clean: Callable[[str], str]) -> M:
    """Cleans what a host said and takes from it what xmi reads.

    Args:
        kind: Its fields.
        found: Nested JSON.
        where: What an error names.
        clean: See `Host.clean`.

    Raises:
        RemoteError: A field is missing, or is not what it should be; its content is not shown.
    """
    found = cleaned(found, clean)  # what came is in no frame of a traceback
    if not isinstance(found, dict):
        raise RemoteError(f"{where} does not answer as an NDIF host does. Is the address right?")
    try:
        return kind.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    field = ".".join(str(part)[:80] for part in first["loc"][:4])
    raise RemoteError(f"{where} does not answer as an NDIF host does: {field}: {first['msg']}. Is the address right?")


def checked_id(job_id: Any, where: str) -> str:
    """A job's id, which becomes part of an address.

    Raises:
        RemoteError: It cannot be one.
    """
    if not (isinstance(job_id, str) and re.fullmatch(JOB_ID[1:-1], job_id)):
        raise RemoteError(f"{where}: {plain(repr(job_id))[:80]} cannot be the id of a job.")
    return str(job_id)


# Results


def result_bytes() -> int:
    """The largest result whose size does not follow from what was asked: `XMI_RESULT_BYTES`, or `RESULT_BYTES`.

    Raises:
        RemoteError: The variable does not hold a number of bytes.
    """
    given = os.environ.get("XMI_RESULT_BYTES", "").strip() or str(RESULT_BYTES)
    if not (given.isascii() and given.isdigit() and len(given) < 19):
        raise RemoteError(f"XMI_RESULT_BYTES must be a number of bytes; found {given[:40]!r}.")
    return int(given)


def unpack(content: bytes, limit: int | None = None) -> dict[str, Any]:
    """What a job saved, by name.

    Only tensors and builtins are loaded, never code, and nothing is decompressed beyond the limit.

    Args:
        content: What the host stored, compressed or not.
        limit: Bytes that it may take in memory; by default `RESULT_BYTES`.

    Returns:
        Plain tensors on the CPU, numbers, strings, and lists, tuples and dicts of them.

    Raises:
        RemoteError: They are something else, are cut short, or are larger.
    """
    limit = result_bytes() if limit is None else limit
    try:
        archive, size = _rewritten(_inflated(content, limit) if content[:4] == ZSTD else content, limit)
        saved = torch.load(archive, map_location="cpu", weights_only=True)
        _plain_values(saved, size, limit)
        if not isinstance(saved, dict) or not all(type(name) is str for name in saved):
            raise TypeError("it does not hold values by name")
        return saved
    except Exception as error:  # whatever a library makes of a forged file
        found = next(iter(str(error).strip().splitlines()), type(error).__name__)
    length = len(content)
    del content  # no traceback shows it
    raise RemoteError(f"The host's result ({length} bytes) cannot be read as tensors and numbers: {plain(found)[:500]}")


def _inflated(content: bytes, limit: int) -> bytes:
    with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(content)) as stream:
        parts, size = list[bytes](), 0
        while part := stream.read(2**20):
            size += len(part)
            if size > limit:
                raise ValueError(f"it is larger than {limit / 1e6:.1f} MB, which is more than was asked for")
            parts.append(part)
    return b"".join(parts)


def _rewritten(content: bytes, limit: int) -> tuple[io.BytesIO, int]:
    """The archive that `torch.save` makes, rewritten: what torch reads is what was counted here.

    Its parts are stored as they are. A forged archive may compress them (a bomb), or tell different readers different
    things.
    """
    rewritten, size = io.BytesIO(), 0
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(rewritten, "w", zipfile.ZIP_STORED) as new:
        if len(old.infolist()) > min(NODES, len(set(old.namelist()))):
            raise ValueError("it has too many parts, or two of one name")
        for part in old.infolist():
            size += part.file_size
            if part.compress_type != zipfile.ZIP_STORED or part.file_size != part.compress_size:
                raise ValueError("its parts are compressed, which torch.save never does")
            if size > limit:
                raise ValueError(f"it is larger than {limit / 1e6:.1f} MB, which is more than was asked for")
            new.writestr(zipfile.ZipInfo(part.filename), old.read(part))
    rewritten.seek(0)
    return rewritten, size


def _plain_values(value: Any, size: int, limit: int) -> None:
    """Refuses what is not a plain tensor or builtin, and what stands for more than was sent.

    References let a few bytes stand for very much: a row repeated a million times, lists of the same list.
    """
    budget, level, held, seen = NODES, [value], dict[int, int](), 0
    for _ in range(DEPTH):
        budget -= len(level)
        if budget < 0:
            raise ValueError("it holds too many values")
        inner: list[Any] = []
        for one in level:
            if isinstance(one, torch.Tensor):
                _plain_tensor(one)
                held[one.untyped_storage().data_ptr()] = one.untyped_storage().nbytes()
                seen += one.nbytes
                if seen > limit or sum(held.values()) > size:
                    raise ValueError("its tensors are larger than what was sent")
            elif type(one) is dict and all(type(key) in (str, int) for key in one):
                inner += one.values()
            elif type(one) in (list, tuple):
                inner += one
            elif type(one) is int:
                if abs(one) >= 2**63:
                    raise ValueError("an integer is longer than 64 bits")
            elif one is not None and type(one) not in (bool, float, str):
                raise TypeError(f"a {type(one).__name__} is in it")
        if not inner:
            return
        level = inner
    raise ValueError("it nests too deeply")


def _plain_tensor(tensor: torch.Tensor) -> None:
    if type(tensor) is not torch.Tensor or tensor.layout is not torch.strided or tensor.is_quantized:
        raise TypeError(f"a {type(tensor).__name__} ({tensor.layout}) is in it, which is not a plain tensor")
    if tensor.device.type != "cpu":
        raise TypeError(f"a tensor without numbers ({tensor.device}) is in it")
