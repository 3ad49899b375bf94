"""Whether two ways to embed give the same vectors: of texts, pictures, both, all in one batch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unime.config import Precision
from unime.encoder import Encoder
from unime.faults import RunError
from unime.images import load_image
from unime.items import Item

TEXTS = ("a red bird", "Which of the two is larger, and what is it for? Say it in one sentence.")
SIDES = ((64, 48), (40, 90), (640, 256))  # (width, height) in pixels
# Where weights or their sums are rounded differently, by at most so much of a coordinate of a unit
# vector, and of its cosine.
TOLERANCE = {
    Precision.float32: (1e-4, 1e-6),
    Precision.bfloat16: (0.05, 1e-2),
    Precision.float16: (0.02, 1e-3),
}


@dataclass(frozen=True)
class Difference:
    """Between two sets of unit vectors (N, D) of the same items."""

    largest: float  # of all coordinates
    least_cosine: float  # of all items

    @classmethod
    def between(cls, first: Tensor, second: Tensor) -> Difference:
        largest = (first - second).abs().max().item()
        return cls(largest, torch.cosine_similarity(first, second).min().item())

    def __str__(self) -> str:
        return f"largest difference {self.largest:.1e}, least cosine {self.least_cosine:.6f}"


def probe_items(folder: Path) -> dict[str, list[Item]]:
    """Items of every kind, with pictures that it writes into `folder`."""
    generator = np.random.default_rng(0)
    paths = []
    for number, (width, height) in enumerate(SIDES):
        coarse = generator.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        paths.append(str((folder / f"{number}.png").absolute()))
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(paths[-1])
    first, second, third = ((path,) for path in paths)
    short, long = TEXTS
    return {
        "text": [Item(short), Item(long)],
        "image": [Item(images=first), Item(images=second)],
        "image+text": [Item(short, third), Item(long, second)],
        "several images": [Item(long, first + third), Item(short, second + first)],
    }


def embed_kinds(encoder: Encoder, kinds: dict[str, list[Item]]) -> dict[str, Tensor]:
    """The vectors of each kind (n, D), each item on its own."""
    device = next(encoder.parameters()).device
    encoder.eval()

    def embed(item: Item) -> Tensor:
        batch = encoder.processor.collate([encoder.processor(item)])
        with torch.inference_mode():
            return encoder({key: value.to(device) for key, value in batch.items()}).cpu()

    return {kind: torch.cat([embed(item) for item in items]) for kind, items in kinds.items()}


def difference(first: dict[str, Tensor], second: dict[str, Tensor]) -> Difference:
    return Difference.between(*(torch.cat(list(of.values())) for of in (first, second)))


def check_equal(what: str, found: Difference, precision: Precision) -> str:
    """A line about it.

    Raises:
        RunError: they are not the same.
    """
    coordinate, cosine = TOLERANCE[precision]
    if not (found.largest <= coordinate and found.least_cosine >= 1 - cosine):
        raise RunError(f"{what}: {found}, expected at most {coordinate:.0e} and 1 - {cosine:.0e}")
    return f"{what}: {found}"


def sentence_transformers_vectors(
    folder: Path, encoder: Encoder, kinds: dict[str, list[Item]]
) -> dict[str, Tensor]:
    """What sentence-transformers makes of an exported model: each kind in one batch, and "mixed",
    all kinds in one; without those that it does not support for this family."""
    limits = dict(encoder.backbone.st_limits)
    if "all" in limits:
        return {}
    from sentence_transformers import SentenceTransformer  # slow to import

    device = next(encoder.parameters()).device
    trust = (folder / "resizing_transformer.py").is_file()
    trust = trust or encoder.base_description["trust_remote_code"]
    model = SentenceTransformer(str(folder), device=str(device), trust_remote_code=trust)
    inputs = encoder.processor.inputs

    def as_input(item: Item) -> Any:
        images = [load_image(path, inputs) for path in item.images]
        if not images:
            return item.text
        shown = images if len(images) > 1 else images[0]
        return {"image": shown, "text": item.text} if item.text else shown

    batches = {kind: items for kind, items in kinds.items() if kind not in limits}
    if "mixed" not in limits:
        batches["mixed"] = [item for items in batches.values() for item in items]
    return {
        kind: model.encode(
            [as_input(item) for item in items],
            batch_size=len(items),
            convert_to_tensor=True,
            normalize_embeddings=True,
            show_progress_bar=False,
        )
        .float()
        .cpu()
        for kind, items in batches.items()
    }
