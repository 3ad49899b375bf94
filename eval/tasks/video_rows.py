"""What the formats of MMEB-V2's video tasks share: rows, and frames that were saved before.

Facts from TIGER-AI-Lab/VLM2Vec (main, January 2026): experiments/public/eval/video.yaml says where
frames lie, src/data/eval_dataset/*.py what a row becomes, src/constant/dataset_hf_path.py where
rows come from. Videos are their saved frames; nothing is decoded here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import PurePosixPath
from typing import Any, ClassVar

from eval.tasks.base import EvalTask, Instructed
from eval.tasks.sources import EvalSource
from unime.data.rows import Row
from unime.errors import ConfigError, DataError, require
from unime.runtime.progress import progress_bar


@dataclass(frozen=True)
class VideoRows(Instructed):
    """Where the rows and the frames of a task are; a format says what it asks of a row.

    Attributes:
        subsets: several subsets are one task, in this order; None: only `subset`.
        first: only so many rows are the task, as published.
        frames: where a video's frames lie below ``data.image_root`` (or ``data.root``); the first
            folder that is there is taken. ``{video}`` is the row's value, ``{stem}`` its file name
            without the ending.
        columns: the settings that name columns, one or several.
        whole: all rows are read, whatever ``data.limit`` says.
    """

    columns: ClassVar[tuple[str, ...]]
    whole: ClassVar[bool] = False
    repository: str | None = None
    revision: str | None = None
    subset: str | None = None
    subsets: list[str] | None = None
    split: str = "test"
    first: int | None = None
    video: str = "video_id"  # column
    frames: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.subset is not None and self.subsets:
            raise ConfigError("subset and subsets: expected one of the two")
        some = self.first is None or self.first > 0
        require(some, "first", self.first, "1 or more, or null")
        require(bool(self.frames), "frames", self.frames, "the folder of a video's frames")
        for template in self.frames:
            check_template("frames", template, ("video", "stem", "subset"))

    def start(self, task: EvalTask) -> None:
        """Put those targets into the task that are there before any row."""

    def ask(self, row: Row, videos: Videos, task: EvalTask) -> None:
        """Put a row into the task. Whole numbers are their digits (NExTQA's videos and answers)."""
        raise NotImplementedError

    def read(self, name: str, source: EvalSource) -> EvalTask:
        task, parts = EvalTask(name), []
        self.start(task)
        named = [getattr(self, setting) or [] for setting in self.columns]
        columns = dict.fromkeys(chain(*([one] if isinstance(one, str) else one for one in named)))
        subsets: list[str | None] = [*self.subsets] if self.subsets else [self.subset]
        for subset in subsets:
            table = source.rows(self.repository, subset, self.split, self.revision, tuple(columns))
            count = min(len(table), self.first or len(table))
            parts.append((table.read(range(count)), Videos(source, self.frames, subset)))
            task.num_rows += count
        limit = None if self.whole else source.data.limit
        count = min(task.num_rows, limit or task.num_rows)
        rows = islice(((row, videos) for part, videos in parts for row in part), count)
        for row, videos in progress_bar(rows, total=count, desc=f"reading {name}", unit="row"):
            cells = {column: _digits(value) for column, value in row.values.items()}
            self.ask(Row(cells, row.where), videos, task)
        return task


def _digits(value: Any) -> Any:
    if isinstance(value, list):
        return [_digits(entry) for entry in value]
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def check_template(key: str, template: str, names: tuple[str, ...]) -> None:
    """Refuse a template that asks for something else than these.

    Raises:
        ConfigError: it does, or it is no template.
    """
    try:
        template.format(**dict.fromkeys(names, ""))
    except (ValueError, KeyError, IndexError, AttributeError) as error:
        expected = f"expected a text with {{{'}, {'.join(names)}}}"
        raise ConfigError(f"{key}: got {template!r}, {expected}: {error}") from None


@dataclass(frozen=True)
class Videos:
    """Finds the frames of a subset's videos, of each once."""

    source: EvalSource
    templates: list[str]
    subset: str | None
    _found: dict[tuple[str, ...], tuple[str, ...]] = field(default_factory=dict)

    def places(self, video: str) -> tuple[str, ...]:
        """The folders in which this video's frames may lie."""
        values = {"video": video, "stem": PurePosixPath(video).stem, "subset": self.subset or ""}
        return tuple(template.format(**values) for template in self.templates)

    def folder(self, places: tuple[str, ...], row: Row, column: str) -> str:
        """The first of these folders that is there.

        Raises:
            DataError: none is; names the row, the column and the folders.
        """
        images, problems = self.source.images(), []
        for place in places:
            try:
                images.find_folder(place)
                return place
            except DataError as error:
                problems.append(str(error))
        raise row.error("; ".join(problems), column)

    def frames(self, video: str, row: Row, column: str) -> tuple[str, ...]:
        """All frames of a video that this cell names."""
        return self.frames_in(self.places(video), row, column)

    def frames_in(self, places: tuple[str, ...], row: Row, column: str) -> tuple[str, ...]:
        """All frames in the first of these folders that is there, in natural order; the encoder
        takes some of them.

        Raises:
            DataError: no such folder, or no frames in it.
        """
        if places not in self._found:
            folder = self.folder(places, row, column)
            with row.naming(column):
                self._found[places] = self.source.frames(folder)
        return self._found[places]
