"""The files of a folder that an index may hold."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from stat import S_ISREG

from PIL import Image

from unime.inputs.picture_files import readable_formats

TEXTS, PDF = (".txt", ".md"), ".pdf"


@dataclass(frozen=True)
class File:
    """A file as it is now.

    Attributes:
        state: size and time of the last change; a file with the same is not read again.
    """

    path: str
    kind: str
    state: str

    def state_now(self) -> str:
        """Its state by now; "": it is gone, or cannot be looked at."""
        try:
            return _state_of(os.stat(self.path))
        except OSError:
            return ""


@dataclass
class Walk:
    """What is in a folder.

    Attributes:
        left_out: how many files are not looked at, by the reason.
        unknown: folders that cannot be read, of whose files nobody knows.
    """

    files: list[File] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    unknown: dict[str, str] = field(default_factory=dict)


@cache
def _kinds() -> dict[str, str]:
    Image.init()
    known = Image.registered_extensions().items()
    pictures = {suffix: "picture" for suffix, form in known if form in readable_formats()}
    return pictures | dict.fromkeys(TEXTS, "text") | {PDF: "page"}


def walk(
    folder: Path, but: Path, follow_links: bool = False, shown: Callable[[int], object] = int
) -> Walk:
    """Look for pictures, texts and PDF files; hidden ones are none.

    Args:
        but: a folder that is left out.
        follow_links: to files and folders elsewhere, too.
        shown: told how many files there were in each folder.
    """
    found, seen = Walk(), set()

    def failed(error: OSError) -> None:
        found.unknown[str(error.filename)] = error.strerror or str(error)

    for place, folders, names in os.walk(folder, onerror=failed, followlinks=follow_links):
        real = os.path.realpath(place)
        if real in seen or Path(real) == but:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if not follow_links:
            links = [name for name in folders if os.path.islink(os.path.join(place, name))]
            found.left_out["links to folders (follow_links=true)"] += len(links)
        for name in sorted(name for name in names if not name.startswith(".")):
            _look_at(os.path.join(place, name), found, follow_links)
        shown(len(names))
    found.left_out = +found.left_out
    return found


def _look_at(path: str, found: Walk, follow_links: bool) -> None:
    suffix = os.path.splitext(path)[1].lower()
    kind = _kinds().get(suffix)
    if kind is None:
        found.left_out[f"{suffix} files" if suffix else "files without a suffix"] += 1
        return
    try:
        if not follow_links and os.path.islink(path):
            found.left_out["links to files (follow_links=true)"] += 1
            return
        path.encode()  # a name of bytes that are no text has no place in a store
        state = os.stat(path)
    except UnicodeEncodeError:
        found.left_out["files with names that are not in UTF-8"] += 1
        return
    except OSError as error:
        found.unknown[path] = error.strerror or str(error)
        return
    if not S_ISREG(state.st_mode):
        found.left_out["pipes, devices and sockets"] += 1
        return
    found.files.append(File(path, kind, _state_of(state)))


def _state_of(found: os.stat_result) -> str:
    return f"{found.st_size} {found.st_mtime_ns}"
