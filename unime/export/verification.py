"""Whether two ways to embed give the same vectors: of texts, pictures, both, all in one batch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor
from transformers.utils import logging

from unime.config import Precision
from unime.errors import RunError
from unime.inputs.items import Item
from unime.inputs.media import MediaReader
from unime.inputs.resolution import Resolution
from unime.models.encoder import Encoder

TEXTS = ("a red bird", "Which of the two is larger, and what is it for? Say it in one sentence.")
SIDES = ((64, 48), (40, 90), (640, 256))  # (width, height) in pixels
ODD_SIDES = {"wide pictures": (320, 32), "tall pictures": (32, 320)}
ON_ITS_SIDE = 6  # what EXIF says of a picture that a camera took turned to the left
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

    def is_none(self, precision: Precision) -> bool:
        """But for rounding."""
        coordinate, cosine = TOLERANCE[precision]
        return self.largest <= coordinate and self.least_cosine >= 1 - cosine

    def __str__(self) -> str:
        return f"largest difference {self.largest:.1e}, least cosine {self.least_cosine:.6f}"


def probe_items(folder: Path) -> dict[str, list[Item]]:
    """Items of every kind, with pictures that it writes into `folder`."""
    generator = np.random.default_rng(0)
    paths = [str((folder / f"{number}.png").absolute()) for number in range(len(SIDES))]
    for path, size in zip(paths, SIDES, strict=True):
        _draw(generator, size).save(path)
    first, second, third = ((path,) for path in paths)
    short, long = TEXTS
    return {
        "text": [Item(short), Item(long)],
        "image": [Item(images=first), Item(images=second)],
        "image+text": [Item(short, third), Item(long, second)],
        "several images": [Item(long, first + third), Item(short, second + first)],
    }


def odd_items(folder: Path, resolution: Resolution) -> dict[str, list[Item]]:
    """One picture of each kind that programs read differently, which it writes into `folder`.

    Args:
        resolution: the pictures have it already.
    """
    generator = np.random.default_rng(1)
    picture = resolution.apply(_draw(generator, SIDES[0]))
    across = np.linspace(-1, 1, picture.width)
    down = np.linspace(-1, 1, picture.height)[:, None]
    opaque = np.where(across**2 + down**2 < 0.8, 255, 0)  # an ellipse in the middle
    alpha, grey = Image.fromarray(opaque.astype(np.uint8)), picture.convert("L")
    transparent = picture.copy()
    transparent.putalpha(alpha)
    palette = picture.quantize(16)
    one_colour = palette.convert("RGB")
    first = one_colour.getpixel((0, 0))
    turned = picture.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = ON_ITS_SIDE
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    saved: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
        "transparent pictures": (transparent, "png", {}),
        "grey transparent pictures": (Image.merge("LA", (grey, alpha)), "png", {}),
        "transparent pictures with a palette": (palette, "png", {"transparency": 3}),
        "pictures of which one colour is transparent": (one_colour, "png", {"transparency": first}),
        "pictures turned by EXIF": (turned, "jpg", {"exif": exif}),
        "pictures of 16 bits": (deep, "png", {}),
    }
    for kind, size in ODD_SIDES.items():
        saved[kind] = (resolution.apply(_draw(generator, size)), "png", {})
    items = {}
    for number, (kind, (image, end, options)) in enumerate(saved.items()):
        path = folder / f"odd-{number}.{end}"
        image.save(path, **options)
        items[kind] = [Item(images=(str(path.absolute()),))]
    return items


def _draw(generator: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Soft blots of all colours."""
    coarse = generator.integers(0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def embed_kinds(encoder: Encoder, kinds: dict[str, list[Item]]) -> dict[str, Tensor]:
    """The vectors of each kind (n, D), each item on its own."""
    return {kind: encoder.encode(items, batch_size=1) for kind, items in kinds.items()}


def difference(first: dict[str, Tensor], second: dict[str, Tensor]) -> Difference:
    return Difference.between(*(torch.cat(list(of.values())) for of in (first, second)))


def check_equal(what: str, found: Difference, precision: Precision) -> str:
    """A line about it.

    Raises:
        RunError: they are not the same.
    """
    if not found.is_none(precision):
        coordinate, cosine = TOLERANCE[precision]
        raise RunError(f"{what}: {found}, expected at most {coordinate:.0e} and 1 - {cosine:.0e}")
    return f"{what}: {found}"


class SentenceTransformersModel:
    """An exported model in sentence-transformers, for comparison.

    Args:
        encoder: the same model in unime.
        reads: it reads pictures as training did, by code that it carries.
    """

    def __init__(self, folder: Path, encoder: Encoder, reads: bool) -> None:
        from sentence_transformers import SentenceTransformer  # slow to import

        device = next(encoder.parameters()).device
        trust = reads or encoder.base_description["trust_remote_code"]
        before = logging.get_verbosity()
        logging.set_verbosity_error()  # of the head, which is not loaded: it would be "unexpected"
        try:
            model = SentenceTransformer(str(folder), device=str(device), trust_remote_code=trust)
        finally:
            logging.set_verbosity(before)
        self.model = model
        self.limits = dict(encoder.backbone.st_limits)
        resolution = Resolution() if reads else encoder.processor.resolution
        limit = encoder.processor.inputs.max_image_pixels
        self.read_media = MediaReader(0, limit, resolution, resolution)

    def vectors(self, kinds: dict[str, list[Item]]) -> dict[str, Tensor]:
        """Each kind in one batch, and "mixed", all kinds in one; without those that it does not
        support for this family."""
        batches = {kind: items for kind, items in kinds.items() if kind not in self.limits}
        if "mixed" not in self.limits:
            batches["mixed"] = [item for items in batches.values() for item in items]
        return {
            kind: self._encode([self._as_input(item) for item in items])
            for kind, items in batches.items()
        }

    def odd_vectors(self, kinds: dict[str, list[Item]]) -> dict[str, Tensor]:
        """Those of single pictures, by how they are given."""
        paths = [item.images[0] for items in kinds.values() for item in items]
        opened = [Image.open(path) for path in paths]
        return {"a file": self._encode(paths), "a PIL image": self._encode(opened)}

    def _as_input(self, item: Item) -> Any:
        images, _ = self.read_media(item)
        if not images:
            return item.text
        shown = images if len(images) > 1 else images[0]
        return {"image": shown, "text": item.text} if item.text else shown

    def _encode(self, inputs: list[Any]) -> Tensor:
        vectors = self.model.encode(
            inputs,
            batch_size=len(inputs),
            convert_to_tensor=True,
            normalize_embeddings=True,
            show_progress_bar=False,
        )
        return vectors.float().cpu()


def embedded_otherwise(
    ours: dict[str, Tensor], given: dict[str, Tensor], precision: Precision
) -> list[str]:
    """Which odd pictures have another vector, and how they were given then.

    Args:
        ours: of each kind one (1, D).
        given: of all kinds (kinds, D), by how they were given.
    """
    ways: dict[str, list[str]] = {}
    for way, vectors in given.items():
        for (kind, right), vector in zip(ours.items(), vectors, strict=True):
            if not Difference.between(right, vector[None]).is_none(precision):
                ways.setdefault(kind, []).append(way)
    return [
        kind + ("" if len(found) > 1 else f", given as {found[0]}") for kind, found in ways.items()
    ]
