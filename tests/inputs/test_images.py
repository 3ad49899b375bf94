"""Pictures of every kind show a model the same drawing, and what nobody can read is named.

./launch.sh test tests/inputs/test_images.py
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, TiffImagePlugin

from eval.demo.contact_sheet import HEADING, MARGIN, TILE, Answer, draw_sheet
from tests.support.results import source
from unime.config import InputConfig
from unime.errors import DataError
from unime.inputs.images import load_image
from unime.inputs.picture_files import readable_formats
from unime.inputs.pixels import as_seen

WIDTH, HEIGHT = 14, 9
MOST = InputConfig().max_image_pixels
GREY = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)
COLOURS = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
SMOOTH = Image.fromarray(COLOURS[:3, :4] // 2 + 64)  # in the middle of every colour space
DEEP = GREY.astype(np.uint16) * 257  # the same drawing in 16 bits

Tag = tuple[int, int, int, bytes]  # number, type, count, value


def pixels(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def in_grey(drawing: np.ndarray = GREY) -> np.ndarray:
    return np.repeat(drawing[:, :, None], 3, axis=2).astype(int)


def read(path: Path, content: bytes, **inputs: Any) -> np.ndarray:
    path.write_bytes(content)
    return pixels(load_image(str(path), InputConfig(**inputs).max_image_pixels))


def saved(image: Image.Image, form: str, **options: Any) -> bytes:
    held = io.BytesIO()
    image.save(held, form, **options)
    return held.getvalue()


def png(depth: int, colour: int, rows: Iterable[bytes], *extra: tuple[bytes, bytes]) -> bytes:
    """A PNG of WIDTH pixels a row, of any depth and colour type."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    lines = [b"\0" + row for row in rows]
    header = struct.pack(">IIBBBBB", WIDTH, len(lines), depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", zlib.compress(b"".join(lines))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)


def short(number: int, value: int) -> Tag:
    return number, 3, 1, struct.pack("<HH", value, 0)


def tiff(bits: int, data: bytes, *extra: Tag, photometric: int = 1, form: int = 1) -> bytes:
    """A TIFF of one channel, little-endian and not compressed."""
    tags = [short(256, WIDTH), short(257, HEIGHT), short(258, bits), short(259, 1), short(277, 1)]
    tags += [short(262, photometric), short(278, HEIGHT), short(339, form), *extra]
    start = 8 + 2 + 12 * (len(tags) + 2) + 4
    tags += [(273, 4, 1, struct.pack("<I", start)), (279, 4, 1, struct.pack("<I", len(data)))]
    written = b"".join(struct.pack("<HHI", *tag[:3]) + tag[3] for tag in sorted(tags))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + written + b"\0" * 4 + data


# Modes -------------------------------------------------------------------------------------------

# mode -> how far its own arithmetic may be from the drawing
IN_COLOUR = {"RGB": 0, "RGBX": 0, "RGBA": 0, "RGBa": 0, "CMYK": 0, "YCbCr": 3, "HSV": 3, "LAB": 3}


@pytest.mark.parametrize("mode", IN_COLOUR)
def test_modes_with_colours(mode: str) -> None:
    drawing = SMOOTH
    if mode == "LAB":
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.profileToProfile(drawing, *profiles, outputMode="LAB")
    else:
        image = drawing.convert("RGBA").convert(mode) if mode == "RGBa" else drawing.convert(mode)
    assert image is not None and image.mode == mode
    assert abs(pixels(as_seen(image)) - pixels(SMOOTH)).max() <= IN_COLOUR[mode]


@pytest.mark.parametrize("mode", ["L", "LA", "La", "P", "PA", "I;16", "I;16L", "I;16B", "I;16N"])
def test_modes_in_grey(mode: str) -> None:
    drawing = Image.fromarray(GREY)
    if mode.startswith("I;16"):
        order = {"I;16B": ">u2", "I;16N": "=u2"}.get(mode, "<u2")
        image = Image.frombytes(mode, drawing.size, DEEP.astype(order).tobytes())
    else:
        image = drawing.convert("LA").convert("La") if mode == "La" else drawing.convert(mode)
    assert image.mode == mode
    assert (pixels(as_seen(image)) == in_grey()).all()


def test_two_levels() -> None:
    drawing = Image.fromarray(GREY).convert("1", dither=Image.Dither.NONE)
    assert (pixels(as_seen(drawing)) == in_grey(np.where(GREY > 127, 255, 0))).all()


@pytest.mark.parametrize("mode", ["I", "F"])
def test_a_range_that_nobody_knows_is_refused(mode: str, tmp_path: Path) -> None:
    values = GREY.astype(np.int32) * 9 if mode == "I" else GREY.astype(np.float32) / 255
    Image.fromarray(values).save(tmp_path / "deep.tiff")
    found = f"values from {values.min():g} to {values.max():g}"
    with pytest.raises(DataError, match=f"deep.tiff: .*mode {mode}, {found}"):
        load_image(str(tmp_path / "deep.tiff"), InputConfig().max_image_pixels)


# 16 bits and more in files -----------------------------------------------------------------------


@pytest.mark.parametrize("form", ["PNG", "TIFF", "JPEG2000", "PPM"])
def test_16_bits_are_those_of_8(form: str, tmp_path: Path) -> None:
    seen = read(tmp_path / "deep", saved(Image.fromarray(DEEP), form))
    assert (seen == read(tmp_path / "flat", saved(Image.fromarray(GREY), form))).all()
    assert (seen == in_grey()).all()
    odd = np.random.default_rng(2).integers(0, 2**16, GREY.shape, dtype=np.uint16)
    seen = read(tmp_path / "odd", saved(Image.fromarray(odd), form))
    assert abs(seen - in_grey(np.rint(odd / 257))).max() <= 1


@pytest.mark.parametrize("colour, channels", [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_every_png_of_16_bits(colour: int, channels: int, tmp_path: Path) -> None:
    drawing = np.random.default_rng(3).integers(0, 256, (HEIGHT, WIDTH, channels), dtype=np.uint8)
    flat, deep = drawing, drawing.astype(">u2") * 257
    rows = [[row.tobytes() for row in of] for of in (flat, deep.astype(">u2"))]
    seen = [read(tmp_path / "x.png", png(8 * n, colour, rows[n - 1])) for n in (1, 2)]
    assert abs(seen[0] - seen[1]).max() <= 1 and seen[0].std() > 20


def twelve_bits() -> tuple[bytes, bytes]:
    """The drawing in 12 bits: each value in 16, and packed."""
    values = np.rint(GREY.astype(float) * 4095 / 255).astype("<u2")
    lines = ["".join(f"{value:012b}" for value in row) for row in values.tolist()]
    packed = b"".join(int(line, 2).to_bytes(len(line) // 8, "big") for line in lines)
    return values.tobytes(), packed


FLOATS = (GREY.astype("<f4") / 255 * 2 - 1).astype("<f4").tobytes()
MINUS_ONE_TO_ONE = [(number, 11, 1, struct.pack("<f", n)) for number, n in ((340, -1), (341, 1))]
TIFFS = {
    "12 bits in 16": tiff(16, twelve_bits()[0], short(281, 4095)),
    "12 bits": tiff(12, twelve_bits()[1]),
    "largest value that is used": tiff(16, DEEP.astype("<u2").tobytes(), short(281, 65407)),
    "white is zero": tiff(16, (65535 - DEEP).astype("<u2").tobytes(), photometric=0),
    "signed, told": tiff(16, GREY.astype("<i2").tobytes(), short(341, 255), form=2),
    "floats, told": tiff(32, FLOATS, *MINUS_ONE_TO_ONE, form=3),
}


@pytest.mark.parametrize("content", TIFFS.values(), ids=TIFFS)
def test_the_range_that_a_tiff_tells(content: bytes, tmp_path: Path) -> None:
    assert abs(read(tmp_path / "x.tiff", content) - in_grey()).max() <= 1


# Transparency ------------------------------------------------------------------------------------


def on_white(drawing: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[:, :, None] / 255
    return drawing * share + 255 * (1 - share)


@pytest.mark.parametrize("mode", ["RGBA", "RGBa", "LA", "La", "PA"])
def test_alpha_is_laid_on_white(mode: str) -> None:
    alpha = np.random.default_rng(4).integers(60, 256, GREY.shape, dtype=np.uint8)
    image = Image.fromarray(GREY).convert(mode[:-1].upper())
    image.putalpha(Image.fromarray(alpha))
    assert image.mode == mode.upper()
    seen = pixels(as_seen(image.convert(mode)))
    assert abs(seen - on_white(in_grey(), alpha)).max() <= (4 if mode[-1] == "a" else 1)


def grey_rows(depth: int) -> tuple[np.ndarray, list[bytes]]:
    """A drawing in the values of a PNG of so many bits, and its rows."""
    values = GREY.astype(int) * (2**depth - 1) // 255
    values[0, :2] = 1, 0
    if depth == 16:
        return values, [row.astype(">u2").tobytes() for row in values]
    lines = ["".join(f"{value:0{depth}b}" for value in row) for row in values.tolist()]
    padded = [line + "0" * (-len(line) % 8) for line in lines]
    return values, [int(line, 2).to_bytes(len(line) // 8, "big") for line in padded]


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_one_grey_stands_for_transparency(depth: int, tmp_path: Path) -> None:
    values, rows = grey_rows(depth)
    seen = read(tmp_path / "x.png", png(depth, 0, rows, (b"tRNS", struct.pack(">H", 1))))
    drawn = np.where(values == 1, 255, values * 255 / (2**depth - 1))
    assert (values == 1).any() and abs(seen - in_grey(drawn)).max() <= 1


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("chosen", [(3, 2, 1), (200, 100, 1)])
def test_one_colour_stands_for_transparency(
    depth: int, chosen: tuple[int, int, int], tmp_path: Path
) -> None:
    drawing = COLOURS.astype(int)
    drawing[2:5, 3:6] = chosen
    scale, more, form = (256, 7, ">u2") if depth == 16 else (1, 0, ">u1")
    rows = [(row * scale + more).astype(form).tobytes() for row in drawing]
    key = (b"tRNS", struct.pack(">HHH", *(value * scale + more for value in chosen)))
    seen = read(tmp_path / "x.png", png(depth, 2, rows, key))
    drawing[2:5, 3:6] = 255
    assert (seen == drawing).all()


@pytest.mark.parametrize("transparency", [3, bytes([255, 255, 128, 0])])
def test_transparent_places_of_a_palette(transparency: int | bytes, tmp_path: Path) -> None:
    image = Image.fromarray(GREY % 4)
    image.putpalette([0, 0, 0, 250, 0, 0, 0, 250, 0, 0, 0, 250])
    content = saved(image, "PNG", transparency=transparency)
    palette = np.array([[0, 0, 0], [250, 0, 0], [0, 250, 0], [255, 255, 255]])
    if isinstance(transparency, bytes):
        palette[2] = 127, 252, 127
    assert abs(read(tmp_path / "x.png", content) - palette[GREY % 4]).max() <= 1
    if transparency == 3:
        seen = read(tmp_path / "x.gif", saved(image, "GIF", transparency=3))
        assert (seen == palette[GREY % 4]).all()


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "AVIF", "TIFF"])
def test_an_animation_is_its_first_frame(form: str, tmp_path: Path) -> None:
    if form not in readable_formats():
        pytest.skip(f"this Pillow has no {form}")
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("#f00", "#0f0", "#00f")]
    content = saved(frames[0], form, save_all=True, append_images=frames[1:])
    assert abs(read(tmp_path / "x", content) - [255, 0, 0]).max() <= 3


# What stands beside the pixels -------------------------------------------------------------------

TURNED = {  # by EXIF's orientation, the file's drawing as it is seen
    1: lambda drawn: drawn,
    2: np.fliplr,
    3: lambda drawn: np.rot90(drawn, 2),
    4: np.flipud,
    5: lambda drawn: drawn.swapaxes(0, 1),
    6: lambda drawn: np.rot90(drawn, -1),
    7: lambda drawn: np.rot90(drawn, 2).swapaxes(0, 1),
    8: np.rot90,
}
WRONG = [(0x011A, 2, 4, b"abc\0"), short(0x0131, 7)]  # XResolution as a text, Software as a number


def exif(*tags: Tag) -> bytes:
    written = b"".join(struct.pack("<HHI", *tag[:3]) + tag[3] for tag in sorted(tags))
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(tags)) + written + b"\0" * 4


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF"])
def test_a_picture_is_upright_beside_tags_of_a_wrong_type(
    form: str, orientation: int, tmp_path: Path
) -> None:
    turn = short(0x0112, orientation)
    if form == "TIFF":
        content = tiff(8, GREY.tobytes(), turn, *WRONG)
    else:
        options = {"lossless": True} if form == "WEBP" else {}
        image = Image.fromarray(GREY).convert("RGB")
        content = saved(image, form, exif=exif(turn, *WRONG), **options)
    assert (read(tmp_path / "x", content) == TURNED[orientation](in_grey())).all()


@pytest.mark.parametrize(
    "damage", [exif((0x0112, 2, 2, b"6\0\0\0")), exif(short(0x0112, 77)), b"Exif\0\0no EXIF at all"]
)
def test_an_orientation_that_is_none_is_left_out(damage: bytes, tmp_path: Path) -> None:
    content = saved(Image.fromarray(GREY), "PNG", exif=damage)
    assert (read(tmp_path / "x.png", content) == in_grey()).all()


def test_large_texts_and_profiles_are_no_reason_to_refuse(tmp_path: Path) -> None:
    large = zlib.compress(b"a" * 3_000_000)
    rows = [row.tobytes() for row in GREY]
    beside = [
        (b"zTXt", b"workflow\0\0" + large),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + large),
        (b"iCCP", b"ICC\0\0" + large),
        (b"eXIf", exif(short(0x0112, 6))[6:]),
    ]
    seen = read(tmp_path / "x.png", png(8, 0, rows, *beside))
    assert (seen == TURNED[6](in_grey())).all()
    bomb = (b"zTXt", b"bomb\0\0" + zlib.compress(b"a" * 80_000_000))
    with pytest.raises(DataError, match=r"x.png: not a readable image: .*too large"):
        read(tmp_path / "x.png", png(8, 0, rows, bomb))


def test_more_pixels_than_are_wanted(tmp_path: Path) -> None:
    message = "14 x 9 pixels, more than inputs.max_image_pixels=100"
    with pytest.raises(DataError, match=message):
        read(tmp_path / "x.png", saved(Image.fromarray(GREY), "PNG"), max_image_pixels=100)
    icon = bytearray(saved(Image.new("RGB", (64, 64)), "ICO", sizes=[(64, 64)]))
    icon[6:8] = 8, 8  # what its header says; the picture inside is larger
    with pytest.raises(DataError, match="64 x 64 pixels, more than"):
        read(tmp_path / "x.ico", bytes(icon), max_image_pixels=100)


def test_our_limit_speaks_and_pillow_s_does_not(tmp_path: Path) -> None:
    """Pillow warns of more than 89 million pixels, and opens none of more than 179."""

    def told(size: int) -> bytes:
        content = bytearray(png(1, 0, [b"\0\0"]))
        content[16:24] = struct.pack(">II", 1000, size // 1000)
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
        return bytes(content)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for size in (51_000_000, 95_000_000, 190_000_000):
            with pytest.raises(DataError, match=f"than inputs.max_image_pixels={MOST}") as caught:
                read(tmp_path / "x.png", told(size))
            assert caught.value.kind == "oversized picture"
        with pytest.raises(DataError, match="that can be read") as caught:
            read(tmp_path / "x.png", told(190_000_000), max_image_pixels=200_000_000)
        assert caught.value.kind == "oversized picture"
        with pytest.raises(DataError, match="truncated"):  # it is begun
            read(tmp_path / "x.png", told(95_000_000), max_image_pixels=100_000_000)
        (tmp_path / "x.png").write_bytes(told(95_000_000))
        with pytest.raises(Image.DecompressionBombWarning):  # opened by others
            Image.open(tmp_path / "x.png")


# Formats -----------------------------------------------------------------------------------------

FAR = {"JPEG": 3, "MPO": 3, "WEBP": 3, "AVIF": 3, "GIF": 20}  # of lossy ones, on average


@pytest.mark.parametrize("form", [*readable_formats(), "MPO"])
def test_every_format(form: str, tmp_path: Path) -> None:
    drawing = SMOOTH.resize((64, 48), Image.Resampling.BICUBIC)
    options = {"sizes": [drawing.size]} if form == "ICO" else {}
    far = abs(read(tmp_path / "x", saved(drawing, form, **options)) - pixels(drawing)).mean()
    assert far <= FAR.get(form, 0)


@pytest.mark.parametrize("form", ["JPEG", "TIFF", "AVIF", "JPEG2000", "BMP"])
def test_pictures_of_a_table(form: str, tmp_path: Path) -> None:
    content = saved(SMOOTH, form)
    kept = source(tmp_path).keep_image({"bytes": content})
    assert Path(kept).read_bytes() == content and Path(kept).suffix
    assert load_image(kept, InputConfig().max_image_pixels).size == SMOOTH.size
    with pytest.raises(DataError, match="not a picture: it begins with b'%!PS"):
        source(tmp_path).keep_image({"bytes": saved(SMOOTH, "EPS")})


def test_a_contact_sheet_shows_what_the_model_saw(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    draw_sheet([Answer("q", [str(tmp_path / "clear.png")], [False])], tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.getpixel((MARGIN + TILE // 2, MARGIN + HEADING + TILE // 2)) == (255,) * 3


def test_other_programs_are_never_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *args, **options: 1 / 0)
    content = saved(Image.fromarray(COLOURS), "EPS")
    with pytest.raises(DataError, match="x.jpg: not a readable image: cannot identify it"):
        read(tmp_path / "x.jpg", content)


def test_tags_of_a_tiff_are_what_pillow_writes(tmp_path: Path) -> None:
    """The TIFFs made by hand above are read as others' are."""
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[281] = 4095
    values = np.frombuffer(twelve_bits()[0], "<u2").reshape(GREY.shape)
    content = saved(Image.fromarray(values), "TIFF", tiffinfo=tags)
    assert (read(tmp_path / "x.tiff", content) == in_grey()).all()
