"""What files were when they were written, to be compared with what they are."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from unime.errors import DataError
from unime.runtime.files import regular


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
