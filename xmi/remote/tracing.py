"""A user's own trace on a host, whose results are loaded as every other result of a host is: data, never code.

nnsight's backend un-pickles what comes back, so that whoever runs the host could run code here. This one sends the same
request and reads the answer by `incoming`.
"""

from __future__ import annotations

import time
from typing import Any

from nnsight import save
from nnsight.ndif import pull_env
from nnsight.schema.config import CONFIG
from nnsight.schema.request import RequestModel
from nnsight.schema.response import Status
from nnsight.tracing.backend import Backend
from nnsight.tracing.util import push

from xmi.errors import JobError, RemoteError
from xmi.remote.host import Away, Host
from xmi.remote.incoming import ANSWER_SECONDS, unpack
from xmi.remote.jobs import pauses


class SafeBackend(Backend):  # type: ignore[misc]
    """Runs a trace on a host (nnsight 0.8.1: `trace(..., backend=...)`) and loads what it saved without un-pickling."""

    def __init__(self, host: Host, model_key: str, env: dict[str, Any], wait: float) -> None:
        """Nothing is sent yet.

        Args:
            host: The host.
            model_key: The model's key there.
            env: What nnsight has the host apply to the model beforehand.
            wait: Seconds to wait for the trace at most.
        """
        self.host, self.model_key, self.env, self.wait = host, model_key, env, wait

    def __call__(self, tracer: Any = None) -> dict[str, Any]:
        """Sends a trace, waits, and puts what it saved under its names in the caller's block.

        Raises:
            JobError: The trace failed on the host.
            RemoteError: The host cannot be reached or refuses, the trace takes too long, or holds something else than
                tensors and builtins.
        """
        pull_env()  # as nnsight does: local modules travel as source
        blob = RequestModel.serialize(tracer, CONFIG.API.COMPRESS)
        job = self.host.submit(self.model_key, blob, env=self.env, on_sent=lambda: None).id
        content = self.host.fetch(self._address(job), seconds=max(self.wait, ANSWER_SECONDS))
        try:
            saved = unpack(content)
        except RemoteError as error:
            found = str(error)
        else:
            for value in saved.values():
                save(value)
            push(tracer.info.frame, saved)
            return saved
        raise RemoteError(
            f"{self.host.url}: {found} A trace may save tensors, numbers, strings, and lists, tuples and dicts of them "
            "(`model.output.logits.save()`, not `model.output.save()`). Anything else can only be un-pickled, which "
            "lets the host run code on this machine: if you trust it, say `vlm.trace(..., trust_host=True)`."
        )

    def _address(self, job: str) -> str:
        """Waits for a job and returns where its result is."""
        begun, waits = time.monotonic(), pauses()
        while True:
            try:
                answer = self.host.look(job)
            except Away as error:  # it may come back, and the job with it
                found = str(error)
            else:
                if answer is not None and answer.status == Status.COMPLETED:
                    return str(answer.data)
                if answer is not None and answer.status == Status.ERROR:
                    raise JobError(f"{self.host.url} could not run the trace:\n{answer.description.strip()}")
                found = "It has no status yet." if answer is None else f"It is {answer.status.value}."
            if time.monotonic() - begun >= self.wait:
                raise RemoteError(
                    f"{self.host.url}: the trace (job {job}) has not ended after {self.wait:g} s of waiting. {found}"
                )
            time.sleep(next(waits))
