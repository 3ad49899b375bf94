"""Items and pairs: what is embedded, and which of them belong together."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path


class DataError(ValueError):
    """Data that cannot be used; the message names the file, row, column and value."""


@dataclass(frozen=True)
class Item:
    """One thing to embed: text, images (absolute paths), or both. Text holds no image tokens."""

    text: str = ""
    images: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """ "text", "image" or "image+text"; "" when there is neither."""
        return "+".join(
            name for name, present in (("image", self.images), ("text", self.text)) if present
        )


@dataclass(frozen=True)
class Pair:
    """One row of stage 2: a query, its target, and optional explicit negatives."""

    query: Item
    target: Item
    negatives: tuple[Item, ...] = ()
    row_id: str = ""  # "A-OKVQA:17"


def item_key(item: Item) -> int:
    """A signed 64-bit number that is equal for items with the same text and the same image
    *content*: copies of one picture under two paths, or two rows with one label, are one item.

    An image file is read once in a process, unless it changes.

    Raises:
        DataError: an image that cannot be read.
    """
    digest = hashlib.blake2b(item.text.encode("utf-8", "surrogatepass"), digest_size=16)
    for image in item.images:
        digest = hashlib.blake2b(digest.digest() + _image_digest(image), digest_size=16)
    return int.from_bytes(digest.digest()[:8], "big", signed=True)


def _image_digest(path: str) -> bytes:
    try:
        found = os.stat(path)
        return _digest(path, found.st_size, found.st_mtime_ns)
    except OSError as error:
        raise DataError(f"{path}: cannot read the image: {error.strerror}") from None


@cache
def _digest(path: str, size: int, modified: int) -> bytes:
    return hashlib.blake2b(Path(path).read_bytes(), digest_size=16).digest()
