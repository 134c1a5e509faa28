"""Models whose weights are in this process."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from xmi.arguments import outside
from xmi.backend.base import Backend, Kept, Look, Ran, Rows, Slots, nnsights_own, refuse_nnsights_own
from xmi.backend.generation import generate
from xmi.backend.rows import run_rows
from xmi.backend.shelf import cached_forward
from xmi.errors import ModelError
from xmi.kernels import next_token_kernel
from xmi.model.attention import attention
from xmi.model.check import CheckReport, Inputs, Probes, check_model
from xmi.model.check_cache import remembered
from xmi.model.engine import CRASHES, Engine, first_line
from xmi.model.envoy import Alone, wrap
from xmi.model.guard import no_hooks
from xmi.model.hook_points import Point
from xmi.model.load import Checkpoint

T = TypeVar("T")


class LocalBackend(Backend):
    """This process."""

    needs_weights = True

    @classmethod
    def check_options(
        cls, source: str | Path | torch.nn.Module, remote: bool | str, revision: str | None, given: Mapping[str, Any]
    ) -> None:
        """Nothing: loading itself refuses what it cannot do."""

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
    ) -> LocalBackend:
        """The backend; there is nothing to choose."""
        return cls()

    def envoy(self, engine: Engine) -> Any:
        """The nnsight model around the checkpoint."""
        return wrap(engine.checkpoint)

    def dtype(self, engine: Engine) -> torch.dtype:
        """The precision the model computes in (the weights of a quantised model are stored in another)."""
        model: Any = engine.model
        found: torch.dtype = model.dtype
        return found

    def device(self, engine: Engine) -> str:
        """The kind of device that inputs go to."""
        return str(engine.device.type)

    def takes_positions(self, engine: Engine) -> bool:
        """As two forwards of a few tokens show; without weights it is assumed."""
        if not engine.dispatched:
            return True
        model, inputs = engine.model, engine.probe()[0]
        positions = torch.arange(inputs["input_ids"].shape[1], device=engine.device)[None]
        try:
            with engine.alone(), no_hooks(), torch.no_grad():
                one, two = (model(**inputs, **p, use_cache=False).logits for p in ({}, {"position_ids": positions}))
        except CRASHES:  # it needs an image
            return False
        return torch.equal(one, two)

    def examine(self, engine: Engine, look: Look, *, again: bool) -> CheckReport:
        """The whole self-check, or what an earlier one of the same files under the same versions found."""

        def check() -> CheckReport:
            pictures, why = look()
            probes = Probes(engine.probe(), pictures, why)
            try:
                with no_hooks():
                    return check_model(engine.model, engine.backbone, probes)
            except CRASHES as error:
                raise ModelError(
                    f"{engine.checkpoint.name}: the self-check could not run the model ({type(error).__name__}: "
                    f"{first_line(error)}). Does a plain forward run? check=False postpones the check."
                ) from error

        return remembered(engine.checkpoint, check, again=again)

    def map(self, engine: Engine, kernel: Callable[..., T], arguments: Iterable[tuple[Any, ...]]) -> list[T]:
        """Runs a kernel on one set of arguments after the other."""
        return [self._run(engine, kernel, given) for given in arguments]

    def _run(self, engine: Engine, kernel: Callable[..., T], given: tuple[Any, ...]) -> T:
        with engine.alone():
            envoy = engine.envoy_of_logits if kernel is next_token_kernel else engine.envoy
            return engine.numbers(kernel(envoy, *given), given)

    def place(self, engine: Engine, inputs: Inputs) -> Inputs:
        """The batch on the model's device and in its precision."""
        dtype, device = self.dtype(engine), engine.device
        return {
            name: value.to(device, dtype) if value.is_floating_point() else value.to(device)
            for name, value in inputs.items()
        }

    @contextmanager
    def hold(self, engine: Engine) -> Iterator[None]:
        """Other threads wait."""
        engine.require_no_hooks()
        with engine.alone():
            yield

    @contextmanager
    def masked(self, engine: Engine) -> Iterator[None]:
        """In place of FlashAttention and its like, which know causal masks only, sdpa."""
        used = engine.attention
        if used in ("sdpa", "eager"):
            yield
            return
        if "attention" not in engine.ways:
            engine.ways["attention"] = "sdpa"
            warnings.warn(
                f"Packed runs need a mask, which {used} does not take: sweeps run with sdpa.", stacklevel=outside()
            )
        with attention(engine.model, engine.backbone, "sdpa"):
            yield

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
        """A plain forward with hooks."""
        return cached_forward(engine, inputs, points, slots, device=device, grad=grad)

    def generate(self, engine: Engine, inputs: Inputs, options: dict[str, Any]) -> Any:
        """The model's own `generate`."""
        return generate(engine, inputs, options)

    def rows(self, engine: Engine, inputs: Inputs, patched: Rows) -> Ran:
        """A plain forward, or the model's own `generate`, with hooks."""
        return run_rows(engine, inputs, patched)

    def sent(self, options: dict[str, Any], *, trust_host: bool) -> dict[str, Any]:
        """The options as they are; `remote=` needs trust."""
        if not trust_host and options.get("remote") not in (None, False, "local"):
            refuse_nnsights_own(nnsights_own(options))
        return options

    def trace(self, engine: Engine, arguments: dict[str, Any]) -> Any:
        """A trace that runs alone."""
        envoy = engine.envoy
        if arguments.get("remote"):  # the tracer travels; who runs it guards it
            return envoy.trace(**arguments)
        if arguments.get("trace", True):
            return envoy.trace(**{"tracer_cls": partial(Alone, engine), **arguments})
        with engine.alone():
            return envoy.trace(**arguments)
