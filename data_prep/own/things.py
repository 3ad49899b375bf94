"""What rows show, as numbers: rows that share one are trained on together, or held out together."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator

from data_prep.own.pictures import HASH, Pictures
from data_prep.own.readers.base import SourceItem, SourceRow

Thing = tuple[int, str]  # a number of 64 bits, and what it is, in words


def things_of(row: SourceRow, pictures: Pictures, share_texts: bool) -> Iterator[Thing]:
    """Of a row: its pictures, texts of items without any, and its group; negatives are none.

    Args:
        share_texts: texts are none either, but for queries of rows without pictures.

    Raises:
        DataError: a picture that cannot be used.
    """
    sides = (row.query, *row.targets)
    for item in sides:
        if item.pictures or not share_texts:
            yield from things_of_item(item, pictures)
    if share_texts and not any(item.pictures for item in sides):
        yield from things_of_item(row.query, pictures)
    if row.group is not None:
        yield _number("group", row.group.encode()), f"the group {row.group!r}"


def things_of_item(item: SourceItem, pictures: Pictures) -> Iterator[Thing]:
    """Of an item: each picture by its content and by its looks, or else its text."""
    for picture in item.pictures:
        looks = pictures.looks(picture)
        name = f"the picture {picture!r}" if isinstance(picture, str) else "a picture in the table"
        yield int.from_bytes(looks.digest[:8]), name
        if looks.perceptual != bytes(HASH):
            yield _number("looks", looks.perceptual), f"{name} (or one that looks like it)"
    if not item.pictures:
        yield text_number(item.text), f"the text {item.text[:60]!r}"


def text_number(text: str) -> int:
    """Equal for texts that differ in case, width and white space alone."""
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return _number("text", plain.encode("utf-8", "replace"))


def _number(kind: str, content: bytes) -> int:
    found = hashlib.blake2b(content, digest_size=8, person=kind.encode()).digest()
    return int.from_bytes(found)
