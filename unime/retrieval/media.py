"""An item's pictures, as models other than ours get them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from PIL import Image

from unime.config import InputConfig
from unime.inputs.images import load_image, sample_frames
from unime.inputs.items import Item
from unime.inputs.resolution import Resolution


class Media:
    """Reads the pictures of items for a baseline, as ItemProcessor does for ours."""

    def __init__(self, inputs: InputConfig) -> None:
        filled = inputs.filled()
        self.inputs = inputs
        self.num_frames = int(filled.num_frames or 0)
        self.resolution = Resolution.parse(str(filled.resolution))

    def images(self, item: Item) -> list[Image.Image]:
        """
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
