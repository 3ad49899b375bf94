"""What users of a model give it: texts, pictures on disk or in memory, or both with a task."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from PIL import Image

from unime.errors import DataError
from unime.inputs.images import UNREADABLE, check_size, load_image
from unime.inputs.items import Item
from unime.inputs.pixels import as_seen

Picture: TypeAlias = str | Path | bytes | Image.Image  # a path, a file's content, or a picture
Input: TypeAlias = str | Path | bytes | Image.Image | Item | Mapping[str, Any]
KEYS = ("text", "image", "images", "instruction")
IN_MEMORY = "picture "  # what stands for the path of one that lies in memory, with its digest


def as_items(
    given: Sequence[Input], max_pixels: int
) -> tuple[list[Item], dict[str, bytes | Image.Image]]:
    """What was given as items, and the pictures among them that lie in memory, by what their items
    call them: files as they are, Pillow's images as a model is shown them.

    Args:
        max_pixels: of one of Pillow's images (``inputs.max_image_pixels``).

    Raises:
        DataError: something that is no item, or one of Pillow's images that cannot be shown, by its
            index.
    """
    pictures: dict[str, bytes | Image.Image] = {}

    def called(picture: object, place: int, number: int) -> str:
        if isinstance(picture, str | Path):
            return str(picture)
        if isinstance(picture, Image.Image):
            picture = _shown(picture, f"items[{place}]: {IN_MEMORY}{number}", max_pixels)
        if not isinstance(picture, bytes | Image.Image):
            kind = type(picture).__name__
            raise DataError(f"items[{place}]: got a {kind}, expected a picture or its path")
        name = IN_MEMORY + _digest(picture)
        pictures[name] = picture
        return name

    return [_as_item(one, place, called) for place, one in enumerate(given)], pictures


def _as_item(given: object, place: int, called: Any) -> Item:
    if isinstance(given, Item):
        return given
    if isinstance(given, str):
        return Item(given)
    if isinstance(given, Path | bytes | Image.Image):
        return Item(images=(called(given, place, 1),))
    if not isinstance(given, Mapping):
        kind = type(given).__name__
        raise DataError(f"items[{place}]: got a {kind}, expected a text, a picture or a dict")
    if unknown := [key for key in given if key not in KEYS]:
        raise DataError(f"items[{place}]: got {unknown[0]!r}, expected some of {', '.join(KEYS)}")
    for key in ("text", "instruction"):
        if not isinstance(given.get(key), str | None):
            raise DataError(f"items[{place}], {key}: got {given[key]!r:.80}, expected a text")
    pictures = enumerate(_pictures_of(given, place), 1)
    images = tuple(called(picture, place, number) for number, picture in pictures)
    return Item(given.get("text") or "", images, instruction=given.get("instruction") or "")


def _pictures_of(given: Mapping[str, Any], place: int) -> list[Any]:
    """Those of a dict, "image" before "images"."""
    several = given.get("images")
    if several is None or isinstance(several, str | bytes | Path | Image.Image):
        several = (several,) if several else ()
    if isinstance(several, Mapping) or not isinstance(several, Iterable):
        kind = type(several).__name__
        raise DataError(f"items[{place}], images: got a {kind}, expected pictures or their paths")
    alone = given.get("image")
    return [*several] if alone is None else [alone, *several]


def by_place(names: Sequence[str], held: Mapping[str, object]) -> list[str]:
    """Pictures of an item, those in memory as "picture 1" by their place, unless a path is that."""
    places = [f"{IN_MEMORY}{number}" for number in range(1, len(names) + 1)]
    pairs = zip(names, places, strict=True)
    return [place if name in held and place not in names else name for name, place in pairs]


def _shown(picture: Image.Image, name: str, max_pixels: int) -> Image.Image:
    check_size(name, picture, max_pixels)
    try:
        return as_seen(picture)
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise DataError(f"{name}: not a readable image: {error}", UNREADABLE) from error


def _digest(picture: bytes | Image.Image) -> str:
    """Of a file's content, or of what is shown."""
    if isinstance(picture, Image.Image):
        picture = f"{picture.size}".encode() + picture.tobytes()
    return hashlib.blake2b(picture, digest_size=16).hexdigest()


def loaded(path: str, held: bytes | Image.Image | None, limit: int) -> Image.Image:
    """A picture upright, in RGB, on white where it is transparent, wherever it lies."""
    return held if isinstance(held, Image.Image) else load_image(path, limit, content=held)
