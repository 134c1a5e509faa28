"""The decoder: an ordinary Llama whose MLPs exist in a few layers only."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel
from transformers.models.llama.modeling_llama import LlamaMLP

from analyses.organism.batching import Chunk, summed_loss
from analyses.organism.recipe import Recipe
from analyses.organism.tokenizer import BOS, EOS, PAD


class NoMLP(nn.Module):
    """Stands where an MLP is zero, so that training does not spend time on multiplying by zero."""

    def forward(self, x: Tensor) -> Tensor:
        """Return zeros of the input's shape."""
        return torch.zeros_like(x)


def build(recipe: Recipe, vocabulary: int) -> LlamaForCausalLM:
    """Return an untrained decoder with the recipe's shape, its zero MLPs taken out (see `fill`)."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=recipe.d_model,
        intermediate_size=recipe.d_mlp,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        tie_word_embeddings=True,
        max_position_embeddings=1024,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
        attn_implementation="sdpa",
        attention_dropout=recipe.dropout,
    )
    model = LlamaForCausalLM(config)
    strip(model.model, recipe.mlp_layers)
    return model


def strip(decoder: LlamaModel, keep: tuple[int, ...]) -> None:
    """Replace the MLPs of all layers but `keep` by `NoMLP`, in place."""
    for index, layer in enumerate(decoder.layers):
        if index not in keep:
            layer.mlp = NoMLP()


def fill(decoder: LlamaModel) -> None:
    """Put MLPs with zero weights back where they were taken out, in place: the same function, the usual format."""
    for layer in decoder.layers:
        if isinstance(layer.mlp, NoMLP):
            layer.mlp = LlamaMLP(decoder.config)
            for parameter in layer.mlp.parameters():
                nn.init.zeros_(parameter)
                parameter.requires_grad_(False)


def weighted_loss(hidden: Tensor, unembedding: Tensor, chunk: Chunk) -> Tensor:
    """Return the summed weighted loss of predicting the next token.

    Args:
        hidden: Final normalised states, ``[batch, position, d_model]``.
        unembedding: ``[vocabulary, d_model]``.
        chunk: The batch the states belong to.
    """
    weights = chunk.weights[:, 1:].reshape(-1)
    at = weights.nonzero()[:, 0]
    states = hidden[:, :-1].reshape(-1, hidden.shape[-1])[at]
    return summed_loss(states @ unembedding.T, weights[at], chunk.ids[:, 1:].reshape(-1)[at])
