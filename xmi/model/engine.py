"""A checked model, ready to be traced."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import torch

from xmi.errors import HookError, ModelError, PromptError
from xmi.model.backbone import Backbone, find_backbone
from xmi.model.check import CheckReport, Inputs, text_probe
from xmi.model.context_length import context_length
from xmi.model.finite import ADVICE, holds_nan, overflow
from xmi.model.guard import Guard, guard_of, once, open_blocks
from xmi.model.load import Checkpoint
from xmi.shown import Shown

if TYPE_CHECKING:
    from xmi.backend import Backend

T = TypeVar("T")

CRASHES = (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, NotImplementedError)
"""What a model's own code raises when it is given something it cannot compute."""

TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}
"""Allowed difference in log-probability (nats) between two ways to compute the same; half precision and quantised
models get 0.3."""


def first_line(error: Exception) -> str:
    """What an error says, cut to its first line."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@dataclass
class Learned:
    """What is learned of a model by running it: the one part of an engine that changes.

    Attributes:
        ways: How each kind of sweep is done: the fastest way that was seen to equal plain runs.
        budget: How many bytes the copies of one packed forward may take; None before the first sweep.
    """

    ways: dict[str, str] = field(default_factory=dict)
    budget: int | None = None


@dataclass(frozen=True)
class Engine(Shown):
    """A checkpoint with its backbone and its nnsight envoy.

    Attributes:
        checkpoint: Model, processor and identity.
        backbone: Where its language backbone is.
        backend: Where it computes.
        learned: What running it has shown.
    """

    checkpoint: Checkpoint
    backbone: Backbone
    backend: Backend
    learned: Learned = field(default_factory=Learned, init=False, repr=False, compare=False)

    @classmethod
    def start(cls, checkpoint: Checkpoint, backend: Backend) -> Engine:
        """Finds the backbone.

        Raises:
            ModelError: The backbone cannot be found.
        """
        return cls(checkpoint, find_backbone(checkpoint.model), backend)

    @property
    def model(self) -> torch.nn.Module:
        """The Hugging Face model."""
        return self.checkpoint.model

    @property
    def dispatched(self) -> bool:
        """Whether the weights are there (not on the meta device)."""
        return self.device.type != "meta"

    @property
    def computes(self) -> bool:
        """Whether it can compute: the weights are there, or need not be."""
        return self.dispatched or not self.backend.needs_weights

    def examine(self, image: Callable[[], tuple[Inputs, Inputs]] | None, *, again: bool = False) -> CheckReport:
        """The self-check, or what an earlier one of the same files under the same versions found.

        Args:
            image: Makes two encodings of one prompt, with a picture and with a blank one; None for a text-only model.
            again: Check again in any case.

        Raises:
            ModelError: The check fails, or the weights are not there.
        """

        def look() -> tuple[tuple[Inputs, Inputs] | None, str]:
            try:
                return (image() if image is not None else None), ""
            except PromptError as error:
                return None, str(error)
            except CRASHES as error:
                raise ModelError(
                    f"{self.checkpoint.name}: its processor cannot encode an image ({type(error).__name__}: "
                    f"{first_line(error)}). Are its configuration files complete?"
                ) from error

        self.require_weights()
        with self.alone():
            return self.backend.examine(self, look, again=again)

    @cached_property
    def guard(self) -> Guard:
        """The guard of the model, by its blocks: wrappers around one model share it."""
        return guard_of(self.model.get_submodule(self.backbone.layers))

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Lets no other thread run the model, or change how it runs, meanwhile.

        Raises:
            HookError: A hook function, or the block of a trace, runs the model that is in the middle of calling it.
        """
        with self.guard:
            if (inside := self.guard.inside) is not None:
                raise HookError(
                    f"{self.checkpoint.name} is in the middle of a forward, which runs {inside.what}: the same model "
                    "cannot be run there. Compute what you need before, and use the result."
                )
            yield

    def __reduce__(self) -> NoReturn:
        """Refuses to be pickled or copied.

        Raises:
            ModelError: Always.
        """
        raise ModelError(self.stays)

    @property
    def stays(self) -> str:
        """Why a loaded model is neither pickled nor copied."""
        return (
            f"{self.checkpoint.name} is loaded in this process, and a loaded model is neither pickled nor copied: its "
            "hooks and traces belong to these very modules. Load it where it is needed (xmi.load in the other process, "
            "once, not per call) and pass on what it takes and gives: prompts, task vectors and results can be pickled."
        )

    def require_weights(self) -> None:
        """Refuses to compute with a model whose weights were never loaded, and are on no host either.

        Raises:
            ModelError: The model is on the meta device.
        """
        if not self.computes:
            raise ModelError(
                f"{self.checkpoint.name} was loaded without its weights (device='meta'): it can be inspected and "
                "prompts can be encoded, but nothing can be computed. Load it on a real device."
            )

    def probe(self) -> tuple[Inputs, Inputs]:
        """Two text inputs of ordinary words that differ in the last token."""
        return text_probe(self.model, self.backbone, self._usable())

    def _usable(self) -> list[int]:
        """Ids of ordinary words: no special tokens, no image placeholders."""
        tokenizer = self.checkpoint.tokenizer
        avoid = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
        config = self.model.config.get_text_config()  # type: ignore[operator,union-attr]
        vocabulary = min(len(tokenizer), int(config.vocab_size))
        return [i for i in range(vocabulary) if i not in avoid] or list(range(vocabulary))

    @property
    def ways(self) -> dict[str, str]:
        """How each kind of sweep is done on this model: the fastest way that was seen to equal plain runs."""
        return self.learned.ways

    @property
    def budget(self) -> int:
        """How many bytes the copies of one packed forward may take; less when memory turns out to hold less.

        On CUDA half of the memory that is free when the first sweep begins, elsewhere 1 GiB.
        """
        if self.learned.budget is None:
            cuda = self.device.type == "cuda"
            self.learned.budget = max(2**26, torch.cuda.mem_get_info(self.device)[0] // 2) if cuda else 2**30
        return self.learned.budget

    @property
    def dtype(self) -> torch.dtype:
        """The precision the model computes in (the weights of a quantised model are stored in another)."""
        return self.backend.dtype(self)

    @property
    def exact(self) -> bool:
        """Whether equal inputs give equal numbers; quantised products depend on what else is in the batch."""
        return not getattr(self.model, "is_quantized", False)

    @property
    def tolerance(self) -> float:
        """Difference in log-probability (nats) that rounding explains between two ways to compute the same."""
        return TOLERANCE.get(self.dtype, 0.3) if self.exact else 0.3

    @property
    def attention(self) -> str:
        """The language backbone's attention implementation."""
        config: Any = self.model.get_submodule(self.backbone.decoder).config
        return str(config._attn_implementation)

    @property
    def envoy(self) -> Any:
        """The nnsight model around the checkpoint.

        Raises:
            HookError: Hooks are active: a trace reads a module's output before hooks on it have run.
        """
        self.require_no_hooks()
        return self._envoy

    @property
    def envoy_of_logits(self) -> Any:
        """The same, for what reads nothing but logits: steering acts on all that they are made of.

        Raises:
            HookError: Hooks other than those of `steer` are active.
        """
        self.require_no_hooks(logits=True)
        return self._envoy

    def require_no_hooks(self, *, logits: bool = False) -> None:
        """Refuses what hooks would change in part only.

        Args:
            logits: Nothing but logits is read, so that steering is allowed.

        Raises:
            HookError: Hooks on the model are active in this context.
        """
        if active := [block for block in open_blocks(self.guard) if not (logits and block.steers)]:
            steered = all(block.steers for block in active)
            verb, fine = ("steer", ", generate or answers") if steered else ("hooks", " or generate")
            raise HookError(
                "This runs in an nnsight trace, which reads a module's output before hooks on it have run, so it "
                f"cannot be mixed with vlm.{verb}(...). Use run_with_cache{fine} inside the "
                "block, or write in vlm.trace(...)."
            )

    def trace(self, **arguments: Any) -> Any:
        """Opens a raw nnsight trace; other threads wait while it runs.

        Raises:
            HookError: Hooks on the model are active in this context.
        """
        return self.backend.trace(self, arguments)

    @once
    def _envoy(self) -> Any:
        return self.backend.envoy(self)

    @cached_property
    def paths(self) -> dict[str, Any]:
        """The backbone as builtins, as kernels take it."""
        b = self.backbone
        return {
            "decoder": b.decoder,
            "layers": b.layers,
            "norm": b.norm,
            "head": b.head,
            "n_layers": b.n_layers,
        }

    @property
    def device(self) -> torch.device:
        """Where inputs go; `meta` if the weights are not here."""
        return next(self.checkpoint.model.get_submodule(self.backbone.embed).parameters()).device

    @cached_property
    def max_length(self) -> int | None:
        """Longest sequence the model takes, or None if its configuration does not say."""
        config: Any = self.checkpoint.model.config
        return context_length(config.get_text_config())

    @property
    def vocabulary(self) -> int:
        """How many tokens the model has an embedding for."""
        return int(self.model.config.get_text_config().vocab_size)  # type: ignore[operator,union-attr]

    @once
    def wants_positions(self) -> bool:
        """Whether position ids should be given with padded batches, counted from each row's first real token.

        Models with multimodal rotary positions compute their own (`get_rope_index`) from the attention mask; others
        count otherwise (Kosmos-2 from 2 on), which two forwards of a few tokens show.
        """
        model = self.model
        own = any(hasattr(m, "get_rope_index") for m in (model, getattr(model, "model", None)))
        if own or "position_ids" not in self.arguments:
            return False
        return self.backend.takes_positions(self)

    @cached_property
    def arguments(self) -> frozenset[str]:
        """Names of the arguments that the model's forward declares."""
        return frozenset(inspect.signature(self.checkpoint.model.forward).parameters)

    def map(self, kernel: Callable[..., T], arguments: Iterable[tuple[Any, ...]]) -> list[T]:
        """Runs a kernel, once for each of several sets of arguments after the model.

        Args:
            kernel: A function of `xmi.kernels`.
            arguments: What it is given; made one by one as it runs, so that one batch at a time is in memory.

        Returns:
            What it gave.

        Raises:
            ModelError: It gave NaN; the error says where in the model that begins.
        """
        return self.backend.map(self, kernel, arguments)

    def numbers(self, found: T, given: tuple[Any, ...]) -> T:
        """What a kernel, or a forward, gave: an argmax over NaN would look like an answer.

        Args:
            found: Tensors, maybe nested.
            given: What it was given, the forward's arguments first.

        Raises:
            ModelError: There is NaN; it says in which block of the plain model that begins.
        """
        if holds_nan(found):
            said = self.overflow(given[0]) if given and isinstance(given[0], Mapping) else ""
            said = said or f"the numbers are NaN, though not in a plain forward of these prompts. {ADVICE}"
            raise ModelError(f"{self.checkpoint.name}: {said}")
        return found

    def overflow(self, inputs: Mapping[str, Any]) -> str:
        """Says in which block the residual stream of a forward stops being finite, if it does; see `overflow`."""
        kept: dict[int, torch.Tensor] = {}

        def keep(layer: int) -> Callable[..., None]:
            return lambda _module, _args, output: kept.update({layer: output[0] if type(output) is tuple else output})

        with self.alone(), torch.no_grad(), ExitStack() as stack:
            for layer, block in enumerate(self.model.get_submodule(self.backbone.layers).children()):
                stack.callback(block.register_forward_hook(keep(layer)).remove)
            self.model(**inputs)
        mask = inputs.get("attention_mask")
        return overflow(kept, mask.bool() if isinstance(mask, torch.Tensor) and mask.dim() == 2 else None)

    def together(self, tasks: Iterable[Callable[[], T]], *, apart: bool = False) -> list[T]:
        """Does several things that do not need one another's results; on a host they share requests.

        Args:
            tasks: Functions that call `map`.
            apart: Share no request with others, so that what fails is theirs alone.

        Returns:
            What they return.
        """
        return self.backend.together(tasks, apart=apart)

    def place(self, inputs: Inputs) -> Inputs:
        """An encoded batch on the model's device and in its precision; on a host, kernels see to that."""
        return self.backend.place(self, inputs)

    def forward(self, inputs: Inputs, keep: int = 1) -> dict[str, Any]:
        """An encoded batch as arguments of one forward that keeps the logits of the last `keep` tokens.

        Raises:
            ModelError: The model's weights were never loaded.
        """
        self.require_weights()
        extra = {"logits_to_keep": keep} if self.backbone.keeps_logits else {}
        return {**self.place(inputs), "use_cache": False, **extra}

    def reading(self, inputs: Inputs, columns: torch.Tensor) -> tuple[dict[str, Any], torch.Tensor]:
        """Arguments of a forward that reads one column per row, and the columns counted from the end.

        Some models (Gemma 4) drop tokens of which no logits are kept, so logits are kept from the earliest column on.
        """
        back = columns - inputs["input_ids"].shape[1]
        return self.forward(inputs, keep=-int(back.min())), back
