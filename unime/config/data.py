"""Settings of what is trained on: data, and the teacher's program."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING

from unime.config.values import FilePath
from unime.errors import require


class Mixing(Enum):
    """How rows of several datasets share batches."""

    single_task = "single_task"
    mixed = "mixed"


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
