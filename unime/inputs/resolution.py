"""What is done to a picture before its family's processor gets it: ``inputs.resolution``.

Travels with exported models (export.py), so it knows nothing of unime.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from PIL import Image


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
        if found := re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text):
            return cls(size=(int(found[1]), int(found[2])))
        found = re.fullmatch(r"(\d+)\.\.([1-9]\d*)", text)
        if found and int(found[1]) <= int(found[2]):
            return cls(pixels=(int(found[1]), int(found[2])))
        raise ValueError(
            f"got {text!r}, expected native, a size such as 336x336, or a range of pixels such as"
            " 50176..1003520"
        )

    def size_of(self, size: tuple[int, int]) -> tuple[int, int]:
        """The (width, height) that a picture of such a size becomes."""
        if self.size is not None or self.pixels is None:
            return self.size or size
        width, height = size
        area = width * height
        scale = math.sqrt(min(max(area, self.pixels[0]), self.pixels[1]) / area)
        rounded = math.floor if scale < 1 else math.ceil  # stays within the range
        return max(1, rounded(width * scale)), max(1, rounded(height * scale))

    def apply(self, picture: Image.Image) -> Image.Image:
        """Resize a picture, or leave it as it is."""
        size = self.size_of(picture.size)
        if size == picture.size:
            return picture
        return picture.resize(size, Image.Resampling.BICUBIC)
