"""Settings of a model, its adapters and its inputs: model, lora, inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from omegaconf import MISSING

from unime.config.values import FilePath
from unime.errors import ConfigError, require
from unime.inputs.presets import preset_named
from unime.inputs.resolution import Resolution

PARTS = ("llm", "projector", "vision")  # what `lora.train` may name
INPUT_DEFAULTS: dict[str, Any] = {
    "prompt": "unime",
    "max_text_tokens": 512,
    "resolution": "native",
    "max_tiles": 0,
    "num_frames": 8,
}


class Quantization(Enum):
    none = "none"
    nf4 = "nf4"
    int8 = "int8"


class Precision(Enum):
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


@dataclass
class ModelConfig:
    """Which multimodal LLM, and how its frozen weights are held."""

    name: FilePath = MISSING  # hub id or local folder: of weights, or of an adapter that names
    # its base
    revision: str | None = None
    trust_remote_code: bool = False
    quantization: Quantization = Quantization.nf4  # of the language model's linear layers
    precision: Precision = Precision.bfloat16  # of the frozen weights and of the computation
    attention: str | None = None  # transformers' attn_implementation; None: its default
    adapter: FilePath | None = None  # the adapter(s) to start from or evaluate: a folder,
    # or id@revision
    processor: FilePath | None = None  # where it is, if not beside the weights: a folder,
    # or id@revision
    pickled_adapter: bool = (
        False  # where it has no .safetensors, let torch's restricted reader have
    )
    # its adapter_model.bin, which takes tensors only
    merge_adapter: bool = False  # make them part of the weights, instead of stacking on them

    def __post_init__(self) -> None:
        quantised = self.merge_adapter and self.quantization is not Quantization.none
        expected = "none to merge an adapter into: export it, and let model.name be that folder"
        require(not quantised, "model.quantization", self.quantization.value, expected)


@dataclass
class LoraSettings:
    """The trained low-rank adapters (always fp32)."""

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05
    use_rslora: bool = False
    use_dora: bool = False
    train: list[str] = field(default_factory=lambda: ["llm"])  # any of llm, projector, vision

    def __post_init__(self) -> None:
        require(self.rank > 0, "lora.rank", self.rank, "a positive number")
        require(self.alpha > 0, "lora.alpha", self.alpha, "a positive number")
        require(0 <= self.dropout < 1, "lora.dropout", self.dropout, "in [0, 1)")
        require(bool(self.train), "lora.train", self.train, f"at least one of {', '.join(PARTS)}")
        for part in self.train:
            require(part in PARTS, "lora.train", part, f"one of {', '.join(PARTS)}")


@dataclass
class InputConfig:
    """How an item (text, images, video, or several of them) becomes model input.

    null: as the checkpoint was trained, else the default given here (:meth:`filled`).
    """

    prompt: str | None = None  # a preset of unime/models/prompts.py; unime
    max_text_tokens: int | None = None  # longer texts are cut (and counted), the prompt and images
    # never; 512
    resolution: str | None = None  # native: as the family's processor does. 336x336: squeezed to
    # that (the paper). 50176..1003520: so many pixels, in its own proportions. native
    max_tiles: int | None = None  # pieces that an image is cut into, where the family cuts it up;
    # 0: as its processor does. 0
    num_frames: int | None = None  # of a video, evenly spaced; 8
    max_image_pixels: int = 50_000_000  # a larger file is refused (decompression bombs)

    def __post_init__(self) -> None:

        if self.prompt is not None:
            preset_named(self.prompt)
        if self.resolution is not None:
            try:
                Resolution.parse(self.resolution)
            except ValueError as error:
                raise ConfigError(f"inputs.resolution: {error}") from None
        for name in ("max_text_tokens", "num_frames"):
            value = getattr(self, name)
            require(value is None or value > 0, f"inputs.{name}", value, "positive or null")
        tiles, pixels = self.max_tiles, self.max_image_pixels
        require(tiles is None or tiles >= 0, "inputs.max_tiles", tiles, "0 or more, or null")
        require(pixels > 0, "inputs.max_image_pixels", pixels, "positive")

    def filled(self, trained: Mapping[str, Any] | None = None) -> InputConfig:
        """These settings with every null replaced: by what a checkpoint was trained with, else by
        the default."""
        known = INPUT_DEFAULTS | {k: v for k, v in (trained or {}).items() if k in INPUT_DEFAULTS}
        missing = {name: value for name, value in known.items() if getattr(self, name) is None}
        return replace(self, **missing)


def check_precision(model: ModelConfig) -> None:
    trainable = model.precision is not Precision.float16
    expected = "bfloat16 or float32 to train: float16 would need its loss scaled"
    require(trainable, "model.precision", model.precision.value, expected)
