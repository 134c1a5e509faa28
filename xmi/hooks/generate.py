"""Continuations by the model's own `generate`, of prompts padded on the left."""

from __future__ import annotations

import copy
import difflib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int

from xmi.errors import ModelError, PromptError
from xmi.model import Engine, guard_of
from xmi.prompt import Batch, PromptLike, check_room, new_tokens
from xmi.prompt.token_bytes import TokenBytes
from xmi.session import Session
from xmi.shown import Shown

DEFAULT = 20
"""How many tokens are generated if nothing says otherwise."""

REFUSED = {
    "max_length": "it counts the prompt's tokens, padding included: say max_new_tokens",
    "inputs": "the prompt says it",
    "return_dict_in_generate": "generate returns texts and tokens only: for logits and activations use run_with_cache",
    "tokenizer": "the model's own is used",
}
"""Options that transformers knows and xmi does not hand on, and why."""


@dataclass(frozen=True)
class Generation(Shown):
    """What a model wrote.

    Attributes:
        texts: The continuations, without special tokens.
        ids: Their tokens, padded on the right where a row ended earlier.
        prompts: The number of the prompt that each row continues. With options that give several rows per prompt
            (`num_return_sequences=2`) a prompt's rows stand together, best first, as transformers returns them: (0, 0,
            1, 1, ...).
    """

    texts: tuple[str, ...]
    ids: Int[torch.Tensor, "row new"]
    prompts: tuple[int, ...]


def generate(session: Session, prompt: PromptLike, *, max_new_tokens: int | None = None, **options: Any) -> Generation:
    """Continues prompts with the model's own `generate` (greedily, unless options say otherwise).

    Inside `with vlm.hooks(...)` the hooks see the prompt first and then one new token at a time.

    Args:
        prompt: What `encode` takes.
        max_new_tokens: How many tokens at most; by default 20, or what a `generation_config` among the options
            says.
        **options: Handed to transformers' `generate`: `num_beams`, `num_return_sequences`, `stop_strings`,
            `repetition_penalty`, ...

    Returns:
        The continuations as texts and tokens; `prompts` says which prompt each row continues.

    Raises:
        PromptError: An option that transformers does not know or that says something of the prompts, options that
            do not go together, or a prompt and new tokens that are longer than the model takes.

    Examples:
        >>> made = vlm.generate(task.icl("text", n=2), max_new_tokens=1)
        >>> made.texts
        ('Bridgetown', 'Algiers')
        >>> made.ids.shape  # row, new token
        torch.Size([2, 1])
    """
    with session.encoded(prompt) as batch:
        return _generated(session.engine, batch, max_new_tokens, options)


def _generated(engine: Engine, batch: Batch, max_new_tokens: int | None, options: Mapping[str, Any]) -> Generation:
    """Continues left-padded prompts with the model's own `generate`."""
    if not bool(batch.inputs["attention_mask"][:, -1].all()):
        raise PromptError("generate continues prompts that are padded on the left; this batch is padded on the right.")
    tokenizer = engine.checkpoint.tokenizer
    asked = _options(engine, max_new_tokens, options)
    new = int(asked["max_new_tokens"] if "max_new_tokens" in asked else asked["generation_config"].max_new_tokens)
    check_room(batch, new, engine.max_length)
    inputs = engine.forward(batch.inputs)
    for name in ("use_cache", "logits_to_keep", "position_ids"):  # generate makes its own
        inputs.pop(name, None)
    made = engine.backend.generate(engine, inputs, asked)
    if not isinstance(made, torch.Tensor):
        raise PromptError(REFUSED["return_dict_in_generate"])
    ids = _continuations(engine, batch, made.cpu(), new)
    with guard_of(tokenizer):
        texts = tuple(map(TokenBytes(tokenizer).text, ids.tolist()))  # parts of characters as everywhere
    each = len(ids) // len(batch)
    return Generation(texts, ids, tuple(row // each for row in range(len(ids))))


def _continuations(engine: Engine, batch: Batch, made: torch.Tensor, new: int) -> Int[torch.Tensor, "row new"]:
    """The new tokens of each row: most models return the prompt before them, some do not."""
    given = batch.inputs["input_ids"].cpu()
    length = given.shape[1]
    each, rest = divmod(len(made), len(batch))
    if not rest and made.shape[1] >= length and torch.equal(made[:, :length], given.repeat_interleave(each, 0)):
        return made[:, length:]
    if not rest and made.shape[1] <= new:
        return made
    raise ModelError(
        f"{engine.checkpoint.name} generated {list(made.shape)} tokens for {len(batch)} prompts of {length} and {new} "
        "new ones: they are neither the prompts and their continuations nor the continuations alone."
    )


def _options(engine: Engine, max_new_tokens: int | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """What transformers' `generate` is given besides the prompts.

    Raises:
        PromptError: An option that it does not know, that says something of the prompts, or that cannot travel to a
            host.
    """
    model: Any = engine.model
    config = options.get("generation_config")
    own = type(model.generation_config)
    if config is not None and not isinstance(config, own):
        raise PromptError(f"generation_config is a {own.__name__} of transformers, not {type(config).__name__}.")
    taken = set(inspect.signature(model.generate).parameters) - {"self", "kwargs"}
    known = {name for name in (*vars(own()), *taken) if not name.startswith("_")} - {"transformers_version"}
    for name in options:
        if why := REFUSED.get(name, "the prompt says it" if name in engine.arguments - set(vars(own())) else ""):
            if name != "return_dict_in_generate" or options[name]:
                raise PromptError(f"generate takes no {name}: {why}.")
        elif name not in known and name != "assistant_tokenizer":
            near = ", ".join(difflib.get_close_matches(name, sorted(known - set(REFUSED)), n=3))
            raise PromptError(
                f"generate has no option {name!r}{f'; nearest: {near}' if near else ''}. Options are those of "
                "transformers' GenerationConfig and generate."
            )
    if _set(options, "return_dict_in_generate"):
        raise PromptError(f"generate takes no return_dict_in_generate: {REFUSED['return_dict_in_generate']}.")
    if max_new_tokens is None:
        max_new_tokens = _set(options, "max_new_tokens") or DEFAULT
    asked: dict[str, Any] = {"max_new_tokens": new_tokens(max_new_tokens), **options}
    asked.setdefault("pad_token_id", engine.checkpoint.tokenizer.pad_token_id)
    if _set(options, "do_sample") is None:
        asked.setdefault("do_sample", False)
    if config is not None:  # transformers wants options in one place
        asked["generation_config"] = config = copy.deepcopy(config)
        for name in [name for name in asked if name in vars(config)]:
            setattr(config, name, asked.pop(name))
    return asked


def _set(options: Mapping[str, Any], name: str) -> Any:
    """What a generation configuration among the options says."""
    return getattr(options.get("generation_config"), name, None)
