"""Settings of the two stages: run, optim, loss, resume, validation, and a stage of all of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING

from unime.config.data import PairData, TextData
from unime.config.model import InputConfig, LoraSettings, ModelConfig, check_precision
from unime.config.values import FilePath
from unime.errors import require


class OnShort(Enum):
    """What to do when fewer than ``num_hard_negatives`` candidates survive the filter."""

    mask = "mask"
    repeat = "repeat"


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


TRACKERS = ("tensorboard", "wandb")  # beside metrics.jsonl, which is always written


@dataclass
class OptimConfig:
    """AdamW and its schedule. The batch is part of a contrastive loss, so there is no gradient
    accumulation: 8 accumulated batches of 4 have 3 negatives a query, not 31. ``chunk_size`` is
    what bounds memory (gradient caching) without changing the loss."""

    steps: int | None = None  # optimizer steps; or
    epochs: float | None = None  # passes over the data; exactly one of the two
    batch_size_per_device: int = MISSING
    chunk_size: int = MISSING  # items encoded at a time; a batch of no more needs no second pass
    learning_rate: float = MISSING
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    schedule: Schedule = Schedule.linear
    warmup_steps: int = 0
    max_grad_norm: float | None = 1.0  # None: no clipping
    target_chunk_size: int | None = None  # items of the target side; None: as many
    chunk_tokens: int | None = None  # and no more tokens, padding included; None: any
    auto_chunk: bool = False  # halve chunks when the GPU's memory is full, and go on
    gradient_checkpointing: bool = False
    on_nonfinite: OnNonfinite = OnNonfinite.stop
    on_collapse: OnCollapse = OnCollapse.stop

    def __post_init__(self) -> None:
        both = f"steps={self.steps}, epochs={self.epochs}"
        require(
            (self.steps is None) != (self.epochs is None),
            "optim.steps",
            both,
            "one of steps and epochs, the other null",
        )
        require(self.steps is None or self.steps > 0, "optim.steps", self.steps, "positive")
        require(self.epochs is None or self.epochs > 0, "optim.epochs", self.epochs, "positive")
        for name in ("batch_size_per_device", "chunk_size", "learning_rate"):
            require(getattr(self, name) > 0, f"optim.{name}", getattr(self, name), "positive")
        for name in ("target_chunk_size", "chunk_tokens"):
            value = getattr(self, name)
            require(value is None or value > 0, f"optim.{name}", value, "positive or null")
        for name in ("warmup_steps", "weight_decay"):
            require(getattr(self, name) >= 0, f"optim.{name}", getattr(self, name), "0 or more")
        for name in ("beta1", "beta2"):
            require(0 <= getattr(self, name) < 1, f"optim.{name}", getattr(self, name), "in [0, 1)")
        require(self.epsilon > 0, "optim.epsilon", self.epsilon, "positive")
        norm = self.max_grad_norm
        require(norm is None or norm > 0, "optim.max_grad_norm", norm, "positive or null")
        if self.steps is not None:
            require(
                self.warmup_steps <= self.steps,
                "optim.warmup_steps",
                self.warmup_steps,
                "at most optim.steps",
            )


@dataclass
class RunConfig:
    """Where a run writes, how often, and its randomness."""

    output_dir: FilePath = MISSING
    seed: int = 0
    log_every: int = 10
    save_every: int = 100  # steps between checkpoints; the last step is always saved
    save_total_limit: int = 2
    num_workers: int = 0  # processes that read and preprocess
    trackers: list[str] = field(default_factory=lambda: ["tensorboard"])  # of TRACKERS
    collective_timeout: int = 1800  # seconds that a rank waits for the others, then it gives up

    def __post_init__(self) -> None:
        for name in self.trackers:
            require(name in TRACKERS, "run.trackers", name, f"any of {', '.join(TRACKERS)}")
        for name in ("log_every", "save_every", "save_total_limit", "collective_timeout"):
            require(getattr(self, name) > 0, f"run.{name}", getattr(self, name), "positive")
        require(self.num_workers >= 0, "run.num_workers", self.num_workers, "0 or more")
        require(0 <= self.seed < 2**31, "run.seed", self.seed, "in [0, 2**31)")


@dataclass
class ValidationConfig:
    """Scores while training, on rows held out of it or on a suite of evaluation tasks; the best
    checkpoint is kept and named (unime/validation/measure.py)."""

    every: int | None = None  # steps, and after the last one (what others call eval_every); null:
    # never
    rows: int | None = None  # of the training data, held out of training by seed; or
    share: float | None = None  # this share of them; or
    suite: FilePath | None = None  # stage 2: the tasks of this suite (configs/suites/), of which
    tasks: list[str] | None = None  # these; null: all
    limit: int | None = None  # first queries of each task; null: all
    root: FilePath | None = None  # where the suite's rows are, as data.root of an evaluation
    image_root: FilePath | None = None

    def __post_init__(self) -> None:
        given = [key for key in ("rows", "share", "suite") if getattr(self, key) is not None]
        names = ", ".join(f"validation.{key}" for key in given) or "neither rows, share nor suite"
        require(len(given) < 2, "validation", names, "one of rows, share and suite")
        require(
            (self.every is None) == (not given),
            "validation.every",
            f"{self.every} with {names}",
            "steps and one of validation.rows, share and suite, or none of them",
        )
        for name in ("every", "rows", "limit"):
            value = getattr(self, name)
            require(value is None or value > 0, f"validation.{name}", value, "positive or null")
        share = self.share
        require(share is None or 0 < share < 1, "validation.share", share, "in (0, 1), or null")
        for name in ("tasks", "limit", "root", "image_root"):
            alone = getattr(self, name) is not None and self.suite is None
            require(
                not alone, f"validation.{name}", getattr(self, name), "validation.suite with it"
            )
        require(self.tasks != [], "validation.tasks", self.tasks, "at least one task, or null")


@dataclass
class ResumeConfig:
    """What to do when ``run.output_dir`` holds a run already."""

    enabled: bool = True  # go on from its newest complete checkpoint; False: refuse
    force: bool = False  # also where settings or data have changed (the log says which)


@dataclass
class DistillationLossConfig:
    """Stage 1 (paper 3.2, equation 2), which names no temperature and leaves the diagonal open."""

    student_temperature: float = 0.05
    teacher_temperature: float = 0.05
    include_diagonal: bool = False
    # Masked by default: at small temperatures the self-similarity 1.0 takes nearly all the mass of
    # each row in teacher and student alike, and with it the gradient (losses.distillation_loss).

    def __post_init__(self) -> None:
        for name in ("student_temperature", "teacher_temperature"):
            require(getattr(self, name) > 0, f"loss.{name}", getattr(self, name), "positive")


@dataclass
class HardNegativeLossConfig:
    """Stage 2 (paper 3.3). Plain InfoNCE: ``false_negative_margin`` and ``num_hard_negatives``
    both null."""

    temperature: float = 0.02  # divides; the paper is silent, its published loss.py has 0.02
    num_hard_negatives: int | None = 8  # k; null: every candidate that survives the filter
    false_negative_margin: float | None = 0.1  # beta; null: no filter
    on_short: OnShort = OnShort.mask
    symmetric: bool = False  # also target to query
    # Steps in which all negatives count before the hardest do. auto: in each batch whose hardest
    # negatives cost more than they would in a collapsed model, ln(1 + k), all count instead
    # (docs/decisions.md). 0: hard negatives from the first step, as the paper says.
    hard_negatives_after: int | str = "auto"

    def __post_init__(self) -> None:
        k, after = self.num_hard_negatives, self.hard_negatives_after
        is_number = str(after).isascii() and str(after).isdecimal()
        expected = "auto, or a number of steps"
        require(is_number or after == "auto", "loss.hard_negatives_after", after, expected)
        require(self.temperature > 0, "loss.temperature", self.temperature, "positive")
        require(k is None or k > 0, "loss.num_hard_negatives", k, "positive or null")
        repeats_all = k is None and self.on_short is OnShort.repeat
        require(
            not repeats_all, "loss.on_short", "repeat", "mask when loss.num_hard_negatives is null"
        )


@dataclass
class Stage1Config:
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
        require(
            self.lora.train == ["llm"],
            "lora.train",
            self.lora.train,
            "[llm]: stage 1 runs the decoder only",
        )
        suite = self.validation.suite
        require(suite is None, "validation.suite", suite, "rows or share: stage 1 reads texts only")
        check_precision(self.model)


@dataclass
class Stage2Config:
    run: RunConfig = field(default_factory=RunConfig)
    resume: ResumeConfig = field(default_factory=ResumeConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    lora: LoraSettings = field(default_factory=LoraSettings)
    inputs: InputConfig = field(default_factory=InputConfig)
    data: PairData = field(default_factory=PairData)
    loss: HardNegativeLossConfig = field(default_factory=HardNegativeLossConfig)
    optim: OptimConfig = MISSING
    validation: ValidationConfig = field(default_factory=ValidationConfig)

    def __post_init__(self) -> None:
        require(bool(self.data.sources), "data.sources", "{}", "at least one subset")
        check_precision(self.model)
