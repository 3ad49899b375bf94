"""Sentence-transformers' own module, after the resizing that a model was trained with.

Travels with exported models whose processor cannot resize so (export.py); this is why these are
loaded with ``SentenceTransformer(folder, trust_remote_code=True)``.
"""

from __future__ import annotations

from typing import Any

from PIL import Image
from sentence_transformers.base.modality import is_image_url_or_path
from sentence_transformers.base.modules.transformer import Transformer
from transformers.image_utils import load_image

from .resolution import Resolution

IMAGE_KEYS = ("image", "url", "path")


class ResizingTransformer(Transformer):
    config_keys = [*Transformer.config_keys, "resolution"]  # noqa: RUF012 (as its parent has it)

    def __init__(self, *args: Any, resolution: str = "native", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.resolution = resolution

    def preprocess(self, inputs: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return super().preprocess([self._prepared(value) for value in inputs], *args, **kwargs)

    def _prepared(self, value: Any, key: str = "image") -> Any:
        """Every image in an input, a dict of them, or messages, and every frame, resized.

        Raises:
            TypeError: an image or a video of a kind that is not resized here.
        """
        if isinstance(value, dict):
            return {name: self._prepared(of, name) for name, of in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._prepared(of, key) for of in value)
        in_file = isinstance(value, str) and key in IMAGE_KEYS and is_image_url_or_path(value)
        if in_file or isinstance(value, Image.Image):
            return Resolution.parse(self.resolution).apply(load_image(value))
        if hasattr(value, "shape") or (isinstance(value, str) and key == "video"):
            kind = type(value).__name__
            raise TypeError(f"got {key} as {kind}, expected PIL images, their paths or URLs")
        return value
