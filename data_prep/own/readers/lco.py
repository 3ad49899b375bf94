"""LCO-Embedding's any-to-any triples, a JSON object a line.

As its page has it (LCO-Embedding/LCO-Embedding, Training/README.md, "VL training scripts")::

    {"anchor":   {"image_path": "", "text": "What is LCO-Embedding?"},
     "positive": {"image_path": "data/images/family.jpg", "text": ""},
     "negative": {"image_path": "", "text": "LOCO is a Korean Hip Hop artist."}}

Each side has a picture, a text or both, and "" for what it has not. Paths are absolute, or relative
to the training script, beside whose folder ``data/`` the script is: they are looked for beside the
file, and, where the first is not there, beside its folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.own.readers.base import BadRow, SourceItem, SourceRow
from data_prep.own.readers.rows import (
    Pictures,
    by_columns,
    first_row,
    json_files,
    read_each,
)
from unime.config import OwnDataConfig
from unime.data.rows import Row

SIDES = ("anchor", "positive", "negative")
KEYS = ("image_path", "text")


class Lco:
    """A file, or a folder of files."""

    def __init__(self, path: Path, settings: OwnDataConfig) -> None:
        self.files = json_files(path)
        folder = path if path.is_dir() else path.parent
        beside = next((name for file in self.files for name in _first_paths(file)), None)
        if beside is not None and not (folder / beside).exists():
            above = folder.absolute().parent
            folder = above if (above / beside).exists() else folder
        self.pictures = Pictures(folder, settings)
        self.image_root = self.pictures.root
        self.recognised = [
            f"{file.name}: anchor → query, positive → target, negative → negative, each of"
            " image_path and text"
            for file in self.files
        ]

    @staticmethod
    def recognises(path: Path) -> str | None:
        """In words what it is; None: something else."""
        files = json_files(path)
        found = first_row(files[0]) if files else {}
        sides = [found.get(side) for side in SIDES[:2]]
        is_it = all(isinstance(side, dict) and side.keys() & {*KEYS} for side in sides)
        return "anchor and positive of image_path and text, as of LCO-Embedding" if is_it else None

    def __iter__(self) -> Iterator[SourceRow | BadRow]:
        for file in self.files:
            yield from read_each(file, file.name, self._read)

    def _read(self, row: Row, row_id: str) -> SourceRow:
        query, target = (self._item(row, side) for side in SIDES[:2])
        has_negative = row.values.get("negative") is not None
        negatives = (self._item(row, "negative"),) if has_negative else ()
        return SourceRow(row.where, row_id, query, (target,), negatives)

    def _item(self, row: Row, side: str) -> SourceItem:
        cells = by_columns(row, side)
        path, text = (f"{side}.{key}" for key in KEYS)
        if others := [
            name for name, value in cells.values.items() if value and name not in (path, text)
        ]:
            raise cells.error("neither a picture nor a text, and nothing else is read", others[0])
        found = (self.pictures.find(cells, path),) if cells.text_or_none(path) else ()
        item = SourceItem(cells.text_or_none(text).strip(), found, None, (path,))
        if not item.text and not item.pictures:
            raise cells.error("both empty", path, text)
        return item


def _first_paths(file: Path) -> list[str]:
    row: dict[str, Any] = first_row(file)
    sides = [row.get(side) for side in SIDES]
    paths = [side.get("image_path") for side in sides if isinstance(side, dict)]
    return [path for path in paths if isinstance(path, str) and path][:1]
