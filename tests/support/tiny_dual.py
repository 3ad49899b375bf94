"""Tiny random CLIP and SigLIP with real tokenizers and processors, saved as transformers does it.

build_clip(tmp_path / "clip")
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    SiglipProcessor,
)

from tests.support.tiny_models import byte_level

LENGTH = 32  # tokens of a text
SIDE = 24  # pixels of an image
_SENTENCES = ["a photo of a cat on a chair", "two red birds over the sea, and a dog in the garden"]


def build_clip(folder: Path, seed: int = 0) -> Path:
    tokenizer = _tokenizer("<|startoftext|>", "<|endoftext|>")
    sizes = _sizes(tokenizer)
    begin, end = tokenizer.convert_tokens_to_ids(["<|startoftext|>", "<|endoftext|>"])
    sizes["text"] |= {"bos_token_id": begin, "eos_token_id": end, "pad_token_id": end}
    torch.manual_seed(seed)
    config = CLIPConfig(text_config=sizes["text"], vision_config=sizes["vision"], projection_dim=12)
    size = {"shortest_edge": SIDE}
    images = CLIPImageProcessor(size=size, crop_size={"height": SIDE, "width": SIDE})
    return _save(folder, CLIPModel(config), CLIPProcessor(images, tokenizer))


def build_siglip(folder: Path, seed: int = 0) -> Path:
    tokenizer = _tokenizer("</s>")
    sizes = _sizes(tokenizer)
    end = tokenizer.convert_tokens_to_ids("</s>")
    sizes["text"] |= {"projection_size": sizes["text"]["hidden_size"]}
    sizes["text"] |= {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end}
    torch.manual_seed(seed)
    config = SiglipConfig(text_config=sizes["text"], vision_config=sizes["vision"])
    images = SiglipImageProcessor(size={"height": SIDE, "width": SIDE})
    return _save(folder, SiglipModel(config), SiglipProcessor(images, tokenizer))


def _sizes(tokenizer: PreTrainedTokenizerFast) -> dict[str, dict[str, Any]]:
    layers = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    layers |= {"num_attention_heads": 2}
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": LENGTH}
    return {"text": layers | text, "vision": layers | {"image_size": SIDE, "patch_size": 8}}


def _tokenizer(*special: str) -> PreTrainedTokenizerFast:
    """Its last token ends a text, and pads; one before it begins it."""
    tokenizer = byte_level(_SENTENCES, 320, special, begins=special[:-1], ends=special[-1:])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=special[-1],
        pad_token=special[-1],
        model_max_length=LENGTH,
    )


def _save(folder: Path, model: PreTrainedModel, processor: Any) -> Path:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.5)  # vectors wide apart, so that what is wrong shows
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
