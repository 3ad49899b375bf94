"""What an item shows and says, as every kind of model is given it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from PIL import Image

from unime.errors import DataError
from unime.inputs.images import load_image, sample_frames
from unime.inputs.items import Item, whole_characters
from unime.inputs.resolution import Resolution


def check_not_empty(item: Item) -> None:
    """Refuse an item without text, image or video.

    Raises:
        DataError: nothing to embed; an instruction alone is nothing.
    """
    if not item.text.strip() and not item.images and not item.video:
        raise DataError("an item has neither text nor image")


@dataclass
class MediaReader:
    """Reads the pictures of items, and `num_frames` evenly spaced ones of their videos'."""

    num_frames: int
    max_pixels: int  # of a picture
    resolution: Resolution
    frame_resolution: Resolution

    def __call__(
        self, item: Item, load: Callable[[str], Image.Image] | None = None
    ) -> tuple[list[Image.Image], list[Image.Image]]:
        """Pictures and frames, as the model is shown them.

        Args:
            load: gives the picture of a path; None: reads it.

        Raises:
            DataError: an image that cannot be read, or is too large.
        """
        load = load or (lambda path: load_image(path, self.max_pixels))
        images = [self.resolution.apply(load(path)) for path in item.images]
        chosen = sample_frames(item.video, self.num_frames)
        return images, [self.frame_resolution.apply(load(path)) for path in chosen]


class ControlTokens:
    """What a tokenizer reads as control tokens, and a text may not hold.

    Args:
        more: a pattern of further ones.
    """

    def __init__(self, tokens: Iterable[str], more: str = "(?!)") -> None:
        self.longest_first = sorted((t for t in set(tokens) if len(t) > 1), key=len)[::-1]
        self._pattern = re.compile("|".join([more, *map(re.escape, self.longest_first)]))

    def neutralise(self, text: str) -> str:
        """Put a space into each of them in a text, so that a text about ``<image>`` is neither an
        image nor the end of the turn; half a character (a lone surrogate), which no tokenizer
        takes, becomes a question mark."""
        whole = whole_characters(text)
        return self._pattern.sub(lambda match: f"{match[0][0]} {match[0][1:]}", whole)
