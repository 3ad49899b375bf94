"""Items and pairs: what is embedded, and which of them belong together."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from unime.errors import DataError
from unime.runtime.files import regular

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
NUMBER = re.compile(r"(\d+)")
KEY_BYTES = 16
Query = TypeVar("Query", bound=Hashable)
Target = TypeVar("Target", bound=Hashable)


@dataclass(frozen=True)
class Item:
    """One thing to embed: text, images, a video, or several of them. Text holds no image tokens."""

    text: str = ""
    images: tuple[str, ...] = ()  # paths
    video: tuple[str, ...] = ()  # paths of its frames, of which some are taken
    instruction: str = ""  # the task, where the data keeps it apart from the text
    # White space that the source has between the images and the text, and after the text, where it
    # is not the usual one: a prompt without a chat format keeps it. Items that differ in nothing
    # else are equal.
    spacing: tuple[str, str] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        for name, paths in (("images", self.images), ("video", self.video)):
            if not isinstance(paths, tuple):
                raise TypeError(f"{name}: got {paths!r}, expected a tuple of paths")

    @property
    def kind(self) -> str:
        """ "text", "image", "video", "image+text", …; "" when there is nothing."""
        parts = {"image": self.images, "video": self.video, "text": self.text}
        return "+".join(name for name, present in parts.items() if present)


@dataclass(frozen=True)
class Pair:
    """One row of stage 2: a query, its target, and optional explicit negatives.

    Attributes:
        row_id: "A-OKVQA:17".
        scores: of a judge, the target's and each negative's; empty: nobody has judged.
        answer: what names the right answer: targets of rows of one task with equal ones are right
            for each other's queries; "": nobody has said it.
        task: of which it is a row; says nothing about the row itself.
    """

    query: Item
    target: Item
    negatives: tuple[Item, ...] = ()
    row_id: str = ""
    scores: tuple[float, ...] = ()
    answer: str = ""
    task: str = field(default="", compare=False)


def right_targets(rows: Iterable[tuple[Query, Target, str]]) -> dict[Query, dict[Target, None]]:
    """What the rows of one task say is right for each query: the targets of its own rows, then
    those of all rows with an answer that one of these has.

    Args:
        rows: the query, the target and the answer ("": unknown) of each.
    """
    right: dict[Query, dict[Target, None]] = {}
    answers: dict[Query, dict[str, None]] = {}
    named: dict[str, dict[Target, None]] = {}
    for query, target, answer in rows:
        right.setdefault(query, {})[target] = None
        if answer:
            answers.setdefault(query, {})[answer] = None
            named.setdefault(answer, {})[target] = None
    for query, own in answers.items():
        for answer in own:
            right[query] |= named[answer]
    return right


def distinct_places(items: Iterable[Item]) -> dict[tuple[Item, object], list[int]]:
    """Each different item, with its white space, which equality leaves out, and its places."""
    places: dict[tuple[Item, object], list[int]] = {}
    for place, item in enumerate(items):
        places.setdefault((item, item.spacing), []).append(place)
    return places


def video_frames(folder: str | Path) -> tuple[str, ...]:
    """The frames of a video that lie in a folder, one image each, in their natural order (frame 2
    comes before frame 10).

    Raises:
        DataError: no such folder, no images in it, or something else that is named like one.
    """
    try:
        found = [regular(path) for path in Path(folder).iterdir() if _is_frame(path)]
    except OSError as error:
        raise DataError(f"{folder}: cannot read the frames: {error.strerror}") from None
    if not found:
        raise DataError(f"{folder}: no frames ({', '.join(IMAGE_SUFFIXES)})")
    return tuple(str(path.absolute()) for path in sorted(found, key=natural_order))


def _is_frame(path: Path) -> bool:
    """Hidden files are none: macOS puts a ``._frame_1.jpg`` beside each picture in an archive."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def natural_order(path: Path) -> list[tuple[int, str]]:
    """Sorts files by name, numbers in it by size: texts at even places, numbers at odd ones."""
    parts = NUMBER.split(path.name)
    return [(int(part) if place % 2 else 0, part) for place, part in enumerate(parts)]


def whole_characters(value: Any) -> Any:
    """A text, or a JSON value with all of its texts, in which half a character (a lone surrogate)
    is a question mark: no tokenizer and no table takes it."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, list):
        return [whole_characters(entry) for entry in value]
    if isinstance(value, dict):
        return {key: whole_characters(entry) for key, entry in value.items()}
    return value


def item_key(item: Item) -> int:
    """A signed 64-bit number that is equal for items of equal :func:`item_digest`, but for white
    space around the text."""
    digest = item_digest(replace(item, spacing=None))
    return int.from_bytes(digest[:8], "big", signed=True)


def answer_key(task: str, answer: str) -> int:
    """A signed 64-bit number that is equal for equal answers of one task; 0: unknown."""
    if not answer:
        return 0
    named = repr((task, answer)).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(named, digest_size=8).digest(), "big", signed=True)


def item_digest(item: Item) -> bytes:
    """KEY_BYTES bytes that are equal for items with the same text and the same image *content*:
    copies of one picture under two paths, or two rows with one label, are one item.

    An image file is read once in a process, unless it changes.

    Raises:
        DataError: an image that cannot be read.
    """
    digest = hashlib.blake2b(item.text.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES)
    for image in item.images:
        digest = hashlib.blake2b(digest.digest() + image_digest(image), digest_size=KEY_BYTES)
    apart = [item.instruction.encode("utf-8", "surrogatepass")] if item.instruction else []
    apart += [repr(item.spacing).encode()] if item.spacing is not None else []
    for part in apart + [image_digest(frame) for frame in item.video]:
        digest = hashlib.blake2b(digest.digest() + b"|" + part, digest_size=KEY_BYTES)
    return digest.digest()


def image_digest(path: str) -> bytes:
    """Of the file's content, which is read once in a process, unless it changes.

    Raises:
        DataError: it cannot be read.
    """
    try:
        found = os.stat(path)
        state = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        return _digest(path, state)
    except OSError as error:
        raise DataError(f"{path}: cannot read the image: {error.strerror}") from None


@cache
def _digest(path: str, state: tuple[int, ...]) -> bytes:
    return hashlib.blake2b(regular(Path(path)).read_bytes(), digest_size=16).digest()
