"""Jobs on a host that survive whatever happens between here and there.

A job is a list of calls that run in one session on the host: one request. Its fingerprint is looked up before anything
is sent, so that the same command, run again after a crash, Ctrl-C or a broken connection, picks up what is running or
finished and sends only what never reached the host. Whatever may already have been paid for is sent again only on
request.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from nnsight.schema.response import Status

from xmi.backend import Call
from xmi.backend.steps import Steps, finish
from xmi.errors import JobError, RemoteError
from xmi.remote.expected import SPARE, check, expected, largest, sizes
from xmi.remote.host import Away, Host, Refused
from xmi.remote.identity import fingerprint
from xmi.remote.incoming import ANSWER_SECONDS, Reply, result_bytes, unpack
from xmi.remote.job_store import Attempt, Ledger, now
from xmi.remote.payload import build

EXPIRED = (403, 404, 410)
"""What the address of a result answers when the result is no longer kept."""
AGAIN = "To send it again, and pay for it again, ask for it (resubmit=True, or --resubmit)."
AWAY = 60.0
"""Seconds for which a host may be away (restarting, say) before a job that it never got is given up."""
LINES = 12  # last lines of the host's message that an error shows


class Lost(RemoteError):
    """A job that the host no longer knows, or whose result it no longer keeps."""


class Jobs:
    """Runs jobs on one model of one host, and keeps them in a folder until their results are stored elsewhere.

    Attributes:
        host: The host.
        model_key: The model's key there.
        ledger: The jobs.
    """

    def __init__(
        self,
        host: Host,
        model_key: str,
        envoy: Any,
        folder: str | Path,
        *,
        wait: float = 3600.0,
        tell: Callable[[str], None] | None = None,
        resubmit: bool = False,
    ) -> None:
        """Nothing is sent yet.

        Args:
            host: The host.
            model_key: The model's key there.
            envoy: nnsight model, which may be on the meta device.
            folder: Where the jobs are kept. One process at a time runs jobs there.
            wait: How many seconds to wait for a job at most; the job keeps running, and can be waited for again.
            tell: Gets a line whenever a job is submitted, resumed or finished.
            resubmit: Resend what failed, was lost, or may have reached the host without an answer.
        """
        self.host, self.model_key, self.envoy = host, model_key, envoy
        self.ledger = Ledger(folder)
        self.wait, self.resubmit = wait, resubmit
        self._tell = tell or (lambda line: None)

    def run(self, calls: Sequence[Call], label: str) -> list[Any]:
        """Goes through `steps`, waiting in between."""
        return finish(self.steps(calls, label))

    def steps(self, calls: Sequence[Call], label: str) -> Steps[list[Any]]:
        """Runs calls one after another in one request, or gives what an earlier request for the same ones brought.

        Several may be under way in one thread.

        Args:
            calls: Functions of `xmi.kernels`, and their arguments after the model.
            label: What they are for; errors, messages and the statistics name it.

        Returns:
            What each kernel returned: numbers, strings, tensors on the CPU, and lists, tuples and dicts of them.

        Raises:
            RemoteError: The host cannot be reached or refuses, the job failed, was lost or may have been lost, or has
                not ended within `wait`; the message says which, and what to do.
        """
        name = fingerprint(self.model_key, calls, self.envoy._remoteable_get_env(), label)
        last = self.ledger.last(name)
        if last is not None:
            kept = yield from self._earlier(name, last, calls, label)
            if kept is not None:
                return kept
        job = yield from self._submit(name, calls, label)
        return (yield from self._collect(name, job, calls, label, self.wait))

    def release(self, label: str) -> None:
        """Drops the results under a label, which the caller has stored; what they took stays known."""
        for name in self.ledger.named(label):
            self.ledger.release(name)

    def traffic(self) -> list[tuple[str, int, int, int, float]]:
        """What the jobs took: label, requests, bytes up, bytes down and seconds; see `Ledger.traffic`."""
        return self.ledger.traffic()

    def _earlier(self, name: str, last: Attempt, calls: Sequence[Call], label: str) -> Steps[list[Any] | None]:
        """What an earlier attempt brings, or None if the job is to be sent."""
        doubt: RemoteError | None = None
        match last.state:
            case "sending" | "refused":
                return None
            case "finished":
                return self.ledger.result(name)  # none: it was stored, and is now asked for once more
            case "failed":
                doubt = JobError(_failure(label, last.message))
            case "sent":
                doubt = RemoteError(
                    f"{label}: the job was sent to {last.host} at {last.begun:%Y-%m-%d %H:%M:%S} UTC, and no answer "
                    f"came; whether it ran there is unknown. {AGAIN}"
                )
            case _ if last.host != self.host.url:
                text = f"{label}: job {last.job_id} is at {last.host}, not at {self.host.url}: go on there. {AGAIN}"
                doubt = RemoteError(text)
        if doubt is not None:
            if self.resubmit:
                return None
            raise doubt
        self._tell(f"{label}: resumed job {last.job_id}")
        try:
            patience = self.wait if last.state == "submitted" else 0.0
            return (yield from self._collect(name, str(last.job_id), calls, label, patience))
        except Lost:
            if last.state == "submitted" or not self.resubmit:
                raise
            return None

    def _submit(self, name: str, calls: Sequence[Call], label: str) -> Steps[str]:
        """Sends a job and returns the host's name for it."""
        blob, env = build(self.envoy, calls), self.envoy._remoteable_get_env()
        attempt = Attempt(label=label, host=self.host.url, model_key=self.model_key, begun=now(), up=len(blob))
        begun, waits = time.monotonic(), pauses()
        while True:
            self.ledger.begin(name, attempt)
            try:
                answer = self.host.submit(self.model_key, blob, env=env, on_sent=lambda: self._sent(name))
                break
            except Refused as refusal:
                if refusal.no_job:
                    self.ledger.change(name, state="refused", message=str(refusal))
                    raise RemoteError(f"{label}: {refusal}") from None
                raise RemoteError(f"{label}: {refusal} Whether the job reached the host is unknown. {AGAIN}") from None
            except Away as error:
                last = self.ledger.last(name)
                if last is not None and last.state == "sent":
                    raise RemoteError(
                        f"{label}: the job has left, but no answer came: {error} Whether it runs there is unknown. "
                        f"{AGAIN}"
                    ) from None
                if time.monotonic() - begun >= min(AWAY, self.wait):
                    raise RemoteError(f"{label}: {error} Nothing was run there; run again to send it.") from None
            except RemoteError as error:
                raise RemoteError(f"{label}: {error} Whether the job runs there is unknown. {AGAIN}") from None
            yield next(waits)
        self.ledger.change(name, state="submitted", job_id=answer.id)
        self._tell(f"{label}: submitted as job {answer.id} ({_size(len(blob))} up)")
        if answer.status == Status.ERROR:
            self._fail(name, label, answer)
        return str(answer.id)

    def _sent(self, name: str) -> None:
        self.ledger.change(name, state="sent")

    def _collect(self, name: str, job: str, calls: Sequence[Call], label: str, patience: float) -> Steps[list[Any]]:
        """Waits for a submitted job and fetches its result.

        Args:
            name: The job's fingerprint.
            job: The host's name for it.
            calls: What it runs.
            label: What it is for.
            patience: Seconds for which the host, being there, may know nothing of it.
        """
        begun = heard = time.monotonic()
        waits = pauses()
        while True:
            try:
                answer = self.host.look(job)
                if answer is not None and answer.status == Status.COMPLETED:
                    return self._finish(name, calls, label, answer)
            except Away as error:  # it may come back, and the job with it
                found, heard = str(error), time.monotonic()
            else:
                if answer is None:
                    if time.monotonic() - heard >= patience:
                        self._lose(name, f"{label}: {self.host.url} knows no job {job} (any more). {AGAIN}")
                    found = "The host has no status for it yet."
                else:
                    if answer.status == Status.ERROR:
                        self._fail(name, label, answer)
                    found, heard = f"It is {answer.status.value}.", time.monotonic()
            if time.monotonic() - begun >= self.wait:
                raise RemoteError(
                    f"{label}: job {job} has not ended after {self.wait:g} s of waiting. {found} It is not lost: run "
                    "the same again to keep waiting."
                )
            yield next(waits)

    def _finish(self, name: str, calls: Sequence[Call], label: str, answer: Reply) -> list[Any]:
        try:
            wanted, known = expected(calls), sizes(self.envoy)
            most = largest(list(wanted), known)
            limit = result_bytes() if most is None else most + SPARE
            content = self.host.fetch(str(answer.data), limit, max(self.wait, ANSWER_SECONDS))
            down, results = len(content), unpack(content, limit).get("results")
            del content  # as large as the results
            check(results, list(wanted), known, "results")
            assert isinstance(results, list)  # noqa: S101 (checked)
            self.ledger.keep(name, results)
        except Refused as refusal:
            if refusal.status not in EXPIRED:
                raise RemoteError(f"{label}: {refusal}") from None
            self._lose(name, f"{label}: the job {answer.id} has ended, but {refusal} {AGAIN}")
        except Away:
            raise
        except RemoteError as error:
            raise RemoteError(f"{label}: {self.host.url}: {error}") from None
        done = self.ledger.change(name, state="finished", ended=now(), down=down, meta=answer.meta or {})
        seconds = (now() - done.begun).total_seconds()
        self._tell(f"{label}: finished in {seconds:.1f} s ({_size(done.up)} up, {_size(done.down)} down)")
        return results

    def _fail(self, name: str, label: str, answer: Reply) -> NoReturn:
        self.ledger.change(name, state="failed", ended=now(), message=answer.description, meta=answer.meta or {})
        raise JobError(_failure(label, answer.description))

    def _lose(self, name: str, message: str) -> NoReturn:
        self.ledger.change(name, state="lost", message=message)
        raise Lost(message)


def pauses(first: float = 0.05, factor: float = 1.4, longest: float = 3.0) -> Iterator[float]:
    """Seconds between looks: short jobs end at once, long ones are not asked about all the time."""
    pause = first
    while True:
        yield pause
        pause = min(pause * factor, longest)


def _failure(label: str, message: str) -> str:
    lines = message.strip().splitlines()[-LINES:] or ["(no message)"]
    text = "\n".join(f"  {line}" for line in lines)
    return f"{label}: the host could not run the job:\n{text}\n{AGAIN}"


def _size(count: int) -> str:
    return f"{count / 1000:.1f} kB"
