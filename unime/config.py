"""Every setting of every program, as typed dataclasses, from top to bottom as a run is described.

    load_config(Stage2Config, ["--config", "configs/demo/stage2.yaml", "loss.temperature=0.03"])

Defaults here, then the YAML file, then ``key=value`` words. Unknown keys, wrong types and
impossible combinations are a :class:`ConfigError` that names the key (and the nearest valid one)
before anything is loaded. What runs *where* (GPUs, ZeRO) is accelerate's configuration, not ours.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

T = TypeVar("T")


class ConfigError(ValueError):
    """A setting that cannot be used; the message names the file, the key and the value."""


class Quantization(Enum):
    none = "none"
    nf4 = "nf4"
    int8 = "int8"


class Precision(Enum):
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class OnShort(Enum):
    """What to do when fewer than ``num_hard_negatives`` candidates survive the filter."""

    mask = "mask"
    repeat = "repeat"


class Mixing(Enum):
    """How rows of several datasets share batches."""

    single_task = "single_task"
    mixed = "mixed"


class Schedule(Enum):
    linear = "linear"
    cosine = "cosine"
    constant = "constant"


PARTS = ("llm", "projector", "vision")  # what `lora.train` may name


@dataclass
class ModelConfig:
    """Which multimodal LLM, and how its frozen weights are held."""

    name: str = MISSING  # hub id or local folder
    revision: str | None = None
    trust_remote_code: bool = False
    quantization: Quantization = Quantization.nf4  # of the language model's linear layers
    precision: Precision = Precision.bfloat16  # of the frozen weights and of the computation
    attention: str | None = None  # transformers' attn_implementation; None: its default
    adapter: str | None = None  # folder with the adapter(s) to start from or to evaluate


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
        require(0 <= self.dropout < 1, "lora.dropout", self.dropout, "in [0, 1)")
        require(bool(self.train), "lora.train", self.train, f"at least one of {', '.join(PARTS)}")
        for part in self.train:
            require(part in PARTS, "lora.train", part, f"one of {', '.join(PARTS)}")


@dataclass
class InputConfig:
    """How an item (text, image or both) becomes model input."""

    prompt: str = "unime"  # a preset of unime/prompts.py
    max_text_tokens: int = 512  # longer texts are cut (and counted); never the prompt or an image
    image_size: int | None = (
        None  # 336: squares of 336 pixels, as the paper; None: as the processor does
    )
    max_image_pixels: int = 50_000_000  # a larger file is refused (decompression bombs)

    def __post_init__(self) -> None:
        require(
            self.max_text_tokens > 0, "inputs.max_text_tokens", self.max_text_tokens, "positive"
        )
        require(
            self.image_size is None or self.image_size > 0,
            "inputs.image_size", self.image_size, "positive or null",
        )  # fmt: skip


@dataclass
class OptimConfig:
    """AdamW and its schedule. The batch is part of a contrastive loss, so there is no gradient
    accumulation: 8 accumulated batches of 4 have 3 negatives a query, not 31. ``chunk_size`` is
    what bounds memory (gradient caching) without changing the loss."""

    steps: int | None = None  # optimizer steps; or
    epochs: float | None = None  # passes over the data; exactly one of the two
    batch_size_per_device: int = MISSING
    chunk_size: int = MISSING  # items encoded at a time
    learning_rate: float = MISSING
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    schedule: Schedule = Schedule.linear
    warmup_steps: int = 0
    max_grad_norm: float | None = 1.0  # None: no clipping
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        both = f"steps={self.steps}, epochs={self.epochs}"
        require(
            (self.steps is None) != (self.epochs is None),
            "optim.steps",
            both,
            "steps or epochs, not both",
        )
        require(self.steps is None or self.steps > 0, "optim.steps", self.steps, "positive")
        require(self.epochs is None or self.epochs > 0, "optim.epochs", self.epochs, "positive")
        for name in ("batch_size_per_device", "chunk_size", "learning_rate"):
            require(getattr(self, name) > 0, f"optim.{name}", getattr(self, name), "positive")
        require(self.warmup_steps >= 0, "optim.warmup_steps", self.warmup_steps, "0 or more")
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

    output_dir: str = MISSING
    seed: int = 0
    log_every: int = 10
    save_every: int = 100  # steps between checkpoints; the last step is always saved
    save_total_limit: int = 2
    resume: bool = True  # go on from the newest complete checkpoint in output_dir
    num_workers: int = 0  # processes that read and preprocess
    tensorboard: bool = True

    def __post_init__(self) -> None:
        for name in ("log_every", "save_every", "save_total_limit"):
            require(getattr(self, name) > 0, f"run.{name}", getattr(self, name), "positive")
        require(self.num_workers >= 0, "run.num_workers", self.num_workers, "0 or more")


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

    def __post_init__(self) -> None:
        k = self.num_hard_negatives
        require(self.temperature > 0, "loss.temperature", self.temperature, "positive")
        require(k is None or k > 0, "loss.num_hard_negatives", k, "positive or null")
        repeats_all = k is None and self.on_short is OnShort.repeat
        require(
            not repeats_all, "loss.on_short", "repeat", "mask when loss.num_hard_negatives is null"
        )


@dataclass
class TextData:
    """Stage 1's texts and the teacher's embeddings of them (data_prep.teacher_embeddings)."""

    texts: list[str] = MISSING  # .jsonl, .csv or .parquet files
    columns: list[str] = field(
        default_factory=lambda: ["text"]
    )  # every column's texts join the pool
    teacher: str = MISSING  # folder of the teacher store
    limit: int | None = None

    def __post_init__(self) -> None:
        require(self.limit is None or self.limit > 0, "data.limit", self.limit, "positive or null")


@dataclass
class PairSource:
    """One MMEB-train subset: how many of its rows, and how often it is drawn."""

    rows: int | None = None  # None: all
    sample: str = "first"  # first (as every published recipe) or random (seeded)
    weight: float = 1.0  # rows are repeated or thinned by this factor in each epoch

    def __post_init__(self) -> None:
        require(self.rows is None or self.rows > 0, "rows", self.rows, "positive or null")
        require(self.sample in ("first", "random"), "sample", self.sample, "first or random")
        require(self.weight > 0, "weight", self.weight, "positive")


@dataclass
class PairData:
    """Stage 2's rows: a folder or hub repository in MMEB-train's layout."""

    root: str = MISSING
    revision: str | None = None
    split: str = "original"
    image_root: str | None = None  # where the images are; None: below root (a local folder)
    sources: dict[str, PairSource] = field(default_factory=dict)  # subset name -> settings
    mixing: Mixing = Mixing.single_task
    on_bad_row: str = "raise"  # raise, or drop (counted and listed)

    def __post_init__(self) -> None:
        require(
            self.on_bad_row in ("raise", "drop"),
            "data.on_bad_row",
            self.on_bad_row,
            "raise or drop",
        )


@dataclass
class Stage1Config:
    run: RunConfig = field(default_factory=RunConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    lora: LoraSettings = field(default_factory=lambda: LoraSettings(rank=32, alpha=64))
    inputs: InputConfig = field(default_factory=InputConfig)
    data: TextData = field(default_factory=TextData)
    loss: DistillationLossConfig = field(default_factory=DistillationLossConfig)
    optim: OptimConfig = MISSING

    def __post_init__(self) -> None:
        require(
            self.lora.train == ["llm"],
            "lora.train",
            self.lora.train,
            "[llm]: stage 1 runs the decoder only",
        )


@dataclass
class Stage2Config:
    run: RunConfig = field(default_factory=RunConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    lora: LoraSettings = field(default_factory=LoraSettings)
    inputs: InputConfig = field(default_factory=InputConfig)
    data: PairData = field(default_factory=PairData)
    loss: HardNegativeLossConfig = field(default_factory=HardNegativeLossConfig)
    optim: OptimConfig = MISSING

    def __post_init__(self) -> None:
        require(bool(self.data.sources), "data.sources", "{}", "at least one subset")


@dataclass
class EvalData:
    """A folder or hub repository in MMEB-eval's layout."""

    root: str = MISSING
    revision: str | None = None
    split: str = "test"
    image_root: str | None = None  # None: below root or root/eval_images (a local folder)
    suite: str = MISSING  # YAML: task -> meta_task, distribution (configs/suites/)
    tasks: list[str] | None = None  # a selection; None: all of the suite
    limit: int | None = None  # first queries of each task; recorded in the results

    def __post_init__(self) -> None:
        require(self.limit is None or self.limit > 0, "data.limit", self.limit, "positive or null")


@dataclass
class EvalConfig:
    output_dir: str = MISSING
    model: ModelConfig = field(default_factory=ModelConfig)
    inputs: InputConfig = field(default_factory=InputConfig)
    data: EvalData = field(default_factory=EvalData)
    batch_size: int = 64  # items encoded at a time on each process
    overwrite: bool = False  # False: a task whose result has the same settings is kept
    num_workers: int = 0

    def __post_init__(self) -> None:
        require(self.batch_size > 0, "batch_size", self.batch_size, "positive")


@dataclass
class ReportConfig:
    """Which results go into one table."""

    models: dict[str, str] = field(default_factory=dict)  # name -> output_dir of its evaluation
    suite: str = MISSING
    meta_tasks: list[str] | None = None  # only the tasks of these; None: all of the suite
    output: str = MISSING  # report.json
    bootstrap_samples: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        require(bool(self.models), "models", "{}", "at least one name: folder")


@dataclass
class TeacherConfig:
    """data_prep.teacher_embeddings: which teacher reads which texts."""

    name: str = MISSING  # a sentence-transformers model: hub id, local folder, or pypi:<module>
    revision: str | None = None
    prompt: str = ""  # put before every text (instruction-tuned teachers)
    texts: list[str] = MISSING
    columns: list[str] = field(default_factory=lambda: ["text"])
    output_dir: str = MISSING
    batch_size: int = 64
    trust_remote_code: bool = False


def require(condition: bool, key: str, value: object, expected: str) -> None:
    """Raise a ConfigError "key: value is not …" unless the condition holds."""
    if not condition:
        raise ConfigError(f"{key}: got {value!r}, expected {expected}")


def load_config(cls: type[T], argv: list[str] | None = None) -> T:
    """Parse ``--config FILE [key=value …]`` into `cls`; ``--print-config`` shows it and exits."""
    program = sys.modules["__main__"].__doc__
    parser = argparse.ArgumentParser(
        description=program, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument(
        "--print-config", action="store_true", help="show the resolved config and exit"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_args(argv)
    try:
        config = build_config(cls, args.config, args.overrides)
    except ConfigError as error:
        parser.exit(2, f"error: {error}\n")
    if args.print_config:
        print(OmegaConf.to_yaml(OmegaConf.structured(config)))
        parser.exit(0)
    return config


def build_config(cls: type[T], path: Path, overrides: list[str] | None = None) -> T:
    """Defaults of `cls`, then the YAML file `path`, then the overrides.

    Raises:
        ConfigError: unreadable file, unknown key, wrong type, missing value, or values that
            don't go together.
    """
    try:
        loaded = OmegaConf.load(path)
    except (OSError, YAMLError) as error:
        raise ConfigError(f"{path}: {error}") from None
    if not isinstance(loaded, DictConfig):
        raise ConfigError(f"{path}: expected a mapping of settings")
    for word in overrides or []:
        if "=" not in word:
            raise ConfigError(f"command line: expected key=value, got {word!r}")
    schema = OmegaConf.structured(cls)
    merged = _merge(schema, loaded, str(path), cls)
    merged = _merge(merged, OmegaConf.from_dotlist(list(overrides or [])), "command line", cls)
    try:
        missing = sorted(OmegaConf.missing_keys(merged))
        if missing:
            raise ConfigError(f"no value for {', '.join(missing)}")
        return OmegaConf.to_object(merged)  # type: ignore[return-value]  # runs every __post_init__
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except OmegaConfBaseException as error:  # ${…} that leads nowhere
        reason = str(error.msg or error).splitlines()[0]
        raise ConfigError(f"{path}: {error.full_key}: {reason}") from None


def _merge(base: Any, update: Any, source: str, cls: type) -> Any:
    try:
        return OmegaConf.merge(base, update)
    except (ConfigKeyError, ConfigAttributeError) as error:
        key = str(error.full_key)
        valid = config_keys(cls)
        near = difflib.get_close_matches(key, valid, n=1, cutoff=0.0)
        hint = f"; the nearest valid key is '{near[0]}'" if near else ""
        raise ConfigError(f"{source}: unknown key '{key}'{hint}") from None
    except OmegaConfBaseException as error:
        reason = str(error.msg or error).splitlines()[0]
        raise ConfigError(f"{source}: {_refused_key(base, update)}: {reason}") from None


def _refused_key(base: Any, update: Any) -> str:
    """The dotted key whose value does not merge; OmegaConf names only those of plain values."""
    for key in update:
        try:
            OmegaConf.merge(base, OmegaConf.create({key: update._get_node(key)}))
        except OmegaConfBaseException:
            inner = update._get_node(key)
            if isinstance(inner, DictConfig) and isinstance(base._get_node(key), DictConfig):
                return f"{key}.{_refused_key(base[key], inner)}"
            return str(key)
    return ""


def config_keys(cls: type, prefix: str = "") -> list[str]:
    """Every dotted key of a config class (mappings with free keys appear as their own name)."""
    from typing import get_type_hints

    hints = get_type_hints(cls)
    keys: list[str] = []
    for entry in fields(cls):
        name = f"{prefix}{entry.name}"
        keys.append(name)
        if is_dataclass(hints[entry.name]):
            keys += config_keys(hints[entry.name], f"{name}.")  # type: ignore[arg-type]
    return keys


def dump_config(config: object) -> str:
    """The resolved configuration as YAML."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))
