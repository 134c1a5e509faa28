"""A checked model, ready to be traced."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from threading import get_ident
from types import CodeType
from typing import Any, NoReturn, Protocol, TypeVar
from weakref import WeakSet

import torch
from nnsight import TransformersModel
from nnsight.intervention.interleaver import Interleaver
from nnsight.intervention.tracer import InterleavingTracer
from nnsight.modeling.tp import TPFragments

from xmi.errors import HookError, ModelError, PromptError
from xmi.kernels import cache_kernel
from xmi.model.backbone import Backbone, find_backbone
from xmi.model.check import CheckReport, Inputs, Probes, check_model, text_probe
from xmi.model.check_cache import remembered
from xmi.model.finite import ADVICE, holds_nan, overflow
from xmi.model.gather import Call, request, together
from xmi.model.guard import LOADING, Guard, Inside, guard_of, no_hooks, once, open_blocks
from xmi.model.hosted import check_hosted, prove
from xmi.model.load import Checkpoint

T = TypeVar("T")

CRASHES = (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, NotImplementedError)
"""What a model's own code raises when it is given something it cannot compute."""


def first_line(error: Exception) -> str:
    """What an error says, cut to its first line."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def context_length(config: Any) -> int | None:
    """The longest sequence that a text configuration allows, or None if it does not say.

    That is `max_position_embeddings`, under whichever name (`n_positions`, `max_seq_len`). Rotary positions may be
    stretched beyond it: YaRN and dynamic scaling are set up by the length trained on and a factor. A sliding window
    limits what a token sees, not how many there are.
    """
    names = ("max_position_embeddings", "n_positions", "max_seq_len")
    given = next((found for name in names if (found := getattr(config, name, None))), None)
    if not isinstance(given, int) or given < 1:
        return None
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = [rope, *rope.values()] if isinstance(rope, Mapping) else []  # one for each type of layer, or for all
    reach = []
    for kind in (k for k in kinds if isinstance(k, Mapping) and (k.get("rope_type") or k.get("type"))):
        if (kind.get("rope_type") or kind.get("type")) in ("yarn", "dynamic") and (factor := kind.get("factor")):
            reach.append(max(given, int(float(factor) * (kind.get("original_max_position_embeddings") or given))))
        else:
            reach.append(given)
    return min(reach, default=given)


class Host(Protocol):
    """Where kernels run, if not in this process."""

    envoy: Any
    """The nnsight model, without weights."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the host says of itself: `dtype` of the model, versions, ..."""

    def run(self, calls: Sequence[Call]) -> list[Any]:
        """Runs kernels, given with their arguments after the model, in one request."""

    def about(self, label: str) -> AbstractContextManager[None]:
        """Names what the requests inside are for."""


def wrap(tool: Checkpoint) -> Any:
    """The nnsight model around a checkpoint, with its weights or without."""
    model: Any = tool.model
    # nnsight 0.8.1 makes a pipeline around a module, which moves it to a device; without weights that fails, so it is
    # given the id and makes a module of its own. It must be handed the processor: by itself it looks for one in a way
    # that fails under transformers 5.23 ("Impossible to guess which processor to use").
    bare = next(model.parameters()).is_meta
    source = model.name_or_path if bare else model
    given: dict[str, Any] = {"tokenizer": tool.tokenizer, "task": "text-generation"}
    if tool.processor is not None:
        given = {"processor": tool.processor, "task": "image-text-to-text"}
    if not bare:  # one for a host travels with every job, and nothing of xmi's is there
        given["interleaver"] = _OwnThread(fragments=TPFragments())
    with LOADING:
        envoy = TransformersModel(source, **given)
    if bare:
        _BARE.add(envoy)
    return envoy


class _OwnThread(Interleaver):  # type: ignore[misc]
    """An interleaver of traces that sees the forwards of the tracing thread alone.

    nnsight's flag is one for all threads: the model, called by another one meanwhile, would serve its activations to
    the trace.
    """

    _tracing: int | None = None

    @property
    def interleaving(self) -> bool:
        """Whether this thread runs a trace."""
        return self._tracing is not None and self._tracing == get_ident()

    @interleaving.setter
    def interleaving(self, runs: bool) -> None:
        self._tracing = get_ident() if runs else None


_BARE: WeakSet[Any] = WeakSet()
"""nnsight models that must stay without weights."""
_dispatch = TransformersModel.dispatch


def _refuse_weights(envoy: Any) -> None:
    """Stands before nnsight 0.8.1's `dispatch`, by which a trace that is sent nowhere loads the weights unasked.

    On the class, because what stands on an instance would travel to a host with every job.
    """
    if envoy in _BARE:
        raise ModelError(
            f"{envoy.repo_id} was loaded without its weights, and this would load them here. Trace with "
            "vlm.trace(...), which runs on the host, or load the model here (without remote= and device='meta')."
        )
    _dispatch(envoy)


TransformersModel.dispatch = _refuse_weights


@dataclass(frozen=True)
class Engine:
    """A checkpoint with its backbone and its nnsight envoy.

    Attributes:
        checkpoint: Model, processor and identity.
        backbone: Where its language backbone is.
        host: Where kernels run, if not here; the checkpoint has no weights then.
    """

    checkpoint: Checkpoint
    backbone: Backbone
    host: Host | None = None

    @classmethod
    def start(cls, checkpoint: Checkpoint, host: Host | None = None) -> Engine:
        """Finds the backbone.

        Raises:
            ModelError: The backbone cannot be found.
        """
        return cls(checkpoint, find_backbone(checkpoint.model), host)

    @property
    def model(self) -> torch.nn.Module:
        """The Hugging Face model."""
        return self.checkpoint.model

    @property
    def dispatched(self) -> bool:
        """Whether the weights are there (not on the meta device)."""
        return self.device.type != "meta"

    def examine(self, image: Callable[[], tuple[Inputs, Inputs]] | None, *, again: bool = False) -> CheckReport:
        """The self-check, or what an earlier one of the same files under the same versions found.

        Args:
            image: Makes two encodings of one prompt, with a picture and with a blank one; None for a text-only model.
            again: Check anew in any case.

        Raises:
            ModelError: The check fails, or the weights are not there.
        """

        def check() -> CheckReport:
            pictures, why = None, ""
            try:
                pictures = image() if image is not None else None
            except PromptError as error:
                why = str(error)
            except CRASHES as error:
                raise ModelError(
                    f"{self.checkpoint.name}: its processor cannot encode an image ({type(error).__name__}: "
                    f"{first_line(error)}). Are its configuration files complete?"
                ) from error
            if self.host is not None:
                return check_hosted(self, pictures, (why,) if why else ())
            probes = Probes(text_probe(self.model, self.backbone, self._usable()), pictures, why)
            try:
                with no_hooks():
                    return check_model(self.model, self.backbone, probes)
            except CRASHES as error:
                raise ModelError(
                    f"{self.checkpoint.name}: the self-check could not run the model ({type(error).__name__}: "
                    f"{first_line(error)}). Does a plain forward run? check=False puts the check off."
                ) from error

        self.require_weights()
        with self.alone():
            # A host may serve another build tomorrow: what it proved is not remembered.
            return check() if self.host is not None else remembered(self.checkpoint, check, again=again)

    @cached_property
    def guard(self) -> Guard:
        """The guard of the model, by its blocks: wrappers around one model share it."""
        return guard_of(self.model.get_submodule(self.backbone.layers))

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Lets no other thread run the model, or change how it runs, meanwhile.

        Raises:
            HookError: A hook function, or the block of a trace, runs the model that is in the midst of calling it.
        """
        with self.guard:
            if (inside := self.guard.inside) is not None:
                raise HookError(
                    f"{self.checkpoint.name} is in the midst of a forward, which runs {inside.what}: the same model "
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

    @once
    def proof(self) -> dict[str, float]:
        """What a host proved of its model on two texts; see `proof_kernel`."""
        return prove(self, *text_probe(self.model, self.backbone, self._usable()))

    def require_weights(self) -> None:
        """Refuses to compute with a model whose weights were never loaded, and are on no host either.

        Raises:
            ModelError: The model is on the meta device.
        """
        if not self.dispatched and self.host is None:
            raise ModelError(
                f"{self.checkpoint.name} was loaded without its weights (device='meta'): it can be looked at and "
                "prompts can be encoded, but nothing can be computed. Load it on a real device."
            )

    def _usable(self) -> list[int]:
        """Ids of ordinary words: no special tokens, no image placeholders."""
        tokenizer = self.checkpoint.tokenizer
        avoid = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
        config = self.model.config.get_text_config()  # type: ignore[operator,union-attr]
        vocabulary = min(len(tokenizer), int(config.vocab_size))
        return [i for i in range(vocabulary) if i not in avoid] or list(range(vocabulary))

    @cached_property
    def ways(self) -> dict[str, str]:
        """How each kind of sweep is done on this model: the fastest way that was seen to equal plain runs."""
        return {}

    @cached_property
    def budget(self) -> int:
        """How many tokens the copies of one packed forward have at most; halved when memory runs out.

        Logits in float32 take most: on CUDA half of the free memory is given to them.
        """
        if self.device.type != "cuda":
            return 1024
        config = self.model.config.get_text_config()  # type: ignore[operator,union-attr]
        free, _ = torch.cuda.mem_get_info(self.device)
        return max(64, min(4096, int(free / 2 / (16 * int(config.vocab_size)))))

    @property
    def dtype(self) -> torch.dtype:
        """The precision the model computes in (the weights of a quantised model are stored in another)."""
        if self.host is not None:
            named: torch.dtype = getattr(torch, str(self.host.facts["dtype"]))
            return named
        model: Any = self.model
        found: torch.dtype = model.dtype
        return found

    @property
    def exact(self) -> bool:
        """Whether equal inputs give equal numbers; quantised products depend on what else is in the batch."""
        return not getattr(self.model, "is_quantized", False)

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

    def require_no_hooks(self) -> None:
        """Refuses what hooks would change in part only.

        Raises:
            HookError: Hooks on the model are active in this context.
        """
        if open_blocks(self.guard):
            raise HookError(
                "This runs in an nnsight trace, which reads a module's output before hooks on it have run, so it "
                "cannot be mixed with vlm.hooks(...). Use run_with_cache or generate inside hooks, or write in "
                "vlm.trace(...)."
            )

    def trace(self, **arguments: Any) -> Any:
        """Opens a raw nnsight trace; other threads wait while it runs.

        Raises:
            HookError: Hooks on the model are active in this context.
        """
        envoy = self.envoy
        if self.host is not None or arguments.get("remote"):  # the tracer travels; who runs it guards it
            return envoy.trace(**arguments)
        if arguments.get("trace", True):
            return envoy.trace(**{"tracer_cls": partial(_Alone, self), **arguments})
        with self.alone():
            return envoy.trace(**arguments)

    @once
    def _envoy(self) -> Any:
        return self.host.envoy if self.host is not None else wrap(self.checkpoint)

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
        if self.host is not None:
            return bool(self.proof["positions"])
        if not self.dispatched:
            return True
        inputs = text_probe(model, self.backbone, self._usable())[0]
        positions = torch.arange(inputs["input_ids"].shape[1], device=self.device)[None]
        try:
            with self.alone(), no_hooks(), torch.no_grad():
                one, two = (model(**inputs, **p, use_cache=False).logits for p in ({}, {"position_ids": positions}))
        except CRASHES:  # it needs an image
            return False
        return torch.equal(one, two)

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
        if self.host is None:
            return [self._run(kernel, given) for given in arguments]
        found = request(self.host.run, [(kernel, given) for given in arguments])
        # Activations of whole prompts may hold anything at padding; who asks for them looks at the rest.
        return found if kernel is cache_kernel else [self.numbers(one, ()) for one in found]

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

    def _run(self, kernel: Callable[..., T], given: tuple[Any, ...]) -> T:
        with self.alone():
            return self.numbers(kernel(self.envoy, *given), given)

    def together(self, tasks: Iterable[Callable[[], T]], *, apart: bool = False) -> list[T]:
        """Does several things that do not need one another's results; on a host they share requests.

        Args:
            tasks: Functions that call `map`.
            apart: Share no request with others, so that what fails is theirs alone.

        Returns:
            What they return.
        """
        return [task() for task in tasks] if self.host is None else together(tasks, apart=apart)

    def place(self, inputs: Inputs) -> Inputs:
        """An encoded batch on the model's device and in its precision; on a host, kernels see to that."""
        if self.host is not None:
            return inputs
        dtype = self.dtype
        return {
            name: value.to(self.device, dtype) if value.is_floating_point() else value.to(self.device)
            for name, value in inputs.items()
        }

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


class _Alone(InterleavingTracer):  # type: ignore[misc]
    """A trace that runs alone."""

    def __init__(self, engine: Engine, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.engine: Any = engine

    def execute(self, code: CodeType) -> None:
        """Runs the block along with the model's forward."""
        engine, self.engine = self.engine, None  # a tracer that is kept must not keep the weights
        with engine.alone(), engine.guard.around(Inside("the block of a trace")):
            super().execute(code)
