"""Our own encoder as an embedder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from unime.inputs.items import Item
from unime.models.encoder import Encoder, Parts
from unime.models.features.frozen import Media
from unime.models.prompts import render
from unime.retrieval.embedder import ItemEmbedder, Prepared, pixel_budget


class UnimeEmbedder(ItemEmbedder):
    """A model of ours: an :class:`Encoder` and its prompt."""

    kind = "unime"

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder.eval()
        self.dimension = encoder.hidden_size
        self.device = next(encoder.parameters()).device

    def prepare(self, items: Sequence[Item]) -> Prepared:
        processor = self.encoder.processor
        samples, truncated = [], []
        for item in items:
            before = processor.num_truncated
            samples.append(processor(item))
            truncated.append(processor.num_truncated > before)
        return Prepared(self.encoder.parts(samples), truncated)

    def embed(self, inputs: tuple[Parts, Media | None]) -> Tensor:
        return self.encoder.embed(*inputs)  # (B, D)

    def describe(self) -> dict[str, Any]:
        """Also the prompts themselves, of a text and of an image, and the processor's limits."""
        processor = self.encoder.processor
        own, backbone, preset = processor.hf_processor, processor.backbone, processor.prompt
        prompts = {
            "text": render(Item("TEXT"), own, backbone, preset),
            "image": render(Item(images=("IMAGE",)), own, backbone, preset),
        }
        budget = {"pixel_budget": pixel_budget(own)}
        return processor.inputs.decisive() | {"prompts": prompts} | budget
