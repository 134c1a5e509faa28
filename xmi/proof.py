"""Which of several ways to compute something gives what the plainest way gives.

Fast ways rest on things that no configuration says reliably: that attention is causal and obeys a mask, that a cache of
keys and values is all that tokens know of those before them. Two runs show it; that is done once per model and kind of
computation, and the way is remembered in `engine.ways`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Float, Int

from xmi.errors import JobError, RemoteError
from xmi.kernels import next_token_kernel
from xmi.model import Engine
from xmi.model.engine import first_line
from xmi.prompt import Batch
from xmi.prompt.encoded import EncodedPrompt
from xmi.session import Session

PROOF = "proof of the sweep"
"""What requests to a host that prove a way are called: their results serve all of a study's cells."""


class Said(Protocol):
    """Greedy continuations: their tokens, and log-probabilities (nats) of answers and of each token."""

    @property
    def ids(self) -> Int[torch.Tensor, "... new"]:
        """The tokens."""

    @property
    def log_probability(self) -> Float[torch.Tensor, ...]:
        """Of the answers."""

    @property
    def certain(self) -> Float[torch.Tensor, "... new"]:
        """Of each token."""


class Answered(NamedTuple):
    """What `next_token_kernel` gives."""

    ids: Int[torch.Tensor, "row new"]
    log_probability: Float[torch.Tensor, " row"]
    rank: Int[torch.Tensor, " row"]
    certain: Float[torch.Tensor, "row new"]


def first_alike(
    engine: Engine, ways: Mapping[str, Callable[[], Said]], plain: Callable[[], Said]
) -> tuple[str | None, str]:
    """The first of some ways that gives what the plain one gives.

    Args:
        engine: The model.
        ways: By name, the fastest first.
        plain: What is right.

    Returns:
        Its name, or None and why there is none.

    Raises:
        RemoteError: A host was not asked, or did not answer.
    """
    expected, bound, why = engine.backend.ahead(plain), engine.tolerance, ""
    for name, way in ways.items():
        try:
            with engine.backend.about(PROOF):
                found, *again = engine.together([way, *([plain] if expected is None else [])], apart=True)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # whatever the model's own code does with a mask or a cache that it does not expect
            if isinstance(error, RemoteError) and not isinstance(error, JobError):
                raise  # the host was not asked, or did not answer
            why = first_line(error)
            continue
        expected = expected or again[0]
        gap = apart(found, expected)
        if not gap <= bound:
            why = f"a packed run differs from a plain one by {gap:.1e} in log-probability"
        elif bound < 0.1 and not torch.equal(found.ids, expected.ids):
            why = "packed runs continue otherwise than plain ones"
        else:
            return name, ""
    return None, why


def apart(one: Said, two: Said) -> float:
    """The largest difference in log-probability: of the answers, and of what is said as long as the same was said."""
    same = (one.ids == two.ids).long().cumprod(-1)
    alike = torch.cat([torch.ones_like(same[..., :1]), same[..., :-1]], -1).bool()
    later = (one.certain - two.certain).abs()[alike]
    return float(torch.cat([(one.log_probability - two.log_probability).abs().flatten(), later]).max())


def seen(batch: Batch) -> str:
    """Whether a batch holds `images` or `text` alone."""
    return "images" if any(prompt.images for prompt in batch.prompts) else "text"


def keeps(session: Session, batch: Batch, new: int) -> bool:
    """Whether answers' tokens after the first are read from kept keys and values.

    Layers that hand on a state give something else, and so may models that count positions in a way of their own. The
    shortest and the longest prompt of the first batch of a kind are answered in both ways.

    Args:
        session: The model.
        batch: Prompts that are padded on the left.
        new: How many tokens are read.
    """
    engine, kind = session.engine, f"answers, {seen(batch)}"
    if new > 1 and kind not in engine.ways:
        order = batch.inputs["attention_mask"].sum(1).argsort(stable=True).tolist()
        few = [batch.prompts[row] for row in sorted({order[0], order[-1]})]
        if not any(isinstance(prompt, EncodedPrompt) for prompt in few):
            batch = session.encoder.encode(few)
        given = engine.forward(batch.inputs), engine.paths, torch.zeros(len(batch), dtype=torch.long), new
        run: Any = partial(_answered, engine, given)
        way, _ = first_alike(engine, {"cached": partial(run, True)}, partial(run, False))
        engine.ways[kind] = way or "whole"
    return new > 1 and engine.ways[kind] == "cached"


def _answered(engine: Engine, given: tuple[Any, ...], cached: bool) -> Answered:
    return Answered(*engine.map(next_token_kernel, [(*given, cached)])[0])
