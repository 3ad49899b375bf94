"""The demo's base model: a Qwen2-VL of about 8 M parameters, its tokenizer and its processor.

Standard `transformers` classes at miniature sizes, so that everything that works on this base
(4-bit loading, LoRA, the processor's batching, exports) is the code path of the real backbones.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import safe_open
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    AutoProcessor,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

PAD, BOS, EOS = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VISION_TOKENS = {
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
}
CHECKPOINT = "checkpoint.safetensors"  # in the folder of a pretraining run
PATCH, MERGE = 8, 2
VOCABULARY = 6000
# Qwen2-VL's template without its default system turn (short sequences are worth more here).
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' or 'image' in part or 'image_url' in part %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'video' or 'video' in part %}"
    "<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_tokenizer(corpus: Iterable[str], vocabulary: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """Byte-level BPE: nothing is out of vocabulary and line breaks survive."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, BOS, EOS, *VISION_TOKENS.values()],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        padding_side="left",
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
        extra_special_tokens=VISION_TOKENS,
    )


def build_processor(tokenizer: PreTrainedTokenizerFast) -> Qwen2VLProcessor:
    """Images pass at native size between 32 x 32 and 256 x 256 (sides in steps of 16)."""
    sizes = {"shortest_edge": 32 * 32, "longest_edge": 256 * 256}
    shared: dict[str, Any] = {
        "patch_size": PATCH,
        "merge_size": MERGE,
        "temporal_patch_size": 2,
        "size": sizes,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    return Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(**shared),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**shared),
        chat_template=CHAT_TEMPLATE,
    )


def build_config(tokenizer: PreTrainedTokenizerFast) -> Qwen2VLConfig:
    """About 8 M parameters: half in the language model, a third in the vision tower."""
    vocabulary = tokenizer.get_vocab()
    ids: dict[str, Any] = {f"{name}_id": vocabulary[token] for name, token in VISION_TOKENS.items()}
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 256,
        "intermediate_size": 704,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [8, 12, 12],  # time, height, width: sums to half the head size, 64
        },
        "tie_word_embeddings": True,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "depth": 5,
        "embed_dim": 192,
        "hidden_size": 256,
        "num_heads": 6,
        "mlp_ratio": 4,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": 2,
    }
    return Qwen2VLConfig(
        text_config=text,
        vision_config=vision,
        tie_word_embeddings=True,
        **ids,
    )


def read_checkpoint(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """The tensors of each part of a pretraining's checkpoint, and its progress."""
    parts: dict[str, dict[str, Tensor]] = {}
    with safe_open(path, "pt") as file:
        for key in file.keys():  # noqa: SIM118
            part, name = key.split("/")
            parts.setdefault(part, {})[name] = file.get_tensor(key)
        return parts, json.loads(file.metadata()["progress"])


def export(run: Path, destination: Path) -> None:
    """Write the checkpoint as an fp16 model folder for the Auto classes."""
    processor = AutoProcessor.from_pretrained(run / "processor")
    model = Qwen2VLForConditionalGeneration(build_config(processor.tokenizer))
    model.load_state_dict(read_checkpoint(run / CHECKPOINT)[0]["model"])
    model.half().save_pretrained(destination)
    processor.save_pretrained(destination)
    (destination / "model.safetensors").chmod(0o644)  # safetensors writes it for its owner only
