"""What a test asks the server to do wrong, and for how long."""

from __future__ import annotations

import threading
import time
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, field_validator


class Reject(BaseModel):
    """Answers the next `times` requests whose path begins with `on` with this status; each takes one away."""

    model_config = ConfigDict(extra="forbid")
    status: Literal[400, 401, 403, 404, 413, 429, 500, 502, 503]
    times: PositiveInt = 1
    detail: str = "Refused on request of the test."
    on: str = "/request"


class Fail(BaseModel):
    """Ends the next `times` jobs in ERROR with this text, unexecuted."""

    model_config = ConfigDict(extra="forbid")
    text: str
    times: PositiveInt = 1


class Faults(BaseModel):
    """Everything that can go wrong; the default is that nothing does.

    Attributes:
        delay: Seconds before each job runs; its status is DISPATCHED meanwhile. Setting other faults ends the wait.
        latency: Seconds that each job waits in the queue, as others' jobs before it would make it; jobs wait together.
        reject: Refused requests; a bare status means once, on `/request`.
        error: Failing jobs; a bare text means once.
        expire: What every result by URL answers instead.
        drop: How many POSTs are accepted, and the connection closed without an answer.
        drop_before: How many POSTs are read and forgotten, the connection closed without an answer.
        drop_reading: How many GETs of a response or result have their connection closed without an answer.
        versions: What `/env` claims of some packages; the key `python` is the interpreter.
    """

    model_config = ConfigDict(extra="forbid")
    delay: float = Field(0.0, ge=0)
    latency: float = Field(0.0, ge=0)
    reject: Reject | None = None
    error: Fail | None = None
    expire: Literal[403, 404] | None = None
    drop: NonNegativeInt = 0
    drop_before: NonNegativeInt = 0
    drop_reading: NonNegativeInt = 0
    versions: dict[str, str] = {}

    @field_validator("reject", mode="before")
    @classmethod
    def _status_alone(cls, given: Any) -> Any:
        return {"status": given} if isinstance(given, int) else given

    @field_validator("error", mode="before")
    @classmethod
    def _text_alone(cls, given: Any) -> Any:
        return {"text": given} if isinstance(given, str) else given


class Switchboard:
    """The faults of the moment, shared by the threads; each fault that has a number of times is spent one by one."""

    def __init__(self) -> None:
        self.now = Faults.model_validate({})
        self._changed = threading.Condition()

    def set(self, faults: Faults) -> None:
        with self._changed:
            self.now = faults
            self._changed.notify_all()

    def wait(self, arrived: float) -> None:
        """Sleeps the delay, and what is left of the latency since a job arrived; other faults cut it short."""
        begun = time.monotonic()
        with self._changed:
            while (left := max(begun + self.now.delay, arrived + self.now.latency) - time.monotonic()) > 0:
                self._changed.wait(left)

    def take_drop(self, kind: Literal["drop", "drop_before", "drop_reading"]) -> bool:
        with self._changed:
            left: int = getattr(self.now, kind)
            setattr(self.now, kind, max(left - 1, 0))
            return left > 0

    def take_reject(self, path: str) -> Reject | None:
        with self._changed:
            fault = self.now.reject
            if fault is None or not path.startswith(fault.on):
                return None
            self.now.reject = _less(fault)
            return fault

    def take_error(self) -> str | None:
        with self._changed:
            fault = self.now.error
            if fault is None:
                return None
            self.now.error = _less(fault)
            return fault.text


_Counted = TypeVar("_Counted", Reject, Fail)


def _less(fault: _Counted) -> _Counted | None:
    return fault.model_copy(update={"times": fault.times - 1}) if fault.times > 1 else None
