"""Videos of frames that were chosen before, for the families that say they take them.

python -m pytest tests/models/test_videos.py -m "backbones or not backbones"
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from tests.support.embedding import difference
from tests.support.tiny_models import ALL, FAMILIES, SLOW
from unime.backbones.families import BACKBONES

TAKE_VIDEOS = [family for family in ALL if BACKBONES[family].video]
PARAMETERS = [param for param, family in zip(FAMILIES, ALL, strict=True) if family in TAKE_VIDEOS]
FPS = 2.0


def sample_of_video(encoder, frames):
    """As a video has to be given to every processor: it chooses no frames, and is told the time."""
    processor = encoder.processor.hf_processor
    content = [{"type": "video"}, {"type": "text", "text": "What happens?"}]
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    metadata = {
        "fps": FPS,
        "total_num_frames": len(frames),
        "frames_indices": list(range(len(frames))),
        "duration": len(frames) / FPS,
    }
    output = processor(
        text=[prompt],
        videos=[frames],
        do_sample_frames=False,
        video_metadata=[metadata],
        return_tensors="pt",
    )
    return encoder.processor.sample(output)


def frames_of(seed, size=(32, 24), count=4):
    pixels = np.random.default_rng(seed).integers(0, 256, (count, *size[::-1], 3), dtype=np.uint8)
    return [Image.fromarray(frame) for frame in pixels]


def test_who_takes_videos(tiny_model):
    """phi3_v aside, which has no processor of transformers."""
    expected = {"llava_onevision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl"}
    assert set(TAKE_VIDEOS) == expected
    for family in set(ALL) - set(SLOW):
        processor = AutoProcessor.from_pretrained(tiny_model(family))
        # SmolVLM's answers a video with a chat template of its own, which has no room for a prompt
        takes = hasattr(processor, "video_processor") and family != "smolvlm"
        assert takes == BACKBONES[family].video


@pytest.mark.parametrize("family", PARAMETERS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_video_beside_others(family, precision, items, load_tiny):
    encoder = load_tiny(family, precision=precision).eval()
    videos = [sample_of_video(encoder, frames_of(seed)) for seed in (0, 1)]
    samples = [*(encoder.processor(item) for item in items[:3]), *videos]
    with torch.no_grad():
        whole = encoder(encoder.processor.collate(samples))
        alone = torch.cat([encoder(encoder.processor.collate([sample])) for sample in samples])
    assert whole.isfinite().all()
    # the order of frames, and what they show, are seen
    assert (whole[3] @ whole[4]) < 0.999
    if precision == "float32":
        assert difference(whole, alone) < 1e-5
        reversed_in_time = sample_of_video(encoder, frames_of(0)[::-1])
        with torch.no_grad():
            again = encoder(encoder.processor.collate([reversed_in_time]))
        assert difference(again[0], whole[3]) > 1e-4


@pytest.mark.parametrize("family", PARAMETERS)
def test_videos_of_other_sizes_and_lengths(family, load_tiny):
    encoder = load_tiny(family).eval()
    samples = [
        sample_of_video(encoder, frames_of(0)),
        sample_of_video(encoder, frames_of(1, size=(24, 40))),
        sample_of_video(encoder, frames_of(2, count=6)),
    ]
    if family == "llava_onevision":  # has one tensor of all frames, and says so
        with pytest.raises(ValueError, match="[Vv]ideo"):
            encoder(encoder.processor.collate(samples))
        del samples[2]
    with torch.no_grad():
        whole = encoder(encoder.processor.collate(samples))
        alone = torch.cat([encoder(encoder.processor.collate([sample])) for sample in samples])
    assert difference(whole, alone) < 1e-5


def test_frames_are_not_chosen_again(load_tiny):
    """Qwen3-VL's processor would, and takes them for 24 in a second."""
    encoder = load_tiny("qwen3_vl")
    sample = sample_of_video(encoder, frames_of(0, count=12))
    assert sample["video_grid_thw"][0, 0] == 6  # two frames a step
    text = encoder.processor.tokenizer.decode(sample["input_ids"])
    assert "<0.2 seconds>" in text and "<5.2 seconds>" in text


def test_seconds_keep_their_precision(load_tiny):
    encoder = load_tiny("qwen2_5_vl", precision="bfloat16").eval()
    sample = sample_of_video(encoder, frames_of(0))
    sample["second_per_grid_ts"] = sample["second_per_grid_ts"] / 3
    seen = []
    encoder.model.register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(kwargs["second_per_grid_ts"]), with_kwargs=True
    )
    encoder(encoder.processor.collate([sample]))
    assert torch.equal(seen[0], sample["second_per_grid_ts"])
