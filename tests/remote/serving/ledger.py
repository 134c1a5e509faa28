"""What the server has been asked and has answered: jobs, payloads and results, in memory or in a folder."""

from __future__ import annotations

import hashlib
import queue
import threading
import time
import uuid
from collections import UserDict
from pathlib import Path

from nnsight.schema.request import RequestModel
from nnsight.schema.response import ResponseModel, Status
from pydantic import BaseModel, Field


class Job(BaseModel):
    """One accepted request.

    Attributes:
        id: The server's name for it.
        number: Its place in the order of arrival.
        request: The envelope: model key, session, compression, environment. The API key is no part of it.
        sha256: Hash of the payload.
        payload_bytes: Size of the payload as it came.
        result_bytes: Size of the result as it goes; None until there is one.
        runs: How many times it was begun; more than one only where the server was killed while it ran.
        response: The last status.
        arrived: When it came, by this process' clock.
    """

    id: str
    number: int
    request: RequestModel
    sha256: str
    payload_bytes: int
    result_bytes: int | None = None
    runs: int = 0
    response: ResponseModel
    arrived: float = Field(default_factory=time.monotonic, exclude=True)

    @property
    def finished(self) -> bool:
        return self.response.status in (Status.COMPLETED, Status.ERROR)


class Shelf(UserDict[str, bytes]):
    """Named bytes, in memory and, where there is a folder, in files that outlive the process."""

    def __init__(self, folder: Path | None) -> None:
        super().__init__()
        self.folder = folder
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self.data |= {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".part"}

    def __setitem__(self, name: str, content: bytes) -> None:
        if self.folder is not None:
            part = self.folder / f"{name}.part"
            part.write_bytes(content)
            part.replace(self.folder / name)  # a kill leaves the old state or the new one
        super().__setitem__(name, content)


class Ledger:
    """The jobs in their order. Those that a killed server left unfinished wait again when it comes back."""

    def __init__(self, folder: Path | None) -> None:
        self._shelf = Shelf(folder)
        self._lock = threading.Lock()
        kept = [Job.model_validate_json(self._shelf[name]) for name in self._shelf if name.endswith(".json")]
        self.jobs = {job.id: job for job in sorted(kept, key=lambda job: job.number)}
        self.waiting: queue.Queue[Job] = queue.Queue()
        for job in self.jobs.values():
            if not job.finished:
                self.waiting.put(job)

    def accept(self, request: RequestModel, payload: bytes) -> Job:
        """Keeps a request before anybody hears of it; it does not wait to be run yet."""
        name = uuid.uuid4().hex
        first = ResponseModel(
            id=name,
            status=Status.RECEIVED,
            description="Your job has been received and is waiting to be queued.",
        )
        digest = hashlib.sha256(payload).hexdigest()
        with self._lock:
            self._shelf[f"{name}.request"] = payload
            number = len(self.jobs)
            job = Job(
                id=name, number=number, request=request, sha256=digest, payload_bytes=len(payload), response=first
            )
            self.jobs[name] = job
            self._save(job)
        return job

    def payload(self, job: Job) -> bytes:
        return self._shelf[f"{job.id}.request"]

    def begin(self, job: Job) -> None:
        with self._lock:
            job.runs += 1
            self._save(job)

    def answer(self, job: Job, response: ResponseModel) -> None:
        with self._lock:
            job.response = response
            self._save(job)

    def keep_result(self, job: Job, result: bytes, *, fetchable: bool) -> None:
        with self._lock:
            job.result_bytes = len(result)
            if fetchable:
                self._shelf[f"{job.id}.result"] = result
            self._save(job)

    def result(self, name: str) -> bytes | None:
        return self._shelf.get(f"{name}.result")

    def _save(self, job: Job) -> None:
        self._shelf[f"{job.id}.json"] = job.model_dump_json().encode()
