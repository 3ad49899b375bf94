"""Embeddings as the tests ask for them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unime.encoder import Encoder
from unime.items import Item

Part = tuple[list[int], dict[str, Tensor]]  # of ItemProcessor.parts


def embed(encoder: Encoder, items: Sequence[Item], indices: Sequence[int] | None = None) -> Tensor:
    """Embeddings of items (those of `indices`, in that order) in evaluation, in one batch or as few
    as the family needs."""
    samples = [encoder.processor(item) for item in items]
    chosen = samples if indices is None else [samples[index] for index in indices]
    with torch.no_grad():
        return embed_parts(encoder.eval(), encoder.processor.parts(chosen))


def embed_parts(encoder: Encoder, parts: Sequence[Part]) -> Tensor:
    """The rows of all parts, each where it belongs."""
    places = [place for of, _ in parts for place in of]
    return encoder([batch for _, batch in parts])[torch.tensor(places).argsort()]


def difference(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()
