"""What is remembered of earlier checks, so that none is made twice of the same content.

pictures-<key>.jsonl   a line for each picture that was read: its file's state, and what was seen
rows-<key>.json        of rows of one content: which pictures they show, and which rows are bad
counts-<key>.json      what a report counts of them

They lie in UNIME_CACHE, else in unime/ of the user's cache, and may be removed at any time. A key
stands for all that the findings depend on beside the pictures: the rows, settings and code. A file
is known by its size, its inode and when it was changed last, to the nanosecond: what is put into
its place has another inode, what is written into it another time.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from unime.errors import DataError
from unime.inputs.images import Size
from unime.runtime.files import append, read_json, regular, write_json

CACHE = "UNIME_CACHE"
SAVED_EVERY = 2.0  # seconds


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of a picture's file when it was in this state.

    Attributes:
        width, height: upright; 0 where it is refused.
        kind, problem: of the fault for which it is refused; "": it is not.
        digest: of the file's content.
        looks: its perceptual hash; "": none was asked for, "flat": it has none.
    """

    state: str
    width: int = 0
    height: int = 0
    kind: str = ""
    problem: str = ""
    digest: str = ""
    looks: str = ""

    @property
    def size(self) -> Size:
        return self.width, self.height


def cache_folder() -> Path:
    """Where what was found is kept."""
    user = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(os.environ.get(CACHE) or Path(user, "unime")) / "checks"


def state_of(path: str) -> str:
    """What a file's content is known by without being read; "": there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return ""
    return f"{found.st_size:x}.{found.st_mtime_ns:x}.{found.st_ctime_ns:x}.{found.st_ino:x}"


def states_digest(paths: Iterable[str]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for path in paths:
        digest.update(f"{path}\0{state_of(path)}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def key_of(*parts: Any) -> str:
    """Of JSON values."""
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


@dataclass
class PictureLog:
    """All pictures that were read under one key; a later line of a picture takes the place of an
    earlier one, and one that a kill or another program has cut counts for nothing."""

    path: Path
    _lines: list[str] = field(default_factory=list)
    _saved: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, key: str) -> PictureLog:
        return cls(cache_folder() / f"pictures-{key}.jsonl")

    @cached_property
    def known(self) -> dict[str, Seen]:
        """What was seen of each picture, read when it is first asked for."""
        try:
            with regular(self.path).open("rb") as file:
                return {path: seen for path, seen in map(_parsed, file) if seen is not None}
        except (OSError, DataError):  # none yet, or none that can be read
            return {}

    def find(self, path: str, looks: bool = False) -> Seen | None:
        """What was seen of a picture that has not changed since.

        Args:
            looks: it has to have a perceptual hash.
        """
        seen = self.known.get(path)
        if seen is None or seen.state != state_of(path):
            return None
        return seen if seen.looks or seen.problem or not looks else None

    def size_of(self, path: str) -> Size | None:
        """Of a picture that was read; None: it was not, or is refused."""
        seen = self.known.get(path)
        return None if seen is None or seen.problem else seen.size

    def add(self, path: str, seen: Seen) -> None:
        """Remember a picture, on the disk within seconds (`save`)."""
        self.known[path] = seen
        self._lines.append(json.dumps([path, *astuple(seen)]) + "\n")
        if time.monotonic() - self._saved > SAVED_EVERY:
            self.save()

    def save(self) -> None:
        lines, self._lines = self._lines, []
        self._saved = time.monotonic()
        if lines:  # what a kill has cut may stand before it
            _try(lambda: append(self.path, "\n" + "".join(lines)), self.path)


def _parsed(line: bytes) -> tuple[str, Seen | None]:
    try:
        path, state, width, height, kind, problem, digest, looks = json.loads(line)
        texts, numbers = (path, state, kind, problem, digest, looks), (width, height)
        int(looks if looks not in ("", "flat") else "0", 16)
    except (ValueError, TypeError, RecursionError):
        return "", None
    if not all(type(text) is str for text in texts) or any(type(n) is not int for n in numbers):
        return "", None
    return path, Seen(state, width, height, kind, problem, digest, looks)


def remembered(kind: str, key: str) -> dict[str, Any]:
    """What was remembered under a key; nothing, if there is none, or none that can be read."""
    try:
        found: dict[str, Any] = read_json(_place(kind, key))
        return found
    except DataError:
        return {}


def remember(kind: str, key: str, content: dict[str, Any]) -> None:
    """Have JSON values for the next check."""
    path = _place(kind, key)
    _try(lambda: write_json(path, content), path)


def _place(kind: str, key: str) -> Path:
    return cache_folder() / f"{kind}-{key}.json"


def _try(write: Any, path: Path) -> None:
    """What cannot be remembered is found again next time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write()
    except OSError as error:
        warnings.warn(
            f"{CACHE}: {path} cannot be written ({error}): the next check reads everything again",
            stacklevel=3,
        )


def rows_digest(batches: Sequence[Any]) -> str:
    """Of all cells of record batches."""
    digest = hashlib.blake2b(digest_size=16)
    for batch in batches:
        digest.update(batch.serialize())
    return digest.hexdigest()
