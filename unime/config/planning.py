"""Settings of a plan: a stage's, and what is assumed beside them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated

from unime.config.settings import Bounds, NotNegative, Positive, Settings, setting
from unime.config.training import Stage1Config, Stage2Config
from unime.errors import require


class Engine(Enum):
    """What is shared over the GPUs."""

    ddp = "ddp"
    zero1 = "zero1"
    zero2 = "zero2"
    zero3 = "zero3"
    fsdp2 = "fsdp2"


@dataclass
class PlanConfig(Settings, section="plan"):
    """What stages.plan assumes where a stage's configuration does not say it."""

    text_tokens: Positive[int] = setting(64, "of an item's own text, also beside an image")
    prompt_tokens: NotNegative[int] = setting(
        24, "of the chat format; read with plan.image_tokens, or if no processor is there"
    )
    image_tokens: Positive[int] | None = setting(None, "of an image; null: as the processor counts")
    image_patches: Positive[int] | None = setting(
        None, "in the vision tower, with plan.image_tokens; null: from these"
    )
    image_side: Positive[int] = setting(512, "pixels, where inputs.resolution names no size")
    images_per_pair: Annotated[float, Bounds("in [0, 2]", lambda value: 0 <= value <= 2)] = setting(
        1.0, "of a query and its target: 1 where one of the two has an image"
    )
    rows: Positive[int] | None = setting(None, "for optim.epochs; null: the stage's, printed")
    stacked_rank: Positive[int] = setting(32, "of model.adapter, on the language model")
    engine: Engine = setting(
        Engine.ddp,
        "what is shared over the GPUs: nothing (ddp), the optimizer's moments (zero1), gradients "
        "too (zero2), weights too (zero3, fsdp2)",
    )
    utilisation: Annotated[float, Bounds("in (0, 1]", lambda value: 0 < value <= 1)] = setting(
        0.1, "of the GPU's peak (docs/performance.md)"
    )
    overhead_gib: NotNegative[float] = setting(2.0, "CUDA context, buffers, fragmentation")
    gpu_tflops: Positive[float] | None = setting(None, "of gpu=custom: dense bf16")
    gpu_memory_gib: Positive[float] | None = setting(None, "of gpu=custom")


@dataclass
class Stage1PlanConfig(Stage1Config):
    """A stage-1 configuration and what stages.plan wants to know beside it."""

    gpus: Positive[int] = setting(8, "how many")
    gpu: str = setting("a100-80g", "a name in unime/planning/gpus.py, or custom")
    plan: PlanConfig = field(default_factory=lambda: PlanConfig(text_tokens=24, images_per_pair=0))

    def __post_init__(self) -> None:
        super().__post_init__()
        images = self.plan.images_per_pair
        require(images == 0, "plan.images_per_pair", images, "0: stage 1 reads texts")


@dataclass
class Stage2PlanConfig(Stage2Config):
    """A stage-2 configuration and what stages.plan wants to know beside it."""

    gpus: Positive[int] = setting(8, "how many")
    gpu: str = setting("a100-80g", "a name in unime/planning/gpus.py, or custom")
    plan: PlanConfig = field(default_factory=PlanConfig)
