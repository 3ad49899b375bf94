"""Sentence-transformers' own module, which gets pictures as they were read in training.

Travels with exported models (export.py); this is why these are loaded with
``SentenceTransformer(folder, trust_remote_code=True)``. Without it, transparency would be dropped
from a file and a photograph stay on its side, each embedded as another picture without a word.
"""

from __future__ import annotations

import base64
import os
from io import BytesIO
from typing import Any

import numpy as np
from huggingface_hub import get_session
from PIL import Image
from sentence_transformers.base.modality import is_image_url_or_path
from sentence_transformers.base.modules.transformer import Transformer

from unime.inputs.picture_files import open_picture, readable_formats
from unime.inputs.pixels import as_seen
from unime.inputs.resolution import Resolution

IMAGE_KEYS = ("image", "url", "path", "base64")
VIDEO_KEYS = ("video", "array")
CHANNELS = (1, 3, 4)


class ReadingTransformer(Transformer):
    config_keys = [*Transformer.config_keys, "resolution", "jpeg_draft"]  # noqa: RUF012 (as its parent has it)

    def __init__(
        self, *args: Any, resolution: str = "native", jpeg_draft: str = "native", **kwargs: Any
    ) -> None:
        """`jpeg_draft`: the resolution for which a JPEG may be decoded smaller."""
        super().__init__(*args, **kwargs)
        self.resolution, self.jpeg_draft = resolution, jpeg_draft

    def preprocess(self, inputs: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return super().preprocess([self._prepared(value) for value in inputs], *args, **kwargs)

    def _prepared(self, value: Any, key: str = "") -> Any:
        """Every image in an input, a dict of them, or messages, and every frame, read and resized.

        Args:
            key: what holds `value`.

        Raises:
            TypeError: a kind of image or video that would be embedded otherwise than in training.
        """
        if isinstance(value, dict):
            video = value.get("type") == "video"
            return {
                name: self._prepared(of, "video" if video and name in IMAGE_KEYS else name)
                for name, of in value.items()
            }
        if isinstance(value, list | tuple):
            return type(value)(self._prepared(of, key) for of in value)
        if isinstance(value, str):
            if key in IMAGE_KEYS or (key in ("", *VIDEO_KEYS) and _names_picture(value)):
                return self._seen(value)
            if key != "video":
                return value
        elif isinstance(value, Image.Image) or (
            hasattr(value, "shape") and key not in VIDEO_KEYS and len(value.shape) == 3
        ):
            return self._seen(value)
        elif not hasattr(value, "shape"):
            return value
        if Resolution.parse(self.resolution) != Resolution():
            kind = type(value).__name__
            raise TypeError(
                f"got a video as {kind}, expected its frames: PIL images or their paths"
            )
        return value

    def _seen(self, value: Any) -> Image.Image:
        if isinstance(value, Image.Image):
            picture = as_seen(value, self._least(value))
        elif isinstance(value, str):
            with open_picture(_file(value)) as image:
                picture = as_seen(image, self._least(image))
        else:
            picture = as_seen(_of_array(np.asarray(value)))
        return Resolution.parse(self.resolution).apply(picture)

    def _least(self, image: Image.Image) -> tuple[int, int] | None:
        drafted = Resolution.parse(self.jpeg_draft)
        return None if drafted == Resolution() else drafted.drafted(image.size)


def _names_picture(text: str) -> bool:
    """Also where sentence-transformers would embed the name of the file: .tif, .avif, .tga, …"""
    if is_image_url_or_path(text):
        return True
    kind = Image.registered_extensions().get(os.path.splitext(text)[1].lower())
    return kind in readable_formats() and os.path.isfile(text)


def _file(name: str) -> str | BytesIO:
    """What a path, an address or base64 text holds."""
    if name.startswith(("http://", "https://")):
        answer = get_session().get(name)
        answer.raise_for_status()
        return BytesIO(answer.content)
    if os.path.isfile(name):
        return name
    return BytesIO(base64.b64decode(name.partition(",")[2] or name))


def _of_array(pixels: np.ndarray) -> Image.Image:
    """(H, W, C) or (C, H, W), as transformers tells them apart."""
    if pixels.dtype != np.uint8:
        raise TypeError(f"got an image of {pixels.dtype}, expected uint8, a PIL image or its path")
    if pixels.shape[0] in CHANNELS:
        pixels = np.moveaxis(pixels, 0, -1)
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[-1] == 1 else pixels)
