"""What decides a result: settings, code, model and data, as one number.

Two steps of equal identity are the same, whichever study asks for them, and are run once.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

from omegaconf import MISSING

from unime.config.reading.values import without_bounds, without_none
from unime.config.settings import FilePath
from unime.data.prepared.folder import CHECK, PreparedSet
from unime.data.prepared.rows import pictures_of
from unime.inputs.items import IMAGE_SUFFIXES
from unime.runtime.digests import add_pieces, digest_of, folder_digest
from unime.runtime.environment import PACKAGE, code_digest

ROOT = PACKAGE.resolve().parent
NOT_COMPUTED_WITH = ("app", "export", "planning", "search", "serving")  # rooms that no step runs
FOLDERS = {"eval": ("eval", "eval/tasks")}  # beside the library: what a kind of step runs
PROGRAMS = {"stage1": "stages/stage1_distill.py", "stage2": "stages/stage2_instruct.py",
            "judge": "data_prep/judge.py"}  # fmt: skip
# what a program writes or only keeps, and the model, which has a digest of its own
NOT_READ = ("output_dir", "store", "cache", "feature_store", "name")
PIECE = 1 << 20  # bytes at the begin, middle and end of a file of tensors, which may be large
TENSORS = (".safetensors", ".npy", ".bin")


def identity_of(parts: Iterable[str]) -> str:
    """16 hexadecimal digits of some texts."""
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=8).hexdigest()


def code_of(kind: str) -> str:
    """Of the code that a kind of step runs, as it was when it was looked at first."""
    rooms = sorted(path for path in PACKAGE.rglob("*") if path.is_dir())
    used = [p for p in rooms if p.relative_to(PACKAGE).parts[0] not in NOT_COMPUTED_WITH]
    library = code_digest(PACKAGE, *used, *(ROOT / name for name in FOLDERS.get(kind, ())))
    return library + (digest_of(ROOT / PROGRAMS[kind]) if kind in PROGRAMS else "")


def paths_of(settings: Any) -> Iterator[str]:
    """The files and folders that settings name and a program reads, but for the model's own."""
    hints = get_type_hints(type(settings), include_extras=True)
    for entry in fields(settings):
        value, hint = getattr(settings, entry.name), without_none(hints[entry.name])[0]
        if value is None or value == MISSING or entry.name in NOT_READ:
            continue
        if is_dataclass(value):
            yield from paths_of(value)
        elif hint == FilePath:
            yield value
        elif get_args(without_bounds(hint)) == (FilePath,):  # a list of them
            yield from value


def forget() -> None:
    """Look at code, models and data as they are now."""
    for known in (code_digest, model_digest, data_digest):
        known.cache_clear()


@cache
def model_digest(name: str, revision: str | None) -> str:
    """Of a model's folder; of one on the hub its name."""
    return folder_digest(Path(name)) if Path(name).is_dir() else f"{name}@{revision}"


@cache
def data_digest(path: str) -> str:
    """Of a file or folder: names and contents, of pictures names and sizes alone, of large tensors
    pieces; of a prepared set also of its pictures that lie elsewhere, without what a check of it
    wrote; "absent" if there is nothing.

    Raises:
        DataError: a prepared set whose set.json cannot be read.
    """
    place = Path(path)
    if not place.exists():
        return "absent"
    digest, prepared = hashlib.blake2b(digest_size=16), PreparedSet.of(place)
    files = [place] if place.is_file() else sorted(_files(place))
    if prepared is not None and CHECK not in prepared.rows:
        files = [file for file in files if not file.is_relative_to(place / CHECK)]
    for file in files:
        size = file.stat().st_size
        digest.update(f"{os.path.relpath(file, place)}|{size}\n".encode("utf-8", "surrogateescape"))
        if file.suffix.lower() in IMAGE_SUFFIXES:
            continue
        with file.open("rb") as opened:
            if file.suffix in TENSORS:
                add_pieces(digest, opened, 0, size, PIECE)
            else:
                digest.update(hashlib.file_digest(opened, "blake2b").digest())
    if prepared is not None and prepared.image_root:
        shards = (file for file in files if file.suffix == ".parquet")
        for name in sorted(set().union(*map(pictures_of, shards))):
            found = _size(Path(prepared.image_root, name))
            digest.update(f"{name}|{found}\n".encode())
    return digest.hexdigest()


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except (OSError, ValueError):  # it is not there, or no path can be so
        return None


def _files(folder: Path) -> Iterator[Path]:
    for place, below, names in os.walk(folder, followlinks=True):
        below[:] = [name for name in below if not name.startswith(".")]
        yield from (Path(place, name) for name in names if not name.startswith("."))
