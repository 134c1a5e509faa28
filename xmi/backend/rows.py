"""Patched runs in this process, each a row of a plain forward or of the model's own `generate`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from xmi.backend.base import Ran, Rows
from xmi.kernels import blend, score
from xmi.model.check import Inputs
from xmi.model.engine import Engine
from xmi.model.guard import Block


def run_rows(engine: Engine, inputs: Inputs, patched: Rows) -> Ran:
    """Runs rows that are patched each at its layer.

    Args:
        engine: The model.
        inputs: What its forward takes.
        patched: What is written where.

    Returns:
        The tokens, log-probability (nats) and rank of the first target token, and log-probability of each token.
    """
    with _patched(engine, patched), torch.no_grad():
        if patched.new == 1:
            logits = engine.model(**inputs).logits[:, -1:]
        else:
            for name in ("use_cache", "logits_to_keep", "position_ids"):  # generate makes its own
                inputs.pop(name, None)
            options = {"return_dict_in_generate": True, "output_logits": True, "do_sample": False, "eos_token_id": None}
            pad = engine.checkpoint.tokenizer.pad_token_id
            with plain_generation(engine.model):
                made = engine.model.generate(**inputs, **options, max_new_tokens=patched.new, pad_token_id=pad)  # type: ignore[operator]
            logits = torch.stack(made.logits, 1)
    ids, log_probability, rank, certain = score(engine.numbers(logits, (inputs,)), patched.targets, 1)
    return ids[..., 0], log_probability[:, 0], rank[:, 0], certain


@contextmanager
def plain_generation(model: Any) -> Iterator[None]:
    """Leaves out what a model's own settings do to its logits (a penalty on repetition, tokens that are suppressed)."""
    own = model.generation_config
    model.generation_config = type(own)()
    try:
        yield
    finally:
        model.generation_config = own


@contextmanager
def _patched(engine: Engine, patched: Rows) -> Iterator[None]:
    """Writes each row's vector after its layer, in the first forward (a cache keeps what it did)."""
    done: set[int] = set()
    block, back = Block(engine.guard), patched.back

    def hook(place: int) -> Callable[..., Any]:
        rows = [row for row, entry in enumerate(patched.entries) if entry and entry[1] == place]
        values = [patched.vectors[patched.entries[row][0], place] for row in rows]

        def write(_module: Any, _args: Any, output: Any) -> Any:
            if place in done or not rows or not block.acts:
                return output
            done.add(place)
            state = (output[0] if isinstance(output, tuple) else output).clone()
            old = state[rows, back[rows]]
            state[rows, back[rows]] = blend(old, torch.stack(values).to(old), patched.mode, patched.strength)
            return (state, *output[1:]) if isinstance(output, tuple) else state

        return write

    with ExitStack() as stack:
        for place, layer in enumerate(patched.layers):
            module = engine.model.get_submodule(f"{engine.backbone.layers}.{layer}")
            stack.callback(module.register_forward_hook(hook(place)).remove)
        stack.enter_context(block.opened())
        yield
