"""Kernels that read residuals at one position per row or at any tokens, and what all kernels share."""

from __future__ import annotations

from typing import Any

import torch
from nnsight import save

from xmi.kernels.inputs import place


def at(model: Any, path: str) -> Any:
    """Follows a module path (`model.layers.3`) from the model's envoy; the empty path is the model."""
    envoy = model
    for part in path.split(".") if path else []:
        envoy = envoy[int(part)] if part.isdigit() else getattr(envoy, part)
    return envoy


def hidden(output: Any) -> torch.Tensor:
    """The residual stream in a block's output: itself, or the first of a tuple."""
    result: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return result


class ResidPost:
    """The residual stream after each block inside a trace, whether blocks return a tensor or a tuple."""

    def __init__(self, layers: Any) -> None:
        """Takes the envoys of the blocks."""
        self.layers = layers

    def __len__(self) -> int:
        """Returns the number of layers."""
        return len(self.layers)

    def __getitem__(self, layer: int) -> torch.Tensor:
        """Returns the residual stream after a block, [batch, position, d_model]; may be written in place."""
        return hidden(self.layers[layer].output)

    def __setitem__(self, layer: int, value: torch.Tensor) -> None:
        """Replaces the residual stream after a block."""
        output = self.layers[layer].output
        self.layers[layer].output = (value, *output[1:]) if isinstance(output, tuple) else value


def residual_kernel(
    model: Any, inputs: dict[str, Any], paths: dict[str, str], columns: torch.Tensor, keep: int, ends: list[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Residual stream after every block at some columns of every row, in one forward.

    Args:
        model: nnsight model.
        inputs: What the model's forward takes, with `use_cache` and the like.
        paths: `layers` and `n_layers`.
        columns: The columns to read in each row, counted from the end (-1 is the last), shape [row, slot]; some models
            drop tokens of which no logits are kept.
        keep: How many rows are wanted one by one.
        ends: Numbers of rows to sum over, from the first.

    Returns:
        float32 on the CPU: the first rows, shape [keep, slot, layer, d_model], and the sums, shape [len(ends), slot,
        layer, d_model].
    """
    rows = torch.arange(len(columns))[:, None]
    count = int(paths["n_layers"])
    inputs = place(model, inputs)
    with torch.no_grad(), model.trace(**inputs):
        kept = []
        for layer in range(count):
            kept.append(hidden(at(model, paths["layers"])[layer].output)[rows, columns].float().cpu())
        values = save(torch.stack(kept, dim=2))
    return values[:keep].clone(), torch.stack([values[:end].double().sum(0).float() for end in ends])


def stream_kernel(
    model: Any, inputs: dict[str, Any], paths: dict[str, str], rows: torch.Tensor, columns: torch.Tensor
) -> torch.Tensor:
    """Residual stream at every depth of any tokens, in one forward: what lenses are trained on.

    Depth 0 is the embedding (the first block's input), depth i the residual after block i - 1.

    Args:
        model: nnsight model.
        inputs: What the model's forward takes.
        paths: `layers`, `n_layers`.
        rows: The row of each token, shape [token].
        columns: Its column, counted from the end, shape [token].

    Returns:
        In the model's precision on the CPU, shape [token, depth, d_model].
    """
    inputs = place(model, inputs)
    with torch.no_grad(), model.trace(**inputs):
        blocks = at(model, paths["layers"])
        kept = [blocks[0].input[rows, columns].cpu()]
        for layer in range(int(paths["n_layers"])):
            kept.append(hidden(blocks[layer].output)[rows, columns].cpu())
        result: torch.Tensor = save(torch.stack(kept, dim=1))
    return result


def translate(state: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Residuals as a lens hands them to the final norm: state + weight @ state + bias, in float32 until the end.

    Args:
        state: Shape [..., d_model].
        weight: Shape [d_model, d_model]; zero leaves the state as it is.
        bias: Shape [d_model].
    """
    wide = state.float()
    return (wide + wide @ weight.to(wide.device).T + bias.to(wide.device)).to(state.dtype)


def score(
    logits: torch.Tensor, answers: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """What comes next at each place, on the CPU.

    Args:
        logits: Shape [row, place, vocab].
        answers: One id per row.
        k: How many top tokens.

    Returns:
        Top ids [row, place, k], log-probability (nats) and rank (0 = top) of the answers [row, place], and
        log-probability of the top token [row, place].
    """
    tops, own, ranks, firsts = [], [], [], []
    # A few places at a time: float32 copies of all logits of a large vocabulary would need gigabytes, and a share of
    # the logits' own memory is all that scoring may take.
    size = max(1, min(2**17 // logits.shape[-1], logits.shape[1] // 16))
    for part in torch.split(logits, size, dim=1):
        values = part.float()
        index = answers.to(part.device)[:, None, None].expand(-1, part.shape[1], 1)
        chosen, total = values.gather(-1, index), values.logsumexp(-1)
        best = values.argmax(-1, keepdim=True) if k == 1 else values.topk(k, dim=-1).indices
        tops.append(best.cpu())
        own.append((chosen[..., 0] - total).cpu())
        ranks.append((values > chosen).sum(-1).cpu())
        firsts.append((values.gather(-1, best[..., :1])[..., 0] - total).cpu())
    return torch.cat(tops, 1), torch.cat(own, 1), torch.cat(ranks, 1), torch.cat(firsts, 1)
