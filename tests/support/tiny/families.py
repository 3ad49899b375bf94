"""One builder per family (or per two that differ in a name): the configuration of a tiny model, and
its processor. Text is 64 wide in 2 layers, images are 16 pixels wide in patches of 4."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import transformers
from transformers import AutoConfig, PretrainedConfig, ProcessorMixin

from tests.support.tiny.chat_templates import CHAT_TEMPLATES

Built = tuple[PretrainedConfig, ProcessorMixin]

HIDDEN = 64  # bitsandbytes decodes 4-bit weights on CPU in blocks of 64 columns
TEXT = {
    "hidden_size": HIDDEN,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 8192,
    "initializer_range": 0.2,  # enough for different inputs to give clearly different embeddings
    "bos_token_id": None,
    "pad_token_id": 0,
    "eos_token_id": 3,
    "tie_word_embeddings": False,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
}
SIGLIP = {**VISION, "model_type": "siglip_vision_model", "vision_use_head": False}
SQUARE = {"height": 16, "width": 16}


def text_config(model_type: str, tokenizer: Any, **extra: Any) -> dict[str, Any]:
    return {"model_type": model_type, **TEXT, "vocab_size": len(tokenizer), **extra}


def config_of(
    family: str,
    tokenizer: Any,
    vision: dict[str, Any],
    text: dict[str, Any],
    tokens: tuple[str, ...] = ("image",),
    **extra: Any,
) -> PretrainedConfig:
    """With the numbers of such tokens, by the names that most families have for them."""
    numbers = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in tokens}
    return AutoConfig.for_model(
        family,
        vision_config=vision,
        text_config=text,
        tie_word_embeddings=False,
        **numbers,
        **extra,
    )


def _llava(family: str, tokenizer: Any) -> Built:
    name = {"llava": "Llava", "llava_next": "LlavaNext"}[family]
    pinpoints = {"image_grid_pinpoints": [[16, 32], [32, 16], [32, 32]]}
    grid = pinpoints if family == "llava_next" else {}
    clip = {**VISION, "model_type": "clip_vision_model", "projection_dim": 16}
    text = text_config("llama", tokenizer)
    config = config_of(family, tokenizer, clip, text, image_seq_length=16, **grid)
    image_processor = getattr(transformers, f"{name}ImageProcessor")(
        size={"shortest_edge": 16}, crop_size=SQUARE, **grid
    )
    processor = getattr(transformers, f"{name}Processor")(
        image_processor, tokenizer, patch_size=4, vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )  # fmt: skip
    return config, processor


def _llava_onevision(family: str, tokenizer: Any) -> Built:
    grid = {"image_grid_pinpoints": [[16, 16], [16, 32], [32, 16], [32, 32]]}
    ratio = {"vision_aspect_ratio": "anyres_max_9"}
    text, tokens = text_config("qwen2", tokenizer), ("image", "video")
    config = config_of(family, tokenizer, SIGLIP, text, tokens, **grid, **ratio)
    processor = transformers.LlavaOnevisionProcessor(
        image_processor=transformers.LlavaOnevisionImageProcessor(size=SQUARE, **grid),
        tokenizer=tokenizer,
        video_processor=transformers.LlavaOnevisionVideoProcessor(size=SQUARE),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATES[family],
        **ratio,
    )
    return config, processor


def _qwen_vl(family: str, tokenizer: Any) -> Built:
    prefix = {"qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2_5_VL", "qwen3_vl": "Qwen3VL"}[family]
    vision = {
        "depth": 2, "num_heads": 2, "in_channels": 3, "patch_size": 4, "spatial_merge_size": 2,
        "temporal_patch_size": 2, "initializer_range": 0.2,
    }  # fmt: skip
    if family == "qwen2_vl":
        vision |= {"embed_dim": 32, "hidden_size": HIDDEN, "mlp_ratio": 2}
    else:
        vision |= {"hidden_size": 32, "out_hidden_size": HIDDEN, "intermediate_size": 48}
    if family == "qwen2_5_vl":
        vision |= {"window_size": 16, "fullatt_block_indexes": [1]}
    if family == "qwen3_vl":
        vision |= {"num_position_embeddings": 64, "deepstack_visual_indexes": [0]}
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    text = {**TEXT, "vocab_size": len(tokenizer), "rope_parameters": rope}
    if family == "qwen3_vl":
        rope["mrope_interleaved"] = True
        text["head_dim"] = HIDDEN // TEXT["num_attention_heads"]
    tokens = ("image", "video", "vision_start", "vision_end")
    config = config_of(family, tokenizer, vision, text, tokens)
    sizes = {"shortest_edge": 8 * 8, "longest_edge": 32 * 32}
    common = {"patch_size": 4, "temporal_patch_size": 2, "merge_size": 2, "size": sizes}
    video = "Qwen3VLVideoProcessor" if family == "qwen3_vl" else "Qwen2VLVideoProcessor"
    processor = getattr(transformers, f"{prefix}Processor")(
        image_processor=transformers.Qwen2VLImageProcessor(**common),
        tokenizer=tokenizer,
        video_processor=getattr(transformers, video)(**common),
        chat_template=CHAT_TEMPLATES[family],
    )
    return config, processor


def _idefics(family: str, tokenizer: Any) -> Built:
    name = {"idefics3": "Idefics3", "smolvlm": "SmolVLM"}[family]
    vision = {**VISION, "model_type": f"{family}_vision"}
    text, extra = text_config("llama", tokenizer), {"pad_token_id": tokenizer.pad_token_id}
    config = config_of(family, tokenizer, vision, text, scale_factor=2, **extra)
    sizes = {"size": {"longest_edge": 32}, "max_image_size": {"longest_edge": 16}}
    image_processor = getattr(transformers, f"{name}ImageProcessor")(**sizes)
    others = {}
    if family == "smolvlm":
        others["video_processor"] = transformers.SmolVLMVideoProcessor(
            size={"longest_edge": 16}, max_image_size={"longest_edge": 16}, num_frames=4, fps=1
        )
    processor = getattr(transformers, f"{name}Processor")(
        image_processor, tokenizer, image_seq_len=4, chat_template=CHAT_TEMPLATES[family], **others
    )
    return config, processor


BUILDERS: dict[str, Callable[[str, Any], Built]] = {
    "llava": _llava,
    "llava_next": _llava,
    "llava_onevision": _llava_onevision,
    "qwen2_vl": _qwen_vl,
    "qwen2_5_vl": _qwen_vl,
    "qwen3_vl": _qwen_vl,
    "idefics3": _idefics,
    "smolvlm": _idefics,
}
