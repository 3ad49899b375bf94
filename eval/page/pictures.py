"""Thumbnails for the page of the report: each distinct picture once, as a data URI."""

from __future__ import annotations

import base64
import io
import os
from collections import Counter
from collections.abc import Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path

from PIL import Image

from unime.config import InputConfig
from unime.errors import DataError
from unime.inputs.images import load_image
from unime.runtime.names import LONGEST_NAME

READERS = 8  # threads; Pillow decodes outside of Python's lock
SIZE, QUALITY = 160, 72  # longest side in pixels, of WebP
MISSING, UNREADABLE, LEFT_OUT = "missing", "unreadable", "left out"


class Pictures:
    """Pictures that the page shows, in the order in which they are asked for: what is asked for
    first has its place when the page would grow above its limit.

    Attributes:
        uris: the thumbnails, each once, however many files hold the same picture.
        problems: path -> why the page does not show it.
        counts: how many pictures (paths) are missing, unreadable, or left out for the size.

    Args:
        max_pixels: of a picture that is read.
    """

    def __init__(self, max_pixels: int = InputConfig.max_image_pixels) -> None:
        self._max_pixels = max_pixels
        self.uris: list[str] = []
        self.problems: dict[str, str] = {}
        self.counts: Counter[str] = Counter()
        self._wanted: dict[str, int | str] = {}  # path -> place in uris, or the problem's kind

    def ask(self, paths: Sequence[str]) -> None:
        for path in paths:
            self._wanted.setdefault(path, LEFT_OUT)

    def load(self, max_bytes: int) -> None:
        """Read what was asked for, until the thumbnails take `max_bytes`."""
        places: dict[str, int] = {}
        used = 0
        paths = list(self._wanted)
        with ThreadPool(READERS) as pool:
            for path, (uri, problem) in zip(paths, pool.imap(self._thumbnail, paths), strict=True):
                if problem:
                    kind = UNREADABLE if os.path.isfile(path) else MISSING
                    self._wanted[path], self.problems[path] = kind, problem
                    self.counts[kind] += 1
                elif uri not in places and used + len(uri) > max_bytes:
                    self.problems[path] = f"{_name(path)}: left out, the page's limit is reached"
                    self.counts[LEFT_OUT] += 1
                else:
                    used += 0 if uri in places else len(uri)
                    self._wanted[path] = places.setdefault(uri, len(places))
        self.uris = list(places)

    def shown(self, path: str) -> int | str:
        """The place of its thumbnail, or what to say instead."""
        found = self._wanted[path]
        return found if isinstance(found, int) else f"{found}: {_name(path)}"

    def _thumbnail(self, path: str) -> tuple[str, str]:
        try:
            picture = load_image(path, self._max_pixels)
        except DataError as error:
            return "", str(error).replace(path, _name(path))
        picture.thumbnail((SIZE, SIZE), Image.Resampling.LANCZOS)
        held = io.BytesIO()
        picture.save(held, "WEBP", quality=QUALITY, method=4)
        return "data:image/webp;base64," + base64.b64encode(held.getvalue()).decode(), ""


def _name(path: str) -> str:
    return Path(path).name[:LONGEST_NAME]
