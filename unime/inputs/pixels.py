"""What a picture looks like to a model: the one reading of Pillow's images, from a file or not.

Travels with exported models (export.py), so it knows nothing of unime.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import ExifTags, Image

from unime.inputs.picture_files import draft, load_whole

MAX_SIDE = 100_000  # pixels; Pillow keeps a pointer for each row, of 1 pixel too
TURNS = {  # by EXIF's orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
LEVELS = {"L;2": 85, "L;4": 17}  # from one grey to the next, in PNGs of so many bits
DEEP = ("I", "F")  # modes of 32 bits; those of 16 begin with "I;16"
# TIFF's tags
BITS, PHOTOMETRIC, MOST, S_LEAST, S_MOST = 258, 262, 281, 340, 341


def as_seen(image: Image.Image, least: tuple[int, int] | None = None) -> Image.Image:
    """A picture (of an animation the frame it stands at) as a model is shown it: upright, in RGB of
    8 bits, on white where it is transparent, in its own size.

    Args:
        least: (width, height) in pixels of the file, above which a JPEG may be decoded at a half, a
            quarter or an eighth of its size; None: it may not.

    Raises:
        ValueError: 32-bit values of which nothing says which are black and white; a side of
            more than MAX_SIDE; a file that ends early.
        Exception: whatever Pillow raises of a damaged file.
    """
    if max(image.size) > MAX_SIDE:
        size = f"{image.width} x {image.height} pixels"
        raise ValueError(f"{size}, a side of more than {MAX_SIDE}")
    if least is not None:
        draft(image, least)
    tiles = getattr(image, "tile", None)  # until it is loaded
    rawmode = tiles[0].args if tiles else None
    load_whole(image)  # which turns a TIFF
    turn = TURNS.get(_orientation(image))
    transparent = _transparent_value(image, rawmode)
    if image.mode in DEEP or image.mode.startswith("I;16"):
        picture = _of_eight_bits(image, transparent)
    else:
        picture = _on_white(image, transparent)
    return picture if turn is None else picture.transpose(turn)


def _orientation(image: Image.Image) -> Any:
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # Pillow raises nearly anything of damaged EXIF, without which there is none
        return None


def _transparent_value(image: Image.Image, rawmode: Any) -> Any:
    """The grey or colour (in a palette: index, or alpha of each) that stands for transparency, in
    the values that the loaded image has; PNG tells it in those of the file."""
    value = image.info.get("transparency")
    if image.mode == "L" and rawmode in LEVELS and isinstance(value, int):
        return value * LEVELS[rawmode]
    if image.mode == "RGB" and isinstance(value, tuple):
        deep = max(value) > 255 or (isinstance(rawmode, str) and ";16" in rawmode)
        return tuple(part >> 8 for part in value) if deep else value
    return value


def _on_white(image: Image.Image, transparent: Any) -> Image.Image:
    if image.mode == "La":  # which is converted into nothing else
        image = image.convert("LA")
    if transparent != image.info.get("transparency"):
        image = image.copy()
        image.info["transparency"] = transparent
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    picture = Image.new("RGB", layer.size, "white")
    picture.paste(layer, mask=layer.getchannel("A"))
    return picture


def _of_eight_bits(image: Image.Image, transparent: Any) -> Image.Image:
    """Of an image of one channel of 16 or 32 bits."""
    values = np.asarray(image)  # (height, width)
    black, white = _range(image, values)
    scaled = np.clip((values.astype(np.float32) - black) / (white - black), 0, 1)
    if getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == 0:  # white is zero, as Pillow leaves it
        scaled = 1 - scaled
    if isinstance(transparent, int):
        scaled[values == transparent] = 1
    return Image.fromarray(np.rint(scaled * 255).astype(np.uint8)).convert("RGB")


def _range(image: Image.Image, values: np.ndarray) -> tuple[float, float]:
    """The values of black and of white.

    Raises:
        ValueError: nobody knows.
    """
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    most = _first(tags.get(S_MOST, tags.get(MOST)))
    if image.mode not in DEEP:
        bits = _first(tags.get(BITS)) or 16  # Pillow takes 12 of a pixel for such an image, too
        # MOST may be but the largest value of this picture; 4095 says that 12 bits are in use
        if isinstance(most, int) and 255 <= most < 2**bits and (most & (most + 1)) == 0:
            return 0, most
        return 0, 2**bits - 1
    if image.format in ("PNG", "PPM"):
        if image.mode == "I":
            return 0, 2**16 - 1
    elif most is not None:
        least = _first(tags.get(S_LEAST)) or 0
        if np.isfinite([least, most]).all() and least < most and np.isfinite(values).all():
            return least, most
    found = f"values from {values.min():g} to {values.max():g}" if values.size else "no values"
    raise ValueError(
        f"mode {image.mode}, {found}, and nothing says which are black and white; save it with 8"
        " or 16 bits"
    )


def _first(value: Any) -> Any:
    """TIFF has one value for each channel; Pillow unwraps some of them."""
    return value[0] if isinstance(value, tuple) and value else value
