"""Pictures from disk, refused with their name when they are missing, damaged or absurdly large."""

from __future__ import annotations

from PIL import Image, ImageOps

from unime.config import InputConfig
from unime.items import DataError


def load_image(path: str, inputs: InputConfig) -> Image.Image:
    """Read an image upright, in RGB, on white where it is transparent, resized if asked.

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
    if inputs.image_size is not None:
        square = (inputs.image_size, inputs.image_size)
        picture = picture.resize(square, Image.Resampling.BICUBIC)
    return picture


def _on_white(image: Image.Image) -> Image.Image:
    if "A" not in image.getbands() and "transparency" not in image.info:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    picture = Image.new("RGB", layer.size, "white")
    picture.paste(layer, mask=layer.getchannel("A"))
    return picture
