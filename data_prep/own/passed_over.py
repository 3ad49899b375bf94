"""Files among somebody's data that no row is read from, so that none of them is lost in silence."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from data_prep.own.readers.folder import SUFFIXES as PICTURES


def passed_over(path: Path, is_read: Callable[[str], bool]) -> Iterator[tuple[str, str]]:
    """The files below a folder that are not read, each with its kind: "hidden", ".heic"; of hidden
    and linked folders the folder.

    Args:
        is_read: whether rows are read from a file, or show it.
    """
    for folder, below, names in os.walk(path):
        below.sort()
        for name in [*below]:
            place = os.path.join(folder, name)
            if kind := "hidden" * name.startswith(".") or "linked folder" * os.path.islink(place):
                below.remove(name)
                yield place, kind
        for name in sorted(names):
            place = os.path.join(folder, name)
            if not is_read(os.path.abspath(place)):
                yield place, _kind(name)


def _kind(name: str) -> str:
    suffix = Path(name).suffix.lower()
    if name.startswith("."):
        return "hidden"
    return "picture of no row" if suffix in PICTURES else suffix or "without an ending"
