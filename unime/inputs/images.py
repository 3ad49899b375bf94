"""Pictures from disk, refused with their name when they are missing, damaged or absurdly large."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from unime.errors import DataError
from unime.inputs.items import Item
from unime.inputs.picture_files import most_pixels, open_picture, readable_formats
from unime.inputs.pixels import as_seen
from unime.inputs.resolution import Resolution
from unime.runtime.files import regular

Size = tuple[int, int]  # (width, height) in pixels
UNREADABLE, OVERSIZED = "unreadable picture", "oversized picture"
SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif", "JPEG2000": ".jp2", "PPM": ".pnm"}
READERS = 8  # threads; Pillow decodes outside of Python's lock
ENDS_EARLY = re.compile("end early|ends early|truncated|[Tt]oo few|EOF|not enough image data")
PIXELS_PER_CHARACTER = 200  # of a prompt's length: some 784 pixels and some 4 characters a token


def sample_frames(frames: Sequence[str], count: int) -> list[str]:
    """`count` of a video's frames, evenly spaced from the first to the last (as VLM2Vec-V2 and MMEB
    take them); all of them if there are no more."""
    if len(frames) <= count:
        return list(frames)
    return [frames[index] for index in np.linspace(0, len(frames) - 1, count, dtype=int)]


def suffix_of(content: bytes) -> str:
    """What the file of a picture that a table holds is called, ".jpg"; whatever Pillow raises of
    what is none."""
    with open_picture(io.BytesIO(content)) as image:
        return SUFFIXES.get(str(image.format), f".{image.format}".lower())


def pixels_of(content: bytes) -> int:
    """How many a picture's header says it has, or how many can be opened at most where it has more;
    whatever Pillow raises of what is none."""
    try:
        with open_picture(io.BytesIO(content)) as image:
            return image.width * image.height
    except Image.DecompressionBombError:
        return int(most_pixels())


def load_image(
    path: str, max_pixels: int, drafted: Resolution | None = None, content: bytes | None = None
) -> Image.Image:
    """Read an image upright, in RGB, on white where it is transparent; its size stays.

    Args:
        drafted: a JPEG may be decoded smaller that is much larger than this (inputs.jpeg_draft).
        content: the file's, where it lies in a table: `path` is what messages call it.

    Raises:
        DataError: missing, damaged, cut, of more than `max_pixels` (``inputs.max_image_pixels``)
            or too long a side, or of values whose brightness nobody knows (pixels.as_seen).
    """
    try:
        source = regular(Path(path)) if content is None else io.BytesIO(content)
        with open_picture(source) as image:
            check_size(path, image, max_pixels)
            return as_seen(image, None if drafted is None else drafted.drafted(image.size))
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such image", "missing picture") from None
    except Image.DecompressionBombError:
        limit = f"inputs.max_image_pixels={max_pixels}"
        if max_pixels > most_pixels():
            limit = f"the {most_pixels()} that can be read, whatever inputs.max_image_pixels is"
        plain = f"{path}: more pixels than {min(max_pixels, most_pixels())}"
        raise DataError(f"{path}: more pixels than {limit}", OVERSIZED, plain=plain) from None
    except UnidentifiedImageError:
        formats = ", ".join(readable_formats())
        problem = f"cannot identify it: damaged, or none of {formats}"
        raise DataError(f"{path}: not a readable image: {problem}", UNREADABLE) from None
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        kind = "truncated picture" if ENDS_EARLY.search(str(error)) else UNREADABLE
        raise DataError(f"{path}: not a readable image: {error}", kind) from error


def check_size(path: str, image: Image.Image, max_pixels: int) -> None:
    """Refuse a picture of too many pixels, or of none.

    Raises:
        DataError: of more than `max_pixels` (``inputs.max_image_pixels``).
    """
    if not image.width * image.height:
        raise DataError(f"{path}: {image.width} x {image.height} pixels", OVERSIZED)
    if image.width * image.height > max_pixels:
        begin = f"{path}: {image.width} x {image.height} pixels, more than "
        message, plain = f"{begin}inputs.max_image_pixels={max_pixels}", f"{begin}{max_pixels}"
        raise DataError(message, OVERSIZED, plain=plain)


def longest_first(items: Sequence[Item]) -> list[int]:
    """The order of items by their length in the model, as far as it can be told from outside."""
    lengths = [
        len(item.text) + sum(map(_pixels, (*item.images, *item.video))) / PIXELS_PER_CHARACTER
        for item in items
    ]
    return sorted(range(len(items)), key=lambda place: lengths[place], reverse=True)


@cache
def _pixels(path: str) -> int:
    try:
        with open_picture(regular(Path(path))) as image:
            return image.width * image.height
    except Exception:  # whoever reads it in full will say what is wrong with it
        return 0
