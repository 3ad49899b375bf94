"""What the evaluation asks of a model, whatever kind of model it is.

A baseline goes through the same tasks, the same reading of pictures and the same scoring as ours,
so that a comparison is a run and not a number copied from a paper: ``encoder: dual_encoder`` (CLIP,
SigLIP, …; dual_encoder.py) or ``encoder: sentence_transformers`` (sentence_encoder.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from unime.config import InputConfig
from unime.inputs.items import Item, whole_characters
from unime.inputs.media import MediaReader
from unime.inputs.resolution import Resolution

BUDGET = (  # what the processors of the families call their limits on pixels, tiles and patches
    *("size", "crop_size", "min_pixels", "max_pixels", "max_image_size", "image_grid_pinpoints"),
    *("min_patches", "max_patches", "num_crops", "do_image_splitting", "cap_pixels_per_frame"),
)


@dataclass
class Prepared:
    """Model inputs of some items, and which of their texts were cut."""

    inputs: Any
    truncated: list[bool]


class ItemEmbedder(Protocol):
    """Any model that turns items into unit vectors.

    Attributes:
        kind: as `EvalConfig.encoder` names it.
        dimension: of the embeddings, D.
    """

    kind: str
    dimension: int

    def refuses(self, item: Item) -> str | None:
        """Why the model cannot embed such an item; None: it can."""
        return None

    def prepare(self, items: Sequence[Item]) -> Prepared:
        """Read and tokenise; may run in a worker process.

        Raises:
            DataError: an item that cannot be read.
        """

    def embed(self, inputs: Any) -> Tensor:
        """Embeddings (B, D), float32, of norm 1, on the CPU, in the order of the items."""

    def describe(self) -> dict[str, Any]:
        """How items are shown to the model (prompt, resolution, frames, …), for the results."""


class BaselineEmbedder(ItemEmbedder):
    """What embedders of other models than ours share: how they read pictures."""

    def __init__(self, model: Any, inputs: InputConfig) -> None:
        self.model = model.eval()
        self.inputs = filled = inputs.filled()
        size = Resolution.parse(str(filled.resolution))
        frames = int(filled.num_frames or 0)
        draft = bool(filled.jpeg_draft)
        self.read_media = MediaReader(frames, filled.max_image_pixels, size, size, draft)

    @property
    def device(self) -> torch.device:
        return self.model.device

    def described(self, max_text_tokens: int | None, prompt: str | None = None) -> dict[str, Any]:
        own = {"prompt": prompt, "max_text_tokens": max_text_tokens, "max_tiles": None}
        return self.inputs.decisive() | own


def own_text(item: Item) -> str:
    """The task's instruction and then the text, in one line: what a model reads that knows no
    instructions. Half a character (a lone surrogate), which no tokenizer takes, is a "?"."""
    words = " ".join(part for part in (item.instruction, item.text) if part.strip())
    return str(whole_characters(words))


def item_name(item: Item) -> str:
    paths = [Path(path).name for path in (*item.images, *item.video[:1])]
    return ", ".join(paths) or f"text {item.text[:60]!r}"


def pixel_budget(hf_processor: Any) -> dict[str, dict[str, Any]]:
    """How large an image or a frame may get in a processor, in its own words, for the results."""
    found: dict[str, dict[str, Any]] = {}
    for kind in ("image", "video"):
        part = getattr(hf_processor, f"{kind}_processor", None)
        limits = {name: _plain(getattr(part, name, None)) for name in BUDGET}
        found[kind] = {name: limit for name, limit in limits.items() if limit is not None}
    return {kind: limits for kind, limits in found.items() if limits}


def _plain(limit: Any) -> Any:
    """A limit as JSON value; sizes are small objects of transformers' own."""
    if limit is None or isinstance(limit, bool | int | list | tuple):
        return limit
    values = limit if isinstance(limit, Mapping) else vars(limit)
    return {name: value for name, value in values.items() if value is not None}
