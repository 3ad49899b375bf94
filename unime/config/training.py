"""Settings of the two stages: run, optim, resume, validation, and a stage of all of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated

from omegaconf import MISSING

from unime.config.data import PairData, TextData
from unime.config.losses import DistillationLossConfig, HardNegativeLossConfig
from unime.config.mining import MiningConfig
from unime.config.model import InputConfig, LoraSettings, ModelConfig, check_trainable
from unime.config.settings import (
    BelowOne,
    Bounds,
    FilePath,
    NotEmpty,
    NotNegative,
    Positive,
    Seed,
    Settings,
    Share,
    one_of,
    setting,
)
from unime.errors import require


class OnNonfinite(Enum):
    """What to do with a step whose loss or gradient is NaN or infinite; its rows are written down
    either way."""

    stop = "stop"
    skip = "skip"


class OnCollapse(Enum):
    """What to do when the embeddings have collapsed (collapse.py) for COLLAPSED_STEPS steps."""

    stop = "stop"
    warn = "warn"


class Schedule(Enum):
    linear = "linear"
    cosine = "cosine"
    constant = "constant"


class Optimizer(Enum):
    """Its moments in float32, or by bitsandbytes in 8 bits."""

    adamw = "adamw"
    adamw_8bit = "adamw_8bit"


TRACKERS = ("tensorboard", "wandb")  # beside metrics.jsonl, which is always written
GRAPHS = Bounds("auto, or GiB, 0 or more", lambda size: size == "auto" or is_size(size))


def is_size(value: float | str) -> bool:
    return not isinstance(value, str) and value >= 0


@dataclass
class OptimConfig(Settings, section="optim"):
    """AdamW and its schedule. The batch is part of a contrastive loss, so there is no gradient
    accumulation: 8 accumulated batches of 4 have 3 negatives a query, not 31. ``chunk_size`` is
    what bounds memory (gradient caching) without changing the loss."""

    steps: Positive[int] | None = setting(None, "optimizer steps; or")
    epochs: Positive[float] | None = setting(None, "passes over the data; exactly one of the two")
    batch_size_per_device: Positive[int] = setting(MISSING, "rows of a step on each GPU")
    chunk_size: Positive[int] = setting(MISSING, "items encoded at a time, which bounds memory")
    learning_rate: Positive[float] = setting(MISSING, "after the warm-up")
    weight_decay: NotNegative[float] = setting(0.0, "of AdamW, as its beta1, beta2 and epsilon")
    beta1: BelowOne = setting(0.9, "decay of the mean of the gradients")
    beta2: BelowOne = setting(0.999, "decay of the mean of their squares")
    epsilon: Positive[float] = setting(1e-8, "added to the root of that mean")
    schedule: Schedule = setting(Schedule.linear, "of the learning rate after the warm-up")
    warmup_steps: NotNegative[int] = setting(0, "in which the learning rate rises from 0")
    max_grad_norm: Positive[float] | None = setting(1.0, "of all gradients; null: no clipping")
    target_chunk_size: Positive[int] | None = setting(None, "of the targets; null: as many")
    chunk_tokens: Positive[int] | None = setting(None, "and no more tokens; null: any")
    graph_memory: Annotated[float | str, GRAPHS] = setting(
        "auto",
        "GiB that the graphs of chunks may take, so that these chunks are embedded once a step and "
        "not twice; auto: what a GPU has left, none on a CPU or with ZeRO and FSDP2; 0: gradient "
        "caching as published",
    )
    auto_chunk: bool = setting(False, "halve chunks when the GPU's memory is full, and go on")
    gradient_checkpointing: bool = setting(False, "less memory, one more forward")
    packing: bool = setting(
        False,
        "stage 1: the texts of a chunk in one row without padding, each read as if alone; meant "
        "for FlashAttention: the others compute what they mask, and are slower (docs/decisions.md)",
    )
    optimizer: Optimizer = setting(
        Optimizer.adamw, "adamw_8bit: moments in 8 bits, a quarter of their memory"
    )
    compile: bool = setting(
        False, "let torch compile the repeated layers, minutes at the start; needs a C++ compiler"
    )
    tf32: bool = setting(False, "products of float32 in TF32, on NVIDIA GPUs: 10 bits of mantissa")
    on_nonfinite: OnNonfinite = setting(
        OnNonfinite.stop, "at a loss or gradient that is not finite"
    )
    on_collapse: OnCollapse = setting(OnCollapse.stop, "at embeddings that have collapsed")

    def __post_init__(self) -> None:
        super().__post_init__()
        both = f"steps={self.steps}, epochs={self.epochs}"
        one = (self.steps is None) != (self.epochs is None)
        require(one, "optim.steps", both, "one of steps and epochs, the other null")
        within = self.steps is None or self.warmup_steps <= self.steps
        require(
            within, "optim.warmup_steps", self.warmup_steps, f"at most optim.steps, {self.steps}"
        )


@dataclass
class RunConfig(Settings, section="run"):
    """Where a run writes, how often, and its randomness."""

    output_dir: FilePath = setting(MISSING, "the run's folder")
    seed: Seed = setting(0, "of adapters and the order of the data")
    log_every: Positive[int] = setting(10, "steps between lines of metrics.jsonl")
    save_every: Positive[int] = setting(100, "steps between checkpoints; the last is saved too")
    save_total_limit: Positive[int] = setting(2, "checkpoints that are kept")
    num_workers: NotNegative[int] = setting(0, "processes that read and preprocess")
    trackers: list[Annotated[str, one_of(*TRACKERS)]] = setting(
        ["tensorboard"], "beside metrics.jsonl"
    )
    collective_timeout: Positive[int] = setting(1800, "seconds that a rank waits for the others")


@dataclass
class ValidationConfig(Settings, section="validation"):
    """Scores while training, on rows held out of it or on a suite of evaluation tasks; the best
    checkpoint is kept and named (unime/validation/measure.py)."""

    every: Positive[int] | None = setting(None, "steps, and after the last; null: never")
    rows: Positive[int] | None = setting(None, "held out of training by seed; or")
    share: Share | None = setting(None, "this share of them; or")
    suite: FilePath | None = setting(None, "stage 2: tasks of a suite (configs/suites/)")
    tasks: NotEmpty[list[str]] | None = setting(None, "of the suite; null: all")
    limit: Positive[int] | None = setting(None, "first queries of each task; null: all")
    root: FilePath | None = setting(None, "of the suite, as data.root of an evaluation")
    image_root: FilePath | None = setting(None, "as data.image_root of an evaluation")
    follow_links: bool = setting(False, "as data.follow_links of an evaluation")

    def __post_init__(self) -> None:
        super().__post_init__()
        given = [key for key in ("rows", "share", "suite") if getattr(self, key) is not None]
        names = ", ".join(f"validation.{key}" for key in given) or "neither rows, share nor suite"
        require(len(given) < 2, "validation", names, "one of rows, share and suite")
        paired = (self.every is None) == (not given)
        expected = "steps and one of validation.rows, share and suite, or none of them"
        require(paired, "validation.every", f"{self.every} with {names}", expected)
        for name in ("tasks", "limit", "root", "image_root"):
            value = getattr(self, name)
            heeded = value is None or self.suite is not None
            require(heeded, f"validation.{name}", value, "validation.suite with it")


@dataclass
class ResumeConfig(Settings, section="resume"):
    """What to do when ``run.output_dir`` holds a run already."""

    enabled: bool = setting(True, "go on from its newest complete checkpoint; false: refuse")
    force: bool = setting(False, "also where settings or data have changed (the log says which)")


@dataclass
class Stage1Config(Settings):
    """Textual discriminative knowledge distillation (stages.stage1_distill)."""

    run: RunConfig = field(default_factory=RunConfig)
    resume: ResumeConfig = field(default_factory=ResumeConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    lora: LoraSettings = field(default_factory=lambda: LoraSettings(rank=32, alpha=64))
    inputs: InputConfig = field(default_factory=InputConfig)
    data: TextData = field(default_factory=TextData)
    loss: DistillationLossConfig = field(default_factory=DistillationLossConfig)
    optim: OptimConfig = MISSING
    validation: ValidationConfig = field(default_factory=ValidationConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        parts = self.lora.train
        require(parts == ["llm"], "lora.train", parts, "[llm]: stage 1 runs the decoder only")
        suite = self.validation.suite
        require(suite is None, "validation.suite", suite, "rows or share: stage 1 reads texts only")
        check_trainable(self.model)


@dataclass
class Stage2Config(Settings):
    """Instruction tuning with hard negatives (stages.stage2_instruct)."""

    run: RunConfig = field(default_factory=RunConfig)
    resume: ResumeConfig = field(default_factory=ResumeConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    lora: LoraSettings = field(default_factory=LoraSettings)
    inputs: InputConfig = field(default_factory=InputConfig)
    data: PairData = field(default_factory=PairData)
    mining: MiningConfig = field(default_factory=MiningConfig)
    loss: HardNegativeLossConfig = field(default_factory=HardNegativeLossConfig)
    optim: OptimConfig = MISSING
    validation: ValidationConfig = field(default_factory=ValidationConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_trainable(self.model)
        packing = self.optim != MISSING and self.optim.packing
        require(not packing, "optim.packing", packing, "false: stage 2 does not read texts alone")
        judged = self.loss.soft_labels > 0 and self.data.mine_every is not None
        require(not judged, "data.mine_every", self.data.mine_every, "null with loss.soft_labels")
        margin = self.loss.false_negative_margin
        some = margin is None or margin > -2
        expected = "more than -2: two cosines differ by at most 2, so every negative is dropped"
        require(some, "loss.false_negative_margin", margin, expected)


@dataclass
class TuneStage1(Settings, section="stage1"):
    """Stage 1 of a tuning: on the texts of the pairs that are trained on."""

    teacher: FilePath = setting(MISSING, "of sentence-transformers: hub id, folder, pypi:<module>")
    lora: LoraSettings = field(default_factory=lambda: LoraSettings(rank=32, alpha=64))
    loss: DistillationLossConfig = field(default_factory=DistillationLossConfig)
    optim: OptimConfig = MISSING


@dataclass
class TuneConfig(Stage2Config):
    """Stage 2 on a prepared set, between two evaluations on what is held out (stages.tune)."""

    stage1: TuneStage1 | None = setting(None, "stage 1 before it; null: none")
    eval_batch_size: Positive[int] = setting(64, "items encoded at a time by the evaluations")
