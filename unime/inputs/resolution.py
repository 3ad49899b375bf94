"""What is done to a picture before its family's processor gets it: ``inputs.resolution``.

Travels with exported models (export.py), so it knows nothing of unime.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from PIL import Image

MAX_SIDE = 20_000  # pixels
MAX_RATIO = 200  # of the sides: Qwen's limit; others scale the shorter side up, whatever it costs
FORMS = (
    f"native, a size such as 336x336 of sides up to {MAX_SIDE}, or a range of pixels such as"
    " 50176..1003520"
)


@dataclass(frozen=True)
class Resolution:
    """Squeezed to a size, or kept in proportion within a range of pixels, or neither."""

    size: tuple[int, int] | None = None  # (width, height)
    pixels: tuple[int, int] | None = None  # (fewest, most)

    @classmethod
    def parse(cls, text: str) -> Resolution:
        """Read what a configuration says: ``native``, ``336x336`` or ``50176..1003520``.

        Raises:
            ValueError: no such resolution.
        """
        if text == "native":
            return cls()
        found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
        if found and max(size := (int(found[1]), int(found[2]))) <= MAX_SIDE:
            return cls(size=size)
        found = re.fullmatch(r"(\d+)\.\.([1-9]\d*)", text)
        if found and int(found[1]) <= int(found[2]) <= MAX_SIDE**2:
            return cls(pixels=(int(found[1]), int(found[2])))
        raise ValueError(f"got {text!r}, expected {FORMS}")

    @property
    def least(self) -> int:
        """So many pixels at least are made of the smallest picture."""
        if self.size is not None:
            return self.size[0] * self.size[1]
        return self.pixels[0] if self.pixels is not None else 1

    def size_of(self, size: tuple[int, int]) -> tuple[int, int]:
        """The (width, height) that a picture of such a size becomes."""
        if self.size is not None or self.pixels is None:
            return self.size or size
        width, height = size
        area = width * height
        scale = math.sqrt(min(max(area, self.pixels[0]), self.pixels[1]) / area)
        rounded = math.floor if scale < 1 else math.ceil  # stays within the range
        return max(1, rounded(width * scale)), max(1, rounded(height * scale))

    def drafted(self, size: tuple[int, int]) -> tuple[int, int]:
        """The least (width, height) that a picture of such a size may be decoded at: twice what it
        becomes, however it is turned."""
        width, height = self.size_of(size)
        if self.size is not None:
            width = height = max(width, height)
        return 2 * width, 2 * height

    def apply(self, picture: Image.Image) -> Image.Image:
        """Resize a picture, or leave it as it is.

        Raises:
            ValueError: a strip, of which a processor may make gigabytes.
        """
        size = self.size_of(picture.size)
        if max(size) > MAX_RATIO * min(size):
            raise ValueError(
                f"{size[0]} x {size[1]} pixels, one side more than {MAX_RATIO} times the other"
            )
        if size == picture.size:
            return picture
        return picture.resize(size, Image.Resampling.BICUBIC)
