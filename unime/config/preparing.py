"""Settings of `./launch.sh prepare own` and `prepare mmeb`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from omegaconf import MISSING

from unime.config.data import FOLLOW_LINKS
from unime.config.model import MAX_IMAGE_PIXELS
from unime.config.settings import (
    BelowOne,
    FilePath,
    NotEmpty,
    Positive,
    Seed,
    Settings,
    one_of,
    setting,
)
from unime.errors import require

# what a column of a table can be
COLUMN_PARTS = (
    *("image", "text", "query", "query_image", "query_text", "positive", "positive_image"),
    *("positive_text", "negative", "negative_image", "negative_text", "label", "instruction"),
    *("same_answer", "task", "group", "split", "id", "ignore"),
)


@dataclass
class OwnInputs(Settings, section="inputs"):
    """Of a model's inputs, those that decide which pictures can be used."""

    max_image_pixels: Positive[int] = setting(
        MAX_IMAGE_PIXELS, "larger files are bad rows; check and tune need the same"
    )


@dataclass
class OwnDataConfig(Settings):
    """Which data of anybody's become a prepared set (data_prep.own)."""

    path: FilePath = setting(MISSING, "a folder, a table, or whatever a reader takes")
    output_dir: FilePath = setting(MISSING, "the folder of the prepared set")
    reader: str | None = setting(
        None, "a name of data_prep.own.recognise.READERS; null: recognised"
    )
    columns: dict[str, Annotated[str, one_of(*COLUMN_PARTS)]] = setting(
        {}, "column of a table -> what it is; those that are not named are recognised"
    )
    captions: Annotated[str, one_of("sidecar", "class", "filename")] | None = setting(
        None, "where a folder of pictures has its captions"
    )
    directions: Annotated[str, one_of("t2i", "i2t", "both")] = setting(
        "both", "what is asked of pictures with captions: the picture, the caption, or each"
    )
    instruction: str | None = setting(
        None,
        "what kind of search it is, said with each query: a text, or one of MMEB's wordings "
        "(classification, vqa, t2i, i2t, i2i, grounding) with what belongs to the target; null: of "
        "pictures with captions that of their direction, else none",
    )
    target_instruction: str | None = setting(
        None, "said with each target; null: what belongs to the instruction"
    )
    held_out: BelowOne = setting(0.1, "share of the pairs that is the test split; 0: none")
    share_texts: bool | None = setting(
        None,
        "whether a text (a label, an answer) may be trained on and held out: only pictures, groups "
        "and queries of text are kept apart then; null: of class folders",
    )
    seed: Seed = setting(0, "of what is held out")
    image_root: FilePath | None = setting(None, "of the pictures; null: where the data lie")
    copy_images: bool = setting(
        False, "copy the pictures into the set; false: rows say where they lie"
    )
    follow_links: bool = setting(False, FOLLOW_LINKS)
    on_bad_row: Annotated[str, one_of("raise", "drop")] = setting(
        "raise", "all are listed in rejected.jsonl"
    )
    inputs: OwnInputs = field(default_factory=OwnInputs)
    dry_run: bool = setting(
        False, "say what was recognised and would be written, and write nothing"
    )


# The names of MMEB's training subsets. Old revisions of the repository hold tasks of the
# evaluation beside them.
TRAIN_SUBSETS = (
    *("ImageNet_1K", "N24News", "HatefulMemes", "VOC2007", "SUN397"),
    *("OK-VQA", "A-OKVQA", "DocVQA", "InfographicsVQA", "ChartQA", "Visual7W"),
    *("VisDial", "CIRR", "VisualNews_t2i", "VisualNews_i2t", "MSCOCO_t2i", "MSCOCO_i2t"),
    *("NIGHTS", "WebQA", "MSCOCO"),
)


@dataclass
class MmebConfig(Settings):
    """Which parts of MMEB are made ready, and where (data_prep.mmeb)."""

    train: bool = setting(True, "make the training sets ready")
    train_dir: FilePath = setting("data/MMEB-train", "their folder")
    train_source: FilePath = setting(
        "TIGER-Lab/MMEB-train", "a repository of the hub, or a folder that is laid out as it"
    )
    train_revision: str | None = setting(
        None, "of that repository; null: the newest, or what was begun with"
    )
    subsets: NotEmpty[list[Annotated[str, one_of(*TRAIN_SUBSETS)]]] = setting(
        [*TRAIN_SUBSETS], "training subsets"
    )
    split: Annotated[str, one_of("original", "diverse_instruction")] = setting(
        "original", "of each subset: the paper's rows, or the same with other wordings"
    )
    rows: Positive[int] | None = setting(
        50_000, "at most so many of each subset (the paper's: 662K pairs); null: all"
    )
    sample: Annotated[str, one_of("first", "random")] = setting(
        "first", "which rows; first: as the paper; random: by the seed"
    )
    seed: Seed = setting(0, "of sample=random")
    eval: bool = setting(True, "make the evaluation sets ready")
    eval_dir: FilePath = setting("data/MMEB-eval", "their folder")
    eval_source: FilePath = setting(
        "TIGER-Lab/MMEB-eval", "a repository of the hub, or a folder that is laid out as it"
    )
    eval_revision: str | None = setting(
        None, "of that repository; null: the newest, or what was begun with"
    )
    check_rows: bool = setting(True, "refuse a set whose number of rows is not the published one")
    keep_archives: bool = setting(
        True, "keep what was downloaded and unpacked; archives of a folder of yours always stay"
    )
    bandwidth: Positive[float] = setting(50.0, "MB/s of the network, for --dry-run's times")
    disk_speed: Positive[float] = setting(200.0, "MB/s of the disk, for --dry-run's times")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.train or self.eval, "train", False, "true, or eval=true")
