"""Settings of a model, its adapters and its inputs: model, lora, inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import Enum
from typing import Annotated, Any

from omegaconf import MISSING

from unime.config.settings import (
    BelowOne,
    Bounds,
    FilePath,
    NotEmpty,
    NotNegative,
    Positive,
    Settings,
    one_of,
    setting,
)
from unime.errors import require
from unime.inputs.presets import PRESETS
from unime.inputs.resolution import FORMS, Resolution

PARTS = ("llm", "projector", "vision")  # what `lora.train` may name
MAX_TILES, MAX_FRAMES = 1000, 10_000
MAX_IMAGE_PIXELS = 50_000_000
INPUT_DEFAULTS: dict[str, Any] = {
    "prompt": "unime",
    "max_text_tokens": 512,
    "resolution": "native",
    "max_tiles": 0,
    "num_frames": 8,
    "jpeg_draft": False,
}


class Quantization(Enum):
    none = "none"
    nf4 = "nf4"
    int8 = "int8"


class Precision(Enum):
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def _is_resolution(text: str) -> bool:
    try:
        Resolution.parse(text)
    except ValueError:
        return False
    return True


@dataclass
class ModelConfig(Settings, section="model"):
    """Which multimodal LLM, and how its frozen weights are held."""

    name: FilePath = setting(MISSING, "hub id or folder: of weights, or an adapter that names them")
    revision: str | None = setting(None, "of the model on the hub")
    trust_remote_code: bool = setting(False, "run the code that the model brings")
    quantization: Quantization = setting(Quantization.nf4, "of the language model's linear layers")
    precision: Precision = setting(Precision.bfloat16, "of weights and computation")
    attention: str | None = setting(None, "transformers' attn_implementation; null: its default")
    adapter: FilePath | None = setting(None, "to start from or evaluate: a folder, or id@revision")
    processor: FilePath | None = setting(
        None, "if not beside the weights: a folder, or id@revision"
    )
    pickled_adapter: bool = setting(
        False,
        "where it has no .safetensors, let torch's restricted reader have its adapter_model.bin, "
        "which takes tensors only",
    )
    merge_adapter: bool = setting(
        False,
        "make it part of the weights, instead of stacking on it; of quantised ones evaluations "
        "alone, which then hold what they stand for: more memory, fewer operations",
    )


@dataclass
class LoraSettings(Settings, section="lora"):
    """The trained low-rank adapters (always fp32)."""

    rank: Positive[int] = setting(16, "of the low-rank matrices")
    alpha: Positive[int] = setting(32, "their product is scaled by alpha / rank")
    dropout: BelowOne = setting(0.05, "of what goes into them")
    use_rslora: bool = setting(False, "scale by alpha / sqrt(rank)")
    use_dora: bool = setting(False, "train magnitudes beside directions")
    train: NotEmpty[list[Annotated[str, one_of(*PARTS)]]] = setting(
        ["llm"], "which parts have them"
    )


@dataclass
class InputConfig(Settings, section="inputs"):
    """How an item (text, images, video, or several of them) becomes model input.

    null: as the checkpoint was trained, else the default given here (:meth:`filled`).
    """

    prompt: Annotated[str, one_of(*PRESETS)] | None = setting(
        None, "what the model is asked beside the item; null: as trained, else unime"
    )
    max_text_tokens: Positive[int] | None = setting(
        None,
        "longer texts are cut (and counted), the prompt and images never; null: as trained, else "
        "512",
    )
    resolution: Annotated[str, Bounds(FORMS, _is_resolution)] | None = setting(
        None,
        "native: as the family's processor does; 336x336: squeezed to that (the paper); "
        "50176..1003520: so many pixels, in its own proportions; null: as trained, else native",
    )
    max_tiles: NotNegative[int] | None = setting(
        None,
        "pieces that an image is cut into, where the family cuts it up; 0: as its processor does; "
        "null: as trained, else 0",
    )
    num_frames: Positive[int] | None = setting(None, "of a video; null: as trained, else 8")
    jpeg_draft: bool | None = setting(
        None,
        "JPEGs of more than twice the resolution are decoded at a half, a quarter or an eighth of "
        "their size, which is faster and changes their pixels a little; null: as trained, else "
        "false",
    )
    max_image_pixels: Positive[int] = setting(MAX_IMAGE_PIXELS, "larger files are refused")
    feature_store: FilePath | None = setting(
        None,
        "folder that keeps what a frozen vision tower makes of pictures, for later epochs, runs "
        "and evaluations of this project's own models; null: none",
    )
    feature_store_gib: Positive[float] = setting(
        20.0, "that the folder may hold; when it does, no more are written"
    )

    def __post_init__(self) -> None:
        """Bound what a checkpoint may ask for, too (:meth:`filled`)."""
        super().__post_init__()
        size = Resolution.parse(self.resolution).least if self.resolution is not None else 0
        most = f"at most inputs.max_image_pixels={self.max_image_pixels} pixels"
        require(size <= self.max_image_pixels, "inputs.resolution", self.resolution, most)
        drafts_nothing = self.jpeg_draft and self.resolution == INPUT_DEFAULTS["resolution"]
        expected = "false where inputs.resolution is native, which keeps every pixel"
        require(not drafts_nothing, "inputs.jpeg_draft", self.jpeg_draft, expected)
        for name, limit in (("max_tiles", MAX_TILES), ("num_frames", MAX_FRAMES)):
            number = getattr(self, name)
            require((number or 0) <= limit, f"inputs.{name}", number, f"at most {limit}")

    def decisive(self) -> dict[str, Any]:
        """Those settings that decide what a model is shown, by name."""
        return {name: v for name, v in asdict(self).items() if not name.startswith("feature_store")}

    def filled(self, trained: Mapping[str, Any] | None = None) -> InputConfig:
        """These settings with every null replaced: by what a checkpoint was trained with, else by
        the default."""
        known = INPUT_DEFAULTS | {k: v for k, v in (trained or {}).items() if k in INPUT_DEFAULTS}
        missing = {name: value for name, value in known.items() if getattr(self, name) is None}
        return replace(self, **missing)


def check_trainable(model: ModelConfig) -> None:
    """Refuse a model that is not held as one that trains."""
    trainable = model.precision is not Precision.float16
    expected = "bfloat16 or float32 to train: float16 would need its loss scaled"
    require(trainable, "model.precision", model.precision.value, expected)
    quantised = model.merge_adapter and model.quantization is not Quantization.none
    expected = "none to merge an adapter into: export it, and let model.name be that folder"
    require(not quantised, "model.quantization", model.quantization.value, expected)
