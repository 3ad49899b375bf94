"""Items and pairs: what is embedded, and which of them belong together."""

from __future__ import annotations

from dataclasses import dataclass


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
