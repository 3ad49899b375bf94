"""Attacks on pictures, and on folders of a video's frames."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.attacks.damage import Deeds, cut, flipped, link, not_a_file, remove, renamed, write
from tests.attacks.harness import Area, Attack, Deed, each, nothing
from unime.data.tables import image_folder
from unime.inputs.images import load_image

FORMATS = {
    "jpg": "JPEG", "png": "PNG", "webp": "WEBP", "gif": "GIF", "bmp": "BMP", "dib": "DIB",
    "tiff": "TIFF", "avif": "AVIF", "jp2": "JPEG2000", "ppm": "PPM", "qoi": "QOI", "ico": "ICO",
    "sgi": "SGI", "pcx": "PCX", "tga": "TGA",
}  # fmt: skip
LIMIT = 50_000_000  # pixels
SIDE = 40


def build() -> None:
    """One picture in every format that can be written, and a video."""
    draw = np.random.default_rng(0)
    small = draw.integers(0, 256, (SIDE // 4, SIDE // 4, 3), dtype=np.uint8)
    picture = Image.fromarray(small).resize((SIDE, SIDE))
    for suffix, form in FORMATS.items():
        options: dict[str, Any] = {"sizes": [(SIDE, SIDE)]} if form == "ICO" else {}
        picture.save(f"a.{suffix}", form, **options)
        np.save(f"a.{suffix}.npy", np.asarray(load_image(f"a.{suffix}", LIMIT)))
    Path("frames").mkdir()
    Path("outside").mkdir()
    for number in range(4):
        picture.rotate(90 * number).save(f"frames/{number}.png")
    picture.save("outside/picture.png")


def load(path: str) -> Any:
    return lambda: np.asarray(load_image(path, LIMIT))


def frames() -> list[str]:
    """The frames, all of which are read."""
    found = list(image_folder(".", ".", []).frames("frames"))
    for path in found:
        load_image(path, LIMIT)
    return found


def other_picture(path: str) -> Any:
    """A picture that is read, and is another one: black where its data end, for one."""

    def harm(found: np.ndarray) -> str | None:
        truth = np.load(f"{path}.npy")
        same = found.shape == truth.shape and np.array_equal(found, truth)
        return None if same else f"another picture, of shape {found.shape}"

    return harm


def anything(_: Any) -> str | None:
    return "read as a picture"


def leads_out(found: list[str]) -> str | None:
    here = Path("frames").resolve()
    out = [path for path in found if not Path(os.path.realpath(path)).is_relative_to(here)]
    return f"reads {out[0]}" if out else None


def too_many(found: np.ndarray) -> str | None:
    return f"{found.shape} pixels" if max(found.shape) > 100_000 else None


def chunk(kind: bytes, content: bytes) -> bytes:
    checked = kind + content
    return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))


def png(width: int, height: int, data: bytes, *more: bytes, kind: int = 2) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    parts = (chunk(b"IHDR", head), *more, chunk(b"IDAT", data), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def packed(megabytes: int) -> bytes:
    """So many zeros in few bytes."""
    held, packer = [], zlib.compressobj(9)
    for _ in range(megabytes):
        held.append(packer.compress(b"\0" * (1 << 20)))
    return b"".join([*held, packer.flush()])


def early() -> None:
    """A picture whose data end early, and whose file does not."""
    rows = (b"\0" + bytes(range(120))) * SIDE
    write("a.png", png(SIDE, SIDE, zlib.compress(rows[: len(rows) // 3])))
    np.save("a.png.npy", np.zeros(0))  # no picture is right


def tiff(*entries: tuple[int, int, int, int]) -> bytes:
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + b"\0" * 64


SIZE = struct.pack("<ii", 100_000, 100_000)
EPS = (
    "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\n"
    "(../outside/pwned) (w) file closefile\nshowpage\n%%EOF\n"
)
SVG = '<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
XBM = "#define im_width 99999\n#define im_height 99999\nstatic char im_bits[] = {\n0x00 };\n"
REFUSED: dict[str, str | bytes] = {
    "eps": EPS,
    "ps": "%!PS\nshowpage\n",
    "eps-binary": b"\xc5\xd0\xd3\xc6"
    + struct.pack("<II", 32, len(EPS))
    + b"\0" * 20
    + EPS.encode(),
    "svg": SVG,
    "pdf": "%PDF-1.4\n1 0 obj <<>> endobj\ntrailer <<>>\n%%EOF\n",
    "wmf": b"\xd7\xcd\xc6\x9a" + b"\0" * 64,
    "xbm": XBM,
    "html": "<html><script>1</script></html>",
    "empty": "",
    "nul": b"\0" * 100,
    "hdf": b"\x89HDF\r\n\x1a\n" + b"\0" * 100,
    "psd": b"8BPS\0\1" + b"\0" * 100,
    "fits": b"SIMPLE  =                    T" + b" " * 50,
    "zip": b"PK\x03\x04" + b"\0" * 100,
    "im": b"Image type: L image\r\nImage size (x*y): 99999*99999\r\n" + b"\0" * 500,
    "png-lies": png(100_000, 100_000, zlib.compress(b"\0")),
    "png-wide": png(2**31 - 1, 1, zlib.compress(b"\0")),
    "png-zero": png(0, 0, zlib.compress(b"\0")),
    "bmp-lies": b"BM" + b"\0" * 8 + struct.pack("<II", 54, 40) + SIZE + struct.pack("<HH", 1, 24),
    "ppm-lies": b"P6 100000 100000 255\n\0\0\0",
    "ppm-negative": b"P6 -4 -4 255\n" + b"\0" * 100,
    "ppm-digits": b"P6 " + b"9" * 5_000 + b" 1 255\n",
    "pgm-deep": b"P5 4 4 99999999999\n" + b"\0" * 100,
    "pfm": b"Pf\n100000 100000\n-1.0\n\0\0\0\0",
    "qoi-lies": b"qoif" + struct.pack(">IIBB", 100_000, 100_000, 3, 0) + b"\0" * 64,
    "tga-lies": struct.pack("<BBBHHBHHHHBB", 0, 0, 2, 0, 0, 0, 0, 0, 65535, 65535, 24, 0),
    "pcx-lies": b"\x0a\5\1\x08" + struct.pack("<HHHH", 0, 0, 65534, 65534) + b"\0" * 200,
    "sgi-lies": struct.pack(">HBBHHHH", 474, 0, 1, 3, 65535, 65535, 3) + b"\0" * 600,
    "gif-lies": b"GIF89a"
    + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0)
    + b",\0\0\0\0\xff\xff\xff\xff\0",
    "tiff-lies": tiff((256, 4, 1, 100_000), (257, 4, 1, 100_000), (262, 3, 1, 1), (273, 4, 1, 8)),
    "tiff-loop": b"II*\0" + struct.pack("<IH", 8, 0) + struct.pack("<I", 8),
    "tiff-tags": b"II*\0" + struct.pack("<IH", 8, 65535) + b"\xff" * 65535 * 12,
    "tiff-count": tiff((256, 4, 2**31, 8), (257, 4, 1, 10)),
    "ico-lies": struct.pack("<HHHBBBBHHII", 0, 1, 1, 0, 0, 0, 0, 1, 32, 2**31, 22),
}
FEW = zlib.compress(b"\0" * 200)
BOMBS: dict[str, Any] = {  # may be read or refused
    "png-1-by-49-million": lambda: png(1, 49_000_000, packed(94), kind=0),  # A22
    "png-49-million-by-1": lambda: png(49_000_000, 1, packed(47), kind=0),
    "png-too-much-data": lambda: png(8, 8, packed(300)),
    "png-text": lambda: png(8, 8, FEW, chunk(b"zTXt", b"a\0\0" + packed(200))),
    "png-texts": lambda: png(8, 8, FEW,
                             *[chunk(b"zTXt", b"a%d\0\0" % n + packed(20)) for n in range(9)]),
    "png-profile": lambda: png(8, 8, FEW, chunk(b"iCCP", b"a\0\0" + packed(200))),
    "png-many-chunks": lambda: png(8, 8, FEW, *[chunk(b"tEXt", b"a\0b")] * 200_000),
}  # fmt: skip


def no_ghostscript() -> None:
    """Whatever is called gs leaves its mark."""
    write("bin/gs", f"#!/bin/sh\ntouch {os.path.abspath('../outside/pwned')}\n")
    Path("bin/gs").chmod(0o755)
    os.environ["PATH"] = f"{os.path.abspath('bin')}:{os.environ['PATH']}"


def written(content: Any) -> Deed:
    def act() -> None:
        no_ghostscript()
        write("a.jpg", content() if callable(content) else content)

    return act


def exif(orientation: Any, more: bytes = b"") -> Deed:
    def act() -> None:
        with Image.open("a.jpg") as picture:
            found = picture.getexif()
            found[0x0112] = orientation
            picture.save("b.jpg", exif=found.tobytes() + more)
        os.replace("b.jpg", "a.jpg")

    return act


def animated() -> None:
    pictures = [Image.new("L", (300, 300), n % 256) for n in range(600)]
    pictures[0].save("a.gif", save_all=True, append_images=pictures[1:])


TURNED: Deeds = {
    "exif-turned-9": exif(9),
    "exif-turned-0": exif(0),
    "exif-garbage": exif(6, b"\xff" * 60_000),
}
VIDEOS: Deeds = {
    "frame-linked": lambda: link("frames/1.png", "../outside/picture.png"),
    "frame-linked-secret": lambda: link("frames/1.png", "../outside/secret.txt"),
    "folder-linked": lambda: (os.rename("frames", "kept"), link("frames", "kept")),
    "folder-out": lambda: link("frames", "../outside"),
    "frame-loop": lambda: (remove("frames/1.png"), os.symlink("1.png", "frames/1.png")),
    "frame-gone": lambda: (remove("frames/1.png"), os.symlink("gone.png", "frames/1.png")),
    **renamed("frame", not_a_file("frames/1.png")),
    "hidden": lambda: write("frames/._1.png", b"\0\5\x16\7"),
    "long-number": lambda: os.rename("frames/1.png", f"frames/{'9' * 240}.png"),
    "other-digits": lambda: os.rename("frames/1.png", "frames/١²³.png"),
    "no-utf-8": lambda: os.rename(b"frames/1.png", b"frames/\xff.png"),
    "lines": lambda: os.rename("frames/1.png", "frames/a\nb.png"),
    "empty": lambda: [path.unlink() for path in Path("frames").iterdir()],
    "no-folder": lambda: (remove("frames"), write("frames", "x")),
    "many": lambda: [write(f"frames/x{n}.txt", "") for n in range(20_000)],
}


def attacks() -> list[Attack]:
    found = [Attack("control", nothing, load("a.png"), ("a.png",), other_picture("a.png"))]
    for suffix in FORMATS:
        path = f"a.{suffix}"
        found += each(cut(path, 6), load(path), (path,), other_picture(path))
        found += each(flipped(path, 3) | flipped(path, 2, first=64), load(path), (path,))
    refused = {f"named-jpg-{name}": written(content) for name, content in REFUSED.items()}
    bombs = {f"bomb-{name}": written(content) for name, content in BOMBS.items()}
    frame = ("frames", "1.png")
    return [
        *found,
        Attack("png-data-end-early", early, load("a.png"), ("a.png",), other_picture("a.png")),
        *each(refused, load("a.jpg"), ("a.jpg",), anything),
        *each(bombs, load("a.jpg"), ("a.jpg",), too_many),
        *each(TURNED | not_a_file("a.jpg"), load("a.jpg"), ("a.jpg",)),
        Attack("many-frames", animated, load("a.gif"), ("a.gif",)),
        *each({"control-of-videos": nothing} | renamed("video", VIDEOS), frames, frame, leads_out),
    ]


AREA = Area("pictures", build, attacks, ("named-jpg-eps", "png-data-end-early"))
