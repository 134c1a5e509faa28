"""From documents to tensors: chunks of similar length, so that little of the work goes into padding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from analyses.organism.documents import Document
from analyses.organism.tokenizer import IMAGE, PAD


@dataclass
class Chunk:
    """One padded batch.

    Attributes:
        ids: Token ids, ``[batch, position]``, padded on the right.
        weights: Loss weight of predicting each token, same shape.
        spans: Entity number per token (0 = none), same shape.
        images: Row in the image stack of each image, in reading order.
    """

    ids: Tensor
    weights: Tensor
    spans: Tensor
    images: Tensor

    @property
    def image_mask(self) -> Tensor:
        """True where an image token stands, ``[batch, position]``."""
        return self.ids == IMAGE


def collate(docs: list[Document]) -> Chunk:
    """Return documents as one padded batch."""
    width = max(len(d.ids) for d in docs)
    ids = np.full((len(docs), width), PAD, dtype=np.int64)
    weights = np.zeros((len(docs), width), dtype=np.float32)
    spans = np.zeros((len(docs), width), dtype=np.int64)
    for row, d in enumerate(docs):
        ids[row, : len(d.ids)], weights[row, : len(d.ids)], spans[row, : len(d.ids)] = d.ids, d.weights, d.spans
    images = torch.tensor([i for d in docs for i in d.images], dtype=torch.long)
    return Chunk(torch.from_numpy(ids), torch.from_numpy(weights), torch.from_numpy(spans), images)


def chunks(docs: list[Document], tokens: int = 1600) -> list[Chunk]:
    """Return documents sorted by length in padded batches of at most about `tokens` tokens."""
    docs = sorted(docs, key=lambda d: len(d.ids))
    out: list[Chunk] = []
    part: list[Document] = []
    for d in docs:
        if part and (len(part) + 1) * len(d.ids) > tokens:
            out.append(collate(part))
            part = []
        part.append(d)
    return [*out, collate(part)]


def total_weight(parts: list[Chunk]) -> float:
    """Return the summed loss weight of some batches, by which their summed losses are divided."""
    return float(sum(p.weights[:, 1:].sum() for p in parts))


def summed_loss(logits: Tensor, weights: Tensor, targets: Tensor) -> Tensor:
    """Return the weighted cross entropy, summed.

    Args:
        logits: ``[n, vocabulary]`` at the positions that count.
        weights: ``[n]``.
        targets: ``[n]`` token ids.
    """
    return (torch.nn.functional.cross_entropy(logits, targets, reduction="none") * weights).sum()
