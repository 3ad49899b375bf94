"""Pictures that lie in memory: which of them are one, and that an opened one is the file's.

./launch.sh test tests/inputs/test_given.py
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from unime.errors import DataError
from unime.inputs.given import as_items, loaded
from unime.inputs.items import Item

MOST = 10_000  # pixels
Opened = Callable[[Path], Image.Image]
OPENED: list[Opened] = [Image.open, lambda path: Image.open(io.BytesIO(path.read_bytes()))]


def noise(mode: str) -> Image.Image:
    values = np.random.default_rng(1).integers(0, 256, (40, 24, 4), dtype=np.uint8)
    return Image.fromarray(values, "RGBA").convert(mode)


def shown(given: list[Image.Image]) -> tuple[list[str], list[np.ndarray]]:
    """What pictures are called, and what a model sees of each."""
    items, held = as_items(given, MOST)
    names = [item.images[0] for item in items]
    return names, [np.asarray(loaded(name, held[name], MOST)) for name in names]


def test_two_palettes_are_two_pictures() -> None:
    both = [Image.fromarray(np.zeros((8, 8), np.uint8), "P") for _ in range(2)]
    for picture, colour in zip(both, ([255, 0, 0], [0, 0, 255]), strict=True):
        picture.putpalette(colour)
    names, (red, blue) = shown(both)
    assert len(set(names)) == 2
    assert (red[0, 0].tolist(), blue[0, 0].tolist()) == ([255, 0, 0], [0, 0, 255])


@pytest.mark.parametrize("opened", OPENED)
@pytest.mark.parametrize(("mode", "form"), [("RGB", "PNG"), ("CMYK", "TIFF"), ("L", "TIFF")])
def test_a_turned_picture_is_another_one(
    mode: str, form: str, opened: Opened, tmp_path: Path
) -> None:
    picture, exif = noise(mode), Image.Exif()
    picture.save(tmp_path / "upright", form)
    exif[ExifTags.Base.Orientation] = 6
    picture.save(tmp_path / "turned", form, exif=exif)
    names, found = shown([opened(tmp_path / name) for name in ("upright", "turned")])
    assert len(set(names)) == 2
    for name, own in zip(("upright", "turned"), found, strict=True):
        assert np.array_equal(own, np.asarray(loaded(str(tmp_path / name), None, MOST)))


def test_what_looks_the_same_is_one_picture() -> None:
    grey = noise("L")
    names, _ = shown([grey, grey.copy(), grey.convert("RGB")])
    assert len(set(names)) == 1


def png_of_few_rows() -> bytes:
    """A complete stream of 10 of 32 rows."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 32, 32, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes([0, *[200] * 32]) * 10)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize("opened", OPENED)
def test_an_opened_picture_that_ends_early_is_refused_each_time(
    opened: Opened, tmp_path: Path
) -> None:
    (tmp_path / "few.png").write_bytes(png_of_few_rows())
    picture = opened(tmp_path / "few.png")
    with pytest.raises(DataError, match=r"items\[1\]: picture 2: .*its data end early"):
        as_items(["a", {"images": ["own.png", picture]}], MOST)
    with pytest.raises(DataError, match=r"items\[0\]: picture 1: not a readable image"):
        as_items([picture], MOST)


def test_a_cut_or_large_picture_is_named(tmp_path: Path) -> None:
    noise("RGB").save(tmp_path / "cut.jpg")
    content = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"items\[0\]: picture 1: not a readable image: .*trunc"):
        as_items([Image.open(tmp_path / "cut.jpg")], MOST)
    with pytest.raises(DataError, match=r"items\[0\]: picture 1: 200 x 200 pixels") as told:
        as_items([Image.new("L", (200, 200))], MOST)
    assert "inputs." in str(told.value) and "inputs." not in told.value.plain


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ({"images": 5}, "items[1], images: got a int, expected pictures or their paths"),
        ({"images": 0}, "items[1], images: got a int"),
        ({"images": {"a.png": 1}}, "items[1], images: got a dict"),
        ({"images": np.zeros((2, 2))}, "items[1]: got a ndarray, expected a picture"),
        ({"text": np.zeros(2)}, "items[1], text: got array"),
        ({"text": 0}, "items[1], text: got 0"),
    ],
)
def test_what_is_no_list_of_pictures_and_no_text_is_named(item: object, said: str) -> None:
    with pytest.raises(DataError, match=re.escape(said)):
        as_items(["a", item], MOST)  # type: ignore[list-item]


@pytest.mark.parametrize("none", [None, "", (), []])
def test_no_pictures_are_said_in_several_ways(none: object) -> None:
    (item,), _ = as_items([{"text": None, "instruction": "find", "images": none}], MOST)
    assert item == Item(instruction="find")
