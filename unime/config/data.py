"""Settings of what is trained on: data, and the teacher's program."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Annotated

from omegaconf import MISSING

from unime.config.settings import Bounds, FilePath, NotEmpty, Positive, Settings, one_of, setting
from unime.errors import require

FOLLOW_LINKS = (
    "whether links in root and image_root may lead out of them (the two themselves may be links, "
    "and those of the hub's cache are followed); true only where all links are yours"
)

MINE_EVERY = Bounds("epoch, or a number of steps", lambda every: is_period(str(every)))


def is_period(words: str) -> bool:
    return words == "epoch" or (words.isdecimal() and int(words) > 0)


class Mixing(Enum):
    """How rows of several datasets share batches."""

    single_task = "single_task"
    mixed = "mixed"


@dataclass
class TextData(Settings, section="data"):
    """Stage 1's texts and the teacher's embeddings of them (data_prep.teacher_embeddings)."""

    texts: list[FilePath] = setting(MISSING, ".jsonl, .csv or .parquet files")
    columns: list[str] = setting(["text"], "every column's texts join the pool")
    rows_together: bool = setting(False, "a row's texts share a batch, which so holds related ones")
    teacher: FilePath = setting(MISSING, "folder of the teacher store")
    limit: Positive[int] | None = setting(None, "stop after so many texts; null: all")

    def __post_init__(self) -> None:
        super().__post_init__()
        together = not self.rows_together or len(self.columns) > 1
        require(together, "data.rows_together", True, "false with one of data.columns")


@dataclass
class PairSource:
    """One MMEB-train subset: how many of its rows, and how often it is drawn."""

    rows: Positive[int] | None = setting(None, "so many of its rows; null: all")
    sample: Annotated[str, one_of("first", "random")] = setting(
        "first", "which rows; random: seeded"
    )
    weight: Positive[float] = setting(1.0, "rows are repeated or thinned by it in each epoch")


@dataclass
class PairData(Settings, section="data"):
    """Stage 2's rows: a prepared set, or a folder or hub repository in MMEB-train's layout."""

    root: FilePath = setting(MISSING, "the folder or repository")
    revision: str | None = setting(None, "of root on the hub")
    split: str | None = setting(
        None, "of every subset; null: original of MMEB-train's, train of a prepared set"
    )
    image_root: FilePath | None = setting(None, "of the images; null: below root")
    follow_links: bool = setting(False, FOLLOW_LINKS)
    sources: NotEmpty[dict[str, PairSource]] = setting(MISSING, "name of a subset -> its settings")
    mixing: Mixing = setting(Mixing.single_task, "whether a batch holds rows of one subset only")
    on_bad_row: Annotated[str, one_of("raise", "drop")] = setting(
        "raise", "dropped ones are listed"
    )
    mine_every: Annotated[int | str, MINE_EVERY] | None = setting(
        None,
        "mine negatives with the model as it is (section mining), at the first step and after each "
        "epoch, or so many steps; null: those that the rows have",
    )
    verify_images: bool = setting(
        True,
        "read every image before training, and have the processor look at its size, so that what "
        "it refuses or what is too long for the model is a bad row; what was read once is "
        "remembered (UNIME_CACHE) and costs nothing as long as it stays as it is",
    )


@dataclass
class TeacherConfig(Settings):
    """data_prep.teacher_embeddings: which teacher reads which texts."""

    name: FilePath = setting(MISSING, "of sentence-transformers: hub id, folder, pypi:<module>")
    revision: str | None = setting(None, "of the model on the hub")
    prompt: str = setting("", "put before every text (instruction-tuned teachers)")
    max_text_tokens: Positive[int] | None = setting(
        None,
        "longer texts are cut (and listed), prompt and special tokens count; null: as the model "
        "does, which may read more",
    )
    texts: list[FilePath] = setting(MISSING, ".jsonl, .csv or .parquet files")
    columns: list[str] = setting(["text"], "every column's texts are embedded")
    output_dir: FilePath = setting(MISSING, "folder of the teacher store")
    batch_size: Positive[int] = setting(64, "texts embedded at a time")
    trust_remote_code: bool = setting(False, "run the code that the model brings")
