"""Fewer tiles of an image, in each family's own way, and vectors that still depend on it alone.

python -m pytest tests/backbones/test_tiles.py -m "backbones or not backbones"
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.embedding import difference, embed
from tests.support.tiny.models import FAMILIES
from unime.config import InputConfig
from unime.errors import ConfigError
from unime.inputs.items import Item

NEVER_CUT = ("llava", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "paligemma")
FIXED = ("mllama",)


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """Images that are larger than a tile of any tiny model."""
    folder, items = tmp_path_factory.mktemp("large"), []
    for width, height in ((300, 100), (130, 260), (200, 200)):
        pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{width}.png")
        items.append(Item(images=(str(folder / f"{width}.png"),)))
    return items


def limited(load_tiny, family, most):
    """An encoder whose processor cuts an image into at most so many tiles."""
    encoder = load_tiny(family, inputs=InputConfig(max_tiles=most))
    processor = encoder.processor.hf_processor
    if family == "gemma3":  # crops of at least 256 pixels, in released models
        crops = {"pan_and_scan_min_crop_size": 16}
        processor.images_kwargs = {**processor.images_kwargs, **crops}
    return encoder


@pytest.mark.parametrize("family", FAMILIES)
def test_at_most_so_many_tiles(family, shown, items, load_tiny):
    if family in (*NEVER_CUT, *FIXED):
        with pytest.raises(ConfigError, match="inputs.max_tiles: got 2, expected 0 or null"):
            limited(load_tiny, family, 2)
        return
    tokens = {}
    for most in (1, 2, 4):
        encoder = limited(load_tiny, family, most)
        samples = [encoder.processor(item) for item in shown]
        for sample in samples:
            pixels = next(value for key, value in sample.items() if "pixel_values" in key)
            assert math.prod(pixels.shape[:-3]) <= most + 1  # and the overview
        tokens[most] = sum(len(sample["input_ids"]) for sample in samples)
        if most < 4:
            mixed = [*items[:4], shown[0]]
            alone = torch.cat([embed(encoder, [item]) for item in mixed])
            assert difference(embed(encoder, mixed), alone) < 1e-5
    assert tokens[1] <= tokens[2] <= tokens[4] and tokens[1] < tokens[4]
