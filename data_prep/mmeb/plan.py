"""What preparing MMEB would take: sizes, times, rows and room, before anything is written."""

from __future__ import annotations

import shutil
from pathlib import Path

from data_prep.mmeb.archives import look_through
from data_prep.mmeb.needed import Part
from unime.config import MmebConfig

GIGA, MEGA = 1e9, 1e6
HOUR = 3600


def print_plan(config: MmebConfig, parts: list[Part]) -> None:
    """Say what would be done.

    Raises:
        DataError: a set that the source lacks, or an archive that would not be unpacked.
    """
    for part in parts:
        names = [file for files in part.tables.values() for file in files]
        archives = [*dict.fromkeys(part.archives.values())]
        loaded = sum(part.source.files[name].size for name in (*names, *archives))
        pictures = sum(_unpacked(part, name) for name in archives)
        print(f"{part.key}: {part.source.name}{_at(part.source.revision)} → {part.folder}")
        for name, published in part.rows.items():
            archive = part.archives.get(name)
            size = f", {archive}: {_size(part.source.files[archive].size)}" if archive else ""
            print(f"  {name}: {_rows(config, part, name, published.count)}{size}")
        if part.key == "train":
            total = sum(min(config.rows or rows.count, rows.count) for rows in part.rows.values())
            which = "the first" if config.sample == "first" else f"by seed {config.seed}"
            print(f"  {total:,} rows of {len(part.rows)} subsets, {which}")
        written = pictures + loaded * (part.source.is_remote and config.keep_archives)
        print(
            f"  to download: {_size(loaded * part.source.is_remote)}; pictures: {_size(pictures)}"
            f"{' (as large as their archives)' * part.source.is_remote}; in all {_size(written)},"
            f" free: {_size(shutil.disk_usage(_existing(part.folder)).free)}"
        )
        network = loaded * part.source.is_remote / (config.bandwidth * MEGA)
        disk = 2 * pictures / (config.disk_speed * MEGA)  # read and written
        print(
            f"  about {_time(network)} at bandwidth={config.bandwidth:g} MB/s and {_time(disk)} at"
            f" disk_speed={config.disk_speed:g} MB/s"
        )


def _at(revision: str | None) -> str:
    return f" at {revision}" if revision else ""


def _rows(config: MmebConfig, part: Part, name: str, count: int) -> str:
    """As published; what is in the tables is counted when they are there."""
    taken = min(config.rows or count, count) if part.key == "train" else count
    about = "" if part.rows[name].is_exact or taken < count else "about "
    return f"{about}{taken:,} of {part.rows[name]} rows"


def _unpacked(part: Part, archive: str) -> int:
    if part.source.is_remote:
        return part.source.files[archive].size
    return look_through(part.source.archive(archive, part.folder)).size


def _existing(folder: Path) -> Path:
    return next(one for one in (folder, *folder.absolute().parents) if one.is_dir())


def _size(count: float) -> str:
    return f"{count / GIGA:,.2f} GB"


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / HOUR:.1f} h" if seconds > HOUR else f"{seconds / 60:.0f} min"
