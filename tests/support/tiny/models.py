"""Tiny random models of real families, built offline in a second, saved as transformers saves them.

from tests.support.tiny.models import build_tiny
build_tiny("qwen2_vl", tmp_path / "qwen2_vl")
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from tests.support.tiny import families, others
from tests.support.tiny.phi3_v_checkpoint import write_phi3_v
from tests.support.tiny.tokenizers import build_tokenizer
from unime.backbones.families import BACKBONES

_LLAVA = {"image_token": "<image>"}
_QWEN = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}
_IDEFICS = {
    "image_token": "<image>",
    "fake_image_token": "<fake_token_around_image>",
    "global_image_token": "<global-img>",
    "end_of_utterance_token": "<end_of_utterance>",
}
_TURNS = {"start_of_turn": "<start_of_turn>", "end_of_turn": "<end_of_turn>"}
_HEADERS = {"header": "<|start_header_id|>", "after": "<|end_header_id|>", "turn": "<|eot_id|>"}
_PHI = {"user": "<|user|>", "end": "<|end|>", "assistant": "<|assistant|>"}
SPECIAL = {
    "llava": _LLAVA,
    "llava_next": _LLAVA,
    "llava_onevision": {**_LLAVA, "video_token": "<video>"},
    "qwen2_vl": _QWEN,
    "qwen2_5_vl": _QWEN,
    "qwen3_vl": _QWEN,
    "idefics3": _IDEFICS,
    "smolvlm": {**_IDEFICS, "video_token": "<video>"},
    "internvl": {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    },
    "gemma3": {
        "image_token": "<image_soft_token>",
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
        **_TURNS,
    },
    "paligemma": _LLAVA,
    "mllama": {"image_token": "<|image|>", **_HEADERS},
    "phi4_multimodal": {"image_token": "<|image|>", "audio_token": "<|audio|>", **_PHI},
}
BEGINS = {"gemma3": "<bos>", "paligemma": "<bos>", "mllama": "<|begin_of_text|>"}
SLOW = ("internvl", "gemma3", "paligemma", "mllama", "phi4_multimodal")  # pytest -m backbones
ALL = tuple(SPECIAL)
FAMILIES = tuple(
    pytest.param(family, marks=pytest.mark.backbones) if family in SLOW else family
    for family in ALL
)
WITH_PHI3_V = (*FAMILIES, pytest.param("phi3_v", marks=pytest.mark.backbones))  # by its own code
PARTS = ("llm", "projector", "vision")


def lora_parts(family: str) -> list[str]:
    """The parts that LoRA can train; Gemma 3 projects images by a matrix that is no layer."""
    return [part for part in PARTS if (family, part) != ("gemma3", "projector")]


def build_tiny(family: str, folder: Path, seed: int = 0) -> Path:
    """Save a random model of `family` with tokenizer and processor in `folder`, and return it."""
    if family == "phi3_v":
        return write_phi3_v(folder, seed)
    torch.manual_seed(seed)
    tokenizer = build_tokenizer(SPECIAL[family], BEGINS.get(family))
    builders = families.BUILDERS | others.BUILDERS
    config, processor = builders[family](family, tokenizer)
    model = getattr(transformers, BACKBONES[family].auto_class).from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # gates and the like begin at zero, behind which what is wrong would not be seen
            if not (name.endswith("bias") or parameter.any()) or name.endswith("image_newline"):
                parameter.normal_(0, 0.2)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
