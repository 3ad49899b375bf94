"""What an item shows and says, as every kind of model is given it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
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


def check_frames(item: Item, frames: Sequence[Image.Image]) -> None:
    """Refuse frames of an item's video that are not of one size, which a video is an array of.

    Args:
        frames: those that were chosen, as they are shown; the last may be there more than once.

    Raises:
        DataError: names the first frame that differs.
    """
    paths = sample_frames(item.video, len(frames))
    for path, frame in zip(paths, frames, strict=False):
        if frame.size != frames[0].size:
            sizes = [f"{width} x {height}" for width, height in (frame.size, frames[0].size)]
            raise DataError(
                f"{path}: a frame of {sizes[0]} pixels in a video of {sizes[1]}; a size such as"
                " inputs.resolution=336x336 makes them alike"
            )


@dataclass
class MediaReader:
    """Reads the pictures of items, and `num_frames` evenly spaced ones of their videos'."""

    num_frames: int
    max_pixels: int  # of a picture
    resolution: Resolution
    frame_resolution: Resolution
    jpeg_draft: bool = False

    def __call__(
        self, item: Item, load: Callable[[str], Image.Image] | None = None
    ) -> tuple[list[Image.Image], list[Image.Image]]:
        """Pictures and frames, as the model is shown them.

        Args:
            load: gives the picture of a path; None: reads it.

        Raises:
            DataError: an image that cannot be read, is too large or a strip.
        """
        # of frames, since a family may bring pictures to their resolution by itself
        drafted = self.frame_resolution if self.jpeg_draft else None
        load = load or (lambda path: load_image(path, self.max_pixels, drafted))

        def shown(path: str, resolution: Resolution) -> Image.Image:
            picture = load(path)
            try:
                return resolution.apply(picture)
            except ValueError as error:
                plain = f"{path}: {error}"
                message = f"{plain}; a size such as inputs.resolution=336x336 changes that"
                raise DataError(message, "refused by the processor", plain=plain) from None

        chosen = sample_frames(item.video, self.num_frames)
        return (
            [shown(path, self.resolution) for path in item.images],
            [shown(path, self.frame_resolution) for path in chosen],
        )


class ControlTokens:
    """What a tokenizer reads as control tokens, and a text may not hold.

    Args:
        more: a pattern of further ones.
    """

    def __init__(self, tokens: Iterable[str], more: str = "(?!)") -> None:
        self.longest_first = sorted((t for t in set(tokens) if len(t) > 1), key=len)[::-1]
        self._pattern = re.compile("|".join([more, *map(re.escape, self.longest_first)]))

    def search(self, text: str) -> re.Match[str] | None:
        """The first of them in a text."""
        return self._pattern.search(text)

    def neutralise(self, text: str) -> str:
        """Put a space into each of them in a text, so that a text about ``<image>`` is neither an
        image nor the end of the turn; half a character (a lone surrogate), which no tokenizer
        takes, becomes a question mark."""
        whole = whole_characters(text)
        return self._pattern.sub(lambda match: f"{match[0][0]} {match[0][1:]}", whole)
