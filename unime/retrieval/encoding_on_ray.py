"""Encodes items on the processes of a Ray cluster: the very batches of `encode`, in their order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor

from unime.config import EmbeddingConfig
from unime.errors import DataError
from unime.inputs.images import longest_first
from unime.inputs.items import Item
from unime.losses import first_unsound
from unime.retrieval.embedder import ItemEmbedder, item_name
from unime.retrieval.encoding import Encoded, prepare
from unime.retrieval.loading import load_embedder
from unime.retrieval.on_ray import map_on_ray
from unime.runtime.progress import progress_bar


class BatchEncoder:
    """The embedder that a configuration names, as a function of a batch of items; sent elsewhere it
    is loaded there, with the first batch."""

    def __init__(self, config: EmbeddingConfig) -> None:
        self.config = config

    @cached_property
    def embedder(self) -> ItemEmbedder:
        kind = "cuda" if torch.cuda.is_available() else "cpu"
        return load_embedder(self.config, torch.device(kind))

    def __call__(self, items: Sequence[Item]) -> tuple[Tensor, list[bool]]:
        """Embeddings (n, D), and which texts were cut."""
        places = list(range(len(items)))
        batch = prepare(self.embedder, items, lambda place: item_name(items[place]), places)
        with torch.inference_mode():
            return self.embedder.embed(batch.inputs).clone(), batch.truncated


def encode_on_ray(
    config: EmbeddingConfig, items: Sequence[Item], description: str
) -> Iterator[Encoded]:
    """Encode every item once, on the cluster that ``ray`` names, which has to find pictures where
    this process does.

    Raises:
        ConfigError: there is no such cluster, or it has other versions.
        DataError: an item that cannot be read or encoded.
    """
    assert config.ray is not None
    order, size = longest_first(items), config.batch_size
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    parts = [[items[place] for place in batch] for batch in batches]
    results = map_on_ray(config.ray, BatchEncoder(config), parts)
    with progress_bar(total=len(items), desc=description, unit="item") as bar:
        for places, (embeddings, truncated) in zip(batches, results, strict=True):
            if bad := first_unsound(embeddings):
                raise DataError(f"{item_name(items[places[bad[0]]])}: {bad[1]}")
            yield Encoded(places, embeddings, truncated)
            bar.update(len(places))
