"""Tiny random models of real families, built offline in a second, saved as transformers saves them.

from tests.tiny_models import build_tiny
build_tiny("qwen2_vl", tmp_path / "qwen2_vl")
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    ProcessorMixin,
)

from tests.chat_templates import CHAT_TEMPLATES

HIDDEN = 64  # bitsandbytes decodes 4-bit weights on CPU in blocks of 64 columns
TEXT = {
    "hidden_size": HIDDEN,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "initializer_range": 0.2,  # enough for different inputs to give clearly different embeddings
    "bos_token_id": None,
    "pad_token_id": 0,
    "eos_token_id": 3,
    "tie_word_embeddings": False,
}
SPECIAL = {
    "llava": {"image_token": "<image>"},
    "llava_next": {"image_token": "<image>"},
    "llava_onevision": {"image_token": "<image>", "video_token": "<video>"},
    "idefics3": {
        "image_token": "<image>",
        "fake_image_token": "<fake_token_around_image>",
        "global_image_token": "<global-img>",
        "end_of_utterance_token": "<end_of_utterance>",
    },
}
QWEN_SPECIAL = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}
FAMILIES = ("llava", "llava_next", "llava_onevision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl")

_SENTENCES = [
    "Summary above image and sentence in one word: Summary above sentence in one word:",
    "You are a helpful assistant. USER: user assistant ASSISTANT: [INST] [/INST]",
    "a photo of a cat on a chair, the dog in the garden, two red birds over the sea",
] * 3


def build_tiny(family: str, folder: Path, seed: int = 0) -> Path:
    """Save a random model of `family` with tokenizer and processor in `folder`, and return it."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer(SPECIAL.get(family, QWEN_SPECIAL))
    builder = _BUILDERS.get(family, _qwen_vl)
    config, processor = builder(family, tokenizer)
    model = AutoModelForImageTextToText.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 and name.endswith("image_newline"):
                parameter.normal_(0, 0.2)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def build_tokenizer(special: dict[str, str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with few merges: every text has tokens, none is unknown."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<pad>", "<unk>", "<|im_start|>", "<|im_end|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(_SENTENCES, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        padding_side="left",
        extra_special_tokens=special,
    )


def _siglip() -> dict[str, Any]:
    return {
        "model_type": "siglip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 4,
        "vision_use_head": False,
    }


def _llava(family: str, tokenizer: Any) -> tuple[PretrainedConfig, ProcessorMixin]:
    name = {"llava": "Llava", "llava_next": "LlavaNext"}[family]
    grid = {}
    if family == "llava_next":
        grid = {"image_grid_pinpoints": [[16, 32], [32, 16], [32, 32]]}
    image_processor = getattr(transformers, f"{name}ImageProcessor")(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}, **grid
    )
    processor = getattr(transformers, f"{name}Processor")(
        image_processor, tokenizer, patch_size=4, vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )  # fmt: skip
    return _llava_config(family, tokenizer, **grid), processor


def _llava_config(family: str, tokenizer: Any, **extra: Any) -> PretrainedConfig:
    clip = _siglip() | {"model_type": "clip_vision_model", "projection_dim": 16}
    clip.pop("vision_use_head")
    return AutoConfig.for_model(
        family,
        vision_config=clip,
        text_config={"model_type": "llama", **TEXT, "vocab_size": len(tokenizer)},
        image_token_id=tokenizer.image_token_id,
        image_seq_length=16,
        tie_word_embeddings=False,
        **extra,
    )


def _llava_onevision(family: str, tokenizer: Any) -> tuple[PretrainedConfig, ProcessorMixin]:
    pinpoints = [[16, 16], [16, 32], [32, 16], [32, 32]]
    config = AutoConfig.for_model(
        family,
        vision_config=_siglip(),
        text_config={"model_type": "qwen2", **TEXT, "vocab_size": len(tokenizer)},
        image_token_id=tokenizer.image_token_id,
        video_token_id=tokenizer.video_token_id,
        image_grid_pinpoints=pinpoints,
        vision_aspect_ratio="anyres_max_9",
        tie_word_embeddings=False,
    )
    size = {"height": 16, "width": 16}
    processor = transformers.LlavaOnevisionProcessor(
        image_processor=transformers.LlavaOnevisionImageProcessor(
            size=size, image_grid_pinpoints=pinpoints
        ),
        tokenizer=tokenizer,
        video_processor=transformers.LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATES[family],
        vision_aspect_ratio="anyres_max_9",
    )
    return config, processor


def _qwen_vl(family: str, tokenizer: Any) -> tuple[PretrainedConfig, ProcessorMixin]:
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
    config = AutoConfig.for_model(
        family,
        text_config=text,
        vision_config=vision,
        tie_word_embeddings=False,
        **{name.replace("_token", "_token_id"): tokenizer.convert_tokens_to_ids(token)
           for name, token in QWEN_SPECIAL.items()},
    )  # fmt: skip
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


def _idefics3(family: str, tokenizer: Any) -> tuple[PretrainedConfig, ProcessorMixin]:
    vision = _siglip() | {"model_type": "idefics3_vision"}
    vision.pop("vision_use_head")
    config = AutoConfig.for_model(
        family,
        vision_config=vision,
        text_config={"model_type": "llama", **TEXT, "vocab_size": len(tokenizer)},
        image_token_id=tokenizer.image_token_id,
        scale_factor=2,
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
    )
    image_processor = transformers.Idefics3ImageProcessor(
        size={"longest_edge": 32}, max_image_size={"longest_edge": 16}
    )
    processor = transformers.Idefics3Processor(
        image_processor, tokenizer, image_seq_len=4, chat_template=CHAT_TEMPLATES[family]
    )
    return config, processor


_BUILDERS: dict[str, Callable[[str, Any], tuple[PretrainedConfig, ProcessorMixin]]] = {
    "llava": _llava,
    "llava_next": _llava,
    "llava_onevision": _llava_onevision,
    "idefics3": _idefics3,
}
