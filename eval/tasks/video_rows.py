"""What the formats of MMEB-V2's video tasks share: rows, and frames that were saved before.

Facts from TIGER-AI-Lab/VLM2Vec (main, January 2026): experiments/public/eval/video.yaml says where
frames lie, src/data/eval_dataset/*.py what a row becomes, src/constant/dataset_hf_path.py where
rows come from. Videos are their saved frames; nothing is decoded here.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

from eval.tasks.base import Instructed
from eval.tasks.sources import EvalSource
from unime.data.rows import Row
from unime.errors import ConfigError, DataError, require
from unime.runtime.progress import progress_bar


@dataclass(frozen=True)
class VideoRows(Instructed):
    """Where the rows and the frames of a task are.

    Attributes:
        first: only so many rows are the task, as published.
        frames: where a video's frames lie below ``data.image_root`` (or ``data.root``); the first
            folder that is there is taken. ``{video}`` is the row's value, ``{stem}`` its file name
            without the ending.
    """

    repository: str | None = None
    revision: str | None = None
    subset: str | None = None
    split: str = "test"
    first: int | None = None
    video: str = "video_id"  # column
    frames: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        some = self.first is None or self.first > 0
        require(some, "first", self.first, "1 or more, or null")
        require(bool(self.frames), "frames", self.frames, "the folder of a video's frames")
        for template in self.frames:
            check_template("frames", template, ("video", "stem", "subset"))

    def rows(
        self,
        title: str,
        source: EvalSource,
        columns: Iterable[str],
        subsets: list[str] | None = None,
        whole: bool = False,
    ) -> tuple[int, Iterator[tuple[Row, str | None]]]:
        """How many rows the task has, and those to be read, with the name of their subset. Whole
        numbers are their digits (NExTQA's videos and answers).

        Args:
            whole: all rows, whatever ``data.limit`` says.
        """
        names: list[str | None] = [*subsets] if subsets else [self.subset]
        tables = [
            source.rows(self.repository, subset, self.split, self.revision, tuple(columns))
            for subset in names
        ]
        counts = [min(len(table), self.first or len(table)) for table in tables]
        rows = (
            (Row({column: _digits(value) for column, value in row.values.items()}, row.where), name)
            for table, count, name in zip(tables, counts, names, strict=True)
            for row in table.read(range(count))
        )
        total = sum(counts)
        read = total if whole else min(total, source.data.limit or total)
        bar = progress_bar(islice(rows, read), total=read, desc=f"reading {title}", unit="row")
        return total, iter(bar)

    def places(self, video: str, subset: str | None = None) -> tuple[str, ...]:
        """The folders in which this video's frames may lie."""
        values = {"video": video, "stem": PurePosixPath(video).stem, "subset": subset or ""}
        return tuple(template.format(**values) for template in self.frames)


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
        used = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise ConfigError(f"{key}: {template!r}: {error}") from None
    for name in used:
        if name not in names:
            raise ConfigError(f"{key}: {template!r}: {{{name}}} is not one of {', '.join(names)}")


@dataclass(frozen=True)
class FrameFinder:
    """Finds each video's frames once."""

    source: EvalSource
    _found: dict[tuple[str, ...], tuple[str, ...]] = field(default_factory=dict)

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

    def frames(self, places: tuple[str, ...], row: Row, column: str) -> tuple[str, ...]:
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
