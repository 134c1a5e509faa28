"""Plain language models of the zoo, each for what its blocks, masks or logits have that the others lack."""

from __future__ import annotations

from typing import Any

import transformers as hf

from tests.zoo.family import Family, Made
from tests.zoo.models import TEXT, ids, tokenizer

OPT = {"ffn_dim": 96, "init_std": 0.15}


def _causal(config: str, model: str, **special: Any) -> Made:
    tok = tokenizer()
    return getattr(hf, model)(getattr(hf, config)(**{**TEXT, **ids(tok), **special})), tok


def mistral() -> Made:
    """A sliding window on every layer, shorter than the prompts."""
    return _causal("MistralConfig", "MistralForCausalLM", sliding_window=16)


def qwen2() -> Made:
    """Biased queries and keys; a sliding window from the third layer on."""
    window = {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 2}
    return _causal("Qwen2Config", "Qwen2ForCausalLM", **window)


def qwen3() -> Made:
    """Normed queries and keys, whose width is not the residual's."""
    return _causal("Qwen3Config", "Qwen3ForCausalLM", head_dim=32)


def phi3() -> Made:
    """Fused projections, a sliding window, and rotary positions on a part of each head."""
    rope = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
    return _causal("Phi3Config", "Phi3ForCausalLM", sliding_window=16, rope_parameters=rope)


def olmo2() -> Made:
    """Norms after attention and feed-forward only: none before."""
    return _causal("Olmo2Config", "Olmo2ForCausalLM")


def gpt_neox() -> Made:
    """Attention and feed-forward in parallel, both read from the block's input."""
    return _causal("GPTNeoXConfig", "GPTNeoXForCausalLM", use_parallel_residual=True)


def falcon() -> Made:
    """Parallel blocks with one key and value head for all queries."""
    return _causal("FalconConfig", "FalconForCausalLM", parallel_attn=True, multi_query=True, bias=False)


def gptj() -> Made:
    """Parallel blocks with interleaved rotary positions and a biased unembedding."""
    return _causal("GPTJConfig", "GPTJForCausalLM", n_embd=64, n_layer=4, n_head=4, n_positions=512, rotary_dim=8)


def gemma3_text() -> Made:
    """Sliding and full layers with rotary bases of their own, embeddings scaled by the square root of the width."""
    kinds = ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"]
    special = {"sliding_window": 16, "head_dim": 16, "query_pre_attn_scalar": 16, "layer_types": kinds}
    return _causal("Gemma3TextConfig", "Gemma3ForCausalLM", **special)


def cohere() -> Made:
    """Parallel blocks with one mean-subtracting norm, and scaled logits."""
    return _causal("CohereConfig", "CohereForCausalLM", logit_scale=0.25)


def cohere2() -> Made:
    """As Cohere, with sliding layers that alone have rotary positions."""
    kinds = ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"]
    return _causal("Cohere2Config", "Cohere2ForCausalLM", logit_scale=0.25, sliding_window=16, layer_types=kinds)


def granite() -> Made:
    """Multipliers on embedding, attention and what a block adds; logits are divided."""
    factors = {"embedding_multiplier": 3.0, "attention_multiplier": 0.25, "residual_multiplier": 0.5}
    return _causal("GraniteConfig", "GraniteForCausalLM", logits_scaling=2.0, **factors)


def opt() -> Made:
    """Learned positions offset by two, rectified feed-forward with biases."""
    return _causal("OPTConfig", "OPTForCausalLM", **OPT, word_embed_proj_dim=64)


def opt_350m() -> Made:
    """The one OPT whose embedding is narrower than its residual stream, with norms after and no final norm."""
    return _causal("OPTConfig", "OPTForCausalLM", **OPT, word_embed_proj_dim=32, do_layer_norm_before=False)


def bloom() -> Made:
    """Positions by a bias on attention (alibi); attention and feed-forward add the residual themselves."""
    return _causal("BloomConfig", "BloomForCausalLM", n_layer=4, n_head=4)


def mixtral() -> Made:
    """Two of four experts for every token."""
    return _causal("MixtralConfig", "MixtralForCausalLM", num_local_experts=4, num_experts_per_tok=2)


def qwen3_moe() -> Made:
    """Small experts on every second layer only."""
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "decoder_sparse_step": 2}
    return _causal("Qwen3MoeConfig", "Qwen3MoeForCausalLM", head_dim=16, norm_topk_prob=True, **experts)


def gpt_oss() -> Made:
    """Attention sinks, alternating sliding layers, experts with biases."""
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16, "sliding_window": 16}
    # The factor must be the quotient of the two lengths, else transformers warns.
    rope = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 32.0, "original_max_position_embeddings": 64}
    return _causal("GptOssConfig", "GptOssForCausalLM", rope_parameters=rope, **experts)


ALIBI = (
    "BLOOM builds its attention bias from the 2-D padding mask, so it cannot take the packed sweep's 4-D mask, and the "
    "bias counts columns, so that copies of one token would not stand at one position"
)
_MADE = (
    ("Mistral", mistral, "sliding window on every layer"),
    ("Qwen2", qwen2, "sliding window on the upper layers"),
    ("Qwen3", qwen3, "normed queries and keys"),
    ("Phi-3", phi3, "fused projections, sliding window, partial rotary positions"),
    ("OLMo 2", olmo2, "norms after attention and feed-forward only"),
    ("GPT-NeoX", gpt_neox, "parallel blocks"),
    ("Falcon", falcon, "parallel blocks, one key-value head"),
    ("GPT-J", gptj, "parallel blocks, biased unembedding"),
    ("Gemma 3 (text)", gemma3_text, "sliding and full layers"),
    ("Cohere", cohere, "parallel blocks, scaled logits"),
    ("Cohere 2", cohere2, "parallel blocks, sliding layers, scaled logits"),
    ("Granite", granite, "multipliers on embedding, residual and logits"),
    ("OPT", opt, "learned positions with an offset"),
    ("Mixtral", mixtral, "mixture of experts"),
    ("Qwen3-MoE", qwen3_moe, "experts on every second layer"),
    ("GPT-OSS", gpt_oss, "attention sinks, experts, alternating sliding layers"),
)
FAMILIES: tuple[Family, ...] = (
    *(Family(name, make.__name__, make, images="none", note=note) for name, make, note in _MADE),
    Family("BLOOM", "bloom", bloom, images="none", note="alibi", unpacked=ALIBI),
    Family("OPT-350M", "opt", opt_350m, images="none", note="norms after, none at the end", refused="no final norm"),
)
