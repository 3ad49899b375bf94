"""A folder of pictures, whose captions are where the setting `captions` says.

sidecar     cats/1.jpg with cats/1.txt ("A cat on a mat.": its first line), or with cats/1.json
            ({"caption": "A cat on a mat."}, or "text", "captions", "texts": a list, or the list)
class       cats/1.jpg is captioned "cats", its folder's name
filename    a_cat-on_a_mat.jpg is captioned "a cat on a mat"
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.own.readers.base import BadRow, SourceItem, SourceRow
from unime.config import OwnDataConfig
from unime.data.rows import quoted
from unime.errors import ConfigError, DataError, require
from unime.inputs.items import IMAGE_SUFFIXES
from unime.runtime.files import read_json, read_text

SUFFIXES = (*IMAGE_SUFFIXES, ".gif", ".tif", ".tiff", ".avif")
KEYS = ("caption", "captions", "text", "texts")  # of a sidecar .json
SEPARATORS = re.compile(r"[\W_]+")
LOOKED_AT = 10_000  # pictures, for what the folder may have


class PictureFolder:
    """A folder of pictures with captions beside them, in folders' names or in their own."""

    @classmethod
    def recognises(cls, path: Path) -> str | None:
        if not path.is_dir():
            return None
        first = next(pictures_below(path), None)
        return None if first is None else f"a folder of pictures ({first}, …)"

    def __init__(self, path: Path, config: OwnDataConfig) -> None:
        if not path.is_dir():
            raise DataError(f"{path}: no folder of pictures")
        here = f"null: they lie in {path}"
        require(config.image_root is None, "image_root", config.image_root, here)
        self.path, self.image_root = path, str(path.absolute())
        self.files: set[Path] = set()  # sidecars
        if config.captions is None:
            raise ConfigError("captions: " + self._possible(), "captions")
        self.captions = config.captions
        where = {
            "sidecar": "the file beside it (.txt: its first line; .json)",
            "class": "the name of its folder",
            "filename": "its own name",
        }[self.captions]
        self.recognised = [f"every picture below {path} → picture, {where} → caption"]

    def __iter__(self) -> Iterator[SourceRow | BadRow]:
        for name in pictures_below(self.path):
            where = f"{self.path / name}"
            try:
                captions = self._captions(name)
            except DataError as error:
                yield BadRow.of(where, error)
                continue
            yield SourceRow(
                where,
                name,
                SourceItem(pictures=(name,)),
                tuple(map(SourceItem, captions)),
                is_caption=True,
            )

    def _captions(self, name: str) -> list[str]:
        picture = self.path / name
        if self.captions == "class":
            folder = picture.parent.name if "/" in name else ""
            if not folder:
                raise DataError("it is in no class folder")
            return [folder]
        if self.captions == "filename":
            if caption := SEPARATORS.sub(" ", picture.stem).strip():
                return [caption]
            raise DataError("its name holds no words")
        found, captions = sidecar(picture)
        self.files.add(found)
        return captions

    def _possible(self) -> str:
        """What each kind of caption would give."""
        names = [name for _, name in zip(range(LOOKED_AT), pictures_below(self.path), strict=False)]
        given = {kind: list[str]() for kind in ("sidecar", "class", "filename")}
        for name in names:
            for kind, found in given.items():
                self.captions = kind
                try:
                    found.append(f"{name}: {quoted(self._captions(name)[0])}")
                except DataError:
                    pass
        listed = [
            f"{kind} would give {len(found)} of {len(names)} one ({found[0]})"
            for kind, found in given.items()
            if found
        ]
        return f"of these pictures {'; '.join(listed)}; say which: captions=…"


def sidecar(picture: Path) -> tuple[Path, list[str]]:
    """The file beside a picture, and the captions in it.

    Raises:
        DataError: there is none, or it holds none.
    """
    text, listed = picture.with_suffix(".txt"), picture.with_suffix(".json")
    if text.is_file():
        first = next(iter(read_text(text).splitlines()), "").strip()
        if not first:
            raise DataError(f"{text.name}: its first line, the caption, is empty")
        return text, [first]
    if not listed.is_file():
        raise DataError(f"neither {text.name} nor {listed.name} is beside it")
    found: Any = read_json(listed, object)
    if isinstance(found, dict):
        key = next((key for key in KEYS if key in found), None)
        if key is None:
            raise DataError(f"{listed.name}: none of {', '.join(KEYS)} is in it")
        found = found[key]
    captions = [found] if isinstance(found, str) else found
    is_right = isinstance(captions, list) and captions
    if not is_right or not all(isinstance(c, str) and c.strip() for c in captions):
        raise DataError(f"{listed.name}: got {quoted(found)}, expected a caption or a list of them")
    return listed, [caption.strip() for caption in captions]


def pictures_below(folder: Path, within: str = "") -> Iterator[str]:
    """Paths of the pictures, relative and in order, but for hidden ones and those of linked
    folders."""
    with os.scandir(folder / within) as entries:
        found = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
    for entry in found:
        name = f"{within}/{entry.name}" if within else entry.name
        if entry.is_dir(follow_symlinks=False):
            yield from pictures_below(folder, name)
        elif Path(entry.name).suffix.lower() in SUFFIXES:
            yield name
