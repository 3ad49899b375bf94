"""Pictures from disk, refused with their name when they are missing, damaged or absurdly large."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool

import numpy as np
from PIL import Image, ImageOps

from unime.config import ConfigError, InputConfig
from unime.items import DataError
from unime.progress import progress_bar

READERS = 8  # threads; Pillow decodes outside of Python's lock


@dataclass(frozen=True)
class Resolution:
    """``inputs.resolution``: what is done to a picture before its family's processor gets it."""

    square: tuple[int, int] | None = None  # (width, height)
    pixels: tuple[int, int] | None = None  # (fewest, most)

    @classmethod
    def parse(cls, text: str) -> Resolution:
        """
        Raises:
            ConfigError: no such resolution.
        """
        if text == "native":
            return cls()
        if found := re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text):
            return cls(square=(int(found[1]), int(found[2])))
        found = re.fullmatch(r"(\d+)\.\.([1-9]\d*)", text)
        if found and int(found[1]) <= int(found[2]):
            return cls(pixels=(int(found[1]), int(found[2])))
        raise ConfigError(
            f"inputs.resolution: got {text!r}, expected native, a size such as 336x336, or a range"
            " of pixels such as 50176..1003520"
        )

    def apply(self, picture: Image.Image) -> Image.Image:
        """Resize a picture, or leave it as it is."""
        size = self.square
        if self.pixels is not None:
            area = picture.width * picture.height
            scale = math.sqrt(min(max(area, self.pixels[0]), self.pixels[1]) / area)
            rounded = math.floor if scale < 1 else math.ceil  # stays within the range
            size = (max(1, rounded(picture.width * scale)), max(1, rounded(picture.height * scale)))
        if size is None or size == picture.size:
            return picture
        return picture.resize(size, Image.Resampling.BICUBIC)


def sample_frames(frames: Sequence[str], count: int) -> list[str]:
    """`count` of a video's frames, evenly spaced from the first to the last (as VLM2Vec-V2 and MMEB
    take them); all of them if there are no more."""
    if len(frames) <= count:
        return list(frames)
    return [frames[index] for index in np.linspace(0, len(frames) - 1, count, dtype=int)]


def load_image(path: str, inputs: InputConfig) -> Image.Image:
    """Read an image upright, in RGB, on white where it is transparent; its size stays.

    Raises:
        DataError: missing, damaged, or of more than ``inputs.max_image_pixels`` pixels.
    """
    limit = inputs.max_image_pixels
    try:
        with Image.open(path) as image:
            if image.width * image.height > limit:
                size = f"{image.width} x {image.height} pixels"
                raise DataError(f"{path}: {size}, more than inputs.max_image_pixels={limit}")
            picture = _on_white(ImageOps.exif_transpose(image))
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such image") from None
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise DataError(f"{path}: not a readable image: {error}") from error
    return picture


def unreadable_images(paths: Sequence[str], inputs: InputConfig, title: str) -> dict[str, str]:
    """What is wrong with each of the images that :func:`load_image` refuses, read in full: a
    file's header does not show that its end is missing."""

    def problem(path: str) -> str:
        try:
            load_image(path, inputs)
        except DataError as error:
            return str(error)
        return ""

    with ThreadPool(READERS) as pool:
        problems = pool.imap(problem, paths, chunksize=16)
        bar = progress_bar(problems, total=len(paths), desc=title, unit="image")
        return {path: found for path, found in zip(paths, bar, strict=True) if found}


def _on_white(image: Image.Image) -> Image.Image:
    if "A" not in image.getbands() and "transparency" not in image.info:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    picture = Image.new("RGB", layer.size, "white")
    picture.paste(layer, mask=layer.getchannel("A"))
    return picture
