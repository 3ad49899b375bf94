"""Embeddings as the tests ask for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unime.config import InputConfig, ModelConfig, Precision, Quantization
from unime.data.teacher_store import open_store, text_key
from unime.inputs.items import Item
from unime.models.encoder import Encoder


def embed(encoder: Encoder, items: Sequence[Item], indices: Sequence[int] | None = None) -> Tensor:
    """Embeddings of items (those of `indices`, in that order) in evaluation, in one batch or as few
    as the family needs."""
    samples = [encoder.processor(item) for item in items]
    chosen = samples if indices is None else [samples[index] for index in indices]
    with torch.no_grad():
        return encoder.eval().embed(encoder.processor.parts(chosen))


def check_alone_equals_batched(encoder: Encoder, items: Sequence[Item]) -> Tensor:
    """Six items have the same vectors in one batch, alone, in another order and in two batches,
    and are told apart; returns those of the one batch."""
    whole = embed(encoder, items)
    assert (whole @ whole.T).fill_diagonal_(0).max() < 0.99
    alone = torch.cat([embed(encoder, [item]) for item in items])
    assert difference(whole, alone) < 1e-5
    order = [4, 0, 5, 2, 1, 3]
    assert difference(embed(encoder, items, order), whole[order]) < 1e-5
    halves = torch.cat([embed(encoder, items, part) for part in ([0, 5], [1, 4, 2, 3])])
    assert difference(halves, whole[[0, 5, 1, 4, 2, 3]]) < 1e-5
    return whole


def exact_model(name: object, **settings: Any) -> ModelConfig:
    """A model as it is: fp32, nothing quantised."""
    exact = {"quantization": Quantization.none, "precision": Precision.float32}
    return ModelConfig(str(name), **(exact | settings))


def load_exact(
    name: object, adapter: object = None, inputs: InputConfig | None = None, **settings: Any
) -> Encoder:
    """The encoder of such a model, with the adapters of a folder or of the hub."""
    model = exact_model(name, adapter=str(adapter) if adapter else None, **settings)
    return Encoder.load(model, inputs)


def difference(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()


def unit(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def embeddings(folder: Path, wanted: Sequence[str]) -> np.ndarray:
    return open_store(folder, wanted).embeddings([text_key(text) for text in wanted]).numpy()
