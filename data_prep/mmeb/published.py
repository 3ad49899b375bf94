"""What is published of MMEB: its subsets, its tasks, how many rows they have.

Names and rows: TIGER-AI-Lab/VLM2Vec, branch v1 (figures/dataset.png), and the training log in its
issue 130, which has some of them exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

ABOUT = 500  # rows by which a number that is published in thousands may be another
EVAL_ROWS = 1000  # of each task


@dataclass(frozen=True)
class Rows:
    """How many rows a subset has: exactly, or as published, in thousands."""

    count: int
    is_exact: bool = False

    def fits(self, found: int) -> bool:
        return abs(found - self.count) <= (0 if self.is_exact else ABOUT)

    def __str__(self) -> str:
        return f"{self.count:,}" if self.is_exact else f"about {self.count:,}"


TRAIN_ROWS = {
    "ImageNet_1K": Rows(100_000, True),
    "N24News": Rows(48_988, True),
    "HatefulMemes": Rows(8_500, True),
    "VOC2007": Rows(7_844, True),
    "SUN397": Rows(19_850, True),
    "OK-VQA": Rows(9_009, True),
    "A-OKVQA": Rows(17_056, True),
    "DocVQA": Rows(40_000),
    "InfographicsVQA": Rows(24_000),
    "ChartQA": Rows(28_000),
    "Visual7W": Rows(70_000),
    "VisDial": Rows(123_000),
    "CIRR": Rows(26_000),
    "VisualNews_t2i": Rows(100_000),
    "VisualNews_i2t": Rows(100_000),
    "MSCOCO_t2i": Rows(100_000),
    "MSCOCO_i2t": Rows(113_000),
    "NIGHTS": Rows(16_000),
    "WebQA": Rows(17_000),
    "MSCOCO": Rows(100_000),
}
# Tasks that nothing is trained for, and what old revisions of the train set hold beside its own.
OUT_OF_DOMAIN = (
    *("Place365", "ImageNet-A", "ImageNet-R", "ObjectNet", "Country211"),
    *("ScienceQA", "VizWiz", "GQA", "TextVQA"),
    *("FashionIQ", "Wiki-SS-NQ", "OVEN", "EDIS"),
    *("RefCOCO", "RefCOCO-Matching", "Visual7W-Pointing", "CIFAR_100"),
)
EVAL_TASKS = (
    "ImageNet-1K",
    *(name for name in TRAIN_ROWS if name != "ImageNet_1K"),
    *(name for name in OUT_OF_DOMAIN if name != "CIFAR_100"),
)
