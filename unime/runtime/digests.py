"""Digests of files and folders: what they were when they were written, and what a result is of."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

from unime.errors import DataError
from unime.runtime.files import regular

LARGE_FILE = 1 << 28  # bytes: from here on the tensors of a file are sampled
MANY_FILES = 10_000  # behind links
PIECE_SIZE = 1 << 16  # bytes at a tensor's begin, middle and end


def digest_of(path: Path) -> str:
    """Of a file's content, 32 hexadecimal digits."""
    with regular(path).open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]


def digests_below(folder: Path) -> dict[str, str]:
    """Of all files in a folder, by their paths from there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): digest_of(path) for path in files}


def check_digests(folder: Path, written: Mapping[str, str]) -> None:
    """Compare files of a folder with what was written.

    Raises:
        DataError: one is another; OSError: it cannot be read.
    """
    for name, digest in written.items():
        if digest_of(folder / name) != digest:
            raise DataError(f"{name} is not what was written: cut or damaged")


def folder_digest(folder: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    add_folder(digest, folder)
    return digest.hexdigest()


def add_folder(digest: Any, folder: Path) -> None:
    """Put the names and contents of all files below `folder` into a digest, links followed, but for
    hidden ones (where hub clients keep notes of their downloads).

    Of a *.safetensors of 256 MiB or more count the header and three pieces of every tensor: a
    second for 15 GB of weights, and training moves a tensor everywhere. All other files count
    whole.

    Raises:
        DataError: a link leads to so many files that they cannot be a model's.
    """
    for path in sorted(_files(folder)):
        digest.update(os.fsencode(path.relative_to(folder)))
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            tensors = _tensors(file, size) if path.suffix == ".safetensors" else None
            if size < LARGE_FILE or tensors is None:
                file.seek(0)
                digest.update(hashlib.file_digest(file, "blake2b").digest())
                continue
            digest.update(str(size).encode())
            for begin, end in tensors:
                add_pieces(digest, file, begin, end, PIECE_SIZE)


def _files(folder: Path) -> Iterator[Path]:
    """All files below a folder that are not hidden; those behind links too, of which none is
    followed back to where it is."""
    behind_links = 0
    ways = [(folder, [folder.resolve()])]  # to folders: where each is in truth, from the first on
    while ways:
        place, way = ways.pop()
        behind_link = way[-1] != way[0] / place.relative_to(folder)
        try:
            paths = [path for path in place.iterdir() if not path.name.startswith(".")]
        except PermissionError:  # nor can it be loaded
            continue
        for path in paths:
            behind_links += behind_link
            if behind_links > MANY_FILES:
                raise DataError(f"{folder}: links in it lead to more than {MANY_FILES} files")
            if path.is_file():
                yield path
            elif path.is_dir() and (real := path.resolve()) not in way:
                ways.append((path, [*way, real]))


def _tensors(file: BinaryIO, size: int) -> list[tuple[int, int]] | None:
    """Where a safetensors file has its header and each of its tensors; None: it is none."""
    first = 8 + int.from_bytes(file.read(8), "little")
    if first > size:
        return None
    try:
        header = json.loads(file.read(first - 8))
        places = [entry["data_offsets"] for key, entry in header.items() if key != "__metadata__"]
        return [(0, first), *sorted((first + begin, first + end) for begin, end in places)]
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def add_pieces(digest: Any, file: BinaryIO | FileIO, begin: int, end: int, size: int) -> None:
    """All that lies between two places of a file, or so many bytes of its begin, middle and end."""
    length = end - begin
    if length <= 3 * size:
        starts, size = [begin], length
    else:
        starts = [begin, begin + (length - size) // 2, end - size]
    for start in starts:
        file.seek(start)
        digest.update(file.read(size))
