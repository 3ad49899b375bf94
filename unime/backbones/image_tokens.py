"""What stands for a picture, or begins or ends a turn, in texts of data sets and of families."""

from __future__ import annotations

import re

MMEB_IMAGE_TOKEN = re.compile(r"<\|image_\d+\|>")  # Phi-3-V's, too
IMAGE_TOKENS = re.compile(
    "|".join(
        [
            MMEB_IMAGE_TOKEN.pattern,
            "<image>",  # LLaVA, Idefics, SmolVLM, PaliGemma, and most data sets
            r"<\|image\|>|<\|endoftext10\|>",  # Llama 3.2, Phi-4
            r"(?:<\|vision_start\|>)?<\|(?:image|video)_pad\|>(?:<\|vision_end\|>)?",  # Qwen
            "<image_soft_token>|<start_of_image>",  # Gemma 3
            "<IMG_CONTEXT>|<img>(?:</img>)?",  # InternVL
        ]
    )
)
# Of any family, where the model is not known.
CONTROL_TOKENS = re.compile(
    r"<\|[^\s<>|]{1,40}\|>|</?s>|<(?:bos|eos|pad|unk|start_of_turn|end_of_turn|end_of_utterance)>"
)
