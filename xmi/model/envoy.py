"""nnsight's model around a checkpoint, and what nnsight 0.8.1 leaves to others."""

from __future__ import annotations

from threading import get_ident
from types import CodeType
from typing import TYPE_CHECKING, Any, NoReturn

from nnsight import TransformersModel
from nnsight.intervention.interleaver import Interleaver
from nnsight.intervention.tracer import InterleavingTracer
from nnsight.modeling.tp import TPFragments

from xmi.errors import ModelError
from xmi.model.guard import LOADING, Inside
from xmi.model.load import Checkpoint

if TYPE_CHECKING:
    from xmi.model.engine import Engine


def wrap(tool: Checkpoint) -> Any:
    """The nnsight model around a checkpoint, with its weights or without."""
    model: Any = tool.model
    given: dict[str, Any] = {"tokenizer": tool.tokenizer, "task": "text-generation"}
    if tool.processor is not None:
        given = {"processor": tool.processor, "task": "image-text-to-text"}
    # nnsight 0.8.1 makes a pipeline around a module, which moves it to a device; without weights that fails, so it is
    # given the id and makes a module of its own. It must be handed the processor: by itself it looks for one in a way
    # that fails under transformers 5.23 ("Impossible to guess which processor to use").
    with LOADING:
        if next(model.parameters()).is_meta:
            return _Bare(model.name_or_path, **given)
        return TransformersModel(model, **given, interleaver=_OwnThread(fragments=TPFragments()))


class _Bare(TransformersModel):  # type: ignore[misc]
    """A model that stays without weights: nnsight would load them unasked in a trace that is sent nowhere.

    For a host, which has nothing of xmi's, it is nnsight's own class: by its key, and in every job.
    """

    def dispatch(self) -> NoReturn:
        """Refuses to load the weights.

        Raises:
            ModelError: Always.
        """
        raise ModelError(
            f"{self.repo_id} was loaded without its weights, and this would load them here. Trace with "
            "vlm.trace(...), which runs on the host, or load the model here (without remote= and device='meta')."
        )

    def _remoteable_class(self) -> type:
        return TransformersModel  # type: ignore[no-any-return]

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return object.__new__, (TransformersModel,), self.__getstate__()


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


class Alone(InterleavingTracer):  # type: ignore[misc]
    """A trace that runs alone."""

    def __init__(self, engine: Engine, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.engine: Any = engine

    def execute(self, code: CodeType) -> None:
        """Runs the block along with the model's forward."""
        engine, self.engine = self.engine, None  # a tracer that is kept must not keep the weights
        with engine.alone(), engine.guard.around(Inside("the block of a trace")):
            super().execute(code)
