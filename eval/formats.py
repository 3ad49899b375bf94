"""The formats in which tasks come: what a suite's ``format`` names, and the settings that it takes.

A format is a dataclass: its fields are what a task's entry in a suite may set, its `read` makes the
task of it. Adding one is a class and a line here.
"""

from __future__ import annotations

from typing import Protocol

from eval.beir import Beir
from eval.caption_retrieval import CaptionedRows
from eval.long_captions import ShareGpt4v, Urban1k
from eval.mmeb_instruct import MmebInstructRows
from eval.mmeb_v1 import MmebRows
from eval.moment_retrieval import MomentRetrieval, MomentSeeker
from eval.sources import Source
from eval.sugarcrepe import SugarCrepe
from eval.task import EvalTask
from eval.video_classification import VideoClassification
from eval.video_qa import VideoQA
from eval.video_retrieval import VideoRetrieval


class Format(Protocol):
    def read(self, name: str, source: Source) -> EvalTask:
        """Read the task `name`.

        Raises:
            DataError: data that cannot be used; names file, row, column and value.
        """


FORMATS: dict[str, type] = {
    "mmeb": MmebRows,
    "mmeb_instruct": MmebInstructRows,
    "captioned_rows": CaptionedRows,
    "sharegpt4v": ShareGpt4v,
    "urban1k": Urban1k,
    "sugarcrepe": SugarCrepe,
    "video_classification": VideoClassification,
    "video_qa": VideoQA,
    "video_retrieval": VideoRetrieval,
    "moment_retrieval": MomentRetrieval,
    "moment_seeker": MomentSeeker,
    "beir": Beir,
}
