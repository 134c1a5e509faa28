"""A model on an NDIF host: kernels are jobs there, with a label and a folder around them."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from nnsight.modeling.huggingface import _ID_CACHE
from nnsight.schema.config import CONFIG

from xmi.arguments import outside
from xmi.backend import portions as sizes
from xmi.backend.base import Backend, Kept, Look, Need, Ran, Rows, Slots, nnsights_own, refuse_nnsights_own
from xmi.backend.gather import request, together
from xmi.backend.portions import cut_prompts, picture_bytes
from xmi.errors import HookError, ModelError, PromptError, RemoteError, XmiError
from xmi.kernels import cache_kernel, generate_kernel, rows_kernel
from xmi.model.adapter import find_adapter
from xmi.model.backbone import Backbone
from xmi.model.check import CheckReport, Inputs
from xmi.model.engine import Engine
from xmi.model.envoy import wrap
from xmi.model.hook_points import Point
from xmi.model.load import Checkpoint, embedded_name
from xmi.model.source import hub_options, resolve
from xmi.remote.host import Host
from xmi.remote.identity import model_key
from xmi.remote.jobs import Jobs
from xmi.remote.preflight import Preflight, preflight
from xmi.remote.requests import Requests, about
from xmi.remote.requests import apart as on_the_spot
from xmi.remote.self_check import check_hosted, prove
from xmi.remote.tracing import SafeBackend
from xmi.storage import cache_home

T = TypeVar("T")
Say = Callable[[str], None]

TRAVELS = (int, float, str, bool, list, tuple, dict, type(None), torch.Tensor)
"""What an option may be for a host: everything else is code."""

REFUSALS: dict[Need, tuple[type[XmiError], str]] = {
    "hooks": (
        HookError,
        "Hook functions run where the model does, and a host runs no code of yours but in a trace: write with "
        "vlm.trace(...), or load the model here.",
    ),
    "gradients": (
        ModelError,
        "Gradients stay where the model is: load it here, or take them in vlm.trace(...).",
    ),
    "training": (
        ModelError,
        "{name} is on a host, and a lens is trained through the model's own unembedding: train "
        "it on a machine that has the weights, save it, and read with lens=TunedLens.load(...) here. A study there can "
        "have lens: logit.",
    ),
    "untrained": (
        ModelError,
        "An untrained model has weights that no host serves: leave it out, or load the model here.",
    ),
    "pickling": (
        RemoteError,
        "A trace on a host takes along every name in its block, and this model object cannot travel. Take what "
        "you read before the block: `resid = vlm.resid_post`, then `with vlm.trace(...): x = resid[3].save()`.",
    ),
}
"""What a host does not do, and what to do instead."""

VERSIONS = ("nnsight", "torch", "transformers", "python", "accelerator")
"""Of a host's facts, those that numbers depend on besides dtype and device."""


class RemoteBackend(Backend):
    """One model of one NDIF host.

    Attributes:
        host: The host.
        key: The model's key there.
        requests: What is asked of it.
        in_flight: How many jobs are under way at the same time at most.
    """

    needs_weights = False
    keeps_requests = True

    def __init__(
        self, remote: str | bool, envoy: Any, *, wait: float = 3600.0, resubmit: bool = False, in_flight: int = 4
    ) -> None:
        """Nothing is sent yet.

        Args:
            remote: The host's address; True for the one that nnsight is configured for.
            envoy: nnsight model, on the meta device.
            wait: Seconds to wait for one job at most.
            resubmit: Resend what failed, was lost, or may have reached the host without an answer.
            in_flight: How many jobs are under way at the same time at most.

        Raises:
            RemoteError: No address, or a model that a host cannot know.
        """
        self.host = Host(str(CONFIG.API.HOST) if remote is True else str(remote))
        if name := embedded_name(str(envoy.repo_id)):
            _ID_CACHE[envoy.repo_id] = f"xmi/{name}"  # the Hub does not know it
        self.key = model_key(envoy)
        self._envoy, self._wait, self._resubmit = envoy, wait, resubmit
        self.in_flight = in_flight
        self._told = False
        self._proofs: dict[Backbone, dict[str, float]] = {}
        name = hashlib.sha256(f"{self.host.url} {self.key}".encode()).hexdigest()[:16]
        self.requests = Requests(self._in, cache_home() / "remote" / name, in_flight)

    @classmethod
    def check_options(
        cls, source: str | Path | torch.nn.Module, remote: bool | str, revision: str | None, given: Mapping[str, Any]
    ) -> None:
        """Refuses options that a host decides, modules and adapters."""
        if decided := [name for name, value in given.items() if value is not None]:
            raise ModelError(f"{', '.join(decided)}: the host ({remote=}) decides that. Leave it out.")
        if isinstance(source, torch.nn.Module):
            raise ModelError(f"A module is here already; a host ({remote=}) knows models by their Hub id.")
        location = resolve(source)
        if find_adapter(location, {"revision": revision, **hub_options(location, revision)}) is not None:
            raise ModelError(f"{source} is an adapter; a host ({remote=}) serves whole models. Merge it into its base.")

    @classmethod
    def open(
        cls,
        remote: bool | str,
        checkpoint: Checkpoint,
        *,
        revision: str | None,
        wait: float,
        resubmit: bool,
        in_flight: int,
        check: bool,
    ) -> RemoteBackend:
        """The model on the host; with `check`, the host is looked at before anything is paid for."""
        envoy = wrap(checkpoint)
        envoy.revision = revision
        backend = cls(remote, envoy, wait=wait, resubmit=resubmit, in_flight=in_flight)
        if check:
            _ = backend.facts  # host, key, model and versions
        return backend

    @classmethod
    def title(cls, remote: bool | str) -> str:
        """The host's address."""
        return "the host that nnsight is configured for" if remote is True else Host(str(remote)).url

    def _in(self, folder: Path, tell: Say | None) -> Jobs:
        return Jobs(self.host, self.key, self._envoy, folder, wait=self._wait, tell=tell, resubmit=self._resubmit)

    def preflight(self, *, smoke: bool = True) -> Preflight:
        """Looks whether the host can run this model's jobs; raises nothing.

        Args:
            smoke: Run a forward of one token there.
        """
        return preflight(self.host, self.key, self._envoy if smoke else None, wait=self._wait)

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

    # The model there

    def envoy(self, engine: Engine) -> Any:
        """The nnsight model without weights."""
        return self._envoy

    def dtype(self, engine: Engine) -> torch.dtype:
        """The precision the host's model computes in."""
        named: torch.dtype = getattr(torch, str(self.facts["dtype"]))
        return named

    def device(self, engine: Engine) -> str:
        """The kind of device that the host says the model is on."""
        return str(self.facts.get("device", "unknown")).partition(":")[0]

    def takes_positions(self, engine: Engine) -> bool:
        """As the host proved it."""
        return bool(self.proof(engine)["positions"])

    def proof(self, engine: Engine) -> dict[str, float]:
        """What the host proved of the model on two texts; see `proof_kernel`. Asked for once."""
        with engine.guard:
            if engine.backbone not in self._proofs:
                self._proofs[engine.backbone] = prove(engine)
            return self._proofs[engine.backbone]

    def examine(self, engine: Engine, look: Look, *, again: bool) -> CheckReport:
        """What can be proven from here; not remembered, since a host may serve another build tomorrow."""
        pictures, why = look()
        return check_hosted(engine, self.proof(engine), pictures, (why,) if why else ())

    # What runs there

    def map(self, engine: Engine, kernel: Callable[..., T], arguments: Iterable[tuple[Any, ...]]) -> list[T]:
        """Runs a kernel on all sets of arguments in one request, which is shared by what runs together."""
        found = request(self.requests.now(), [(kernel, given) for given in arguments])
        # Activations of whole prompts may hold anything at padding; who asks for them looks at the rest.
        return found if kernel is cache_kernel else [engine.numbers(one, ()) for one in found]

    def together(self, tasks: Iterable[Callable[[], T]], *, apart: bool = False) -> list[T]:
        """Runs functions that share requests."""
        with on_the_spot() if apart else nullcontext():
            return together(tasks, apart=apart)

    def portions(self, images: Sequence[Sequence[object]], inputs: Inputs) -> list[int]:
        """As many prompts in a batch as make about a megabyte."""
        each = picture_bytes(inputs, sum(map(len, images)))
        most = max(len(set(map(str, shown))) for shown in images) * each
        if most > sizes.ROOM and not self._told:
            self._told = True
            warnings.warn(
                f"{self.key}: the images of one prompt take about {most / 1e6:.1f} MB, and a prompt goes whole: "
                "requests to the host are as large.",
                stacklevel=outside(),
            )
        return cut_prompts(images, each)

    def ahead(self, task: Callable[[], T]) -> T | None:
        """Nothing: a request of its own would cost more."""
        return None

    def place(self, engine: Engine, inputs: Inputs) -> Inputs:
        """The inputs as they are; kernels place them."""
        return inputs

    def hold(self, engine: Engine) -> AbstractContextManager[None]:
        """Nothing: each request stands for itself, and threads need not wait for one another's."""
        return nullcontext()

    def masked(self, engine: Engine) -> AbstractContextManager[None]:
        """Nothing: the attention there is the host's."""
        return nullcontext()

    def cache(
        self,
        engine: Engine,
        inputs: Inputs,
        points: Mapping[str, Point],
        slots: Slots | None,
        *,
        device: str | torch.device | None,
        grad: bool,
    ) -> Kept:
        """A job; what it brings is on the CPU."""
        places = [[point.module, point.side] for point in points.values()]
        [(logits, values)] = self.map(engine, cache_kernel, [(inputs, places, slots)])
        kept = {n: value.to(device) if device is not None else value for n, value in zip(points, values, strict=True)}
        return Kept(logits, kept, str(self.facts.get("attention", "")))

    def generate(self, engine: Engine, inputs: Inputs, options: dict[str, Any]) -> Any:
        """A job; options are plain values."""
        if code := [name for name, value in options.items() if not isinstance(value, TRAVELS)]:
            raise PromptError(f"{', '.join(code)}: objects do not travel to a host, which runs no code of yours.")
        [made] = self.map(engine, generate_kernel, [(inputs, options)])
        return made

    def rows(self, engine: Engine, inputs: Inputs, patched: Rows) -> Ran:
        """A job."""
        [found] = self.map(engine, rows_kernel, [(inputs, engine.paths, *patched)])
        return found

    def sent(self, options: dict[str, Any], *, trust_host: bool) -> dict[str, Any]:
        """The options, and by what the trace travels: without it nnsight would load the weights here."""
        own = nnsights_own(options)
        if trust_host:
            return {"remote": self.host.url, **options}
        if own:
            refuse_nnsights_own(own)
        return {**options, "backend": SafeBackend(self.host, self.key, self._envoy._remoteable_get_env(), self._wait)}

    def trace(self, engine: Engine, arguments: dict[str, Any]) -> Any:
        """A trace that travels; who runs it guards it."""
        return engine.envoy.trace(**arguments)

    @classmethod
    def require(cls, need: Need, name: str) -> None:
        """Refuses what a host does not do; see `REFUSALS`."""
        error, text = REFUSALS[need]
        raise error(text.replace("{name}", name))

    # What is known and kept of it

    def lines(self) -> list[str]:
        """The host and its facts."""
        facts = ", ".join(f"{name} {value}" for name, value in self.facts.items() if value)
        return [f"runs on {self.host.url} ({facts})"]

    @property
    def provenance(self) -> dict[str, Any]:
        """The host's address, the model's key there, and `facts`."""
        return {"host": self.host.url, "model_key": self.key, **self.facts}

    @property
    def versions(self) -> dict[str, str]:
        """The host's versions, and its accelerator."""
        return {f"host's {name}": str(value) for name, value in self.provenance.items() if name in VERSIONS}

    def about(self, label: str) -> AbstractContextManager[None]:
        """Names what the requests inside are for; errors and statistics show it."""
        return about(label)

    def kept_in(self, folder: Path, tell: Say) -> AbstractContextManager[None]:
        """Keeps jobs and their results in a folder, until they are released."""
        return self.requests.kept_in(folder, tell)

    def release(self, label: str) -> None:
        """Drops what was kept under a label."""
        self.requests.release(label)
