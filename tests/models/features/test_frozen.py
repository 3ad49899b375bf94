"""Features of a vision tower in place of pixels: the same vectors, and when they may be kept.

./launch.sh test tests/models/features/test_frozen.py
UNIME_BACKBONES_RESULTS=docs/results/backbones.json …    also writes what was measured
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.support.embedding import difference, embed
from tests.support.exported_runs import shake
from tests.support.launching import add_results
from tests.support.tiny.models import ALL, PARTS, WITH_PHI3_V
from unime.config import InputConfig, LoraSettings
from unime.inputs.items import Item
from unime.inputs.padding import SEQUENCE_KEYS, shows_images
from unime.models.encoder import Encoder
from unime.models.features import frozen
from unime.models.features.frozen import draws_dropout, split_media

WITH_PIXELS = ("mllama", "phi4_multimodal", "phi3_v")  # whose forward takes nothing else
QUICK = ("llava_onevision", "qwen3_vl", "smolvlm")  # a tensor for videos, layers, lists


def with_features(encoder: Encoder, samples: list[Any]) -> list[Any]:
    """Parts as the cached step makes them: media by number, then their features in their place."""
    rests, media = frozen.set_apart(samples)
    features = encoder.vision.features(media)
    parts = encoder.processor.parts(rests)
    assert not any("pixel" in key for _, part in parts for key in part)
    return [(places, frozen.with_features(part, features)) for places, part in parts]


@pytest.mark.parametrize("family", WITH_PHI3_V)
def test_features_give_the_vectors_of_pixels(family, items, pictures, load_tiny):
    encoder = load_tiny(family, inputs=InputConfig(num_frames=4)).eval()
    assert encoder.vision.takes_features == (family not in WITH_PIXELS)
    if family in WITH_PIXELS:
        add_results("UNIME_BACKBONES_RESULTS", family, {"features": None})
        assert not encoder.vision.reuses_features
        return
    videos = [Item("what happens?", video=(pictures[1],) * 4), Item(video=(pictures[3],) * 4)]
    mixed = [*items, videos[0], Item(images=(pictures[4],)), videos[1]]
    samples = [encoder.processor(item) for item in mixed]
    expected = embed(encoder, mixed)
    with torch.no_grad():
        found = difference(encoder.embed(with_features(encoder, samples)), expected)
        add_results("UNIME_BACKBONES_RESULTS", family, {"features": found})
        assert found < 1e-6
        for order in ([0, 5], [1, 4, 2], [6, 3, 0, 8]):
            parts = with_features(encoder, [samples[place] for place in order])
            assert difference(encoder.embed(parts), expected[order]) < 1e-5


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl"])
def test_features_own_their_memory_and_move(family, items, load_tiny):
    """A unit that were a view of its batch's would be stored, or kept, with all of it."""
    encoder = load_tiny(family, precision="bfloat16")
    media = [split_media(encoder.processor(item))[1] for item in items if item.images]
    for features in encoder.vision.compute(media):
        assert all(name.startswith("image") for name in features)
        assert (len(features) > 1) == (family == "qwen3_vl")
        for value in features.values():
            assert value.dtype == torch.bfloat16 and not value.requires_grad
            assert value.untyped_storage().nbytes() == value.numel() * 2


def test_a_text_has_no_media(items, load_tiny):
    processor = load_tiny("qwen2_vl").processor
    text = processor(items[0])
    assert split_media(text) == (text, None)
    sample = processor(items[1])
    rest, media = split_media(sample)
    assert set(media) == {"pixel_values", "image_grid_thw"} and not shows_images(rest)
    assert set(rest) == set(sample) - {"pixel_values"} and set(SEQUENCE_KEYS) & set(rest)


@pytest.mark.parametrize("part", PARTS)
def test_only_what_trains_nothing_is_reused(part, load_tiny):
    assert load_tiny("qwen2_vl").vision.reuses_features
    encoder = load_tiny("qwen2_vl", lora=LoraSettings(rank=2, train=[part]))
    assert encoder.vision.takes_features and encoder.vision.reuses_features == (part == "llm")
    assert not load_tiny("qwen2_vl", decoder_only=True).vision.takes_features


def test_a_tower_that_draws_dropout_is_not_reused(load_tiny):
    encoder = load_tiny("llava")
    layer = encoder.model.vision_tower.encoder.layers[0]
    assert encoder.vision.reuses_features and not draws_dropout(torch.nn.Dropout(0.0))
    layer.self_attn.dropout = 0.1
    assert not encoder.vision.reuses_features


@pytest.mark.parametrize(
    "family",
    [f if f in QUICK else pytest.param(f, marks=pytest.mark.backbones) for f in ALL],
)
def test_gradients_are_those_of_pixels(family, items, load_tiny):
    lora = LoraSettings(rank=2, dropout=0.0)
    encoder = shake(load_tiny(family, lora=lora)).train()
    if not encoder.vision.takes_features:
        return
    samples = [encoder.processor(item) for item in items]
    found = []
    for parts in (encoder.processor.parts(samples), with_features(encoder, samples)):
        encoder.zero_grad()
        encoder.embed(parts)[:, 0].sum().backward()
        found.append([p.grad.clone() for _, p in encoder.trainable_named_parameters()])
    assert any(gradient.any() for gradient in found[0])
    assert max(map(difference, *found)) < 1e-6
