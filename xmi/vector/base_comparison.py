"""From a base LLM to the VLM fine-tuned from it: what differs, and how close their vectors are.

Source: Luo, Darrell and Bar, ICML 2025, section 4 (vectors of the base LLM work in the VLM).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from xmi.errors import MeasureError, PromptError, VectorError
from xmi.measure.base_comparison import BaseComparison, BaseSimilarity, similarity_to_base
from xmi.model import Engine
from xmi.model.layer_sizes import largest, values_of
from xmi.prompt import Batch, Prompt, PromptLike, flatten, is_encoded, load_task, task_names
from xmi.session import Session
from xmi.vector.task_vector import TaskVector

if TYPE_CHECKING:
    from xmi.vlm import VLM

Tokens = Sequence[Sequence[int]]
Row = tuple[str, str, str, str]

_ATTENTION = "Blocks compute something else; the vector keeps its shape but may lose its meaning."
_POSITIONS = "Positions are encoded differently, so what a block attends to, and with it the vector, may shift."
_READOUT = "The residual stream is read out otherwise: the same vector gives other probabilities."
_TOKENS = "Where texts get other tokens, the two models read different prompts."


def compare_base(session: Session, base: VLM, prompts: PromptLike | None = None) -> BaseComparison:
    """Says what differs between this model and the base LLM it was fine-tuned from.

    Args:
        base: The base LLM.
        prompts: Text prompts that both must read alike; by default examples and instructions of xmi's own tasks.

    Returns:
        Attention, rotary, norm, readout and vocabulary settings side by side, how the prompts are tokenised, and
        how far each block's weights moved (0 = equal weights); `warnings` puts what differs in words.

    Raises:
        VectorError: Another width or number of layers: no vector of the base LLM can be patched.
        PromptError: A prompt that one of the models cannot encode.

    Source: Luo, Darrell and Bar, ICML 2025, section 4.

    Examples:
        >>> found = vlm.compare_base(xmi.load("organism-llm"))
        >>> found.related
        True
    """
    if isinstance(prompts, Batch) or is_encoded(prompts):
        raise PromptError("Both models encode the prompts: give text, not what one of them encoded.")
    chosen = flatten(prompts, session.encoder.chat) if prompts is not None else _usual_prompts()
    check_shapes(session.engine, base.engine)
    session.kin.add(base.revision)
    own, other, read = session.engine, base.engine, (_ids(session, chosen), _ids(base, chosen))
    rows = [
        (key, own_value, base_value, meaning)
        for (key, own_value, meaning), (_, base_value, _) in zip(_facts(own), _facts(other), strict=True)
    ]
    rows += [*_rotary(own, other), *_vocabulary(own, other), _prompts(*read), _parameters(own, other)]
    places, moved = zip(*_moved(own, other), strict=True)
    return BaseComparison(
        session.name,
        base.name,
        aspects=tuple(r[0] for r in rows),
        vlm_values=tuple(r[1] for r in rows),
        base_values=tuple(r[2] for r in rows),
        consequences=tuple(r[3] for r in rows),
        differs=tuple(r[1] != r[2] for r in rows),
        places=places,
        moved=np.array(moved),
    )


def _ids(session: Session, prompts: Sequence[Prompt]) -> Tokens:
    """The tokens of each prompt, without padding."""
    inputs = session.encode(prompts).inputs
    rows = zip(inputs["input_ids"], inputs["attention_mask"].bool(), strict=True)
    return [row[mask].tolist() for row, mask in rows]


def check_shapes(own: Engine, base: Engine) -> None:
    """Refuses a base LLM whose vectors cannot be patched.

    Raises:
        VectorError: Another width or number of layers.
    """
    left, right = own.backbone, base.backbone
    names = own.checkpoint.name, base.checkpoint.name
    if (left.n_layers, left.d_model) != (right.n_layers, right.d_model):
        raise VectorError(
            f"{names[1]} has {right.n_layers} layers of width {right.d_model}, {names[0]} has {left.n_layers} of width "
            f"{left.d_model}: its vectors cannot be patched. Compare with the LLM that the VLM was fine-tuned from."
        )


def _usual_prompts() -> tuple[Prompt, ...]:
    """Text prompts as studies use them: two sets of examples, and the instructions, of each of xmi's tasks."""
    tasks = [load_task(name) for name in task_names()]
    return tuple(p for task in tasks for made in (task.icl("text", n=2), task.instruction()) for p in made)


def base_similarity(own: Sequence[TaskVector], base: Sequence[TaskVector], *, centred: bool = False) -> BaseSimilarity:
    """Cosine per layer between a VLM's own task vectors and those of its base LLM, same task and other tasks.

    Args:
        own: The VLM's vectors, one per task.
        base: The base LLM's vectors, of the same tasks in any order.
        centred: Subtract each model's mean over tasks first: raw cosines are high between any two tasks.

    Returns:
        The cosines; the paper reports 0.89 to 0.95 for the same task.

    Raises:
        VectorError: Other tasks, shapes, templates or slots, or two vectors of one task.
    """
    theirs = {v.card.task: v for v in base}
    tasks = [v.card.task for v in own]
    if not tasks or sorted(tasks) != sorted(v.card.task for v in base) or len(set(tasks)) < len(tasks):
        raise VectorError(f"Need one vector per task of both models; got {tasks} and {[v.card.task for v in base]}.")
    for mine in own:
        other = theirs[mine.card.task]
        for what, a, b in (
            ("shape", tuple(mine.values.shape), tuple(other.values.shape)),
            ("template", mine.card.template, other.card.template),
            ("slot", mine.card.slot, other.card.slot),
        ):
            if a != b:
                raise VectorError(
                    f"{mine.name} from {mine.card.model} has {what} {a}, {other.name} from {other.card.model} {b}: "
                    "read both in the same way."
                )
    left, right = (torch.stack([v.values for v in vectors]).numpy() for vectors in (own, [theirs[t] for t in tasks]))
    try:
        return similarity_to_base(left, right, tasks, centred=centred)
    except MeasureError as error:
        raise VectorError(str(error)) from error


def _config(engine: Engine) -> Any:
    model: Any = engine.model
    return model.config.get_text_config()


def _facts(engine: Engine) -> Iterator[tuple[str, str, str]]:
    """Aspect, what the model has, and what a difference would mean."""
    config, backbone = _config(engine), engine.backbone

    def told(*names: str) -> str:
        return ", ".join(map(str, values_of(config, *names))) or "none"

    norm: Any = engine.model.get_submodule(backbone.norm)
    kind = re.search(r"(RMS|Layer)?Norm", type(norm).__name__)
    eps = getattr(norm, "variance_epsilon", None) or getattr(norm, "eps", None)
    yield "attention heads", told("num_attention_heads", "n_head"), _ATTENTION
    yield "key/value heads", told("num_key_value_heads", "num_attention_heads", "n_head"), _ATTENTION
    widths = values_of(config, "head_dim") or [backbone.d_model // largest(config, "num_attention_heads", 1)]
    yield "head width", ", ".join(map(str, widths)), _ATTENTION
    yield "sliding window", told("sliding_window"), _ATTENTION
    yield "activation", told("hidden_act", "hidden_activation", "activation_function"), _ATTENTION
    yield "final norm", f"{kind.group() if kind else type(norm).__name__}, eps {eps}", _READOUT
    yield "logit soft-capping", str(backbone.softcap or "none"), _READOUT
    yield "logit scale", f"{backbone.scale:g}", _READOUT
    yield "precision", str(engine.dtype).removeprefix("torch."), "Vectors differ by rounding."


def _rotary(own: Engine, base: Engine) -> Iterator[Row]:
    """Every rotary setting that either configuration names."""
    left, right = (_flat(getattr(_config(e), "rope_parameters", None) or {}) for e in (own, base))
    for engine, found in ((own, left), (base, right)):
        # Where a family keeps it outside of the rotary settings.
        if found and getattr(_config(engine), "partial_rotary_factor", None) is not None:
            found.setdefault("partial_rotary_factor", str(_config(engine).partial_rotary_factor))
    for key in dict.fromkeys([*left, *right]) or ("rotary positions",):
        yield key.replace("rope_", "rotary "), left.get(key, "none"), right.get(key, "none"), _POSITIONS


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Settings by name; those that a model has per kind of layer get its name before them."""
    found: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key} ")
        else:
            found[prefix + key] = f"{value:g}" if isinstance(value, float) else str(value)
    return found


def _vocabulary(own: Engine, base: Engine) -> Iterator[Row]:
    left, right = (e.checkpoint.tokenizer.get_vocab() for e in (own, base))
    shared = left.keys() & right.keys()
    moved = sorted(t for t in shared if left[t] != right[t])
    meaning = "Harmless if shared tokens keep their ids: vectors live in the residual stream."
    yield "vocabulary rows", _rows(own), _rows(base), meaning
    meaning = "Prompts that hold such a token exist for one model only."
    yield "tokens of its own", _some(left.keys() - right.keys()), _some(right.keys() - left.keys()), meaning
    yield "ids of shared tokens", _some(moved, left), _some(moved, right), _TOKENS
    meaning = "Prompts without images are written by xmi's own template and do not use it."
    yield "chat template", _template(own), _template(base), meaning


def _rows(engine: Engine) -> str:
    embed: Any = engine.model.get_submodule(engine.backbone.embed)
    return str(embed.weight.shape[0])


def _some(tokens: Any, ids: dict[str, int] | None = None) -> str:
    names = sorted(tokens)
    shown = [repr(t) if ids is None else f"{t!r} = {ids[t]}" for t in names[:5]]
    if not names:
        return "none" if ids is None else "equal"
    return f"{len(names)}: {', '.join(shown)}{', ...' if len(names) > 5 else ''}"


def _template(engine: Engine) -> str:
    tool = engine.checkpoint
    found = getattr(tool.processor, "chat_template", None) or getattr(tool.tokenizer, "chat_template", None)
    return f"one with hash {hashlib.sha256(str(found).encode()).hexdigest()[:8]}" if found else "none"


def _prompts(own: Tokens, base: Tokens) -> Row:
    """How the prompts are read, special tokens at their ends included."""
    pairs = [(list(a), list(b)) for a, b in zip(own, base, strict=True)]
    wrong = [i for i, (a, b) in enumerate(pairs) if a != b]
    if not wrong:
        same = f"the same tokens for all of {len(pairs)}"
        return "prompts", same, same, _TOKENS
    own_ids, base_ids = pairs[wrong[0]]

    def other(ids: list[int]) -> str:
        return f"{len(ids)} tokens from {ids[:3]} to {ids[-3:]} for prompt {wrong[0]}, the first of {len(wrong)}"

    # Two of one length and with equal ends differ in the middle.
    left, right = other(own_ids), other(base_ids)
    if left == right:
        at = next(i for i, (a, b) in enumerate(zip(own_ids, base_ids, strict=True)) if a != b)
        left, right = f"{left}, with {own_ids[at]} at {at}", f"{right}, with {base_ids[at]} at {at}"
    return "prompts", f"{left} of {len(pairs)}", f"{right} of {len(pairs)}", _TOKENS


def _blocks(engine: Engine) -> list[dict[str, torch.Tensor]]:
    blocks: Any = engine.model.get_submodule(engine.backbone.layers)
    return [dict(block.named_parameters()) for block in blocks]


def _parameters(own: Engine, base: Engine) -> Row:
    left, right = ({f"{k} {tuple(v.shape)}" for p in _blocks(e) for k, v in p.items()} for e in (own, base))
    meaning = "Such weights (biases, adapters) are left out of the comparison of weights."
    return "block weights of its own", _some(left - right), _some(right - left), meaning


def _moved(own: Engine, base: Engine) -> Iterator[tuple[str, float]]:
    """Where weights are compared, and how far they moved."""

    def single(path: str) -> list[dict[str, torch.Tensor]]:
        return [dict(e.model.get_submodule(path_of(e, path)).named_parameters()) for e in (own, base)]

    def path_of(engine: Engine, part: str) -> str:
        return str(getattr(engine.backbone, part))

    comparable = own.exact and base.exact  # a quantised weight is stored as codes
    yield "embed", _distance(*single("embed")) if comparable else np.nan
    for i, (a, b) in enumerate(zip(_blocks(own), _blocks(base), strict=True)):
        yield f"blocks.{i}", _distance(a, b) if comparable else np.nan
    yield "norm", _distance(*single("norm")) if comparable else np.nan
    yield "unembed", _distance(*single("head")) if comparable else np.nan


def _distance(own: dict[str, torch.Tensor], base: dict[str, torch.Tensor]) -> float:
    """Norm of the difference over the norm of the base's, of weights of one name; added rows (tokens) left out."""
    difference = norm = 0.0
    for name, right in base.items():
        left = own.get(name)
        if left is None or left.shape[1:] != right.shape[1:] or "meta" in (left.device.type, right.device.type):
            continue
        if left.shape != right.shape and left.dim() != 2:
            continue
        rows = min(left.shape[0], right.shape[0])
        b = right.detach()[:rows].float().cpu()
        difference += float((left.detach()[:rows].float().cpu() - b).square().sum(dtype=torch.float64))
        norm += float(b.square().sum(dtype=torch.float64))
    return float(np.sqrt(difference / norm)) if norm else float("nan")
