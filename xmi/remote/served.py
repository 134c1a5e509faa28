"""A model on a host, as an engine uses it: label, folder and facts around its jobs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from threading import RLock, local
from typing import Any

from nnsight.modeling.huggingface import _ID_CACHE
from nnsight.schema.config import CONFIG

from xmi.errors import RemoteError
from xmi.model import Call
from xmi.model.load import embedded_name
from xmi.remote.host import Host
from xmi.remote.identity import model_key
from xmi.remote.jobs import Jobs
from xmi.remote.preflight import Preflight, preflight
from xmi.remote.tracing import SafeBackend
from xmi.storage import cache_home

Say = Callable[[str], None]


class Served:
    """One model of one host.

    Attributes:
        host: The host.
        key: The model's key there.
        jobs: Its jobs.
    """

    def __init__(self, remote: str | bool, envoy: Any, *, wait: float = 3600.0, resubmit: bool = False) -> None:
        """Nothing is sent yet.

        Args:
            remote: The host's address; True for the one that nnsight is configured for.
            envoy: nnsight model, on the meta device.
            wait: Seconds to wait for one job at most.
            resubmit: Send anew what failed, was lost, or may have reached the host without an answer.

        Raises:
            RemoteError: No address, or a model that a host cannot know.
        """
        self.host = Host(str(CONFIG.API.HOST) if remote is True else str(remote))
        if name := embedded_name(str(envoy.repo_id)):
            _ID_CACHE[envoy.repo_id] = f"xmi/{name}"  # the Hub does not know it
        self.key = model_key(envoy)
        self.envoy, self._wait, self._resubmit = envoy, wait, resubmit
        self._about, self._keeping, self._one = local(), False, RLock()
        name = hashlib.sha256(f"{self.host.url} {self.key}".encode()).hexdigest()[:16]
        self.jobs = self._in(cache_home() / "remote" / name)

    def _in(self, folder: Path, tell: Say | None = None) -> Jobs:
        return Jobs(self.host, self.key, self.envoy, folder, wait=self._wait, tell=tell, resubmit=self._resubmit)

    def preflight(self, *, smoke: bool = True) -> Preflight:
        """Looks whether the host can run this model's jobs; raises nothing.

        Args:
            smoke: Run a forward of one token there.
        """
        return preflight(self.host, self.key, self.envoy if smoke else None, wait=self._wait)

    def backend(self) -> SafeBackend:
        """What runs a raw nnsight trace of this model there, and reads its results safely."""
        return SafeBackend(self.host, self.key, self.envoy._remoteable_get_env(), self._wait)

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What the host's process says of itself and of the model: versions, dtype, device.

        Raises:
            RemoteError: The host cannot run this model's jobs; it says why.
        """
        found = self.preflight()
        if not found.ok:
            listing = "\n".join(f"  {line}" for line in found.lines())
            raise RemoteError(f"{self.host.url} cannot run jobs of this model:\n{listing}")
        return dict(found.facts)

    @property
    def said(self) -> dict[str, Any]:
        """The host's address, the model's key there, and `facts`: for a study's provenance."""
        return {"host": self.host.url, "model_key": self.key, **self.facts}

    def run(self, calls: Sequence[Call]) -> list[Any]:
        """Runs kernels in one request.

        Args:
            calls: Kernels with their arguments after the model.

        Returns:
            What each gave.

        Raises:
            RemoteError: As in `Jobs.run`.
        """
        label = self._label or " + ".join(dict.fromkeys(kernel.__name__.removesuffix("_kernel") for kernel, _ in calls))
        with self._one:  # jobs stand in files by their label: threads that ask the same ask one after the other
            results = self.jobs.run(calls, label)
            if not self._keeping:
                self.jobs.release(label)
            return results

    @contextmanager
    def about(self, label: str) -> Iterator[None]:
        """Names what the requests inside are for; errors and statistics show it."""
        before, self._about.label = self._label, label
        try:
            yield
        finally:
            self._about.label = before

    @property
    def _label(self) -> str:
        """What this thread's requests are for."""
        return str(getattr(self._about, "label", ""))

    @contextmanager
    def kept_in(self, folder: Path, tell: Say) -> Iterator[None]:
        """Keeps jobs and their results in a folder, until `jobs.release` says that they are stored elsewhere."""
        before = self.jobs, self._keeping
        self.jobs, self._keeping = self._in(folder, tell), True
        try:
            yield
        finally:
            self.jobs, self._keeping = before
