"""What a place where models compute has to do: everything that differs between this process and another."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, NoReturn, TypeVar

import torch
from jaxtyping import Float, Int

from xmi.errors import RemoteError
from xmi.model.check import CheckReport, Inputs
from xmi.model.hook_points import Point
from xmi.model.load import Checkpoint

if TYPE_CHECKING:
    from xmi.model.engine import Engine

T = TypeVar("T")

Need = Literal["hooks", "gradients", "training", "pickling", "untrained"]
"""What some places cannot do; see `Backend.require`."""
Look = Callable[[], tuple[tuple[Inputs, Inputs] | None, str]]
"""Encodes one prompt with a picture and with a blank one (None for a text-only model), or says why it could not."""
Slots = Int[torch.Tensor, "row slot"]
"""Columns of slots, counted from the end."""

ON_HOST = ("device", "dtype", "device_map", "quantization", "attn_implementation")
"""Options of `xmi.load` that a place decides which has the weights itself."""
_NNSIGHTS_OWN = ("remote", "blocking", "backend", "job_id", "verbose")


class Kept(NamedTuple):
    """What a forward gave that keeps activations.

    Attributes:
        logits: Of the slots, or of all positions.
        values: Activations by hook name, cut to the slots; a hook that did not run has none.
        attention: The implementation of attention that was used.
    """

    logits: Float[torch.Tensor, "batch position vocab"]
    values: dict[str, torch.Tensor]
    attention: str


class Rows(NamedTuple):
    """Patched runs of one prompt, each a row, as `rows_kernel` takes them.

    Attributes:
        vectors: What to write.
        layers: After which blocks.
        entries: The set and the place in `layers` that each row is patched with; nothing for a clean run.
        back: The slot's column in each row, counted from the end.
        targets: The answer's first token in each row.
        mode: As in `Patch`.
        strength: As in `Patch`.
        new: How many tokens to continue.
    """

    vectors: Float[torch.Tensor, "set layer d_model"]
    layers: list[int]
    entries: list[list[int]]
    back: Int[torch.Tensor, " row"]
    targets: Int[torch.Tensor, " row"]
    mode: str
    strength: float
    new: int


Ran = tuple[
    Int[torch.Tensor, "row new"], Float[torch.Tensor, " row"], Int[torch.Tensor, " row"], Float[torch.Tensor, "row new"]
]
"""What patched runs gave: the tokens, log-probability (nats) and rank of the first target token, and log-probability of
each token."""


class Backend(ABC):
    """A place where a model computes.

    Most methods are given the engine, whose model they run. Those that are not abstract do what is right where nothing
    is asked of anyone else.

    Attributes:
        needs_weights: Whether the weights must be loaded in this process.
        keeps_requests: Whether what was asked is kept by its content, so that another process picks it up: it must not
            depend then on what this one asked before.
        in_flight: How many requests can be under way at the same time.
    """

    needs_weights: ClassVar[bool]
    keeps_requests: ClassVar[bool] = False
    in_flight: int = 1

    # How it is chosen

    @classmethod
    @abstractmethod
    def check_options(
        cls, source: str | Path | torch.nn.Module, remote: bool | str, revision: str | None, given: Mapping[str, Any]
    ) -> None:
        """Refuses what cannot be loaded there; nothing was loaded yet.

        Args:
            source: What is to be loaded.
            remote: Where.
            revision: The Hub revision.
            given: The options `ON_HOST` of `xmi.load`, None where they are not given.

        Raises:
            ModelError: It cannot; the error says why.
        """

    @classmethod
    @abstractmethod
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
    ) -> Backend:
        """The backend of one model.

        Args:
            remote: Where.
            checkpoint: The model, with weights if they are needed.
            revision: The Hub revision.
            wait: Seconds to wait for one request at most.
            resubmit: Ask again, and pay again, for what failed or was lost.
            in_flight: How many requests are under way at the same time at most.
            check: Look first whether the place can run the model.

        Raises:
            RemoteError: The place cannot be reached, or cannot run the model.
        """

    @classmethod
    def title(cls, remote: bool | str) -> str:
        """What a dry run calls the place; nothing is asked of it.

        Args:
            remote: Where.

        Raises:
            RemoteError: It is not an address of such a place.
        """
        return "this process"

    # The model there

    @abstractmethod
    def envoy(self, engine: Engine) -> Any:
        """The nnsight model that kernels are given; made once."""

    @abstractmethod
    def dtype(self, engine: Engine) -> torch.dtype:
        """The precision that the model computes in."""

    @abstractmethod
    def device(self, engine: Engine) -> str:
        """The kind of device that the model is on."""

    @abstractmethod
    def takes_positions(self, engine: Engine) -> bool:
        """Whether a forward that is given position ids, counted from 0, gives what one without them gives."""

    @abstractmethod
    def examine(self, engine: Engine, look: Look, *, again: bool) -> CheckReport:
        """The self-check.

        Args:
            engine: The model, which runs alone.
            look: Encodes the image prompts; called only if there is something to check.
            again: Check again even if what an earlier check found is known.

        Raises:
            ModelError: The check fails.
        """

    # What runs

    @abstractmethod
    def map(self, engine: Engine, kernel: Callable[..., T], arguments: Iterable[tuple[Any, ...]]) -> list[T]:
        """Runs a kernel on several sets of arguments; see `Engine.map`."""

    def together(self, tasks: Iterable[Callable[[], T]], *, apart: bool = False) -> list[T]:
        """Runs functions that do not need one another's results; see `Engine.together`."""
        return [task() for task in tasks]

    def ahead(self, task: Callable[[], T]) -> T | None:
        """What a function returns, or None if it had better run together with others."""
        return task()

    def portions(self, images: Sequence[Sequence[object]], inputs: Inputs) -> list[int]:
        """How prompts that were encoded together are given to the model: how many in each batch.

        Args:
            images: The pictures of every prompt.
            inputs: All of them, encoded.
        """
        return [len(images)]

    @abstractmethod
    def place(self, engine: Engine, inputs: Inputs) -> Inputs:
        """An encoded batch where, and in the precision that, the model takes it."""

    @abstractmethod
    def hold(self, engine: Engine) -> AbstractContextManager[None]:
        """Runs several kernels without anything in between that would change what they give.

        Raises:
            HookError: Hooks on the model are active.
        """

    @abstractmethod
    def masked(self, engine: Engine) -> AbstractContextManager[None]:
        """Attention that takes a mask."""

    @abstractmethod
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
        """One forward that keeps activations.

        Args:
            engine: The model.
            inputs: What its forward takes.
            points: The hooks by name.
            slots: What is kept; None for all positions.
            device: Where activations are kept; None for where they arise.
            grad: Record gradients.
        """

    @abstractmethod
    def generate(self, engine: Engine, inputs: Inputs, options: dict[str, Any]) -> Any:
        """What the model's own `generate` returns.

        Args:
            engine: The model.
            inputs: The prompts.
            options: Everything else.

        Raises:
            PromptError: Options that cannot be had there, or do not go together.
        """

    @abstractmethod
    def rows(self, engine: Engine, inputs: Inputs, patched: Rows) -> Ran:
        """Patched runs, each a row."""

    @abstractmethod
    def sent(self, options: dict[str, Any], *, trust_host: bool) -> dict[str, Any]:
        """The options that a raw trace is opened with; see `VLM.trace`.

        Raises:
            RemoteError: nnsight's own way to a host is asked for, which is not trusted.
        """

    @abstractmethod
    def trace(self, engine: Engine, arguments: dict[str, Any]) -> Any:
        """Opens a raw nnsight trace."""

    @classmethod
    def require(cls, need: Need, name: str) -> None:
        """Refuses what cannot be done there; every refusal of a place stands in its `require`.

        Args:
            need: `hooks` or the model's own modules, `gradients`, `training` through the model, `pickling`,
                `untrained` weights.
            name: The model's name.

        Raises:
            XmiError: It cannot; the error says what can be done instead.
        """
        return None

    # What is known and kept of it

    def lines(self) -> list[str]:
        """What `VLM.describe` says of the place."""
        return []

    @property
    def provenance(self) -> dict[str, Any]:
        """What a study stores of the place; nothing of this process, of which it stores more."""
        return {}

    @property
    def versions(self) -> dict[str, str]:
        """Versions there that a study's numbers depend on besides those here."""
        return {}

    def about(self, label: str) -> AbstractContextManager[None]:
        """Names what the requests inside are for."""
        return nullcontext()

    def kept_in(self, folder: Path, tell: Callable[[str], None]) -> AbstractContextManager[None]:
        """Keeps requests and their results in a folder until they are released."""
        return nullcontext()

    def release(self, label: str) -> None:
        """Drops the results under a label, which are stored elsewhere."""
        return None


def nnsights_own(options: Mapping[str, Any]) -> list[str]:
    """Options by which nnsight sends a trace to a host itself."""
    return [name for name in _NNSIGHTS_OWN if name in options]


def refuse_nnsights_own(names: Sequence[str]) -> NoReturn:
    """Refuses nnsight's own way to a host.

    Raises:
        RemoteError: Always.
    """
    raise RemoteError(
        f"{', '.join(names)}: nnsight's own way to a host un-pickles what comes back, so that whoever runs the "
        "host can run code on this machine. Leave it out (load the model with remote=...; what is saved then "
        "comes back as data), or say trust_host=True."
    )
