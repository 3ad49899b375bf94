"""Pictures read in full, once as long as they stay as they are, in a process on each core."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

from unime.data.checks.memory import PictureLog, Seen, key_of, state_of
from unime.errors import DataError
from unime.inputs import images
from unime.runtime.environment import code_digest
from unime.runtime.files import regular
from unime.runtime.progress import progress_bar
from unime.runtime.workers import load_batches

BLOCK = 64  # pictures that a process reads at a time
FLAT = 8  # levels of grey: a picture of fewer looks like any other such one
LOOKS = 8  # a perceptual hash has the square of it in bits


def picture_log(max_pixels: int, roots: Sequence[Path] = ()) -> PictureLog:
    """What is remembered of the pictures in these folders, which were read with this limit and
    this code; no folders: of an evaluation's."""
    code = code_digest(Path(images.__file__).parent)
    return PictureLog.of(key_of(max_pixels, [*map(str, roots)], code, PIL.__version__))


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0))


def read_pictures(
    paths: Sequence[str],
    log: PictureLog,
    max_pixels: int,
    title: str,
    looks: bool = False,
    num_workers: int | None = None,
) -> Generator[None, None, None]:
    """Read those of the pictures in full that the log does not know as they are (a file's header
    does not show that its end is missing), and put what is seen into it.

    Args:
        looks: whether a perceptual hash is made of each.
        num_workers: processes; None: one a core.

    Yields:
        Whenever some are read.
    """
    unread = [path for path in dict.fromkeys(paths) if log.find(path, looks) is None]
    blocks = [unread[start : start + BLOCK] for start in range(0, len(unread), BLOCK)]
    read = partial(_read, max_pixels=max_pixels, looks=looks)
    workers = cores() if num_workers is None else num_workers
    bar = progress_bar(total=len(unread), desc=title, unit="picture")
    try:
        with bar, load_batches(read, blocks, workers if workers > 1 else 0, "num_workers") as found:
            for block, seen in zip(blocks, found, strict=True):
                for path, one in zip(block, seen, strict=True):
                    log.add(path, one)
                bar.update(len(block))
                yield
    finally:
        log.save()


def _read(paths: Sequence[str], max_pixels: int, looks: bool) -> list[Seen]:
    return [_look(path, max_pixels, looks) for path in paths]


def _look(path: str, max_pixels: int, looks: bool) -> Seen:
    state = state_of(path)  # before it is read: who writes meanwhile makes it another
    try:
        picture = images.load_image(path, max_pixels)
        with regular(Path(path)).open("rb") as file:
            digest = hashlib.file_digest(file, "blake2b").hexdigest()[:32]
    except DataError as error:
        return Seen(state, kind=error.kind, problem=str(error))
    except OSError as error:
        return Seen(state, kind=images.UNREADABLE, problem=f"{path}: {error.strerror}")
    return Seen(state, *picture.size, digest=digest, looks=looks_of(picture) if looks else "")


def looks_of(picture: Image.Image) -> str:
    """Its perceptual hash (pHash: the signs of the lowest frequencies of a small grey copy), in
    hexadecimal; "flat" for a picture of one colour."""
    import imagehash  # slow to import; of the extra `data`

    grey = picture.convert("L")
    levels = np.asarray(grey)
    return "flat" if np.ptp(levels) < FLAT else str(imagehash.phash(grey, hash_size=LOOKS))
