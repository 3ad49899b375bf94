"""Whether the model's own processor takes an item, told without its pictures."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from copy import copy
from dataclasses import replace

from PIL import Image

from unime.errors import DataError
from unime.inputs.images import Size, load_image
from unime.inputs.items import Item, Pair
from unime.models.item_processor import REFUSED, ItemProcessor

SPARE = 16  # tokens by which a text may be longer beside an image than it is alone


class ItemCheck:
    """Refuses what an :class:`ItemProcessor` will refuse of items whose images were read before.

    Whatever a processor does with an image depends on its size, so that blank ones stand for them,
    and items are alike whose images have the same sizes: of these one is prepared, and another only
    where the longest text might be too long for the model beside such images.

    Args:
        size_of: of an image, by path; None: it was not read before.
    """

    def __init__(self, processor: ItemProcessor, size_of: Callable[[str], Size | None]) -> None:
        self.processor = copy(processor)  # which counts its own truncated texts
        self.size_of = size_of
        self._fits: dict[Hashable, bool] = {}
        self._tokens: dict[Hashable, int] = {}

    def __call__(self, pair: Pair, where: str) -> None:
        """Refuse a row with an item that the model cannot embed.

        Raises:
            DataError: an item that the processor refuses, or of too many tokens.
        """
        named = {"query": pair.query, "target": pair.target}
        named |= {f"negative {number}": item for number, item in enumerate(pair.negatives)}
        for name, item in named.items():
            try:
                self._check(item)
            except DataError as error:
                message = f"{where}, {name}: {error}"
                raise DataError(message, error.kind or REFUSED, (name,)) from None

    def tokens_beside(self, item: Item) -> int:
        """Of prompt and pictures, about, of an item that the processor takes."""
        self._check(item)
        return self._tokens.get(self._kind(item), 0)

    def _check(self, item: Item) -> None:
        kind = self._kind(item)
        if kind not in self._fits:
            self._fits[kind] = self._fits_with_any_text(item, kind)
        if not self._fits[kind]:
            self.processor(item, self._blank)

    def _kind(self, item: Item) -> Hashable:
        sizes = tuple(map(self._size, item.images))
        return sizes, item.video, item.instruction, bool(item.text.strip())

    def _fits_with_any_text(self, item: Item, kind: Hashable) -> bool:
        has_text = bool(item.text.strip())
        short = replace(item, text="a", spacing=None) if has_text else item
        try:
            sample = self.processor(short, self._blank)
        except DataError:
            return False
        self._tokens[kind] = len(sample["input_ids"]) - has_text
        longest = len(sample["input_ids"]) + int(self.processor.inputs.max_text_tokens or 0)
        most = self.processor.most_tokens
        return most is None or longest + SPARE <= most

    def _size(self, path: str) -> Size:
        size = self.size_of(path)
        assert size is not None  # whoever made the item has read its images
        return self.processor.resolution.size_of(size)

    def _blank(self, path: str) -> Image.Image:
        if self.size_of(path) is None:  # a frame of a video
            return load_image(path, self.processor.inputs.max_image_pixels)
        return Image.new("RGB", self._size(path))


def processor_settings(processor: ItemProcessor | None) -> list[str | int | None]:
    """All that decides what a processor makes of an item, but for code."""
    if processor is None:
        return []
    own, tokenizer = processor.hf_processor, processor.tokenizer
    fast = getattr(tokenizer, "backend_tokenizer", None)
    words = fast.to_str() if fast is not None else repr(sorted(tokenizer.get_vocab().items()))
    inputs = repr(sorted(processor.inputs.decisive().items()))
    template = repr(getattr(own, "chat_template", None))
    family = processor.backbone.family
    return [repr(own), words, template, inputs, family, processor.most_tokens]
