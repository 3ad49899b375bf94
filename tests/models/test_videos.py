"""Videos of frames that were chosen before, for the families that say they take them.

python -m pytest tests/models/test_videos.py -m "backbones or not backbones"
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from tests.support.embedding import difference, embed
from tests.support.tiny.models import ALL, FAMILIES, SLOW
from unime.backbones.families import BACKBONES
from unime.config import InputConfig
from unime.errors import DataError
from unime.inputs.images import sample_frames
from unime.inputs.items import Item, video_frames

TAKE_VIDEOS = [family for family in ALL if BACKBONES[family].video]
PARAMETERS = [param for param, family in zip(FAMILIES, ALL, strict=True) if family in TAKE_VIDEOS]


@pytest.fixture
def video(tmp_path):
    """``video(seed)``: an item whose frames are files of random pixels."""

    def write(seed, size=(32, 24), count=4):
        shape = (count, *size[::-1], 3)
        paths = [tmp_path / f"{seed}-{number}.png" for number in range(count)]
        pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
        for path, frame in zip(paths, pixels, strict=True):
            Image.fromarray(frame).save(path)
        return Item("What happens?", video=tuple(map(str, paths)))

    return write


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
def test_a_video_beside_others(family, precision, items, video, load_tiny):
    encoder = load_tiny(family, precision=precision)
    mixed = [*items[:3], video(0), video(1)]
    whole = embed(encoder, mixed)
    alone = torch.cat([embed(encoder, [item]) for item in mixed])
    assert whole.isfinite().all()
    # the order of frames, and what they show, are seen
    assert (whole[3] @ whole[4]) < 0.999
    if precision == "float32":
        assert difference(whole, alone) < 1e-5
        reversed_in_time = Item(mixed[3].text, video=mixed[3].video[::-1])
        assert difference(embed(encoder, [reversed_in_time])[0], whole[3]) > 1e-4


@pytest.mark.parametrize("family", PARAMETERS)
def test_videos_of_other_sizes_and_lengths(family, video, load_tiny):
    encoder = load_tiny(family)
    videos = [video(0), video(1, size=(24, 40)), video(2, count=6)]
    alone = torch.cat([embed(encoder, [item]) for item in videos])
    assert difference(embed(encoder, videos), alone) < 1e-5


def test_frames_are_not_chosen_again(video, load_tiny):
    """Qwen3-VL's processor would, and takes them for 24 in a second."""
    encoder = load_tiny("qwen3_vl", inputs=InputConfig(num_frames=12))
    sample = encoder.processor(video(0, count=12))
    assert sample["video_grid_thw"][0, 0] == 6  # two frames a step
    text = encoder.processor.tokenizer.decode(sample["input_ids"])
    assert "<0.5 seconds>" in text and "<10.5 seconds>" in text  # one in a second


def test_seconds_keep_their_precision(video, load_tiny):
    encoder = load_tiny("qwen2_5_vl", precision="bfloat16").eval()
    sample = encoder.processor(video(0))
    sample["second_per_grid_ts"] = sample["second_per_grid_ts"] / 3
    seen = []
    encoder.model.register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(kwargs["second_per_grid_ts"]), with_kwargs=True
    )
    encoder(encoder.processor.collate([sample]))
    assert torch.equal(seen[0], sample["second_per_grid_ts"])


def test_a_frame_of_another_size_or_cut_is_named(video, load_tiny):
    item = video(0)
    Image.new("RGB", (30, 24)).save(item.video[2])
    text = "0-2.png: a frame of 30 x 24 pixels in a video of 32 x 24"
    with pytest.raises(DataError, match=text):
        load_tiny("qwen2_vl").processor(item)
    alike = load_tiny("qwen2_vl", inputs=InputConfig(resolution="28x28")).processor(item)
    assert alike["video_grid_thw"][0, 0] == 2
    frames = load_tiny("llava").processor(item)  # of any size, as it takes them for pictures
    assert len(frames["pixel_values"]) == 4
    content = Path(item.video[1]).read_bytes()
    Path(item.video[1]).write_bytes(content[:-100])
    with pytest.raises(DataError, match="0-1.png: not a readable image"):
        load_tiny("qwen2_vl").processor(item)


def test_a_folder_of_many_frames_beside_other_files(video, tmp_path):
    (frame, *_) = video(0, size=(8, 8), count=1).video
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(10_000):
        (folder / f"frame_{number}.png").hardlink_to(frame)
    for other in ("._frame_1.png", ".hidden.jpg", "audio.wav", "Thumbs.db"):
        (folder / other).write_bytes(b"no picture")
    found = video_frames(folder)
    assert [Path(path).stem for path in found] == [f"frame_{n}" for n in range(10_000)]
    assert len(sample_frames(found, 8)) == 8
