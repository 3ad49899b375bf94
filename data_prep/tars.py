"""Tars of strangers, read from begin to end, a member at a time; nothing is extracted here."""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

from unime.runtime.files import regular

PIECE = 1 << 20  # bytes at a time
BLOCK = 512  # of which a tar consists; one of zeros is its end


def tar_members(file: Path) -> Iterator[tuple[tarfile.TarInfo, Iterator[bytes]]]:
    """What is in a tar, with its content in pieces, which has to be read before the next is.

    Raises:
        tarfile.TarError: it is damaged, ends early, or something is behind its end, so that a part
            of it would be missing without a word.
        OSError: it cannot be read, or is no whole gzip.
        EOFError: its gzip ends early.
    """
    with regular(file).open("rb") as raw:
        opened: Any = gzip.open(raw) if file.name.endswith("gz") else raw
        guarded = _Guarded(opened)
        tar = tarfile.open(fileobj=guarded, mode="r:")  # type: ignore[call-overload]
        while (member := tar.next()) is not None:
            tar.members = []  # which it would keep, all of them
            yield member, _content(tar, member)
        rest = iter(partial(opened.read, BLOCK), b"")
        if guarded.last != bytes(BLOCK) or any(any(block) for block in rest):
            raise tarfile.ReadError("it ends early, or something is behind its end")


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
    opened, left = tar.extractfile(member), member.size
    assert opened is not None
    while left:
        piece = opened.read(min(PIECE, left))
        if not piece:
            raise tarfile.ReadError(f"{member.name}: its data end early")
        left -= len(piece)
        yield piece


class _Guarded:
    """A file of which nobody reads much at once: how long a name is, the tar says.

    Attributes:
        last: what was read last.
    """

    def __init__(self, opened: IO[bytes]) -> None:
        self.opened, self.seek, self.tell = opened, opened.seek, opened.tell
        self.last = b""

    def read(self, size: int) -> bytes:
        if size > PIECE:
            raise tarfile.ReadError(f"a name or note of {size} bytes")
        self.last = self.opened.read(size)
        return self.last
