"""Settings of `./launch.sh prepare mmeb`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from unime.config.settings import FilePath, NotEmpty, Positive, Seed, Settings, one_of, setting
from unime.errors import require

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
