"""Whether a store of embeddings holds what was written into it: looks at every row, and takes out
those that are damaged, so that whoever opens the store misses them and embeds them again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from unime.data.stores.files import (
    FACTS,
    RECORD,
    VERSION,
    Rows,
    add_digests,
    file_sizes,
    mapped_rows,
    read_facts,
    read_rows,
    row_sizes,
)
from unime.data.teacher_store import HINT, OLD_FILES, read_old, teacher_of
from unime.errors import ConfigError, DataError
from unime.runtime.files import write_aside
from unime.runtime.folder_lock import lock_folder, unlock_folder
from unime.runtime.progress import progress_bar

NAMED = 20  # rows in words


@dataclass
class Findings:
    """What was found in a store.

    Attributes:
        rows: that have a record, those that were taken out not among them.
        damaged: names of rows that are not as they were written, or no unit vectors.
        duplicate: names of sound rows whose item has a row before.
        half_written: rows that a process that was killed began; the next one begins them again.
        taken_out: rows of an earlier repair, whose place stays empty.
        problem: why nobody can read the store at all, or repair it; "": one can.
        remark: what else is to be said.
    """

    folder: Path
    rows: int = 0
    dimension: int = 0
    damaged: list[str] = field(default_factory=list)
    duplicate: list[str] = field(default_factory=list)
    half_written: int = 0
    taken_out: int = 0
    problem: str = ""
    remark: str = ""
    repaired: bool = False

    @property
    def is_sound(self) -> bool:
        bad = self.damaged or self.duplicate
        return not self.problem and (self.repaired or not bad)

    def in_words(self) -> str:
        """A line of counts, and those of the rows that are bad."""
        counts = {"damaged": len(self.damaged), "duplicate": len(self.duplicate)}
        counts |= {"half-written": self.half_written, "taken out before": self.taken_out}
        line = f"{self.folder}: {self.rows:,} rows of {self.dimension:,} dimensions"
        line += "".join(f", {count:,} {words}" for words, count in counts.items())
        named = [*self.damaged, *(f"{name}: a duplicate" for name in self.duplicate)]
        more = [f"… and {len(named) - NAMED:,} more"] if len(named) > NAMED else []
        ends = [
            self.problem,
            "repaired: these rows are taken out" if self.repaired and named else "",
        ]
        return "\n  ".join([line, *named[:NAMED], *more, *filter(None, [*ends, self.remark])])


def find_stores(folder: Path) -> list[Path]:
    """The folder itself, or those below it (an evaluation's), that are stores.

    Raises:
        ConfigError: there is none.
    """
    below = (path for path in folder.rglob("*") if path.is_dir() and not path.is_symlink())
    found = [path for path in (folder, *sorted(below)) if _layouts(path)]
    if not found:
        raise ConfigError(f"store: {folder}: no store of embeddings is there")
    return found


def check_store(folder: Path, repair: bool = False) -> Iterator[Findings]:
    """Look at every row of a store, in either layout, while nobody adds to it.

    Args:
        repair: take out what is damaged; a kill at any moment loses nothing.

    Raises:
        ConfigError: another process adds to it, or it cannot be written.
    """
    lock_folder("store", folder)
    try:
        for look in _layouts(folder):
            try:
                yield look(folder, repair)
            except DataError as error:
                yield Findings(folder, problem=str(error))
            except OSError as error:
                raise ConfigError(f"store: {folder} cannot be repaired: {error}") from error
    finally:
        unlock_folder(folder)


def _layouts(folder: Path) -> list[Callable[[Path, bool], Findings]]:
    """What looks at the layouts that the folder has files of."""
    layouts = ((_check, (FACTS, "vectors", "records")), (_check_old, OLD_FILES[1:]))
    return [look for look, files in layouts if any((folder / name).exists() for name in files)]


def _check(folder: Path, repair: bool) -> Findings:
    facts, version = read_facts(folder)
    if "teacher" in facts:
        teacher_of(folder, facts)
    dimension, have = facts["dimension"], file_sizes(folder)
    sizes = row_sizes(dimension, version)
    count = have["records"] // RECORD.itemsize
    begun = max(-(-have[name] // size) for name, size in sizes.items())
    rows = mapped_rows(folder, dimension, min(have[n] // s for n, s in sizes.items()), version)
    present, bad = rows.present(), _damaged(folder, rows)
    good = np.setdiff1d(present, bad)
    first = np.unique(rows.records["key"][good], return_index=True)[1]
    again = np.delete(good, first)
    found = Findings(folder, len(present) + count - len(rows), dimension)
    found.damaged = [_named(rows, row) for row in bad]
    found.damaged += [f"row {row}: its vector or digest is lost" for row in range(len(rows), count)]
    found.duplicate = [_named(rows, row) for row in again]
    found.half_written, found.taken_out = max(begun - count, 0), len(rows) - len(present)
    if version < VERSION:
        found.remark = "written without digests: shifted rows are not known"
    if found.damaged and not len(first):
        found.problem = f"no row is sound; remove {folder}"
    elif repair and (found.damaged or found.duplicate or version < VERSION):
        if found.damaged or found.duplicate:
            _take_out(folder, rows, np.union1d(bad, again))
        if version < VERSION:
            add_digests(folder, facts, read_rows(folder, dimension, version))
        found.repaired = True
    return found


def _check_old(folder: Path, repair: bool) -> Findings:
    """Of the layout before: not repaired here, since the teacher's program takes it over."""
    facts, rows, done = read_old(folder)
    bad = np.intersect1d(_damaged(folder, rows), np.flatnonzero(done))
    found = Findings(folder, int(done.sum()), facts["dimension"], half_written=int((~done).sum()))
    found.damaged = [_named(rows, row) for row in bad]
    if len(bad):
        found.problem = f"{HINT}: it leaves these rows out, and embeds them again"
    found.remark = "of the layout before, without digests: shifted rows are not known"
    return found


def _damaged(folder: Path, rows: Rows) -> np.ndarray:
    """The numbers (n,) of the damaged rows that were not taken out."""
    bad = [np.zeros(0, np.int64)]
    with progress_bar(total=len(rows), desc=folder.name, unit="row") as bar:
        for block in rows.blocks():
            part = rows[block]
            bad.append(block.start + np.flatnonzero(part.damaged()))
            bar.update(len(part))
    return np.intersect1d(np.concatenate(bad), rows.present())


def _take_out(folder: Path, rows: Rows, numbers: np.ndarray) -> None:
    """Leave no record of these rows, whose vectors stay where they are: others may be reading."""
    records = rows.records.copy()
    records[numbers] = np.zeros((), RECORD)
    last = np.flatnonzero(records["key"] != b"")[-1]
    write_aside(folder / "records", records[: last + 1].tobytes())


def _named(rows: Rows, number: int) -> str:
    return f"row {number}, key {bytes(rows.records[number])[:8].hex()}…"
