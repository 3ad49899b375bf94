"""Every setting of the stages, teacher, evaluation and report, as typed dataclasses, from top to
bottom as a run is described.

    load_config(Stage2Config, ["--config", "configs/demo/stage2.yaml", "loss.temperature=0.03"])

Defaults here, then the YAML file, then ``key=value`` words. Unknown keys, wrong types and
impossible combinations are a :class:`ConfigError` that names the key (and the nearest valid one)
before anything is loaded. What runs *where* (GPUs, ZeRO) is accelerate's configuration, not ours.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from unime.config_file import build_config, dump_config, load_config  # noqa: F401 (what programs need of it, in one place)
from unime.errors import ConfigError, require
from unime.inputs.presets import preset_named
from unime.resolution import Resolution
from unime.setting_values import FilePath


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


PARTS = ("llm", "projector", "vision")  # what `lora.train` may name
TRACKERS = ("tensorboard", "wandb")  # beside metrics.jsonl, which is always written


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

    prompt: str | None = None  # a preset of unime/prompts.py; unime
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


INPUT_DEFAULTS: dict[str, Any] = {
    "prompt": "unime",
    "max_text_tokens": 512,
    "resolution": "native",
    "max_tiles": 0,
    "num_frames": 8,
}


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
    checkpoint is kept and named (unime/validation.py)."""

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
class TextData:
    """Stage 1's texts and the teacher's embeddings of them (data_prep.teacher_embeddings)."""

    texts: list[FilePath] = MISSING  # .jsonl, .csv or .parquet files
    columns: list[str] = field(
        default_factory=lambda: ["text"]
    )  # every column's texts join the pool
    rows_together: bool = False  # a row's texts share a batch, which so holds related texts
    teacher: FilePath = MISSING  # folder of the teacher store
    limit: int | None = None

    def __post_init__(self) -> None:
        require(self.limit is None or self.limit > 0, "data.limit", self.limit, "positive or null")
        together = not self.rows_together or len(self.columns) > 1
        require(together, "data.rows_together", True, "false with one of data.columns")


@dataclass
class PairSource:
    """One MMEB-train subset: how many of its rows, and how often it is drawn."""

    rows: int | None = None  # None: all
    sample: str = "first"  # first (as every published recipe) or random (seeded)
    weight: float = 1.0  # rows are repeated or thinned by this factor in each epoch

    def check(self, key: str) -> None:
        """Of the source at `key` ("data.sources.MSCOCO"), which it does not know itself."""
        rows, sample = self.rows, self.sample
        require(rows is None or rows > 0, f"{key}.rows", rows, "positive or null")
        require(sample in ("first", "random"), f"{key}.sample", sample, "first or random")
        require(self.weight > 0, f"{key}.weight", self.weight, "positive")


@dataclass
class PairData:
    """Stage 2's rows: a folder or hub repository in MMEB-train's layout."""

    root: FilePath = MISSING
    revision: str | None = None
    split: str = "original"
    image_root: FilePath | None = None  # where the images are; None: below root (a local folder)
    sources: dict[str, PairSource] = field(default_factory=dict)  # subset name -> settings
    mixing: Mixing = Mixing.single_task
    on_bad_row: str = "raise"  # raise, or drop (counted and listed)
    # Read every image before training, and have the processor look at its size, so that what it
    # refuses or what is too long for the model is a bad row; for a million images that is a full
    # read of them on every rank: false once it has passed.
    verify_images: bool = True

    def __post_init__(self) -> None:
        require(
            self.on_bad_row in ("raise", "drop"),
            "data.on_bad_row",
            self.on_bad_row,
            "raise or drop",
        )
        for name, source in self.sources.items():
            source.check(f"data.sources.{name}")


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
        _check_precision(self.model)


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
        _check_precision(self.model)


def _check_precision(model: ModelConfig) -> None:
    trainable = model.precision is not Precision.float16
    expected = "bfloat16 or float32 to train: float16 would need its loss scaled"
    require(trainable, "model.precision", model.precision.value, expected)


@dataclass
class EvalData:
    """Where the rows and pictures of the tasks are (eval/sources.py)."""

    root: FilePath | None = None  # a folder (or hub repository) in MMEB-eval's layout, or one that
    # holds the repositories which the suite names, as org/name; null: those come from the hub
    revision: str | None = None  # of root on the hub
    image_root: FilePath | None = None  # None: below root or root/eval_images (a local folder)
    cache: FilePath = "data/cache"  # pictures that are inside of tables are written here
    suite: FilePath = MISSING  # YAML: task -> meta_task, distribution, … (configs/suites/)
    tasks: list[str] | None = None  # a selection; None: all of the suite
    limit: int | None = None  # first queries of each task; recorded in the results

    def __post_init__(self) -> None:
        require(self.tasks != [], "data.tasks", self.tasks, "at least one task, or null")
        require(self.limit is None or self.limit > 0, "data.limit", self.limit, "positive or null")


class EncoderKind(Enum):
    """What is evaluated: a model of ours, or a baseline."""

    unime = "unime"
    dual_encoder = "dual_encoder"  # CLIP, SigLIP, … (unime/dual_encoder.py)
    sentence_transformers = "sentence_transformers"  # (unime/sentence_encoder.py)


@dataclass
class EvalConfig:
    output_dir: FilePath = MISSING
    encoder: EncoderKind = EncoderKind.unime
    model: ModelConfig = field(default_factory=ModelConfig)
    prompt_name: str | None = None  # of a sentence-transformers model's own; null: its default
    inputs: InputConfig = field(default_factory=InputConfig)
    data: EvalData = field(default_factory=EvalData)
    batch_size: int = 64  # items encoded at a time on each process
    overwrite: bool = False  # False: a task whose result has the same settings is kept
    num_workers: int = 0
    store: FilePath | None = None  # of embeddings; several evaluations may share it. null: in
    # output_dir

    def __post_init__(self) -> None:
        require(self.batch_size > 0, "batch_size", self.batch_size, "positive")
        require(self.num_workers >= 0, "num_workers", self.num_workers, "0 or more")
        named = self.prompt_name is None or self.encoder is EncoderKind.sentence_transformers
        expected = "null unless encoder is sentence_transformers"
        require(named, "prompt_name", self.prompt_name, expected)
        if self.encoder is not EncoderKind.unime:
            self._check_baseline()

    def _check_baseline(self) -> None:
        """Refuse settings that a baseline would not heed."""
        without = f"for encoder {self.encoder.value}"
        quantization = self.model.quantization.value
        require(quantization == "none", "model.quantization", quantization, f"none {without}")
        for key in ("adapter", "processor", "pickled_adapter", "merge_adapter"):
            value = getattr(self.model, key)
            require(not value, f"model.{key}", value, f"none {without}")
        for key in ("prompt", "max_tiles"):
            value = getattr(self.inputs, key)
            require(value is None, f"inputs.{key}", value, f"null {without}")


@dataclass
class ReportConfig:
    """Which results go into one table."""

    models: dict[str, FilePath] = field(default_factory=dict)  # name -> its results' folder
    suite: FilePath = MISSING
    meta_tasks: list[str] | None = None  # only the tasks of these; None: all of the suite
    output: FilePath = MISSING  # report.json; report.md is written beside it
    baseline: str | None = None  # one of models: the others are compared to it, query by query
    published: bool = True  # rows of papers and leaderboards, if the suite is their benchmark
    published_rows: list[str] | None = None  # names in eval/published.yaml; None: all of them
    html: FilePath | None = None  # the page
    # name -> model_name, model_backbone, model_size, url, …: writes <model_name>.json for MMEB's
    # leaderboard beside the report
    leaderboard: dict[str, dict[str, Any]] = field(default_factory=dict)
    bootstrap_samples: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        require(bool(self.models), "models", "{}", "at least one name: folder")
        require(self.meta_tasks != [], "meta_tasks", self.meta_tasks, "at least one, or null")
        names = f"one of models: {', '.join(self.models)}"
        require(self.baseline in (None, *self.models), "baseline", self.baseline, names)
        for name, metadata in self.leaderboard.items():
            require(name in self.models, "leaderboard", name, names)
            written = str(metadata.get("model_name", ""))
            expected = "a file's name in model_name"
            require(bool(written) and "/" not in written, f"leaderboard.{name}", written, expected)
        samples = self.bootstrap_samples
        require(samples > 0, "bootstrap_samples", samples, "positive")
        require(self.seed >= 0, "seed", self.seed, "0 or more")
        self._refuse_equal_paths()

    def leaderboard_file(self, name: str) -> Path:
        """What is written for MMEB's leaderboard of one of the models, beside the report."""
        return Path(self.output).with_name(f"{self.leaderboard[name]['model_name']}.json")

    def _refuse_equal_paths(self) -> None:
        """No file of the report takes the place of another."""
        if self.output == MISSING:
            return
        output = Path(self.output)
        require(output.suffix == ".json", "output", self.output, "a name that ends in .json")
        written = {"output": output, "output, as Markdown": output.with_suffix(".md")}
        written |= {} if self.html is None else {"html": Path(self.html)}
        written |= {f"leaderboard.{name}": self.leaderboard_file(name) for name in self.leaderboard}
        taken: dict[str, str] = {}
        for key, path in written.items():
            other = taken.setdefault(os.path.abspath(path), key)
            require(other == key, key, str(path), f"another file than that of {other}")


class ExportForm(Enum):
    merged = "merged"  # a model of its own
    adapter = "adapter"  # one LoRA adapter for peft


@dataclass
class ExportConfig:
    """Which run becomes which folder (stages.export)."""

    run: FilePath = MISSING  # run.output_dir of a stage, or a folder of adapters
    output_dir: FilePath = MISSING
    form: ExportForm = ExportForm.merged
    base: FilePath | None = None  # where the base model is, if not where the run found it
    precision: Precision | None = None  # of the merged weights; null: as the run computed
    trust_remote_code: bool = False  # of the base model
    code: bool = True  # carry the code that reads pictures as training did (trust_remote_code)
    max_shard_size: str = "5GB"
    report: FilePath | None = None  # report.json of an evaluation, for the model card
    name: str | None = None  # on the model card; null: the folder's
    license: str | None = None  # on the model card; that of the base model binds what is made of it
    push_to_hub: str | None = None  # repository to upload to
    private: bool = True  # that repository, if it does not exist
    dry_run: bool = False  # say what would be uploaded


@dataclass
class TeacherConfig:
    """data_prep.teacher_embeddings: which teacher reads which texts."""

    name: FilePath = MISSING  # a sentence-transformers model: hub id, folder or pypi:<module>
    revision: str | None = None
    prompt: str = ""  # put before every text (instruction-tuned teachers)
    max_text_tokens: int | None = None  # longer texts are cut (and listed), prompt and special
    # tokens count; null: as the model does, which may read more
    texts: list[FilePath] = MISSING
    columns: list[str] = field(default_factory=lambda: ["text"])
    output_dir: FilePath = MISSING
    batch_size: int = 64
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        require(self.batch_size > 0, "batch_size", self.batch_size, "positive")
        limit = self.max_text_tokens
        require(limit is None or limit > 0, "max_text_tokens", limit, "positive or null")


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
    gpu: str = "a100-80g"  # a name in unime/gpus.py, or custom
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
