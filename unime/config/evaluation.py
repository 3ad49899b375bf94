"""Settings of the evaluation and the report."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from unime.config.data import FOLLOW_LINKS
from unime.config.model import InputConfig, ModelConfig
from unime.config.settings import FilePath, NotEmpty, NotNegative, Positive, Settings, setting
from unime.errors import require
from unime.runtime.names import LONGEST_NAME, is_name

STORE = "embeddings"  # the folder of stores in output_dir


@dataclass
class EvalData(Settings, section="data"):
    """Where the rows and pictures of the tasks are (eval/tasks/sources.py)."""

    root: FilePath | None = setting(
        None,
        "a folder (or hub repository) in MMEB-eval's layout, or one that holds the repositories "
        "which the suite names, as org/name; null: those come from the hub",
    )
    revision: str | None = setting(None, "of root on the hub")
    image_root: FilePath | None = setting(
        None, "null: below root, or where the format has them (root/eval_images)"
    )
    follow_links: bool = setting(False, FOLLOW_LINKS)
    cache: FilePath = setting("data/cache", "pictures inside of tables are written here")
    suite: FilePath = setting(MISSING, "YAML: task -> meta_task, distribution, … (configs/suites/)")
    tasks: NotEmpty[list[str]] | None = setting(None, "a selection; null: all of the suite")
    limit: Positive[int] | None = setting(None, "first queries of each task; null: all")


class EncoderKind(Enum):
    """What is evaluated: a model of ours, or a baseline."""

    unime = "unime"
    dual_encoder = "dual_encoder"  # CLIP, SigLIP, … (unime/retrieval/dual_encoder.py)
    sentence_transformers = "sentence_transformers"  # (unime/retrieval/sentence_encoder.py)


@dataclass
class EmbeddingConfig(Settings):
    """A model, and how items are embedded by it into a store."""

    output_dir: FilePath = setting(MISSING, "where the results are written")
    encoder: EncoderKind = setting(EncoderKind.unime, "a model of ours, or a baseline")
    model: ModelConfig = field(default_factory=ModelConfig)
    prompt_name: str | None = setting(None, "of a sentence-transformers model; null: its own")
    inputs: InputConfig = field(default_factory=InputConfig)
    batch_size: Positive[int] = setting(64, "items encoded at a time on each process")
    num_workers: NotNegative[int] = setting(0, "processes that read and preprocess")
    store: FilePath | None = setting(None, "of embeddings, can be shared; null: in output_dir")
    ray: str | None = setting(
        None, "local, or a Ray cluster's address: embed on its processes (extra ray); null: here"
    )

    @property
    def stores(self) -> Path:
        """Where the stores of embeddings are."""
        return Path(self.store or Path(self.output_dir) / STORE)

    def __post_init__(self) -> None:
        super().__post_init__()
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
class EvalConfig(EmbeddingConfig):
    """One model on a suite of tasks (eval.evaluate)."""

    data: EvalData = field(default_factory=EvalData)
    overwrite: bool = setting(False, "false: a result of the same settings is kept")
    dimensions: NotEmpty[list[Positive[int]]] | None = setting(
        None,
        "such as [64, 128]: every task is scored by so many first coordinates, normalised again, "
        "as well, from the same embeddings; the whole vector stays the score; null: it alone",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = self.dimensions or []
        require(len(set(sizes)) == len(sizes), "dimensions", sizes, "different sizes")


@dataclass
class ReportConfig(Settings):
    """Which results go into one table."""

    models: NotEmpty[dict[str, FilePath]] = setting({}, "name -> its results' folder")
    suite: FilePath = setting(MISSING, "as of the evaluations")
    meta_tasks: NotEmpty[list[str]] | None = setting(None, "their tasks only; null: all")
    output: FilePath = setting(MISSING, "report.json; report.md is written beside it")
    baseline: str | None = setting(None, "one of models, which others are compared to")
    published: bool = setting(True, "rows of papers and leaderboards, if of this suite")
    published_rows: list[str] | None = setting(None, "names in published.yaml; null: all of them")
    html: FilePath | None = setting(None, "the page")
    figures: FilePath | None = setting(
        None, "a folder of figures that the page shows, as ./launch.sh study draws them; null: none"
    )
    leaderboard: dict[str, dict[str, Any]] = setting(
        {},
        "name -> model_name, model_backbone, model_size, url, …: writes <model_name>.json for "
        "MMEB's leaderboard beside the report",
    )
    bootstrap_samples: Positive[int] = setting(2000, "that intervals are computed from")
    seed: NotNegative[int] = setting(0, "of the bootstrap")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.models:
            is_right = 0 < len(name) <= LONGEST_NAME and name.isprintable() and "|" not in name
            is_right = is_right and not name.startswith(("/", "~"))
            expected = f"a name of {LONGEST_NAME} characters at most, no path and without |"
            require(is_right, "models", name, expected)
        names = f"one of models: {', '.join(self.models)}"
        require(self.baseline in (None, *self.models), "baseline", self.baseline, names)
        for name, metadata in self.leaderboard.items():
            require(name in self.models, "leaderboard", name, names)
            written = str(metadata.get("model_name", ""))
            require(is_name(written), f"leaderboard.{name}", written, "a file's name in model_name")
        self._refuse_equal_paths()

    def leaderboard_file(self, name: str) -> Path:
        """What is written for MMEB's leaderboard of one of the models, beside the report."""
        return Path(self.output).with_name(f"{self.leaderboard[name]['model_name']}.json")

    def written(self) -> dict[str, Path]:
        """Every file that is written, by the setting that names it."""
        output = Path(self.output)
        written = {"output": output, "output, as Markdown": output.with_suffix(".md")}
        written |= {} if self.html is None else {"html": Path(self.html)}
        return written | {f"leaderboard.{n}": self.leaderboard_file(n) for n in self.leaderboard}

    def _refuse_equal_paths(self) -> None:
        """No file of the report takes the place of another."""
        if self.output == MISSING:
            return
        is_json = Path(self.output).suffix == ".json"
        require(is_json, "output", self.output, "a name that ends in .json")
        taken: dict[str, str] = {}
        for key, path in self.written().items():
            other = taken.setdefault(os.path.abspath(path), key)
            require(other == key, key, str(path), f"another file than that of {other}")
