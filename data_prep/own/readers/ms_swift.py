"""ms-swift's rows for embedding models, a JSON object a line.

As its page "Embedding Training" has it (modelscope/ms-swift,
docs/source_en/BestPractices/Embedding.md, "Dataset Format")::

    {"messages": [{"role": "user", "content": "<image>sentence1"}],
     "images": ["/some/images.jpg"],
     "positive_messages": [[{"role": "user", "content": "<image>sentence2"}]],
     "positive_images": [["/some/positive_images.jpg"]],
     "negative_messages": [[{"role": "user", "content": "<image><image>sentence3"}],
                           [{"role": "user", "content": "<image>sentence4"}]],
     "negative_images": [["/some/negative_images1.jpg", "/some/negative_images2.jpg"],
                         ["/some/negative_images3.jpg"]]}

Lists of pictures are left out where there are none. A system message is the item's instruction.
Each side has as many ``<image>`` as pictures, wherever in its text; ours come before the text. Rows
of the losses with labels have a ``label``: 1 is a right answer; 0 and similarities are none.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.own.readers.base import BadRow, SourceItem, SourceRow
from data_prep.own.readers.rows import (
    Pictures,
    by_columns,
    check_label,
    first_row,
    json_files,
    read_each,
    without_tags,
)
from unime.config import OwnDataConfig
from unime.data.rows import Row

TAG, OTHER_TAGS = "<image>", ("<video>", "<audio>")
OTHER_MEDIA = ("videos", "audios")


class MsSwift:
    """A file, or a folder of files."""

    def __init__(self, path: Path, settings: OwnDataConfig) -> None:
        self.files = json_files(path)
        self.pictures = Pictures(path if path.is_dir() else path.parent, settings)
        self.image_root = self.pictures.root
        self.recognised = [
            f"{file.name}: messages and images → query, positive_… → targets, negative_… →"
            " negatives; a system message → instruction; pictures before the text"
            for file in self.files
        ]

    @staticmethod
    def recognises(path: Path) -> str | None:
        """In words what it is; None: something else."""
        files = json_files(path)
        found = first_row(files[0]) if files else {}
        is_it = {"messages", "positive_messages"} <= found.keys()
        return "messages and positive_messages, as of ms-swift" if is_it else None

    def __iter__(self) -> Iterator[SourceRow | BadRow]:
        for file in self.files:
            yield from read_each(file, file.name, self._read)

    def _read(self, row: Row, row_id: str) -> SourceRow:
        check_label(row, "label")
        for media in (f"{side}{name}" for side in ("", "positive_", "negative_")
                      for name in OTHER_MEDIA):  # fmt: skip
            if row.values.get(media):
                raise row.error("is not read, pictures and texts are", media)
        targets = self._items(row, "positive_messages", "positive_images")
        if not targets:
            raise row.expected("at least one", "positive_messages")
        query = self._item(_filled(row, "images", []), "messages", "images")
        negatives = (
            self._items(row, "negative_messages", "negative_images")
            if row.values.get("negative_messages") is not None
            else ()
        )
        return SourceRow(row.where, row_id, query, targets, negatives)

    def _items(self, row: Row, messages: str, images: str) -> tuple[SourceItem, ...]:
        count = len(row.entries(messages))
        entries = _filled(row, images, [[]] * count).entries(messages, images)
        return tuple(self._item(entry, *entry.values) for entry in entries)

    def _item(self, row: Row, messages: str, images: str) -> SourceItem:
        instruction, text = _said(row, messages)
        places = row.entries(images)
        if (tags := text.count(TAG)) != len(places):
            raise row.error(f"{tags} {TAG} and {len(places)} pictures", messages, images)
        if any(tag in text for tag in OTHER_TAGS):
            raise row.error("videos and sounds are not read", messages)
        found = {
            column: self.pictures.find(cell, column) for cell in places for column in cell.values
        }
        words = instruction or None
        item = SourceItem(without_tags(text, TAG), tuple(found.values()), words, tuple(found))
        if not item.text and not item.pictures:
            raise row.error("neither text nor picture", messages)
        return item


def _filled(row: Row, column: str, empty: list[Any]) -> Row:
    """With a list in a column that may be left out."""
    value = row.values.get(column)
    return Row({**row.values, column: empty if value is None else value}, row.where)


def _said(row: Row, column: str) -> tuple[str, str]:
    """What system and user say."""
    said = {"system": "", "user": ""}
    roles = []
    for entry in row.entries(column):
        (place,) = entry.values
        message = by_columns(entry, place)
        role = message.text(f"{place}.role")
        if role not in said:
            raise message.expected("system or user", f"{place}.role")
        said[role] = message.text_or_none(f"{place}.content")
        roles.append(role)
    if sorted(roles) not in (["user"], ["system", "user"]):
        raise row.error(f"messages of {roles}, expected one of the user", column)
    return said["system"], said["user"]
