"""Files of pictures: opened within limits, and refused where their pixels end early.

Travels with exported models (export.py), so it knows nothing of unime.
"""

from __future__ import annotations

import io
import itertools
import math
import os
import struct
import threading
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import IO, Any

from PIL import Image, PngImagePlugin
from PIL.TiffImagePlugin import ImageFileDirectory_v2

# What Pillow reads without help from other programs (it gives EPS to Ghostscript); those whose
# first bytes say little come last.
FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "PPM", "QOI"),
    *("ICO", "SGI", "PCX", "TGA"),
)
# 1 MB, Pillow's limit on one text or colour profile of a PNG, is exceeded by good pictures; its
# limit on all of them together, 64 MB, stays.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY

PNG = b"\x89PNG\r\n\x1a\n"
HEADER_READS = 10_000  # calls; a JPEG with a profile of 20 MB takes 1,000
MOST_CHUNKS = 100_000  # of a PNG; one of 400 MB in the usual pieces of 8 KB has half of them
ICON_PIXELS = 1 << 20  # of a bitmap in an icon, which Pillow decodes while it opens the icon
PIXELS_OF_SCANS = 1 << 31  # of a progressive JPEG, whose 10 or so scans are a pass each
MOST_STRIPS = 1 << 18  # of a TIFF; Python sees each
OFFSETS = (273, 324)  # TIFF's tags with the places of strips and tiles
PLAIN_BYTES = 1 << 22  # of a PPM in decimal digits, which Python reads: some 4 seconds
PLAIN_COMMENTS = 100
PCX_PALETTE = 769  # bytes at the end, the first of them 12
ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)  # fmt: skip (first column and row, steps)
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by a PNG's colour type


@cache
def readable_formats() -> tuple[str, ...]:
    """Those of FORMATS that this Pillow knows."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


class Metered:
    """A file of which so much is read and no more, since headers can name the same bytes again and
    again: a million comments, 65,535 tags of which each has the whole file for its value."""

    def __init__(self, file: Any) -> None:
        self._file = file
        here = file.tell()
        self._bytes: float = 2 * file.seek(0, os.SEEK_END) + (1 << 20)
        self._reads: float = HEADER_READS
        file.seek(here)

    def read(self, size: int = -1) -> bytes:
        content = self._file.read(size)
        self._reads, self._bytes = self._reads - 1, self._bytes - len(content)
        if min(self._reads, self._bytes) < 0:
            raise ValueError("too much to read before its first pixel")
        return content

    def lift(self) -> None:
        """From now on, all may be read."""
        self._reads = self._bytes = math.inf

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _load_tags(self: ImageFileDirectory_v2, file: IO[bytes]) -> None:
    _LOAD_TAGS(self, Metered(file))  # type: ignore[arg-type]
    if max(len(self._tagdata.get(tag, b"")) for tag in OFFSETS) > 8 * MOST_STRIPS:
        raise ValueError(f"more than {MOST_STRIPS} strips or tiles")


if ImageFileDirectory_v2.load.__name__ != _load_tags.__name__:  # TIFF's, and those of any EXIF
    _LOAD_TAGS = ImageFileDirectory_v2.load
    ImageFileDirectory_v2.load = _load_tags  # type: ignore[method-assign,assignment]


def most_pixels() -> float:
    """Of a picture that Pillow opens; from half of it on it warns."""
    return math.inf if Image.MAX_IMAGE_PIXELS is None else 2 * Image.MAX_IMAGE_PIXELS


def _check_bomb(size: tuple[int, int]) -> None:
    if not getattr(_OPENING, "here", False) or size[0] * size[1] > most_pixels():
        _BOMB_CHECK(size)


_OPENING = threading.local()  # here: this thread opens a picture, whose limits are told by others
_BOMB_CHECK = Image._decompression_bomb_check
Image._decompression_bomb_check = _check_bomb  # elsewhere it warns as ever


@contextmanager
def open_picture(source: str | Path | IO[bytes]) -> Iterator[Image.Image]:
    """Open a picture, of which nothing but its header is read yet.

    Raises:
        OSError: no such file, or in none of `readable_formats`.
        Exception: whatever Pillow raises of a damaged file.
    """
    opened = open(source, "rb") if isinstance(source, str | Path) else nullcontext(source)
    with opened as file:
        inside = _in_icon(file)
        _check_chunks(inside, until=b"IDAT")
        metered = Metered(inside)
        _OPENING.here = True
        try:
            image = Image.open(metered, formats=readable_formats())  # type: ignore[arg-type]
        finally:
            _OPENING.here = False
        with image:
            metered.lift()
            yield image


def _in_icon(file: IO[bytes]) -> IO[bytes]:
    """The picture in an icon that Pillow chooses, if it is a PNG; else the file itself.

    Raises:
        ValueError: a bitmap that is too large for an icon.
    """
    start = file.read(6)
    if start[:4] == b"\0\0\1\0":
        listed = file.read(16 * int.from_bytes(start[4:], "little"))
        entries = struct.iter_unpack("<BBBBHHII", listed[: len(listed) // 16 * 16])
        file.seek(min(entries, key=_icons_rank, default=(0,))[-1])
        begin = file.read(16)
        if begin[:8] == PNG:
            file.seek(-len(begin), os.SEEK_CUR)
            return io.BytesIO(file.read())
        width, height = struct.unpack("<4xHH8x" if begin[:1] == b"\x0c" else "<4xii4x", begin)
        if abs(width * height) // 2 > ICON_PIXELS:  # its mask counts as rows, too
            raise ValueError(f"{width} x {height // 2} pixels in an icon")
    file.seek(0)
    return file


def _icons_rank(entry: tuple[int, ...]) -> tuple[int, int]:
    """As Pillow sorts them: the largest, and of these the one with the fewest colours."""
    width, height, colours, _, _, bits, _, _ = entry
    depth = bits or (colours and math.ceil(math.log2(colours))) or 256
    return -(width or 256) * (height or 256), depth


def load_whole(image: Any) -> None:
    """Read the pixels of a picture, all of them, whoever opened it.

    Raises:
        ValueError: the file ends early, or is made to be slow.
        Exception: whatever Pillow raises of a damaged file.
    """
    file, form = getattr(image, "fp", None), image.format
    if file is None or form is None or not getattr(image, "tile", None):
        image.load()  # which has been read, or never was in a file
        return
    here = file.tell()
    if form in CHECKS:
        CHECKS[form](image, file)
        file.seek(here)
    if form == "PNG" and getattr(image, "_exclusive_fp", False):  # Pillow closes it when it is read
        file.seek(0)
        file = io.BytesIO(file.read())
        image.fp.seek(here)
    # Pillow maps an uncompressed TIFF that was opened by its path into memory, with height and
    # width exchanged if it is turned (12.3).
    name, image.filename = getattr(image, "filename", ""), ""
    try:
        image.load()
    finally:
        image.filename = name
    if form == "PNG":
        _check_rows(image, file)


def draft(image: Image.Image, least: tuple[int, int]) -> None:
    """Let a JPEG that is not read yet be decoded smaller, but not smaller than `least`.

    Raises:
        ValueError: it is made to be slow, which is told by its own size.
    """
    file = getattr(image, "fp", None)
    if image.format in ("JPEG", "MPO") and file is not None and getattr(image, "tile", None):
        here = file.tell()
        _check_jpeg(image, file)
        file.seek(here)
        image.draft(image.mode, least)


def _check_jpeg(image: Any, file: IO[bytes]) -> None:
    if image.info.get("progressive"):
        file.seek(0)
        scans = file.read().count(b"\xff\xda")  # which is never in the data of a scan
        if scans * image.width * image.height > PIXELS_OF_SCANS:
            raise ValueError(f"{scans} scans of {image.width} x {image.height} pixels")


def _check_jpeg2000(image: Any, file: IO[bytes]) -> None:
    file.seek(0)
    content = file.read()
    if content.rfind(b"\xff\xd9") <= content.find(b"\xff\x93"):  # which data never have
        raise ValueError("its data end early: it has no end of its codestream")


def _check_pcx(image: Any, file: IO[bytes]) -> None:
    if image.tile[0].args[0] in ("L", "P"):
        file.seek(0)
        content = file.read()
        if content[-PCX_PALETTE:][:1] != b"\x0c":
            raise ValueError("its data end early: it has no palette")
        image.fp = io.BytesIO(content[:-PCX_PALETTE])  # which is no pixels


def _check_ppm(image: Any, file: IO[bytes]) -> None:
    if image.tile[0][0] == "ppm_plain":
        file.seek(0)
        content = file.read(PLAIN_BYTES + 1)
        if len(content) > PLAIN_BYTES or content.count(b"#") > PLAIN_COMMENTS:
            raise ValueError(f"more than {PLAIN_BYTES} bytes or {PLAIN_COMMENTS} comments of text")
        if not content[-1:].isspace():
            raise ValueError("its data end early: no line ends behind its last number")


def _check_tiff(image: Any, file: IO[bytes]) -> None:
    places = {tile[1] for tile in image.tile}
    covered = sum((right - left) * (low - high) for left, high, right, low in places)
    if covered < image.width * image.height:
        raise ValueError("its data end early: strips or tiles are missing")


def _check_png(_: Any, file: IO[bytes]) -> None:
    _check_chunks(file, until=b"IEND")


CHECKS = {
    "JPEG": _check_jpeg,
    "MPO": _check_jpeg,
    "JPEG2000": _check_jpeg2000,
    "PCX": _check_pcx,
    "PNG": _check_png,
    "PPM": _check_ppm,
    "TIFF": _check_tiff,
}


def _check_chunks(file: IO[bytes], until: bytes) -> None:
    """Refuse a PNG of many colour profiles (each may hold 64 MB of zeros) or chunks without end."""
    file.seek(0)
    if file.read(8) == PNG:
        listed = itertools.takewhile(
            lambda kind: kind != until, (kind for kind, _ in _chunks(file))
        )
        kinds = Counter(itertools.islice(listed, MOST_CHUNKS))
        if kinds[b"iCCP"] > 1 or kinds.total() == MOST_CHUNKS:
            raise ValueError(f"{kinds.total()} chunks, {kinds[b'iCCP']} of them colour profiles")
    file.seek(0)


def _check_rows(image: Any, file: IO[bytes]) -> None:
    """Pillow leaves black what a complete PNG stream of too few rows lacks: count them where its
    end is black (of an interlaced one no row is the last)."""
    file.seek(0)
    width, height, depth, colour, _, _, laced = struct.unpack(">IIBBBBB", file.read(29)[16:])
    if not laced and any(image.crop((0, height - 1, width, height)).tobytes()):
        return
    sizes = [(width, height)]
    if laced:
        sizes = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in ADAM7]
    bits = depth * CHANNELS[colour]
    left = sum(high * (1 + (wide * bits + 7) // 8) for wide, high in sizes if wide > 0 < high)
    stream = zlib.decompressobj()
    for data in (file.read(length) for kind, length in _chunks(file) if kind == b"IDAT"):
        while data and left > 0:
            left -= len(stream.decompress(data, 1 << 20))
            data = stream.unconsumed_tail
    if left > 0:
        image.close()  # else it passes for a whole one, were it given again
        raise ValueError(f"its data end early: {left} bytes of pixels are missing")


def _chunks(file: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    """Of a PNG, their kinds and lengths; the file stands where their data begin."""
    file.seek(len(PNG))
    while len(header := file.read(8)) == 8:
        length, begin = int.from_bytes(header[:4], "big"), file.tell()
        yield header[4:], length
        file.seek(begin + length + 4)
