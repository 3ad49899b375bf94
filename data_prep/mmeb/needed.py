"""Which files of MMEB are needed, and what is in them.

MMEB-train   A-OKVQA/original-00000-of-00001.parquet …    rows, one split of each subset
             images_zip/A-OKVQA.zip …                     → images/A-OKVQA/Train/….jpg
MMEB-eval    A-OKVQA/test-00000-of-00001.parquet …        rows of each task
             images.zip                                   → eval_images/…
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from data_prep.mmeb.archives import SUFFIXES
from data_prep.mmeb.published import EVAL_ROWS, EVAL_TASKS, TRAIN_ROWS, Rows
from data_prep.mmeb.sources import Source
from unime.config import MmebConfig
from unime.data.mmeb_rows import EVAL_COLUMNS, NEGATIVE_COLUMNS, TRAIN_COLUMNS
from unime.data.rows import Row
from unime.data.tables import ImageFolder, Table, image_folder, load_table
from unime.errors import DataError
from unime.runtime.progress import progress_bar

SHARD = re.compile(r"(\d{5})-of-(\d{5})\.parquet")
LISTED = 5  # pictures that are not there, in an error


@dataclass(frozen=True)
class Part:
    """The training or the evaluation sets.

    Attributes:
        key: "train" or "eval".
        archives: name of a set -> that of its archive; "": one of all.
        pictures: the folder that archives are unpacked to.
    """

    key: str
    folder: Path
    source: Source
    split: str
    rows: Mapping[str, Rows]
    archives: Mapping[str, str]
    pictures: Path
    columns: tuple[str, ...]
    optional: tuple[str, ...] = ()

    @property
    def tables(self) -> dict[str, list[str]]:
        """The files of each set's rows.

        Raises:
            DataError: a set that is not in the source, or not all of it.
        """
        return {name: _shards(self.source, name, self.split) for name in self.rows}

    def without_pictures(self) -> list[str]:
        """The sets that have no archive, and nothing where it would be unpacked to."""
        wanted = self.rows if self.key == "train" else [""]
        places = {name: self.pictures / name for name in wanted if name not in self.archives}
        return [name or "all tasks" for name, place in places.items() if not place.is_dir()]


def train_part(config: MmebConfig, source: Source) -> Part:
    """The training subsets that are asked for."""
    folder = Path(config.train_dir)
    rows = {name: TRAIN_ROWS[name] for name in config.subsets}
    archives = _archives(source, {name: f"images_zip/{name}" for name in rows})
    return Part("train", folder, source, config.split, rows, archives, folder / "images",
                TRAIN_COLUMNS, NEGATIVE_COLUMNS)  # fmt: skip


def eval_part(config: MmebConfig, source: Source) -> Part:
    """All tasks of the evaluation."""
    folder = Path(config.eval_dir)
    rows = {name: Rows(EVAL_ROWS, True) for name in EVAL_TASKS}
    archives = _archives(source, {"": "images"})
    return Part(
        "eval", folder, source, "test", rows, archives, folder / "eval_images", EVAL_COLUMNS
    )


def _archives(source: Source, stems: Mapping[str, str]) -> dict[str, str]:
    return {
        name: f"{stem}{suffix}"
        for name, stem in stems.items()
        for suffix in SUFFIXES
        if f"{stem}{suffix}" in source.files
    }


def _shards(source: Source, name: str, split: str) -> list[str]:
    begin = f"{name}/{split}-"
    found = sorted(file for file in source.files if file.startswith(begin))
    numbers = [SHARD.fullmatch(file.removeprefix(begin)) for file in found]
    counted = [(int(one[1]), int(one[2])) for one in numbers if one]
    if not counted or counted != [(n, len(found)) for n in range(len(found))]:
        has = ", ".join(found) or "nothing"
        raise DataError(f"{source.name}: of {name}, split {split!r}, it has {has}")
    return found


def check_part(part: Part, check_rows: bool) -> dict[str, int]:
    """How many rows each set has, all of whose pictures are there.

    Raises:
        DataError: rows are missing or too many, a cell is no path, or pictures are not there.
    """
    images = image_folder(str(part.folder), None, [part.pictures.name])
    counts = {}
    for name, published in part.rows.items():
        table = load_table(str(part.folder), name, part.split, None, part.columns, part.optional)
        counts[name] = len(table)
        if check_rows and not published.fits(len(table)):
            raise DataError(
                f"{part.folder}, {name}: {len(table):,} rows, where {published} are published;"
                " check_rows=false takes them"
            )
        _check_pictures(name, table, images)
    return counts


def _check_pictures(name: str, table: Table, images: ImageFolder) -> None:
    find = cache(images.find)
    missing: dict[str, str] = {}
    rows = progress_bar(table.read(), total=len(table), desc=f"checking {name}", unit="row")
    for row in rows:
        for column, path in _paths(row):
            try:
                find(path)
            except DataError as error:
                missing.setdefault(path, str(row.error(str(error), column)))
    if missing:
        some = "; ".join([*missing.values()][:LISTED])
        raise DataError(f"{name}: {len(missing)} pictures are not there: {some}")


def _paths(row: Row) -> Iterator[tuple[str, str]]:
    for column, value in row.values.items():
        if "path" in column:
            entries: Iterable[object] = value if isinstance(value, list) else [value]
            for entry in entries:
                if not isinstance(entry, str | None):
                    raise row.expected("a path", column)
                if entry:
                    yield column, entry
