"""The pictures of somebody's data: found, read once in full, told apart by what they show."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path

from PIL import Image

from data_prep.own.readers.base import Picture
from unime.data.checks.pictures import looks_of
from unime.data.tables import ImageFolder
from unime.errors import DataError, require_package
from unime.inputs.images import load_image, suffix_of
from unime.runtime.files import regular

IMAGES = "images"  # the folder of copies
DIGEST, HASH = 16, 8  # bytes
RECORD = 8 + DIGEST + HASH  # what is kept of a picture: of its place and state, content, looks
IN_A_TABLE = "the picture"


@dataclass(frozen=True, slots=True)
class Looks:
    """What tells a picture from others.

    Attributes:
        digest: of its file's content.
        perceptual: its perceptual hash, equal for copies of another size or format; zeros where it
            has one colour, which says nothing.
    """

    digest: bytes
    perceptual: bytes


class Pictures:
    """Finds and reads pictures; each once, also if the program is killed in between.

    Args:
        notes: the file that keeps what was read; None: nothing is written.
        max_pixels: of a picture that can be used.
    """

    def __init__(self, folder: ImageFolder, notes: Path | None, max_pixels: int) -> None:
        require_package("imagehash", "data", "prepare own")
        self.folder, self.notes = folder, notes
        self.embedded = False  # whether some lie in tables
        self._places = set[int]()  # of paths that were looked at
        self._known: dict[str | bytes, Looks | str] = {}  # or what is wrong
        self._noted = _read_notes(notes)
        self._max_pixels = max_pixels

    def learn(self, pictures: Iterable[Picture], pool: ThreadPool) -> None:
        """Look at those that are not known yet, several at a time."""
        new = {_key(p): p for p in pictures if _key(p) not in self._known}
        found = pool.map(self._look, new.values())
        self._known.update(zip(new, (looks for looks, _ in found), strict=True))
        if self.notes is not None and (lines := b"".join(line for _, line in found)):
            with self.notes.open("ab") as file:
                file.write(lines)

    def looks(self, picture: Picture) -> Looks:
        """Of a picture that was learnt.

        Raises:
            DataError: it cannot be used.
        """
        found = self._known[_key(picture)]
        if isinstance(found, str):
            raise DataError(found)
        self.embedded |= isinstance(picture, bytes)
        return found

    def shows(self, path: str) -> bool:
        """Whether some row shows the picture at an absolute path."""
        return hash(path) in self._places

    def path(self, picture: Picture) -> str:
        """Of one that lies in a file, relative to where pictures lie."""
        return os.path.relpath(self.folder.find(_text(picture)), self.folder.roots[0])

    def copy(self, picture: Picture, out: Path) -> str:
        """Write it below `out`, called by its content; returns its path from there."""
        name = self.looks(picture).digest.hex()
        if isinstance(picture, bytes):
            content = picture
            suffix = suffix_of(content)
        else:
            content = regular(Path(self.folder.find(picture))).read_bytes()
            suffix = Path(picture).suffix.lower()
        place = f"{IMAGES}/{name[:2]}/{name}{suffix}"
        path = out / place
        if not path.is_file() or path.stat().st_size != len(content):
            path.parent.mkdir(parents=True, exist_ok=True)
            aside = path.with_name(f".{path.name}")
            aside.write_bytes(content)
            os.replace(aside, path)
        return place

    def _look(self, picture: Picture) -> tuple[Looks | str, bytes]:
        """What it looks like, and the line of the notes that says so if it is a new one."""
        try:
            state, name = self._state(picture)
            if state in self._noted:
                return self._noted[state], b""
            content = picture if isinstance(picture, bytes) else regular(Path(name)).read_bytes()
            image = load_image(name, self._max_pixels, content=content)
        except DataError as error:
            return str(error), b""
        except OSError as error:
            return f"{picture!r}: cannot read it: {error.strerror}", b""
        looks = Looks(_digest(content), _perceptual(image))
        return looks, state + looks.digest + looks.perceptual

    def _state(self, picture: Picture) -> tuple[bytes, str]:
        """What a picture is the same by when it is looked for again, and its name for messages."""
        limit = str(self._max_pixels).encode()
        if isinstance(picture, bytes):
            return _digest(_digest(picture) + limit)[:8], IN_A_TABLE
        path = self.folder.find(_text(picture))
        self._places.add(hash(os.path.abspath(path)))
        found = os.stat(path)
        said = f"{path}|{found.st_size}|{found.st_mtime_ns}|{found.st_ino}|"
        return _digest(said.encode() + limit)[:8], path


def _read_notes(notes: Path | None) -> dict[bytes, Looks]:
    content = notes.read_bytes() if notes is not None and notes.is_file() else b""
    whole = len(content) - len(content) % RECORD  # a kill may leave a part of the last one
    if notes is not None and whole < len(content):
        os.truncate(notes, whole)
    ends = (8, 8 + DIGEST, RECORD)
    return {
        content[at : at + ends[0]]: Looks(
            content[at + ends[0] : at + ends[1]], content[at + ends[1] : at + ends[2]]
        )
        for at in range(0, whole, RECORD)
    }


def _key(picture: Picture) -> str | bytes:
    return picture if isinstance(picture, str) else _digest(picture)


def _text(picture: Picture) -> str:
    """A path, which a table can hold."""
    path = str(picture)
    if path != path.encode("utf-8", "replace").decode("utf-8"):
        raise DataError(f"{path!r}: a name that is no text")
    return path


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=DIGEST).digest()


def _perceptual(image: Image.Image) -> bytes:
    looks = looks_of(image)
    return bytes(HASH) if looks == "flat" else bytes.fromhex(looks)
