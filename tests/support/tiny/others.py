"""The builders of tests/support/tiny/families.py for models that few others are like."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import transformers
from transformers import AutoConfig

from tests.support.tiny.chat_templates import CHAT_TEMPLATES
from tests.support.tiny.families import (
    HIDDEN,
    SIGLIP,
    SQUARE,
    TEXT,
    VISION,
    Built,
    config_of,
    text_config,
)


def _internvl(family: str, tokenizer: Any) -> Built:
    sides = {"image_size": [16, 16], "patch_size": [4, 4]}
    config = config_of(
        family,
        tokenizer,
        VISION | sides,
        text_config("qwen2", tokenizer),
        tokens=(),
        image_token_id=tokenizer.context_image_token_id,
        image_seq_length=4,
    )
    processor = transformers.InternVLProcessor(
        image_processor=transformers.GotOcr2ImageProcessor(size=SQUARE, max_patches=4),
        tokenizer=tokenizer,
        video_processor=transformers.InternVLVideoProcessor(size=SQUARE),
        image_seq_length=4,
        chat_template=CHAT_TEMPLATES[family],
    )
    return config, processor


def _gemma3(family: str, tokenizer: Any) -> Built:
    layers = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 16}
    layers["query_pre_attn_scalar"] = 1  # attention that tells one text from another
    config = config_of(
        family,
        tokenizer,
        SIGLIP,
        text_config("gemma3_text", tokenizer, head_dim=16, **layers),
        tokens=(),
        mm_tokens_per_image=4,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
        image_token_index=tokenizer.image_token_id,
    )
    image_processor = transformers.Gemma3ImageProcessor(
        size=SQUARE,
        do_pan_and_scan=True,
        pan_and_scan_min_crop_size=4,
        pan_and_scan_max_num_crops=4,
        pan_and_scan_min_ratio_to_activate=1.2,
    )
    processor = transformers.Gemma3Processor(
        image_processor, tokenizer, image_seq_length=4, chat_template=CHAT_TEMPLATES[family]
    )
    return config, processor


def _paligemma(family: str, tokenizer: Any) -> Built:
    image_processor = transformers.SiglipImageProcessor(size=SQUARE)
    image_processor.image_seq_length = 16
    processor = transformers.PaliGemmaProcessor(image_processor, tokenizer)  # adds 1,152 tokens
    width = {"projection_dim": HIDDEN}
    config = config_of(
        family,
        tokenizer,
        SIGLIP | width,
        text_config("gemma", tokenizer, head_dim=16),
        tokens=(),
        image_token_index=tokenizer.image_token_id,
        hidden_size=HIDDEN,
        **width,
    )
    return config, processor


def _mllama(family: str, tokenizer: Any) -> Built:
    vision = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_global_layers": 1,
        "attention_heads": 2, "image_size": 16, "patch_size": 4, "vision_output_dim": 3 * 32,
        "intermediate_layers_indices": [0, 1],
    }  # fmt: skip
    begin = tokenizer.bos_token_id
    text = text_config(
        "mllama_text_model", tokenizer, cross_attention_layers=[0], bos_token_id=begin
    )
    config = AutoConfig.for_model(
        family, vision_config=vision, text_config=text, image_token_index=tokenizer.image_token_id
    )
    processor = transformers.MllamaProcessor(
        transformers.MllamaImageProcessor(size=SQUARE),
        tokenizer,
        chat_template=CHAT_TEMPLATES[family],
    )
    return config, processor


def _phi4(family: str, tokenizer: Any) -> Built:
    # the number of tokens of an image is written down for 32 by 32 patches
    side = 64
    vision = VISION | {"image_size": side, "crop_size": side, "patch_size": 2}
    audio = {
        "hidden_size": 32, "intermediate_size": 48, "num_blocks": 1, "num_attention_heads": 2,
        "nemo_conv_channels": 32, "ext_pw_out_channel": 32, "depthwise_separable_out_channel": 32,
    }  # fmt: skip
    config = AutoConfig.for_model(
        family,
        vision_config=vision | {"image_token_id": tokenizer.image_token_id},
        audio_config=audio | {"audio_token_id": tokenizer.audio_token_id},
        **TEXT,
        vocab_size=len(tokenizer),
    )
    processor = transformers.Phi4MultimodalProcessor(
        transformers.Phi4MultimodalImageProcessor(
            size={"height": side, "width": side}, patch_size=2, dynamic_hd=4
        ),
        transformers.Phi4MultimodalFeatureExtractor(),
        tokenizer,
    )
    return config, processor


BUILDERS: dict[str, Callable[[str, Any], Built]] = {
    "internvl": _internvl,
    "gemma3": _gemma3,
    "paligemma": _paligemma,
    "mllama": _mllama,
    "phi4_multimodal": _phi4,
}
