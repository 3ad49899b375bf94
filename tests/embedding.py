"""Embeddings as the tests ask for them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unime.encoder import Encoder
from unime.items import Item


def embed(encoder: Encoder, items: Sequence[Item], indices: Sequence[int] | None = None) -> Tensor:
    """Embeddings of items (those of `indices`, in that order) in one batch, in evaluation."""
    samples = [encoder.processor(item) for item in items]
    chosen = samples if indices is None else [samples[index] for index in indices]
    with torch.no_grad():
        return encoder.eval()(encoder.processor.collate(chosen))


def difference(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()
