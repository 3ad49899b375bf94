"""What preparing MMEB would take, before anything is written: rows, pictures, sizes, times, room.

In a copy rows and pictures are counted. Of the hub rows are as published, and pictures as large as
their archives.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from data_prep.mmeb.archives import Inside, look_through
from data_prep.mmeb.needed import Part
from data_prep.mmeb.published import Rows
from data_prep.mmeb.record import RECORD, STAGE2, Notes, unfit
from unime.config import MmebConfig
from unime.errors import DataError
from unime.runtime.files import regular

GIGA, MEGA = 1e9, 1e6
HOUR = 3600


def print_plan(config: MmebConfig, parts: list[Part]) -> None:
    """Say what would be done.

    Raises:
        DataError: a set that the source lacks, or a table or an archive that could not be read.
    """
    for part in parts:
        print(f"{part.key}: {part.source.name}{_at(part.source.revision)} → {part.folder}")
        print(*(f"  {line}" for line in _lines(config, part)), sep="\n")


def _lines(config: MmebConfig, part: Part) -> Iterator[str]:
    rows, inside = _rows_of(part), _inside(part)
    for name, found in rows.items():
        yield f"{name}: {_taken(config, part, found)}{_beside(part, name, found, inside)}"
    if part.key == "train":
        total = sum(min(config.rows or found.count, found.count) for found in rows.values())
        which = "the first" if config.sample == "first" else f"by seed {config.seed}"
        yield f"{total:,} rows of {len(rows)} subsets, {which}"
    yield from _work(config, part, inside)
    yield from (f"it would be refused: {words}" for words in _refusals(config, part, rows))


def _work(config: MmebConfig, part: Part, inside: dict[str, Inside]) -> Iterator[str]:
    """What would be downloaded, copied, unpacked and written, and how long that takes."""
    source, is_remote = part.source, part.source.is_remote
    tables = [file for files in part.tables.values() for file in files]
    notes = Notes.of(part.folder)
    done = [name for name in inside if notes.is_begun(source) and notes.is_unpacked(source, name)]
    todo = [name for name in inside if name not in done]
    if not is_remote:
        files = sum(inside[name].files for name in todo)
        has = f", {len(done)} are unpacked already" if done else ""
        to_unpack = f"{len(todo)} archives to unpack ({files:,} files){has}"
        yield f"{len(tables)} tables to copy; {to_unpack}; {RECORD}{_beside_record(part)} to write"
    loaded = sum(source.files[name].size for name in (*tables, *todo)) * is_remote
    pictures = sum(inside[name].size for name in todo)
    written = pictures + loaded * config.keep_archives
    free = shutil.disk_usage(_existing(part.folder)).free
    guess = " (as large as their archives)" * is_remote
    yield (
        f"to download: {_size(loaded)}; pictures: {_size(pictures)}{guess}; in all"
        f" {_size(written)}, free: {_size(free)}"
    )
    yield (
        f"about {_time(loaded / (config.bandwidth * MEGA))} at bandwidth={config.bandwidth:g} MB/s"
        f" and {_time(2 * pictures / (config.disk_speed * MEGA))} at"  # read and written
        f" disk_speed={config.disk_speed:g} MB/s"
    )


def _refusals(config: MmebConfig, part: Part, rows: dict[str, Rows]) -> Iterator[str]:
    if words := unfit(config, part):
        yield words
    if lacking := part.without_pictures():
        yield f"no archive of the pictures of {', '.join(lacking)}"
    other = [name for name, published in part.rows.items() if not published.fits(rows[name].count)]
    if other and config.check_rows:
        yield f"other numbers of rows than are published ({', '.join(other)}); check_rows=false"


def _rows_of(part: Part) -> dict[str, Rows]:
    if part.source.is_remote:
        return dict(part.rows)
    return {
        name: Rows(sum(_rows_in(part.source.archive(file, part.folder)) for file in files), True)
        for name, files in part.tables.items()
    }


def _rows_in(file: Path) -> int:
    try:
        return int(pq.read_metadata(regular(file)).num_rows)
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot read it: {' '.join(str(error).split())}") from None


def _inside(part: Part) -> dict[str, Inside]:
    """What is in each archive; of one that is not here its size."""
    source, names = part.source, dict.fromkeys(part.archives.values())
    if source.is_remote:
        return {name: Inside(0, source.files[name].size) for name in names}
    return {name: look_through(source.archive(name, part.folder)) for name in names}


def _taken(config: MmebConfig, part: Part, rows: Rows) -> str:
    taken = min(config.rows or rows.count, rows.count) if part.key == "train" else rows.count
    about = "" if rows.is_exact or taken < rows.count else "about "
    return f"{about}{taken:,} of {rows} rows"


def _beside(part: Part, name: str, rows: Rows, inside: dict[str, Inside]) -> str:
    """What else is to be said of a set: another number than is published, and its archive."""
    published, archive = part.rows[name], part.archives.get(name)
    words = "" if published.fits(rows.count) else f" ({published} are published)"
    if archive is None:
        return words
    files = "" if part.source.is_remote else f", {inside[archive].files:,} files"
    return f"{words}, {archive}: {_size(part.source.files[archive].size)}{files}"


def _beside_record(part: Part) -> str:
    return f" and {STAGE2}" if part.key == "train" else ""


def _at(revision: str | None) -> str:
    return f" at {revision}" if revision else ""


def _existing(folder: Path) -> Path:
    return next(one for one in (folder, *folder.absolute().parents) if one.is_dir())


def _size(count: float) -> str:
    for unit, size in (("GB", GIGA), ("MB", MEGA)):
        if count >= size:
            return f"{count / size:,.2f} {unit}"
    return f"{count:,.0f} bytes"


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / HOUR:.1f} h" if seconds > HOUR else f"{seconds / 60:.0f} min"
