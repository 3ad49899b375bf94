"""Models of real size with random weights, and pairs for them, made without a download: the shapes
are the published models', tokenizer and image processor those of assets/base."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
)

from eval.miniatures.mmeb import write_picture
from tests.support.tiny.models import build_tokenizer
from unime.config import Stage2PlanConfig, build_config
from unime.inputs.items import Item, Pair
from unime.inputs.padding import Sample
from unime.models.encoder import Encoder
from unime.models.item_processor import ItemProcessor
from unime.training.chunks import Batch, ChunkLimits
from unime.training.collator import PairCollator

BASE = Path("assets/base")
SIDE = 336  # pixels of a square picture
WORDS = "red blue green small large round square old bright dark drawn painted".split()
CLIP = {  # openai/clip-vit-large-patch14-336, the vision tower of LLaVA and Phi-3.5-V
    "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096,
    "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 336, "patch_size": 14,
    "projection_dim": 768,
}  # fmt: skip
MISTRAL = {  # mistralai/Mistral-7B-Instruct-v0.2, the language model of llava-v1.6-mistral-7b
    "model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "vocab_size": 32064, "sliding_window": None,
}  # fmt: skip
PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
QWEN2_VL_TEXT = {  # Qwen/Qwen2-VL-2B-Instruct
    "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
    "num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151936,
    "max_position_embeddings": 32768, "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
}  # fmt: skip
QWEN2_VL_VISION = {
    "depth": 32, "embed_dim": 1280, "hidden_size": 1536, "mlp_ratio": 4, "num_heads": 16,
    "patch_size": 14,
}  # fmt: skip
SMALL_TEXT = {"num_hidden_layers": 2}  # of assets/base's five layers
SMALL_VISION = {"depth": 2}
EVERY_PART = (  # trained, on one GPU; what a configuration has to say besides
    "lora.train=[llm, projector, vision]", "gpus=1", "run.output_dir=-", "data.root=-",
    "data.sources.-.rows=null", "optim.steps=1", "optim.learning_rate=1e-5",
)  # fmt: skip


def step_config(model: Path | str, *settings: str) -> Stage2PlanConfig:
    """A step of stage 2 to be planned, which trains every part but for other key=value."""
    return build_config(Stage2PlanConfig, None, [f"model.name={model}", *EVERY_PART, *settings])


def planned_encoder(config: Stage2PlanConfig, **options: Any) -> Encoder:
    """What `config` plans, with fresh adapters."""
    inputs = replace(config.inputs, max_text_tokens=config.plan.text_tokens)
    checkpointing = config.optim.gradient_checkpointing
    options = {"lora": config.lora, "gradient_checkpointing": checkpointing} | options
    return Encoder.load(config.model, inputs, **options)


@dataclass
class Material:
    """A model's folder, and pairs of a picture and a caption whose samples are prepared once."""

    model: Path
    pairs: list[Pair]
    samples: dict[Item, Sample] = field(default_factory=dict)

    def batch(
        self, processor: ItemProcessor, limits: ChunkLimits, size: int, apart: bool = False
    ) -> Batch:
        collate = PairCollator(_Remembering(processor, self.samples), limits, apart=apart)  # type: ignore[arg-type]
        return collate(self.pairs[:size])


class _Remembering:
    """An item processor that prepares an item once."""

    def __init__(self, processor: ItemProcessor, samples: dict[Item, Sample]) -> None:
        self.processor, self.samples = processor, samples

    def __getattr__(self, name: str) -> Any:
        return getattr(self.processor, name)

    def __call__(self, item: Item) -> Sample:
        if item not in self.samples:
            self.samples[item] = self.processor(item)
        return self.samples[item]


def write_qwen2_vl_2b(folder: Path, small: bool = False) -> Path:
    """Configuration and processor of Qwen2-VL-2B's shape, or with `small` of two layers of
    assets/base's; without weights."""
    config = AutoConfig.from_pretrained(BASE)
    config.dtype = torch.bfloat16
    text, vision = (SMALL_TEXT, SMALL_VISION) if small else (QWEN2_VL_TEXT, QWEN2_VL_VISION)
    for part, shape in ((config.text_config, text), (config.vision_config, vision)):
        part.initializer_range = 0.04  # enough for different items to be embedded differently
        part.dtype = torch.bfloat16
        for name, value in shape.items():
            setattr(part, name, value)
    config.text_config.layer_types = ["full_attention"] * config.text_config.num_hidden_layers
    processor = AutoProcessor.from_pretrained(BASE)
    for part in (processor.image_processor, processor.video_processor):
        part.patch_size = config.vision_config.patch_size
        part.size = {"shortest_edge": 56 * 56, "longest_edge": 1280 * 28 * 28}
    config.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def write_llava_next_7b(folder: Path, small: bool = False) -> Path:
    """The same of LLaVA-1.6-mistral-7b, with the tests' tokenizer, or with `small` of a narrow
    model of two layers."""
    tokenizer = build_tokenizer({"image_token": "<image>"})
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    narrow = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    config = AutoConfig.for_model(
        "llava_next",
        text_config=MISTRAL | (narrow | heads if small else {}),
        vision_config=CLIP | (narrow if small else {}),
        image_grid_pinpoints=PINPOINTS,
        image_token_id=tokenizer.image_token_id,
        tie_word_embeddings=False,
        dtype=torch.bfloat16,
    )
    image_processor = LlavaNextImageProcessor(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_grid_pinpoints=PINPOINTS,
    )
    processor = LlavaNextProcessor(
        image_processor, tokenizer, patch_size=14, vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )  # fmt: skip
    config.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def write_weights(folder: Path, device: str) -> None:
    """Random ones for the configuration in `folder`, drawn on the device, which is fast."""
    config = AutoConfig.from_pretrained(folder)
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="100GB")


def make_pairs(folder: Path, count: int, side: int, words: int) -> list[Pair]:
    """A picture with a question, and a caption, each of at least so many tokens."""
    pairs = []
    for number in range(count):
        path = write_picture(folder / f"{number}.png", number, side)
        draws = random.Random(-1 - number)
        question, caption = (" ".join(draws.choices(WORDS, k=words)) for _ in range(2))
        query, target = Item(f"{number} {question}", (str(path),)), Item(f"{number} {caption}")
        pairs.append(Pair(query, target, row_id=str(number)))
    return pairs
