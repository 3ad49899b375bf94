"""MMEB-V2's video classification: a video, and the names of the classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from eval.tasks.base import EvalTask, Relevance, Targets, each_once
from eval.tasks.sources import EvalSource
from eval.tasks.video_rows import (
    FrameFinder,
    VideoRows,
    count_rows,
    read_rows,
    read_text,
    read_texts,
)
from unime.errors import ConfigError, DataError
from unime.inputs.items import Item

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class VideoClassification(VideoRows):
    """A row is a video and its class.

    It is searched among all classes, those of the file `labels` in its order, or among those that
    the row lists itself in the column `candidates`.
    """

    label: str = "pos_text"  # column
    labels: str | None = None  # a file, one class a line, below the repository or absolute
    candidates: str | None = None  # column
    query_instruction: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.labels is None) == (self.candidates is None):
            raise ConfigError("labels and candidates: expected one of the two")

    def read(self, name: str, source: EvalSource) -> EvalTask:
        columns = [self.video, self.label, *([self.candidates] if self.candidates else [])]
        tables = self.tables(source, tuple(columns))
        finder, targets = FrameFinder(source), Targets()
        labels = read_labels(self.labels) if self.labels else []
        classes = [targets.place(label, Item(label)) for label in labels]
        queries: list[Item] = []
        relevance: list[Relevance] = []
        candidates: list[list[int]] = []
        for row, where, _ in read_rows(tables, source.data.limit, name):
            places = self.places(read_text(row, self.video, where))
            video = finder.frames(places, where, self.video)
            queries.append(self.item(self.query_instruction, video=video))
            label = read_text(row, self.label, where)
            own = classes
            if self.candidates:
                listed = read_texts(row, self.candidates, where)
                own = each_once(targets.place(text, Item(text)) for text in listed)
                candidates.append(own)
            right = targets.place(label, Item(label))
            if right not in own:
                among = f"column {self.candidates!r}" if self.candidates else self.labels
                raise DataError(
                    f"{where}, column {self.label!r}: {label!r} is not among the {len(own)}"
                    f" classes of {among}"
                )
            relevance.append({right: 1.0})
        own_lists = candidates if self.candidates else None
        return targets.task(name, count_rows(tables), queries, relevance, own_lists)


def read_labels(file: str) -> list[str]:
    """The lines of a file of classes.

    Raises:
        DataError: unreadable, no line, or a class that comes twice.
    """
    path = ROOT / file
    try:
        labels = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"labels: {path}: cannot read it: {error}") from None
    twice = {label for label in labels if labels.count(label) > 1}
    if not labels or twice:
        raise DataError(f"labels: {path}: {'twice: ' + ', '.join(twice) if twice else 'empty'}")
    return labels
