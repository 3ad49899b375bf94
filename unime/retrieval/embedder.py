"""What the evaluation asks of a model, whatever kind of model it is.

A baseline goes through the same tasks, the same reading of pictures and the same scoring as ours,
so that a comparison is a run and not a number copied from a paper: ``encoder: dual_encoder`` (CLIP,
SigLIP, …; dual_encoder.py) or ``encoder: sentence_transformers`` (sentence_encoder.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from unime.errors import DataError
from unime.inputs.items import Item, whole_characters


@dataclass
class Prepared:
    """Model inputs of some items, and which of their texts were cut."""

    inputs: Any
    truncated: list[bool]


class Embedder(Protocol):
    """Any model that turns items into unit vectors.

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


def own_text(item: Item) -> str:
    """The task's instruction and then the text, in one line: what a model reads that knows no
    instructions. Half a character (a lone surrogate), which no tokenizer takes, is a "?"."""
    words = " ".join(part for part in (item.instruction, item.text) if part.strip())
    return str(whole_characters(words))


def check_not_empty(item: Item) -> None:
    """Refuse an item without text, image or video.

    Raises:
        DataError: nothing to embed; an instruction alone is nothing.
    """
    if not item.text.strip() and not item.images and not item.video:
        raise DataError("an item has neither text nor image")


def item_name(item: Item) -> str:
    paths = [Path(path).name for path in (*item.images, *item.video[:1])]
    return ", ".join(paths) or f"text {item.text[:60]!r}"
