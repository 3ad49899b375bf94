"""Settings of a plan: a stage's, and what is assumed beside them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from unime.config.training import Stage1Config, Stage2Config
from unime.errors import require


class Engine(Enum):
    """What is shared over the GPUs: nothing (ddp), the optimizer's moments (zero1), gradients too
    (zero2), weights too (zero3, fsdp2)."""

    ddp = "ddp"
    zero1 = "zero1"
    zero2 = "zero2"
    zero3 = "zero3"
    fsdp2 = "fsdp2"


@dataclass
class PlanConfig:
    """What stages.plan assumes where a stage's configuration does not say it."""

    text_tokens: int = 64  # of an item's own text, also beside an image
    prompt_tokens: int = 24  # prompt and chat template, where no processor is there to count them
    image_tokens: int | None = None  # of an image in the sequence; null: as the processor counts
    image_patches: int | None = None  # in the vision tower; null: processor, or from image_tokens
    image_side: int = 512  # pixels of a square image where inputs.resolution is no square
    images_per_pair: float = 1.0  # of a query and its target: 1 where one of the two has an image
    rows: int | None = None  # where optim.epochs is given; null: the stage's default, printed
    stacked_rank: int = 32  # of the frozen adapter that model.adapter names, on the language model
    engine: Engine = Engine.ddp
    utilisation: float = 0.1  # share of the GPU's peak that is reached (docs/performance.md)
    overhead_gib: float = 2.0  # CUDA context, communication buffers, fragmentation
    gpu_tflops: float | None = None  # of gpu=custom: dense bf16
    gpu_memory_gib: float | None = None

    def __post_init__(self) -> None:
        for name in ("text_tokens", "image_side", "stacked_rank"):
            require(getattr(self, name) > 0, f"plan.{name}", getattr(self, name), "positive")
        for name in ("image_tokens", "image_patches", "rows", "gpu_tflops", "gpu_memory_gib"):
            value = getattr(self, name)
            require(value is None or value > 0, f"plan.{name}", value, "positive or null")
        for name in ("prompt_tokens", "overhead_gib"):
            require(getattr(self, name) >= 0, f"plan.{name}", getattr(self, name), "0 or more")
        images, share = self.images_per_pair, self.utilisation
        require(0 <= images <= 2, "plan.images_per_pair", images, "in [0, 2]")
        require(0 < share <= 1, "plan.utilisation", share, "in (0, 1]")


@dataclass
class Stage1PlanConfig(Stage1Config):
    """A stage-1 configuration and what stages.plan wants to know beside it."""

    gpus: int = 8
    gpu: str = "a100-80g"  # a name in unime/planning/gpus.py, or custom
    plan: PlanConfig = field(default_factory=lambda: PlanConfig(text_tokens=24, images_per_pair=0))

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.gpus > 0, "gpus", self.gpus, "positive")
        images = self.plan.images_per_pair
        require(images == 0, "plan.images_per_pair", images, "0: stage 1 reads texts")


@dataclass
class Stage2PlanConfig(Stage2Config):
    """A stage-2 configuration and what stages.plan wants to know beside it."""

    gpus: int = 8
    gpu: str = "a100-80g"
    plan: PlanConfig = field(default_factory=PlanConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.gpus > 0, "gpus", self.gpus, "positive")
