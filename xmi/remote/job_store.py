"""The jobs of a folder on disk: what was sent, what became of it, and results that nobody has stored elsewhere yet.

One JSON file per job, named by its fingerprint, and beside it the result as safetensors. Every change is on disk before
the next step is taken, so that a process that dies anywhere leaves behind what the next one has to know.
"""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import AwareDatetime, BaseModel, ConfigDict

from xmi.errors import RemoteError
from xmi.remote.pytree import join, split
from xmi.storage import pack_tensors, read_tensors, reading, write_file

State = Literal["sending", "refused", "sent", "submitted", "lost", "failed", "finished"]
"""How far a job has come.

- `sending`: not all of it has left, so there is no job; it is simply sent.
- `refused`: the host said no; there is no job either.
- `sent`: it has left and no answer came: there may be a job without a known id.
- `submitted`: the host gave it an id.
- `lost`: the host no longer knows the id, or no longer keeps the result.
- `failed`: the host says that it ended in an error.
- `finished`: its result was fetched.
"""


class Attempt(BaseModel):
    """One sending of a job.

    Attributes:
        label: What the job is for: a cell of a study.
        host: Address of the host.
        model_key: The model's key.
        state: How far it has come.
        begun: When it was sent.
        ended: When its end was known here.
        job_id: The host's name for it.
        up: Bytes of the payload.
        down: Bytes of the result.
        message: What the host said of its failure.
        meta: What the host says it took (`runtime` in seconds, and so on).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())
    label: str
    host: str
    model_key: str
    state: State = "sending"
    begun: AwareDatetime
    ended: AwareDatetime | None = None
    job_id: str | None = None
    up: int
    down: int = 0
    message: str = ""
    meta: dict[str, Any] = {}


class Record(BaseModel):
    """A job: its attempts in order; all but the last were given up and sent again on request."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    format: Literal[1] = 1
    fingerprint: str
    attempts: tuple[Attempt, ...] = ()


class Ledger:
    """The jobs of one folder.

    Attributes:
        folder: Where they are.
    """

    def __init__(self, folder: str | Path) -> None:
        """Points at a folder, which is made when the first job is written."""
        self.folder = Path(folder)

    def last(self, fingerprint: str) -> Attempt | None:
        """Returns a job's last attempt, or None if it was never sent.

        Raises:
            RemoteError: Its file cannot be read.
        """
        attempts = self._read(fingerprint).attempts
        return attempts[-1] if attempts else None

    def begin(self, fingerprint: str, attempt: Attempt) -> None:
        """Writes down that a job is about to be sent; attempts that never became a job are forgotten.

        Raises:
            RemoteError: It cannot be written.
        """
        record = self._read(fingerprint)
        real = tuple(one for one in record.attempts if one.state not in ("sending", "refused"))
        self._write(record.model_copy(update={"attempts": (*real, attempt)}))

    def change(self, fingerprint: str, **changes: Any) -> Attempt:
        """Writes down what became of a job's last attempt, and returns it.

        Raises:
            RemoteError: It cannot be written.
        """
        record = self._read(fingerprint)
        changed = record.attempts[-1].model_copy(update=changes)
        self._write(record.model_copy(update={"attempts": (*record.attempts[:-1], changed)}))
        return changed

    def keep(self, fingerprint: str, results: list[Any]) -> None:
        """Stores a job's results.

        Raises:
            RemoteError: They hold something else than builtins and tensors, or cannot be written.
        """
        tensors: list[torch.Tensor] = []
        shape = split(results, tensors, "result")
        named = {str(place): tensor for place, tensor in enumerate(tensors)}
        _put(self._results(fingerprint), pack_tensors(named, {"shape": json.dumps(shape)}))

    def result(self, fingerprint: str) -> list[Any] | None:
        """Returns a job's stored results, or None if there are none (any more).

        Raises:
            RemoteError: Their file cannot be read.
        """
        path = self._results(fingerprint)
        if not path.is_file():
            return None
        with _reading(path):
            tensors, texts = read_tensors(path)
            results: list[Any] = join(json.loads(texts["shape"]), [tensors[str(i)] for i in range(len(tensors))])
        return results

    def release(self, fingerprint: str) -> None:
        """Drops a job's results, which the caller has stored elsewhere; what it took stays known."""
        self._results(fingerprint).unlink(missing_ok=True)

    def named(self, label: str) -> list[str]:
        """Returns the fingerprints of the jobs whose last attempt has a label."""
        return [record.fingerprint for record in self._all() if record.attempts and record.attempts[-1].label == label]

    def traffic(self) -> list[tuple[str, int, int, int, float]]:
        """What the jobs took, by label in the order of their first sending.

        Returns:
            For each label: requests that may have become jobs, bytes up, bytes down, and seconds from sending to the
            end as seen here, summed over jobs that have ended.
        """
        attempts = [one for record in self._all() for one in record.attempts]
        found: dict[str, tuple[int, int, int, float]] = {}
        for one in sorted(attempts, key=lambda one: one.begun):
            if one.state in ("sending", "refused"):
                continue
            requests, up, down, seconds = found.get(one.label, (0, 0, 0, 0.0))
            took = (one.ended - one.begun).total_seconds() if one.ended else 0.0
            found[one.label] = (requests + 1, up + one.up, down + one.down, seconds + took)
        return [(label, *sums) for label, sums in found.items()]

    def _all(self) -> list[Record]:
        return [self._read(path.stem) for path in sorted(self.folder.glob("*.json"))]

    def _read(self, fingerprint: str) -> Record:
        path = self.folder / f"{fingerprint}.json"
        if not path.is_file():
            return Record(fingerprint=fingerprint)
        with _reading(path):
            return Record.model_validate_json(path.read_bytes())

    def _write(self, record: Record) -> None:
        content = record.model_dump_json(indent=1).encode()
        _put(self.folder / f"{record.fingerprint}.json", content)

    def _results(self, fingerprint: str) -> Path:
        return self.folder / f"{fingerprint}.safetensors"


def now() -> datetime:
    """The time, as the ledger keeps it."""
    return datetime.now(UTC)


def _reading(path: Path) -> AbstractContextManager[None]:
    return reading(path, "job", error=RemoteError, advice="Delete it, and its job is sent again.")


def _put(path: Path, content: bytes) -> None:
    write_file(path, content, error=RemoteError, advice="Jobs that were sent are kept; free room and run again.")
