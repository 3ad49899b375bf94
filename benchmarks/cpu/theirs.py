"""A step of sentence-transformers' cached loss, on the same weights, adapters and pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from benchmarks.cpu.frame import FirstStep
from benchmarks.cpu.material import Material
from benchmarks.cpu.ours import RATE, batches, configured, loaded
from unime.data.datasets import PairDataset
from unime.errors import require_package
from unime.export.merged import save_merged
from unime.inputs.items import Item
from unime.models.encoder import Encoder
from unime.models.hub import locate

Features = list[dict[str, Any]]
TEMPERATURE = 0.05  # as ours in `SAME`


def export(material: Material, folder: Path) -> Path:
    """Our base as they load it, prompt and pooling included.

    Raises:
        ConfigError: sentence-transformers is not installed.
    """
    require_package("sentence_transformers", "bench", "bench")
    config = configured(material, folder)
    plain = Encoder.load(config.model, config.inputs)
    save_merged(plain, folder, "5GB", locate(config.model).base.folder, code=False)
    return folder


class Peer:
    """Their model: what `export` wrote, with our adapters on its transformer."""

    def __init__(self, material: Material, exported: Path) -> None:
        from sentence_transformers import SentenceTransformer  # slow to import

        config = configured(material, exported)
        self.encoder = loaded(config)  # of its own, whose transformer they get
        self.model = SentenceTransformer(str(exported), device="cpu")
        self.model[0].model = self.encoder.model
        self.model.train()
        self.parameters = dict(self.encoder.trainable_named_parameters())
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=RATE, weight_decay=0.0, fused=True
        )
        pairs = list(PairDataset.load(config.data, config.run.seed, self.encoder.processor))
        self.pairs = batches(pairs, material.size)

    def features(self, items: Sequence[Item]) -> dict[str, Any]:
        """A column as their collator makes it."""
        return self.model.preprocess([as_input(item) for item in items])


class Theirs:
    """A step of their cached loss, or with `cached` false of their plain one.

    Args:
        settings: `mini_batch_size`, and perhaps `mini_batch_num_tokens`.
    """

    def __init__(self, peer: Peer, cached: bool = True, **settings: int) -> None:
        from sentence_transformers.sentence_transformer import losses

        shown = ", ".join(f"{name}={value}" for name, value in settings.items())
        self.name = f"sentence-transformers, {shown if cached else 'no cache'}"
        self.peer = peer
        kind = f"{'Cached' * cached}MultipleNegativesRankingLoss"
        self.loss = getattr(losses, kind)(peer.model, scale=1 / TEMPERATURE, **settings)

    def prepare(self) -> list[Features]:
        return [self._features(index) for index in range(len(self.peer.pairs))]

    def step(self, prepared: list[Features]) -> None:
        for features in prepared:
            self._backward(features)
            torch.nn.utils.clip_grad_norm_(self.peer.parameters.values(), math.inf)
            self.peer.optimizer.step()
            self.peer.optimizer.zero_grad()

    def first_step(self) -> FirstStep:
        loss = self._backward(self._features(0)).item()
        taken = {n: p.grad.clone() for n, p in self.peer.parameters.items() if p.grad is not None}
        self.peer.optimizer.zero_grad()
        return FirstStep(loss, taken)

    def _features(self, batch: int) -> Features:
        pairs = self.peer.pairs[batch]
        columns = ([pair.query for pair in pairs], [pair.target for pair in pairs])
        return [self.peer.features(column) for column in columns]

    def _backward(self, features: Features) -> Tensor:
        loss: Tensor = self.loss([dict(column) for column in features], None)
        loss.backward()
        return loss


def as_input(item: Item) -> Any:
    """What they are given: the picture's file is read as it is prepared, as ours is."""
    if not item.images:
        return item.text
    image = Image.open(item.images[0])
    return {"image": image, "text": item.text} if item.text else image
