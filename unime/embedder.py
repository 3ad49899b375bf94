"""What the evaluation asks of a model, whatever kind of model it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from accelerate.utils import send_to_device
from torch import Tensor

from unime.encoder import Encoder
from unime.items import Item


@dataclass
class Prepared:
    """Model inputs of some items, and which of their texts were cut."""

    inputs: Any
    truncated: list[bool]


class Embedder(Protocol):
    """
    Attributes:
        kind: as `EvalConfig.encoder` names it.
        dimension: of the embeddings, D.
    """

    kind: str
    dimension: int

    def refuses(self, item: Item) -> str | None:
        """Why the model cannot embed such an item; None: it can."""

    def prepare(self, items: Sequence[Item]) -> Prepared:
        """Read and tokenise; may run in a worker process.

        Raises:
            DataError: an item that cannot be read.
        """

    def embed(self, inputs: Any) -> Tensor:
        """Embeddings (B, D), float32, of norm 1, on the CPU, in the order of the items."""

    def describe(self) -> dict[str, Any]:
        """How items are shown to the model (prompt, resolution, frames, …), for the results."""


class UnimeEmbedder:
    """A model of ours: an :class:`Encoder` and its prompt."""

    kind = "unime"

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder.eval()
        self.dimension = encoder.hidden_size
        self.device = next(encoder.parameters()).device

    def refuses(self, item: Item) -> str | None:
        return None

    def prepare(self, items: Sequence[Item]) -> Prepared:
        processor = self.encoder.processor
        samples, truncated = [], []
        for item in items:
            before = processor.num_truncated
            samples.append(processor(item))
            truncated.append(processor.num_truncated > before)
        return Prepared(processor.parts(samples), truncated)

    def embed(self, inputs: list[tuple[list[int], dict[str, Tensor]]]) -> Tensor:
        parts = send_to_device([part for _, part in inputs], self.device)
        places = torch.tensor([place for of, _ in inputs for place in of])
        return self.encoder(parts).float().cpu()[places.argsort()]  # (B, D)

    def describe(self) -> dict[str, Any]:
        return asdict(self.encoder.processor.inputs)
