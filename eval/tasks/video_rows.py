"""What the formats of MMEB-V2's video tasks share: rows, frames that were saved before, texts.

Facts from TIGER-AI-Lab/VLM2Vec (main, January 2026): experiments/public/eval/video.yaml says where
frames lie, src/data/eval_dataset/*.py what a row becomes, src/constant/dataset_hf_path.py where
rows come from. Videos are their saved frames; nothing is decoded here.
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

from eval.tasks.sources import EvalSource
from unime.data.tables import Table, plain_rows
from unime.errors import ConfigError, DataError
from unime.inputs.items import Item
from unime.runtime.progress import progress_bar

Row = dict[str, Any]


@dataclass(frozen=True)
class VideoRows:
    """Where the rows and the frames of a task are, and where its instructions go.

    Attributes:
        first: only so many rows are the task, as published.
        frames: where a video's frames lie below ``data.image_root`` (or ``data.root``); the first
            folder that is there is taken. ``{video}`` is the row's value, ``{stem}`` its file name
            without the ending.
        instruction: "inline": before the text, as VLM2Vec has it; "apart": the item's instruction,
            which a prompt may put elsewhere.
    """

    repository: str | None = None
    revision: str | None = None
    subset: str | None = None
    split: str = "test"
    first: int | None = None
    video: str = "video_id"  # column
    frames: list[str] = field(default_factory=list)
    instruction: str = "inline"

    def __post_init__(self) -> None:
        if self.instruction not in ("inline", "apart"):
            raise ConfigError(f"instruction: got {self.instruction!r}, expected inline or apart")
        if self.first is not None and self.first < 1:
            raise ConfigError(f"first: got {self.first}, expected 1 or more, or null")
        if not self.frames:
            raise ConfigError("frames: none, expected the folder of a video's frames")
        for template in self.frames:
            check_template("frames", template, ("video", "stem", "subset"))

    def tables(
        self, source: EvalSource, columns: tuple[str, ...], subsets: list[str] | None = None
    ) -> list[tuple[str, Table]]:
        """The rows, by the name of their subset."""
        tables = []
        names: list[str | None] = [*subsets] if subsets else [self.subset]
        for subset in names:
            table = source.rows(self.repository, subset, self.split, self.revision, columns)
            count = min(len(table.rows), self.first or len(table.rows))
            tables.append((subset or "", replace(table, rows=table.rows.select(range(count)))))
        return tables

    def places(self, video: str, subset: str = "") -> tuple[str, ...]:
        """The folders in which this video's frames may lie."""
        values = {"video": video, "stem": PurePosixPath(video).stem, "subset": subset}
        return tuple(template.format(**values) for template in self.frames)

    def item(
        self,
        instruction: str | None,
        text: str = "",
        images: tuple[str, ...] = (),
        video: tuple[str, ...] = (),
    ) -> Item:
        """An item with its instruction: in one line before the text (VLM2Vec's
        src/model/processor.py, ``process_input_text``), or apart. The tokens of images and videos
        are the prompt's to add."""
        if instruction and self.instruction == "apart":
            return Item(text, images, video, instruction.strip())
        spacing = (" ", "") if images or video else None
        return Item(" ".join(filter(None, (instruction, text))), images, video, spacing=spacing)


def check_template(key: str, template: str, names: tuple[str, ...]) -> None:
    """Check that a template asks for these names only.

    Raises:
        ConfigError: it asks for something else than these.
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

    def folder(self, places: tuple[str, ...], where: str, column: str) -> str:
        """The first of these folders that is there.

        Raises:
            DataError: none is; names the row, the column and the folders.
        """
        images = self.source.images()
        for place in places:
            try:
                images.find_folder(place)
                return place
            except DataError as error:
                problem = error
        listed = " or ".join(map(repr, places))
        raise DataError(f"{where}, column {column!r}: frames in {listed}: {problem}")

    def frames(self, places: tuple[str, ...], where: str, column: str) -> tuple[str, ...]:
        """All frames in the first of these folders that is there, in natural order; the encoder
        takes some of them.

        Raises:
            DataError: no such folder, or no frames in it.
        """
        if places not in self._found:
            folder = self.folder(places, where, column)
            try:
                self._found[places] = self.source.frames(folder)
            except DataError as error:
                raise DataError(f"{where}, column {column!r}: {error}") from None
        return self._found[places]


def count_rows(tables: list[tuple[str, Table]]) -> int:
    return sum(len(table.rows) for _, table in tables)


def read_rows(
    tables: list[tuple[str, Table]], limit: int | None, title: str
) -> Iterator[tuple[Row, str, str]]:
    """Each row of the first `limit`, with its place, for messages, and the name of its subset."""
    total = min(count_rows(tables), limit or count_rows(tables))
    rows = (
        (row, table.where(number), subset)
        for subset, table in tables
        for number, row in enumerate(plain_rows(table.rows))
    )
    yield from progress_bar(islice(rows, total), total=total, desc=f"reading {title}", unit="row")


def read_text(row: Row, column: str, where: str) -> str:
    """A text that is there; a number is its digits (NExTQA's videos and answers).

    Raises:
        DataError: neither of them, or an empty text.
    """
    value = row[column]
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}, column {column!r}: got {value!r}, expected a text")
    return value


def read_first(row: Row, column: str, where: str) -> str:
    """A text, or the first one of a list (the captions of a video).

    Raises:
        DataError: neither of them.
    """
    value = row[column]
    return read_text(
        {column: value[0]} if isinstance(value, list) and value else row, column, where
    )


def read_texts(row: Row, column: str, where: str) -> list[str]:
    """A list of texts.

    Raises:
        DataError: no list, an empty one, or not of texts.
    """
    value = row[column]
    if not isinstance(value, list) or not value:
        raise DataError(f"{where}, column {column!r}: got {value!r}, expected a list of texts")
    return [read_text({column: text}, column, where) for text in value]
