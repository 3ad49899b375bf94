"""Tiny random CLIP and SigLIP with real tokenizers and processors, saved as transformers does it.

build_clip(tmp_path / "clip")
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.nn.functional import normalize
from transformers import (
    AutoModel,
    AutoProcessor,
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

from tests.support.tiny.tokenizers import byte_level

LENGTH = 32  # tokens of a text
SIDE = 24  # pixels of an image
SQUARE = {"height": SIDE, "width": SIDE}
WIDTH = 16  # of the towers
_SENTENCES = ["a photo of a cat on a chair", "two red birds over the sea, and a dog in the garden"]


def build_clip(folder: Path, seed: int = 0) -> Path:
    tokenizer = _tokenizer("<|startoftext|>", "<|endoftext|>")
    torch.manual_seed(seed)
    config = CLIPConfig(**_sizes(tokenizer, "<|startoftext|>"), projection_dim=12)
    images = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=SQUARE)
    return _save(folder, CLIPModel(config), CLIPProcessor(images, tokenizer))


def build_siglip(folder: Path, seed: int = 0) -> Path:
    tokenizer = _tokenizer("</s>")
    torch.manual_seed(seed)
    config = SiglipConfig(**_sizes(tokenizer, "</s>", projection_size=WIDTH))
    images = SiglipImageProcessor(size=SQUARE)
    return _save(folder, SiglipModel(config), SiglipProcessor(images, tokenizer))


def _sizes(tokenizer: PreTrainedTokenizerFast, begin: str, **text: Any) -> dict[str, Any]:
    layers = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 2}
    layers |= {"num_attention_heads": 2}
    text |= {"vocab_size": len(tokenizer), "max_position_embeddings": LENGTH}
    text |= {"bos_token_id": tokenizer.convert_tokens_to_ids(begin)}
    text |= {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.eos_token_id}
    vision = {"image_size": SIDE, "patch_size": 8}
    return {"text_config": layers | text, "vision_config": layers | vision}


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


class ByHand:
    """CLIP and SigLIP as their model pages use them, one text and one picture at a time."""

    def __init__(self, folder):
        self.model = AutoModel.from_pretrained(folder).eval()
        self.processor = AutoProcessor.from_pretrained(folder)
        self.siglip = self.model.config.model_type == "siglip"

    @torch.no_grad()
    def text(self, words):
        padding = "max_length" if self.siglip else False
        tokens = self.processor.tokenizer(
            words, padding=padding, truncation=True, max_length=LENGTH, return_tensors="pt"
        )
        kept = {"input_ids": tokens["input_ids"]}
        kept |= {} if self.siglip else {"attention_mask": tokens["attention_mask"]}
        return normalize(self.model.get_text_features(**kept).pooler_output[0], dim=0)

    @torch.no_grad()
    def image(self, path):
        picture = path if isinstance(path, Image.Image) else Image.open(path).convert("RGB")
        pixels = self.processor.image_processor(images=picture, return_tensors="pt")
        return normalize(self.model.get_image_features(**pixels).pooler_output[0], dim=0)

    def mean(self, paths):
        return normalize(torch.stack([self.image(path) for path in paths]).mean(dim=0), dim=0)
