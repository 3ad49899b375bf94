"""In what state somebody's data are, by which they are known again: names, sizes and times, of
files that are not opened."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

from data_prep.own.readers.base import BadRow, Reader, SourceRow
from unime.config import OwnDataConfig


def state_of(path: Path) -> str:
    """A digest of names, sizes and times of all files, as they are now."""
    digest = hashlib.blake2b(digest_size=16)
    alone = [(str(path.parent), list[str](), [path.name])]
    for folder, below, names in os.walk(path) if path.is_dir() else alone:
        below.sort()
        for name in sorted(names):
            place = os.path.join(folder, name)
            if os.path.isfile(place):
                said = f"{os.path.relpath(place, path)}|{_state(place)}\n"
                digest.update(os.fsencode(said))
    return digest.hexdigest()


class Beside:
    """The state of what data show and :func:`state_of` does not see: pictures and corpora that lie
    beside a table, or in a folder of their own."""

    def __init__(self, reader: Reader, config: OwnDataConfig) -> None:
        self._reader, self._path = reader, Path(config.path)
        real = os.path.realpath(self._path)
        self._is_inside = cache(lambda folder: Path(os.path.realpath(folder)).is_relative_to(real))
        self._sees_pictures = self._is_inside(reader.image_root) and not config.follow_links
        self._found = hashlib.blake2b(digest_size=16)
        self._is_empty = True

    def watch(self, rows: Iterable[SourceRow | BadRow]) -> Iterator[SourceRow | BadRow]:
        """The same rows, whose pictures count as they are when a row is asked for."""
        for row in rows:
            if not self._sees_pictures:
                self._add_pictures(row)
            yield row

    def state(self) -> str:
        """A digest, once all rows are read; "": they show nothing of the kind."""
        own = os.path.abspath(self._path)
        for file in sorted(self._reader.files or ()):
            if os.path.abspath(file) != own and not self._is_inside(file.parent):
                self._add(f"{file}|{_state(str(file))}")
        return "" if self._is_empty else self._found.hexdigest()

    def _add_pictures(self, row: SourceRow | BadRow) -> None:
        if isinstance(row, BadRow):  # for a picture that is not there, perhaps
            self._add(row.reason)
            return
        for item in (row.query, *row.targets, *row.negatives):
            for name in item.pictures:
                if isinstance(name, str):
                    place = os.path.join(self._reader.image_root, name)
                    written = (place, place.replace("\\", "/"))  # the second: of Windows
                    self._add(f"{name}|{next(filter(None, map(_state, written)), '')}")

    def _add(self, said: str) -> None:
        self._found.update(f"{said}\n".encode("utf-8", "surrogatepass"))
        self._is_empty = False


def state_beside(reader: Reader, config: OwnDataConfig) -> str:
    """What `Beside` says after all rows, of which none is kept."""
    beside = Beside(reader, config)
    for _ in beside.watch(reader):
        pass
    return beside.state()


def _state(place: str) -> str:
    """Size and time of a file; "": there is none."""
    with suppress(OSError, ValueError):
        found = os.stat(place)
        return f"{found.st_size}|{found.st_mtime_ns}"
    return ""
