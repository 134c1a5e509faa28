"""Runs the jobs, one at a time in the order of their arrival, as the real server's model actors do."""

from __future__ import annotations

import contextlib
import io
import linecache
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import torch
from nnsight.schema.request import RequestModel
from nnsight.schema.response import ResponseModel, Status
from nnsight.tracing.globals import BLOCKS, SOURCES
from nnsight.tracing.tracer import _saves, dec, inc

from serving.faults import Switchboard
from serving.ledger import Job, Ledger
from serving.models import Models
from serving.websocket import Sockets

TRACEBACK = 4000  # characters of a traceback's end that a client is told


class Worker:
    """What runs the jobs and tells how they go.

    Args:
        ledger: The jobs.
        models: What they run on.
        faults: What goes wrong.
        sockets: Who listens.
        url: The server's own, for results that are fetched.
        inline_limit: Bytes up to which a listening client gets its result with the last status.
    """

    def __init__(
        self, ledger: Ledger, models: Models, faults: Switchboard, sockets: Sockets, url: str, inline_limit: int
    ) -> None:
        self.ledger, self.models, self.faults, self.sockets = ledger, models, faults, sockets
        self.url, self.inline_limit = url, inline_limit

    def forever(self) -> None:
        while True:
            self.run(self.ledger.waiting.get())

    def tell(self, job: Job, status: Status, text: str, **more: Any) -> None:
        """Sends a status to the client that listens; what can be asked for later (logs cannot) is written down."""
        response = ResponseModel(id=job.id, status=status, description=text, **more)
        inline = isinstance(response.data, bytes)
        if status is not Status.LOG:
            self.ledger.answer(job, response.model_copy(update={"data": None}) if inline else response)
        if session := job.request.session_id:
            self.sockets.send(session, response.pickle() if inline else response.model_dump_json())

    def run(self, job: Job) -> None:
        """Runs one job to its end, COMPLETED or ERROR."""
        self.tell(job, Status.DISPATCHED, "Your job has been sent to the model.")
        self.faults.wait(job.arrived)
        begun = time.perf_counter()

        def meta() -> dict[str, float]:
            return {"runtime": round(time.perf_counter() - begun, 4), "max_memory_usage": 0}

        if text := self.faults.take_error():
            return self.tell(job, Status.ERROR, text, meta=meta())
        self.ledger.begin(job)
        self.tell(job, Status.RUNNING, "Your job has started running.")
        try:
            with contextlib.redirect_stdout(_Lines(lambda line: self.tell(job, Status.LOG, line))):
                saved = execute(self.models[job.request.model_key], job.request, self.ledger.payload(job))
            result = pack(saved, compress=job.request.compress)
        except Exception:
            return self.tell(job, Status.ERROR, traceback.format_exc()[-TRACEBACK:], meta=meta())
        inline = bool(job.request.session_id) and len(result) <= self.inline_limit
        self.ledger.keep_result(job, result, fetchable=not inline)
        data = result if inline else f"{self.url}/result/{job.id}"
        self.tell(job, Status.COMPLETED, "Your job has been completed.", data=data, meta=meta())


def execute(model: Any, request: RequestModel, payload: bytes) -> dict[str, Any]:
    """Runs a payload against a model and returns what its block saved, by name."""
    with _caches_kept():
        model._remoteable_set_env(request.env)
        tracer = RequestModel.deserialize(payload, model._remoteable_persistent_objects(), compress=request.compress)
        inc()
        try:
            tracer.execute(tracer.info.code)
            marked = _saves()
            return {name: value for name, value in tracer.info.frame.f_locals.items() if id(value) in marked}
        finally:
            dec()


def pack(saved: dict[str, Any], *, compress: bool) -> bytes:
    """The bytes of a result, as nnsight's client unpacks them."""
    buffer = io.BytesIO()
    torch.save(saved, buffer)
    if not compress:
        return buffer.getvalue()
    import zstandard

    return zstandard.ZstdCompressor(level=3).compress(buffer.getvalue())


@contextlib.contextmanager
def _caches_kept() -> Iterator[None]:
    """Sources that a job brings are forgotten with it: another client's file may have the same name and other lines."""
    caches: tuple[dict[Any, Any], ...] = (linecache.cache, SOURCES, BLOCKS)
    before = [dict(cache) for cache in caches]
    try:
        yield
    finally:
        for cache, old in zip(caches, before, strict=True):
            cache.clear()
            cache.update(old)


class _Lines(io.TextIOBase):
    """A stream that hands on whole lines: what a job prints reaches its client."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell, self._begun = tell, ""

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self._tell(line)
        return len(text)
