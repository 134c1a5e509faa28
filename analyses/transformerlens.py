"""Compares xmi's hooks with TransformerLens' on tiny random models that share their weights.

TransformerLens is not a dependency of xmi; give it an environment of its own, at the repository's root:

    python -m venv .venv-tl
    .venv-tl/bin/pip install -c constraints.txt -e . "transformer-lens<4"
    .venv-tl/bin/python -m analyses.transformerlens

(or some models only: `... -m analyses.transformerlens GPT-2 Llama`).

TransformerLens 3 is compared by its HookedTransformer, which computes the models with code of its own; TransformerLens
4 (install "transformer-lens>=4") has only TransformerBridge, which wraps the Hugging Face model. Weights are taken as
they are: nothing is folded or centred. Everything is float32 on the CPU, without any download.

Per model, every hook that both sides have is read on a left-padded batch of three prompts (at real tokens) and written
on one prompt, at all positions; the logits after a write must agree and must differ from those without it.
`accumulated_resid`, stacked layers, one position, several hooks at once and greedy generation, with and without a
hook, are compared too. Prints a markdown table and what differs with the reason, and ends with status 1 if something
differs for a reason that is not known.
"""

from __future__ import annotations

import copy
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers as hf

import xmi
from tests.zoo import models, text
from tests.zoo.models import TEXT, build, ids, tokenizer
from tests.zoo.oracle import prompts_for
from xmi.prompt import Prompts

try:
    import transformer_lens as tl
except ImportError:
    sys.exit(f"TransformerLens is not installed here; what follows says how.\n\n{__doc__}")

OLD = int(version("transformer-lens").split(".")[0]) < 4

BOUND = 1e-5
"""Largest difference, relative to the largest value, that counts as agreement in float32."""

Made = tuple[torch.nn.Module, Any]


def gpt2() -> Made:
    """The zoo's, with a field that the configurations of real checkpoints have and HookedTransformer reads."""
    model, tok = models.gpt2()
    model.config.n_ctx = model.config.n_positions
    return model, tok


def qwen2() -> Made:
    """The zoo's without the sliding window: HookedTransformer has none for Qwen2."""
    tok = tokenizer()
    return hf.Qwen2ForCausalLM(hf.Qwen2Config(**TEXT, **ids(tok))), tok


def phi3() -> Made:
    """The zoo's with rotary positions on whole heads: HookedTransformer has no others for Phi-3."""
    tok = tokenizer()
    return hf.Phi3ForCausalLM(hf.Phi3Config(**TEXT, **ids(tok), sliding_window=16)), tok


def gpt_neox() -> Made:
    """The zoo's without the number of key-value heads, which GPT-NeoX ignores and TransformerBridge reads."""
    tok = tokenizer()
    plain = {name: value for name, value in TEXT.items() if name != "num_key_value_heads"}
    return hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**plain, **ids(tok))), tok


MODELS: dict[str, Callable[[], Made]] = {
    "GPT-2": gpt2,
    "Llama": models.llama,
    "Gemma 2": models.gemma2,
    "Qwen2": qwen2,
    "Qwen3": text.qwen3,
    "GPT-NeoX": gpt_neox,
    "GPT-J": text.gptj,
    "Mistral": text.mistral,
    "Mixtral": text.mixtral,
    "Phi-3": phi3,
    "OPT": text.opt,
    "BLOOM": text.bloom,
    "GPT-OSS": text.gpt_oss,
    "OLMo 2": text.olmo2,
    "Gemma 3": text.gemma3_text,
    "Falcon": text.falcon,
    "Cohere": text.cohere,
    "Granite": text.granite,
    "Qwen3-MoE": text.qwen3_moe,
    "LLaVA": models.llava,
    "Idefics3": models.idefics3,
}

_IMAGES = "TransformerLens reads the embedding table, xmi the input of the decoder, where images have been put in"
_ADDED = "TransformerLens reads after the multiplier, xmi before it (`vlm.describe()` names the factor)"
_REPORT = "a write has no effect in TransformerBridge; reading agrees"

READ: dict[tuple[str, str], str] = {
    ("", "ln_final.hook_normalized"): "TransformerLens reads before the norm's weight and bias, xmi after them",
    ("BLOOM", "hook_embed"): "TransformerLens reads after the norm on the embedding, xmi before it",
    ("LLaVA", "hook_embed"): _IMAGES,
    ("Idefics3", "hook_embed"): _IMAGES,
    ("Granite", "hook_embed"): _ADDED,
    ("Granite", "hook_attn_out"): _ADDED,
    ("Granite", "hook_mlp_out"): _ADDED,
}
"""Why a hook of a model, or of all models (""), has another value."""

BRIDGE_WRITE: dict[tuple[str, str], str] = {
    ("", "hook_resid_mid"): (
        "a write in TransformerBridge reaches the MLP only, in xmi and HookedTransformer the residual stream too; "
        "reading agrees"
    ),
    ("GPT-J", "attn.hook_pattern"): _REPORT,
    ("OPT", "attn.hook_pattern"): _REPORT,
}
"""Why a write does something else in TransformerBridge. HookedTransformer has no such case."""

UNKNOWN = "UNEXPLAINED"


def gemma2_config(config: Any) -> Any:
    """HookedTransformer's configuration of a Gemma 2; its own loader knows the published sizes only."""
    return tl.HookedTransformerConfig(
        d_model=config.hidden_size,
        d_head=config.head_dim,
        n_heads=config.num_attention_heads,
        n_key_value_heads=config.num_key_value_heads,
        d_mlp=config.intermediate_size,
        n_layers=config.num_hidden_layers,
        n_ctx=config.max_position_embeddings,
        d_vocab=config.vocab_size,
        eps=config.rms_norm_eps,
        act_fn=config.hidden_activation,
        normalization_type="RMS",
        use_normalization_before_and_after=True,
        positional_embedding_type="rotary",
        rotary_dim=config.head_dim,
        attn_scale=config.query_pre_attn_scalar**0.5,
        use_local_attn=True,
        window_size=config.sliding_window,
        attn_types=["local" if "sliding" in kind else "global" for kind in config.layer_types],
        attn_scores_soft_cap=config.attn_logit_softcapping,
        output_logits_soft_cap=config.final_logit_softcapping,
        gated_mlp=True,
        final_rms=True,
        original_architecture="Gemma2ForCausalLM",
    )


def hooked_transformer(model: Any, folder: Path) -> Any:
    """The same weights in TransformerLens' own implementation, by its own converters, unprocessed.

    Raises:
        NotImplementedError: It does not have this architecture.
    """
    from transformer_lens import loading_from_pretrained as loading

    if model.config.model_type == "gemma2":
        config = gemma2_config(model.config)
    else:
        config = loading.get_pretrained_model_config(str(folder), dtype=torch.float32, device="cpu")
    made = tl.HookedTransformer(config, hf.AutoTokenizer.from_pretrained(folder), move_to_device=False)
    weights = loading.get_pretrained_state_dict(str(folder), config, copy.deepcopy(model))
    plain = dict.fromkeys(("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases"), False)
    made.load_and_process_state_dict(weights, **plain)
    return made.eval()


def transformer_bridge(model: Any, folder: Path) -> Any:
    """A copy of the Hugging Face model in TransformerLens' wrapper."""
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.model_bridge.sources.transformers import helpers

    helpers._ensure_torchvision = lambda: False  # else it would install torchvision, and with it another torch
    words = hf.AutoTokenizer.from_pretrained(folder)
    return TransformerBridge.boot_transformers(str(folder), hf_model=copy.deepcopy(model), tokenizer=words)


@dataclass
class Tally:
    """What one comparison found.

    Attributes:
        model: Name of the model.
        hooks: How many hooks agree, read and written.
        read: Largest relative difference of these, and of the logits.
        write: Largest relative difference of the logits after a write.
        calls: Largest relative difference of the results of other calls.
        differ: What differs, with the reason.
    """

    model: str
    hooks: int = 0
    read: float = 0.0
    write: float = 0.0
    calls: float = 0.0
    differ: dict[str, str] = field(default_factory=dict)

    def blame(self, hook: str, found: str, known: dict[tuple[str, str], str]) -> None:
        """Notes that something differs; a reason is looked up among the known ones."""
        reason = known.get((self.model, hook), known.get(("", hook), f"{UNKNOWN}: {found}"))
        if reason not in self.differ.get(hook, ""):
            self.differ[hook] = "; ".join(filter(None, (self.differ.get(hook), reason)))

    def row(self) -> str:
        """Returns a row of the table."""
        numbers = " | ".join(f"{n:.1e}" for n in (self.read, self.write, self.calls))
        return f"| {self.model} | {self.hooks} | {numbers} | {', '.join(f'`{name}`' for name in self.differ)} |"


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, relative to the largest value."""
    if found.shape != expected.shape:
        return float("inf")
    return float((found - expected).abs().max() / expected.abs().max())


def write(value: torch.Tensor, hook: Any) -> torch.Tensor:
    """A hook function that both sides take: fades patterns towards the first keys, else moves features by one."""
    if hook.name.endswith("hook_pattern"):
        return value * torch.linspace(0.2, 1, value.shape[-1])
    return value.roll(1, -1)


def given(vlm: xmi.VLM, prompts: Prompts) -> tuple[torch.Tensor, dict[str, Any]]:
    """Token ids, and what else TransformerLens is to be given."""
    inputs = dict(vlm.encode(prompts).inputs)
    tokens = inputs.pop("input_ids")
    for name in ("position_ids", "token_type_ids"):  # it makes its own
        inputs.pop(name, None)
    return tokens, inputs


@torch.no_grad()
def compare(name: str, vlm: xmi.VLM, reference: Any) -> Tally:
    """Compares one model with one reference."""
    tally = Tally(name)
    prompts = prompts_for("none" if vlm.encoder.processor is None else "many")
    tokens, rest = given(vlm, prompts)
    real = rest["attention_mask"].bool()
    logits, cache = vlm.run_with_cache(prompts, names=lambda _: True)
    expected, theirs = reference.run_with_cache(tokens, **rest)
    if (gap := relative(logits[real], expected[real])) > BOUND:
        tally.blame("logits", f"{gap:.1e}", {})
    tally.read = gap
    one = prompts[1:2]
    tokens, rest = given(vlm, one)
    clean = vlm.run_with_hooks(one, fwd_hooks=[])
    for hook in (n for n in cache if n in theirs):
        short = hook.split(".", 2)[2] if hook.startswith("blocks.") else hook
        found, other = cache[hook], theirs[hook]
        if hook == "ln_final.hook_normalized":
            tally.blame(hook, "", READ)
            norm = reference.ln_final
            after = "ln_final.hook_out"
            other = theirs[after] if after in theirs else other * norm.w + getattr(norm, "b", 0)
        if hook.endswith("pattern"):
            found, other = found.transpose(1, 2), other.transpose(1, 2)
        gap = relative(found[real], other[real]) if found.shape == other.shape else float("inf")
        if gap > BOUND:
            known = {} if hook == "ln_final.hook_normalized" else READ
            tally.blame(short, f"read {gap:.1e}, shapes {list(found.shape)} and {list(other.shape)}", known)
            continue
        tally.read = max(tally.read, gap)
        if hook == "ln_final.hook_normalized":
            continue
        ours = vlm.run_with_hooks(one, fwd_hooks=[(hook, write)])
        gap = relative(ours, reference.run_with_hooks(tokens, fwd_hooks=[(hook, write)], **rest))
        if relative(ours, clean) < 100 * BOUND:
            tally.blame(hook, "a write changes nothing", {})
        elif gap > BOUND:
            tally.blame(short, f"a write differs by {gap:.1e}", {} if OLD else BRIDGE_WRITE)
        else:
            tally.hooks += 1
            tally.write = max(tally.write, gap)
    tally.calls = calls(vlm, reference, prompts, tally)
    return tally


def calls(vlm: xmi.VLM, reference: Any, prompts: Prompts, tally: Tally) -> float:
    """Compares what other calls give."""
    tokens, rest = given(vlm, prompts)
    real = rest["attention_mask"].bool()
    _, cache = vlm.run_with_cache(prompts)
    _, theirs = reference.run_with_cache(tokens, **rest)
    gaps = {}
    for middle in (False, True) if ("resid_mid", 0) in cache else (False,):
        ours, labels = cache.accumulated_resid(incl_mid=middle, return_labels=True)
        other, names = theirs.accumulated_resid(incl_mid=middle, return_labels=True)
        gaps["accumulated_resid"] = relative(ours[:, real], other[:, real]) if labels == names else float("inf")
    gaps["stack"] = relative(cache.stack("resid_post")[:, real], theirs.stack_activation("resid_post")[:, real])
    _, last = vlm.run_with_cache(prompts, names="resid_post", positions="last")
    _, theirs = reference.run_with_cache(
        tokens, **rest, names_filter=lambda n: n.endswith("hook_resid_post"), pos_slice=-1
    )
    gaps["positions"] = relative(last.stack("resid_post").squeeze(2), theirs.stack_activation("resid_post").squeeze(2))
    one = prompts[1:2]
    tokens, rest = given(vlm, one)
    heads = ("attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_z")
    several = [(lambda n: n.startswith("blocks.") and n.endswith(heads), write), ("blocks.1.hook_resid_post", write)]
    if ("q", 0) in cache:
        found = vlm.run_with_hooks(one, fwd_hooks=several)
        gaps["run_with_hooks"] = relative(found, reference.run_with_hooks(tokens, fwd_hooks=several, **rest))
    rest.pop("attention_mask")
    settings = {"do_sample": False, "verbose": False, "stop_at_eos": False, "return_type": "tokens"}
    for call, hooks in (("generate", []), ("hooks", several[1:])):
        with reference.hooks(fwd_hooks=hooks):
            made = reference.generate(tokens, max_new_tokens=4, **settings, **rest)[:, tokens.shape[1] :]
        with vlm.hooks(hooks):
            written = vlm.generate(one, max_new_tokens=4, eos_token_id=None).ids
        gaps[call] = 0.0 if torch.equal(made, written) else float("inf")
    for call, gap in gaps.items():
        if gap > BOUND:
            tally.blame(call, f"{gap:.1e}", {})
    return max(gaps.values())


def shake(model: torch.nn.Module) -> None:
    """Moves biases and norm weights away from 0 and 1, or leaving them out would show nowhere."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)


def main() -> int:
    """Prints the table; returns the exit status."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    hf.utils.logging.disable_progress_bar()
    hf.utils.logging.set_verbosity_error()
    make_reference = hooked_transformer if OLD else transformer_bridge
    kind = "HookedTransformer" if OLD else "TransformerBridge"
    packages = ("xmi", "transformer-lens", "transformers", "torch")
    print(f"{kind}; {', '.join(f'{p} {version(p)}' for p in packages)}\n")
    print("| model | hooks that agree | reading | writing | calls | differs |")
    print("| --- | --- | --- | --- | --- | --- |")
    reasons: dict[str, list[str]] = {}
    for name in sys.argv[1:] or MODELS:
        model, tool = build(MODELS[name])
        shake(model)
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            getattr(tool, "tokenizer", tool).save_pretrained(folder)
            try:
                reference = make_reference(model, Path(folder))
            except NotImplementedError:  # an architecture that this TransformerLens does not have
                continue
        tally = compare(name, xmi.load(model, processor=tool), reference)
        print(tally.row(), flush=True)
        for hook, reason in tally.differ.items():
            reasons.setdefault(f"`{hook}`: {reason}", []).append(name)
    print()
    for reason, where in reasons.items():
        print(f"- {reason} ({', '.join(where)}).")
    return int(any(UNKNOWN in reason for reason in reasons))


if __name__ == "__main__":
    sys.exit(main())
