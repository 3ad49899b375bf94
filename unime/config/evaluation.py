"""Settings of the evaluation and the report."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from unime.config.model import InputConfig, ModelConfig
from unime.config.values import FilePath
from unime.errors import require


@dataclass
class EvalData:
    """Where the rows and pictures of the tasks are (eval/tasks/sources.py)."""

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
    dual_encoder = "dual_encoder"  # CLIP, SigLIP, … (unime/retrieval/dual_encoder.py)
    sentence_transformers = "sentence_transformers"  # (unime/retrieval/sentence_encoder.py)


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
    published_rows: list[str] | None = None  # names in published.yaml; None: all of them
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
