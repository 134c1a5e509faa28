"""The model's own `generate`, run alone in this process."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from xmi.errors import PromptError
from xmi.model.check import Inputs
from xmi.model.engine import Engine, first_line
from xmi.model.guard import guard_of, guards_in
from xmi.model.modes import eager_if


def generate(engine: Engine, inputs: Inputs, options: dict[str, Any]) -> Any:
    """What the model's own `generate` returns.

    Args:
        engine: The model.
        inputs: Prompts, padded on the left.
        options: What else it is given.

    Raises:
        PromptError: Options that do not go together.
    """
    config = options.get("generation_config")
    strings = options.get("stop_strings") or getattr(config, "stop_strings", None)
    if "assistant_tokenizer" in options or strings:
        options["tokenizer"] = engine.checkpoint.tokenizer
    with _all_alone(engine, options), eager_if(engine), torch.no_grad():
        try:
            return engine.model.generate(**inputs, **options)  # type: ignore[operator]
        except (ValueError, TypeError, NotImplementedError) as error:
            if not _of_options(error):
                raise
            raise PromptError(
                f"{engine.checkpoint.name} does not generate with {_listed(options)}: {first_line(error)}"
            ) from error


def _of_options(error: Exception) -> bool:
    """Whether transformers says of options that they do not go together; other errors are the model's or a hook's."""
    *_, last = traceback.extract_tb(error.__traceback__)
    return "transformers/generation/" in Path(last.filename).as_posix()


def _listed(asked: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}"[:80] for name, value in asked.items() if name != "tokenizer")


@contextmanager
def _all_alone(engine: Engine, asked: Mapping[str, Any]) -> Iterator[None]:
    """The model alone, and with it a model that assists it; guards of several models are taken in one order."""
    assistant = asked.get("assistant_model")
    guards = {engine.guard, *(guards_in(assistant) if isinstance(assistant, torch.nn.Module) else ())}
    with ExitStack() as stack:
        for guard in sorted(guards, key=id):
            stack.enter_context(guard)
        stack.enter_context(engine.alone())
        if "tokenizer" in asked:  # looks for the strings to stop at in its vocabulary
            stack.enter_context(guard_of(asked["tokenizer"]))
        yield
