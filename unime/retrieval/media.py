"""An item's pictures, as models other than ours get them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from PIL import Image

from unime.config import InputConfig
from unime.inputs.images import load_image, sample_frames
from unime.inputs.items import Item
from unime.inputs.resolution import Resolution

BUDGET = (  # what the processors of the families call their limits on pixels, tiles and patches
    *("size", "crop_size", "min_pixels", "max_pixels", "max_image_size", "image_grid_pinpoints"),
    *("min_patches", "max_patches", "num_crops", "do_image_splitting", "cap_pixels_per_frame"),
)


class Media:
    """Reads the pictures of items for a baseline, as ItemProcessor does for ours."""

    def __init__(self, inputs: InputConfig) -> None:
        filled = inputs.filled()
        self.inputs = inputs
        self.num_frames = int(filled.num_frames or 0)
        self.resolution = Resolution.parse(str(filled.resolution))

    def images(self, item: Item) -> list[Image.Image]:
        """The item's pictures, as the model is shown them.

        Raises:
            DataError: an image that cannot be read, here and below.
        """
        return [self._load(path) for path in item.images]

    def frames(self, item: Item) -> list[Image.Image]:
        """Of its video, `num_frames` evenly spaced ones."""
        return [self._load(path) for path in sample_frames(item.video, self.num_frames)]

    def _load(self, path: str) -> Image.Image:
        return self.resolution.apply(load_image(path, self.inputs.max_image_pixels))

    def describe(self, max_text_tokens: int | None, prompt: str | None = None) -> dict[str, Any]:
        filled = asdict(self.inputs.filled())
        return filled | {
            "prompt": prompt,
            "max_text_tokens": max_text_tokens,
            "max_tiles": None,
        }


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
