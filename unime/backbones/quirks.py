"""What a family of models does in its own way and needs code for: one named function each, which
its entry in families.py names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isqrt
from typing import Any

import torch
from torch import Tensor

from unime.errors import ConfigError
from unime.inputs.padding import Sample


def image_rows_for_texts(samples: Sequence[Sample]) -> Sequence[Sample]:
    """Idefics3 and SmolVLM index images by sample: a text between images needs a row of zeros,
    which the model recognises as no image."""
    keys = ("pixel_values", "pixel_attention_mask")
    shown = next((sample for sample in samples if keys[0] in sample), None)
    if shown is None:
        return samples
    blank = {key: torch.zeros_like(shown[key][:, :1]) for key in keys if key in shown}
    return [sample if keys[0] in sample else {**sample, **blank} for sample in samples]


def number_of_images(sample: Sample) -> int:
    """Mllama's rows must have as many images as each other: to a row of text among images all of
    them are open to its cross-attention, and fewer images than its neighbours have are filled up
    with ones that count."""
    return sample["pixel_values"].shape[1] if "pixel_values" in sample else 0  # (1, images, …)


def text_as_prefix(processor: Any, prompt: str) -> Mapping[str, Tensor]:
    """A text as PaliGemma's processor would tokenise it beside an image; without one it refuses.
    All of it is prefix, that is of type 0: each token sees all others."""
    tokens = processor.tokenizer([prompt], add_special_tokens=False, return_tensors="pt")
    return {**tokens, "token_type_ids": torch.zeros_like(tokens["input_ids"])}


def qwen_pixel_range(processor: Any, fewest: int, most: int) -> None:
    """Qwen-VL's processors keep proportions, and the pixels in a range, in whole patches."""
    processor.image_processor.size = {"shortest_edge": fewest, "longest_edge": most}


# At most so many tiles of an image: what is cut out of it, beside an overview of all of it. Each
# sets the processor, and the configuration where the model counts tiles again.


def tiles_of_pinpoints(most: int, processor: Any, config: Any) -> None:
    """LLaVA-NeXT and OneVision choose among sizes that are so many tiles high and wide."""
    side = config.vision_config.image_size
    sizes = [
        [height, width]
        for height, width in config.image_grid_pinpoints
        if height * width <= most * side * side
    ]
    config.image_grid_pinpoints = sizes or [[side, side]]
    processor.image_processor.image_grid_pinpoints = config.image_grid_pinpoints


def tiles_of_longest_edge(most: int, processor: Any, config: Any) -> None:
    """Idefics3 and SmolVLM cut an image resized to a longest edge, so a square has most tiles."""
    images = processor.image_processor
    across = isqrt(most)
    images.do_image_splitting = images.do_image_splitting and across > 1
    edge = across * images.max_image_size["longest_edge"]
    if images.do_image_splitting:
        images.size = {"longest_edge": min(edge, images.size["longest_edge"])}


def tiles_of_patches(most: int, processor: Any, config: Any) -> None:
    """InternVL; of one tile there is no overview."""
    processor.image_processor.max_patches = min(most, processor.image_processor.max_patches)


def tiles_of_pan_and_scan(most: int, processor: Any, config: Any) -> None:
    """Gemma 3 leaves an image whole unless it is told to pan and scan one that is not square."""
    settings = {"do_pan_and_scan": most > 1, "pan_and_scan_max_num_crops": most}
    # its defaults for a call, which go before those of its image processor
    processor.images_kwargs = {**processor.images_kwargs, **settings}


def tiles_of_crops(most: int, processor: Any, config: Any) -> None:
    """Phi-4-multimodal."""
    processor.image_processor.dynamic_hd = min(most, processor.image_processor.dynamic_hd)


def tiles_are_fixed(most: int, processor: Any, config: Any) -> None:
    """Mllama numbers shapes of an image by the most tiles, and knows them by these numbers."""
    raise ConfigError(
        f"inputs.max_tiles: got {most}, expected 0 or null for mllama, whose weights know the shape"
        f" of an image by a number that {config.vision_config.max_num_tiles} tiles give it"
    )
