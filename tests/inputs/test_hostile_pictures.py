"""Files of pictures that are cut, damaged or made to cost much: refused by name, or read, soon.

./launch.sh test tests/inputs/test_hostile_pictures.py
"""

from __future__ import annotations

import ast
import importlib
import io
import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from eval.page.pictures import Pictures
from tests.support.paths import ROOT
from unime.config import InputConfig
from unime.data.checks.pictures import picture_log, read_pictures
from unime.errors import DataError
from unime.export.merged import PACKAGE, READING
from unime.inputs.images import load_image, longest_first
from unime.inputs.items import Item, image_digest
from unime.inputs.picture_files import readable_formats
from unime.models.item_processor import ItemProcessor

MOST = InputConfig().max_image_pixels
WIDTH, HEIGHT = 40, 24
DRAWING = Image.fromarray(
    np.random.default_rng(0).integers(64, 256, (3, 5, 3), dtype=np.uint8)
).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
GREY, PALETTE = DRAWING.convert("L"), DRAWING.quantize(16)
CLEAR = DRAWING.convert("RGBA")
CLEAR.putalpha(GREY)


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    held = io.BytesIO()
    image.save(held, form, **options)
    return held.getvalue()


def seen(path: Path, content: bytes) -> np.ndarray:
    path.write_bytes(content)
    return np.asarray(load_image(str(path), MOST))


def numbers() -> bytes:
    """A PPM in decimal digits."""
    values = " ".join(map(str, np.asarray(DRAWING).reshape(-1).tolist()))
    return f"P3 {WIDTH} {HEIGHT} 255\n{values}\n".encode()


WHOLE = {
    form: saved(DRAWING, form, **({"sizes": [DRAWING.size]} if form == "ICO" else {}))
    for form in readable_formats()
} | {
    "PNG of a palette": saved(PALETTE, "PNG"),
    "PNG of 16 bits": saved(Image.fromarray(np.asarray(GREY).astype(np.uint16) * 257), "PNG"),
    "ICO of a bitmap": saved(CLEAR, "ICO", sizes=[DRAWING.size], bitmap_format="bmp"),
    "JPEG, progressive": saved(DRAWING, "JPEG", progressive=True),
    "JPEG2000 in tiles": saved(DRAWING, "JPEG2000", tile_size=(8, 8)),
    "JPEG2000 in layers": saved(DRAWING, "JPEG2000", irreversible=True, quality_layers=[20, 5]),
    "GIF, interlaced": saved(GREY, "GIF", interlace=1),
    "WEBP, lossless": saved(CLEAR, "WEBP", lossless=True),
    "AVIF with alpha": saved(CLEAR, "AVIF") if "AVIF" in readable_formats() else b"",
    "TGA, run lengths": saved(DRAWING, "TGA", compression="tga_rle"),
    "PCX of a palette": saved(PALETTE, "PCX"),
    "PCX of two levels": saved(GREY.convert("1"), "PCX"),
    "BMP of a palette": saved(PALETTE, "BMP"),
    "SGI of 16 bits": saved(GREY, "SGI", bpc=2),
    "PPM in digits": numbers(),
    "PPM of two levels": saved(GREY.convert("1"), "PPM"),
    **{
        f"TIFF, {kind}": saved(DRAWING, "TIFF", compression=kind)
        for kind in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
    },
    "TIFF, group4": saved(GREY.convert("1"), "TIFF", compression="group4"),
}


# Cut ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", WHOLE)
def test_a_file_that_is_cut_is_refused_or_the_same_picture(form: str, tmp_path: Path) -> None:
    content = WHOLE[form]
    if not content:
        pytest.skip(f"this Pillow has no {form}")
    whole = seen(tmp_path / "whole", content)
    refused = 0
    step = len(content) // 100 + 1
    for length in {*range(0, len(content), step), *range(max(0, len(content) - 30), len(content))}:
        try:
            cut = seen(tmp_path / "cut", content[:length])
        except DataError as error:
            assert "cut: " in str(error)
            refused += 1
        else:
            assert cut.shape == whole.shape and (cut == whole).all(), length
    assert refused > 50


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    size: tuple[int, int],
    data: bytes,
    depth: int = 8,
    colour: int = 0,
    laced: int = 0,
    before: bytes = b"",
) -> bytes:
    """A PNG of any stream of pixels."""
    header = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, laced)
    chunks = [chunk(b"IHDR", header), before, chunk(b"IDAT", data), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def icon(content: bytes) -> bytes:
    entry = struct.pack("<BBBBHHII", 0, 0, 0, 0, 1, 32, len(content), 22)
    return struct.pack("<HHH", 0, 1, 1) + entry + content


DEPTHS = [(1, 0), (8, 0), (16, 0), (8, 2), (16, 2), (8, 3), (8, 4), (8, 6)]  # and colour types
BITS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


@pytest.mark.parametrize("depth, colour", DEPTHS)
@pytest.mark.parametrize("laced", [0, 1])
@pytest.mark.parametrize("wrap", [bytes, icon])
def test_a_png_whose_stream_ends_early_is_refused_and_a_black_one_is_read(
    depth: int, colour: int, laced: int, wrap: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    passes = ["0::8 0::8", "0::8 4::8", "4::8 0::4", "0::4 2::4", "2::4 0::2", "0::2 1::2"]
    passes = [*passes, "1::2 0::1"] if laced else ["0::1 0::1"]  # rows, columns
    width, height = 13, 10
    raw = b""
    for rows, columns in (one.split() for one in passes):
        high, wide = (
            len(range(int(side.split("::")[0]), limit, int(side.split("::")[1])))
            for side, limit in ((rows, height), (columns, width))
        )
        raw += (b"\0" + bytes((wide * BITS[colour] * depth + 7) // 8)) * high
    before = chunk(b"PLTE", bytes(range(30))) if colour == 3 else b""

    def content(data: bytes) -> bytes:
        return wrap(png((width, height), zlib.compress(data), depth, colour, laced, before))

    assert seen(tmp_path / "x", content(raw)).shape == (height, width, 3)
    for length in (0, 1, len(raw) // 2, len(raw) - 2):
        with pytest.raises(DataError, match="data end early|truncated"):
            seen(tmp_path / "x", content(raw[:length]))


def test_a_tiff_that_lacks_strips_is_refused(tmp_path: Path) -> None:
    content = bytearray(saved(GREY, "TIFF"))
    (start,) = struct.unpack("<I", content[4:8])
    entry = content.index(struct.pack("<H", 257), start)  # ImageLength
    content[entry + 8 : entry + 10] = struct.pack("<H", 2 * HEIGHT)
    with pytest.raises(DataError, match="strips or tiles are missing"):
        seen(tmp_path / "x.tiff", bytes(content))


# Strips, pipes and other programs ----------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 50_000_000), (50_000_000, 1), (400, 100_001)])
@pytest.mark.parametrize("wrap", [bytes, icon])
def test_a_side_is_looked_at_before_it_is_decoded(
    size: tuple[int, int], wrap: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    (tmp_path / "strip.png").write_bytes(wrap(png(size, b"no stream")))
    shown = f"strip.png: .*{size[0]} x {size[1]} pixels, a side of more than 100000"
    with pytest.raises(DataError, match=shown):
        load_image(str(tmp_path / "strip.png"), MOST)


@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_no_processor_is_given_a_strip(family: str, load_tiny: Callable, tmp_path: Path) -> None:
    processor: ItemProcessor = load_tiny(family).processor
    path = str(tmp_path / "x.png")
    for size in ((1, 200), (2000, 10)):
        Image.new("RGB", size).save(path)
        assert len(processor(Item("a", (path,)))["input_ids"]) > 2
    Image.new("RGB", (1, 10_000)).save(path)
    for item in (Item("a", (path,)), Item("a", video=(path,) * 4)):
        with pytest.raises(DataError, match="x.png: 1 x 10000 pixels, one side more than 200"):
            processor(item)
    sized = load_tiny(family, inputs=InputConfig(resolution="32x32")).processor
    assert len(sized(Item("a", (path,)))["input_ids"]) > 2


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.png")
    path = str(tmp_path / "x.png")
    for read in (lambda: load_image(path, MOST), lambda: image_digest(path)):
        with pytest.raises(DataError, match="x.png: not a regular file"):
            read()
    assert longest_first([Item(images=(path,)), Item("a")]) == [1, 0]


def exported_reading(folder: Path) -> None:
    """The code that a model brings, as a package `brought`."""
    for name in READING[1:]:
        text = (PACKAGE / name).read_text().replace("unime.inputs.", ".")
        (folder / "brought").mkdir(exist_ok=True)
        (folder / "brought" / Path(name).name).write_text(text)


@pytest.mark.parametrize("way", ["one", "many", "page", "exported", "header"])
def test_a_picture_starts_no_other_program(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, path = tmp_path / "bin" / "gs", tmp_path / "0.jpg"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    path.write_bytes(saved(DRAWING, "EPS"))
    if way == "one":
        with pytest.raises(DataError, match="0.jpg: not a readable image"):
            load_image(str(path), MOST)
    elif way == "many":
        log = picture_log(MOST)
        list(read_pictures([str(path)], log, MOST, "", num_workers=0))
        assert log.known[str(path)].kind == "unreadable picture"
    elif way == "page":
        pictures = Pictures()
        pictures.ask([str(path)])
        pictures.load(10**6)
        assert str(pictures.shown(str(path))).startswith("unreadable")
    elif way == "exported":
        exported_reading(tmp_path)
        monkeypatch.syspath_prepend(tmp_path)
        brought = importlib.import_module("brought.picture_files")
        assert brought.__file__.startswith(str(tmp_path))
        with pytest.raises(OSError, match="cannot identify"), brought.open_picture(str(path)):
            pass
        for name in [name for name in sys.modules if name.startswith("brought")]:
            monkeypatch.delitem(sys.modules, name)
    else:
        longest_first([Item(images=(str(path),))])
    assert not (tmp_path / "started").exists()
    with suppress(OSError), Image.open(path) as image:
        image.load()
    assert (tmp_path / "started").exists()  # so the attack is one


def test_pictures_are_opened_at_one_place() -> None:
    opening = set()
    for room in ("unime", "eval", "data_prep", "stages", "benchmarks"):
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Attribute) and ast.unparse(node) == "Image.open":
                    opening.add(path.relative_to(ROOT).as_posix())
    assert opening == {
        "unime/inputs/picture_files.py",
        "unime/export/verification.py",  # pictures that it has just drawn
        "data_prep/demo/emoji.py",  # what its own renderer returned
        "benchmarks/cpu/theirs.py",  # as a user of theirs hands pictures over
        "benchmarks/encoding.py",
    }


# Much work for few bytes -------------------------------------------------------------------------


def tags(count: int, size: int) -> bytes:
    """A TIFF of 8 x 8 pixels, or EXIF, of so many tags that have the same bytes for their value."""
    basic = [(256, 8), (257, 8), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, 8)]
    entries = [(number, 3, 1, value) for number, value in [*basic, (279, 64)]]
    entries += [(number, 1, size, 8) for number in range(1000, 1000 + count)]
    directory = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    head = b"II*\0" + struct.pack("<I", 8 + size) + bytes(size)
    return head + struct.pack("<H", len(entries)) + directory + bytes(4)


def jpeg(beside: bytes = b"", scans: int = 0) -> bytes:
    image = Image.new("RGB", (3000, 3000)) if scans else DRAWING
    content = saved(image, "JPEG", progressive=bool(scans))
    last = content.rindex(b"\xff\xda")
    return content[:2] + beside + content[2:-2] + content[last:-2] * scans + b"\xff\xd9"


def segments(exif: bytes) -> bytes:
    parts = [b"Exif\0\0" + exif[start : start + 65000] for start in range(0, len(exif), 65000)]
    return b"".join(b"\xff\xe1" + struct.pack(">H", len(part) + 2) + part for part in parts)


def tiles(count: int) -> bytes:
    """A TIFF of count x count tiles of a pixel, all of them the same."""
    number, head = count**2, b"II*\0" + struct.pack("<I", 16 + 8 * count**2) + bytes(8)
    places = struct.pack("<I", 8) * number + struct.pack("<I", 1) * number
    wanted = [(256, 1, count), (257, 1, count), (258, 1, 8), (259, 1, 1), (262, 1, 1), (277, 1, 1)]
    wanted += [(322, 1, 1), (323, 1, 1), (324, number, 16), (325, number, 16 + 4 * number)]
    directory = b"".join(struct.pack("<HHII", tag, 4, *value) for tag, *value in wanted)
    return head + places + struct.pack("<H", len(wanted)) + directory + bytes(4)


def inside_gif(block: bytes) -> bytes:
    content = WHOLE["GIF"]
    start = 13 + (3 * (2 << (content[10] & 7)) if content[10] & 128 else 0)
    return content[:start] + block + content[start:]


PIXELS = zlib.compress(b"\0" * 72)
PROFILE = chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(60_000_000)))
BOMBS: dict[str, Callable[[], bytes]] = {
    "TIFF, tags of the same megabyte": lambda: tags(3000, 10**6),
    "EXIF of a JPEG": lambda: jpeg(segments(tags(3000, 10**6))),
    "EXIF of a PNG": lambda: png((8, 8), PIXELS, before=chunk(b"eXIf", tags(3000, 10**6))),
    "EXIF of a WEBP": lambda: saved(DRAWING, "WEBP", exif=b"Exif\0\0" + tags(3000, 10**6)),
    "TIFF of millions of tiles": lambda: tiles(1500),
    "JPEG of 2,000 scans": lambda: jpeg(scans=2000),
    "JPEG of a million comments": lambda: jpeg(b"\xff\xfe\0\2" * 10**6),
    "JPEG that never begins": lambda: jpeg(b"\xff" * 10**7),
    "GIF of a long comment": lambda: inside_gif(b"!\xfe" + (b"\xff" + b"a" * 255) * 40_000 + b"\0"),
    "GIF of many comments": lambda: inside_gif(b"!\xfe\1a\0" * 300_000),
    "GIF of a million frames": lambda: WHOLE["GIF"][:-1] + WHOLE["GIF"][-40:-1] * 10**6 + b";",
    "PNG of 100 profiles": lambda: png((8, 8), PIXELS, before=PROFILE * 100),
    "PNG of a million chunks": lambda: png((8, 8), PIXELS, before=chunk(b"prVt", b"") * 10**6),
    "PNG of many texts": lambda: png(
        (8, 8), PIXELS, before=PROFILE.replace(b"iCCP", b"zTXt") * 100
    ),
    "ICO of 169 megapixels": lambda: icon(
        png((13000, 13000), zlib.compress(bytes(13001 * 13000), 1))
    ),
    "ICO of a bitmap of 169 megapixels": lambda: icon(
        struct.pack("<IiiHHIIiiII", 40, 13000, 26000, 1, 32, 0, 0, 0, 0, 0, 0)
    ),
    "PPM that begins late": lambda: b"P6\n" + b" " * 10**7 + b"8 8 255\n" + bytes(192),
    "PPM in digits, comments": lambda: b"P3 8 8 255\n" + b"#a\n" * 10**6 + b"1 " * 192,
    "WEBP of a canvas of 268 megapixels": lambda: canvas(),
}


def canvas() -> bytes:
    other = Image.new("RGBA", DRAWING.size, (1, 2, 3, 4))
    content = saved(CLEAR, "WEBP", save_all=True, append_images=[other])
    start = content.index(b"VP8X") + 12
    return content[:start] + (16382).to_bytes(3, "little") * 2 + content[start + 6 :]


READER = """
import json, resource, sys, time, warnings
from pathlib import Path
from unime.errors import DataError
from unime.inputs.images import load_image

warnings.simplefilter("ignore")
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
found = {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    started = time.process_time()
    try:
        outcome = f"read {load_image(str(path), 50_000_000).size}"
    except DataError as error:
        outcome = f"refused {error}"
    seconds = time.process_time() - started
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    found[path.name] = outcome, seconds, peak
print(json.dumps(found))
"""


def read_in_a_child(folder: Path) -> dict[str, tuple[str, float, float]]:
    """Of each file: what came of it, CPU seconds, and the child's peak in MB."""
    done = subprocess.run(
        [sys.executable, "-c", READER, str(folder)],
        cwd=ROOT,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_few_bytes_cost_neither_memory_nor_minutes(tmp_path: Path) -> None:
    for name, make in BOMBS.items():
        (tmp_path / name).write_bytes(make())
    found = read_in_a_child(tmp_path)
    assert found.keys() == BOMBS.keys()
    assert {name: of for name, of in found.items() if of[1] > 5 or of[2] > 600} == {}
    read = {name for name, of in found.items() if of[0].startswith("read")}
    assert read == {*(name for name in BOMBS if "EXIF" in name), "GIF of a million frames"}


def test_damaged_pictures_are_read_or_refused(tmp_path: Path) -> None:
    random = np.random.default_rng(7)
    for form, content in WHOLE.items():
        for number in range(25 if content else 0):
            damaged = bytearray(content)
            for _ in range(random.integers(1, 9)):
                # headers are where lies cost most
                place = int(random.integers(0, min(len(damaged), random.choice([64, 10**6]))))
                damaged[place] = random.choice([0, 255, random.integers(0, 256)])
            if number % 5 == 0:
                del damaged[int(random.integers(0, len(damaged))) :]
            (tmp_path / f"{form} {number}").write_bytes(damaged)
    found = read_in_a_child(tmp_path)
    assert len(found) >= 500
    assert {name: of for name, of in found.items() if of[1] > 10 or of[2] > 1000} == {}
    read = sum(of[0].startswith("read") for of in found.values())
    assert 50 < read < len(found) - 50
