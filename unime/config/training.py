"""Settings of the two stages: run, optim, loss, resume, validation, and a stage of all of them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated

from omegaconf import MISSING

from unime.config.data import PairData, TextData
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
    Temperature,
    WholeOrLess,
    one_of,
    setting,
)
from unime.errors import require


class OnShort(Enum):
    """What to do when fewer than ``num_hard_negatives`` candidates survive the filter."""

    mask = "mask"
    repeat = "repeat"


class Objective(Enum):
    """What stage 1 makes of the student's and the teacher's similarities: the divergence of their
    softmaxes, or the mean square of their differences."""

    kl = "kl"
    mse = "mse"


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
BLOCK_MEMORY = "GiB of similarities at a time, so many rows of the batch; changes rounding alone"
STEPS = Bounds("auto, or a number of steps", lambda after: re.fullmatch("auto|[0-9]+", str(after)))


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


@dataclass(kw_only=True)
class LossConfig(Settings, section="loss"):
    """Of both losses: how much memory they take, and one vector of many sizes (Matryoshka
    representation learning, arXiv 2205.13147)."""

    matryoshka_dimensions: NotEmpty[list[Positive[int]]] | None = setting(
        None,
        "such as [64, 128]: the loss is taken of so many first coordinates, normalised again, as "
        "well; the whole vector always counts, listed or not; null: it alone",
    )
    matryoshka_weights: NotEmpty[list[Positive[float]]] | None = setting(
        None,
        "of these sizes in the mean, beside 1 of a whole vector that is not listed; null: 1 each",
    )

    block_memory: Positive[float] = setting(0.5, BLOCK_MEMORY)

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes, weights = self.matryoshka_dimensions or [], self.matryoshka_weights
        key = "loss.matryoshka_dimensions"
        require(len(set(sizes)) == len(sizes), key, sizes, "different sizes")
        fits = weights is None or len(weights) == len(sizes)
        require(
            fits, "loss.matryoshka_weights", weights, f"one for each of {key}, {sizes}, or null"
        )

    def shares(self, dimension: int) -> dict[int, float]:
        """How much the loss at each size counts, 1 together; the whole vector's comes first.

        Args:
            dimension: of the embeddings.

        Raises:
            ConfigError: they do not have so many.
        """
        sizes = self.matryoshka_dimensions or []
        for size in sizes:
            expected = f"at most {dimension}, which is what the model's embeddings have"
            require(size <= dimension, "loss.matryoshka_dimensions", size, expected)
        weights = self.matryoshka_weights or [1.0] * len(sizes)
        found = {dimension: 1.0} | dict(zip(sizes, weights, strict=True))
        return {size: weight / sum(found.values()) for size, weight in found.items()}


@dataclass
class DistillationLossConfig(LossConfig, section="loss"):
    """Stage 1 (paper 3.2, equation 2), which names no temperature and leaves the diagonal open."""

    student_temperature: Temperature = setting(0.05, "divides the student's similarities")
    teacher_temperature: Temperature = setting(0.05, "divides the teacher's")
    include_diagonal: bool = setting(
        False,
        "count a text's similarity to itself: 1.0, which at small temperatures takes nearly all "
        "the mass of each row in teacher and student alike, and with it the gradient",
    )
    objective: Objective = setting(
        Objective.kl, "mse: of the similarities themselves, without temperatures"
    )


@dataclass
class HardNegativeLossConfig(LossConfig, section="loss"):
    """Stage 2 (paper 3.3). Plain InfoNCE: ``false_negative_margin`` and ``num_hard_negatives``
    both null."""

    temperature: Temperature = setting(0.02, "divides; 0.02 as in the paper's published loss.py")
    num_hard_negatives: Positive[int] | None = setting(8, "k; null: all that survive the filter")
    false_negative_margin: float | None = setting(0.1, "beta; null: no filter")
    on_short: OnShort = setting(OnShort.mask, "what to do when fewer than k survive the filter")
    symmetric: bool = setting(False, "also target to query")
    hard_negatives_after: Annotated[int | str, STEPS] = setting(
        "auto",
        "steps in which all negatives count before the hardest do; auto: in each batch whose "
        "hardest negatives cost more than they would in a collapsed model, ln(1 + k), all count "
        "instead (docs/decisions.md); 0: hard negatives from the first step, as the paper says",
    )
    learn_temperature: bool = setting(
        False,
        "learn it with the adapters, at their learning rate, from this value on (CLIP, arXiv "
        "2103.00020, 2.5)",
    )
    least_temperature: Temperature = setting(0.01, "that is learnt; CLIP's scale of 100")
    hardness_strength: NotNegative[float] = setting(
        0.0,
        "alpha: a negative counts exp(alpha · cosine) times (LLaVE: 9 with all of a batch, "
        "EmbeddingGemma: 5 with explicit ones); 0: once",
    )
    soft_labels: WholeOrLess = setting(
        0.0,
        "share of the loss that follows the scores that a judge gives each row's own candidates "
        "(./launch.sh judge), in place of InfoNCE; 1: all of it (UniME-V2)",
    )
    judge_temperature: Temperature = setting(
        0.02, "divides the judge's scores, as temperature divides similarities"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        too_small = self.learn_temperature and self.temperature < self.least_temperature
        least = f"at least loss.least_temperature, {self.least_temperature}"
        require(not too_small, "loss.temperature", self.temperature, least)
        repeats_all = self.num_hard_negatives is None and self.on_short is OnShort.repeat
        expected = "mask when loss.num_hard_negatives is null"
        require(not repeats_all, "loss.on_short", "repeat", expected)


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
