"""Which files an index holds, as they were when they were embedded: an SQLite file beside the
vectors.

A file is noted as in hand before its first vector is stored, and as done after its last, so that a
killed run leaves nothing in the store that is not known of.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from unime.errors import ConfigError

TABLE = """create table if not exists files (
    path text primary key, kind text, state text, digest text, places text, problem text)"""
BY_DIGEST = "create index if not exists by_digest on files (digest)"


@dataclass(frozen=True)
class Entry:
    """A file that was looked at.

    Attributes:
        state: its size and time.
        digest: of its content.
        places: of its items in the store; None: in hand.
        problem: why it cannot be read, as a whole or in part.
    """

    path: str
    kind: str
    state: str
    digest: str
    places: tuple[int, ...] | None = None
    problem: str = ""


class Ledger:
    """The entries in an index's folder.

    Raises:
        ConfigError: what is there is none.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = sqlite3.connect(path, check_same_thread=False)
            self._file.execute(TABLE)
            self._file.execute(BY_DIGEST)
        except sqlite3.Error as error:
            raise ConfigError(f"index: {path} cannot be used: {error}", "index") from None

    def close(self) -> None:
        self._file.close()

    def write(self, entries: Iterable[Entry]) -> None:
        """Add or replace entries, all of them on the disk when it returns."""
        rows = [
            (
                *(one.path, one.kind, one.state, one.digest),
                None if one.places is None else json.dumps(one.places),
                one.problem,
            )
            for one in entries
        ]
        with self._file:
            self._file.executemany("insert or replace into files values (?, ?, ?, ?, ?, ?)", rows)

    def remove(self, paths: Iterable[str]) -> None:
        with self._file:
            rows = ((path,) for path in paths)
            self._file.executemany("delete from files where path = ?", rows)

    def below(self, folder: str) -> dict[str, Entry]:
        """Those of a folder, by path."""
        begin = folder.rstrip("/") + "/"
        end = begin[:-1] + chr(ord("/") + 1)
        return {one.path: one for one in self._read("path >= ? and path < ?", begin, end)}

    def in_hand(self) -> list[Entry]:
        return list(self._read("places is null"))

    def same_content(self, kind: str, digest: str) -> list[Entry]:
        """Files that are wholly in the store, whatever their names."""
        wanted = "digest = ? and kind = ? and places is not null and problem = ''"
        return list(self._read(wanted, digest, kind))

    def stored(self) -> int:
        """How many items are in the store."""
        (count,) = self._file.execute("select sum(json_array_length(places)) from files").fetchone()
        return count or 0

    def all(self) -> Iterator[Entry]:
        return self._read("true")

    def _read(self, wanted: str, *values: object) -> Iterator[Entry]:
        columns = "path, kind, state, digest, places, problem"
        asked = f"select {columns} from files where {wanted} order by path"
        for path, kind, state, digest, places, problem in self._file.execute(asked, values):
            there = None if places is None else tuple(json.loads(places))
            yield Entry(path, kind, state, digest, there, problem)


def places_of(entries: Sequence[Entry]) -> list[tuple[str, int]]:
    """Path and place of all that they have in the store."""
    return [(one.path, place) for one in entries for place in one.places or ()]
