"""Whether training will be able to prepare an item, without doing all of it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from copy import copy
from dataclasses import replace

from PIL import Image

from unime.errors import DataError
from unime.inputs.images import Size, load_image
from unime.inputs.items import Item
from unime.models.item_processor import ItemProcessor

SPARE = 16  # tokens by which a text may be longer beside an image than it is alone


class ItemCheck:
    """Refuses what an :class:`ItemProcessor` will refuse of items whose images were read before.

    Whatever a processor does with an image depends on its size, so that blank ones stand for them,
    and items are alike whose images have the same sizes: of these one is prepared, and another only
    where the longest text might be too long for the model beside such images.

    Args:
        sizes: of the images, by path.
    """

    def __init__(self, processor: ItemProcessor, sizes: Mapping[str, Size]) -> None:
        self.processor = copy(processor)  # which counts its own truncated texts
        self.sizes = sizes
        self._fits: dict[Hashable, bool] = {}

    def __call__(self, item: Item) -> None:
        """Refuse an item that the model cannot embed.

        Raises:
            DataError: an item that the processor refuses, or of too many tokens.
        """
        sizes = tuple(map(self._size, item.images))
        kind = (sizes, item.video, item.instruction, bool(item.text.strip()))
        if kind not in self._fits:
            self._fits[kind] = self._fits_with_any_text(item)
        if not self._fits[kind]:
            self.processor(item, self._blank)

    def _fits_with_any_text(self, item: Item) -> bool:
        short = replace(item, text="a", spacing=None) if item.text.strip() else item
        try:
            sample = self.processor(short, self._blank)
        except DataError:
            return False
        longest = len(sample["input_ids"]) + int(self.processor.inputs.max_text_tokens or 0)
        most = self.processor.most_tokens
        return most is None or longest + SPARE <= most

    def _size(self, path: str) -> Size:
        return self.processor.resolution.size_of(self.sizes[path])

    def _blank(self, path: str) -> Image.Image:
        if path not in self.sizes:  # a frame of a video
            return load_image(path, self.processor.inputs.max_image_pixels)
        return Image.new("RGB", self._size(path))
