"""MMEB-V2's video classification: a video, and the names of the classes.

A row of ``VLM2Vec/SmthSmthV2``; of other sets without ``neg_text``, since all share their classes::

    {"video_id": "v1", "pos_text": "Closing something",
     "neg_text": ["Holding something", "Closing something"]}
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from eval.tasks.base import EvalTask
from eval.tasks.video_rows import VideoRows, Videos
from unime.data.rows import Row
from unime.errors import ConfigError, DataError
from unime.inputs.items import Item
from unime.runtime.files import read_text

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class VideoClassification(VideoRows):
    """A row is a video and its class.

    It is searched among all classes, those of the file `labels` in its order, or among those that
    the row lists itself in the column `candidates`.
    """

    columns: ClassVar = ("video", "label", "candidates")
    label: str = "pos_text"  # column
    labels: str | None = None  # a file, one class a line, below the repository or absolute
    candidates: str | None = None  # column
    query_instruction: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.labels is None) == (self.candidates is None):
            raise ConfigError("labels and candidates: expected one of the two")

    def start(self, task: EvalTask) -> None:
        for label in read_labels(self.labels) if self.labels else []:
            task.place(label, Item(label))

    def ask(self, row: Row, videos: Videos, task: EvalTask) -> None:
        video = videos.frames(row.text(self.video), row, self.video)
        label = row.text(self.label)
        listed = row.texts(self.candidates) if self.candidates else task.target_names
        own = [task.place(text, Item(text)) for text in listed]
        right = task.place(label, Item(label))
        if right not in own:
            among = f"column {self.candidates!r}" if self.candidates else self.labels
            problem = f"{label!r} is not among the {len(set(own))} classes of {among}"
            raise row.error(problem, self.label)
        query = self.item(self.query_instruction, video=video)
        task.ask(query, [right], own if self.candidates else None)


def read_labels(file: str) -> list[str]:
    """The lines of a file of classes.

    Raises:
        DataError: unreadable, no line, or a class that comes twice.
    """
    path = ROOT / file
    try:
        labels = [line for line in read_text(path).splitlines() if line.strip()]
    except DataError as error:
        raise DataError(f"labels: {error}") from None
    twice = [label for label, count in Counter(labels).items() if count > 1]
    if not labels or twice:
        raise DataError(f"labels: {path}: {'twice: ' + ', '.join(twice) if twice else 'empty'}")
    return labels
