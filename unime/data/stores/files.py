"""The files of a store of embeddings: how they lie on the disk, and which of their rows are whole.

`store.json` has the facts and the version of this layout. Beside it three files grow, a row an
item: `vectors` (float32, read through a memory map), `digests` and `records` (the item's key, and
whether its text was cut). They are written and synced in this order, so a process that is killed
leaves at most rows without a record, which do not count. A digest is the CRC-32 of a record and its
vector, which ties the two together: rows that were shifted, flipped or zeroed are known. A record
whose key is zero is a row that was taken out. Version 1, of stores whose facts name none, has no
digests.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch

from unime.errors import DataError
from unime.inputs.items import KEY_BYTES
from unime.losses import not_unit
from unime.runtime.files import read_json, regular, write_aside, write_json

FACTS = "store.json"
VERSION = 2
KEY = np.dtype(f"S{KEY_BYTES}")  # as bytes it drops zeros at the end, which changes no comparison
RECORD = np.dtype([("key", KEY), ("truncated", "?")])
DIGEST = np.dtype("<u4")
VALUE = np.dtype("<f4")
GROWING = ("vectors", "digests", "records")  # in the order in which they are written
BLOCK = 4096  # rows that are looked at together


@dataclass
class Rows:
    """Rows of a store.

    Attributes:
        records: (N,) of RECORD.
        vectors: (N, D) float32, memory-mapped.
        digests: (N,) of DIGEST; None: nobody has written any.
    """

    records: np.ndarray
    vectors: np.ndarray
    digests: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, rows: slice | np.ndarray) -> Rows:
        """Some of them, in memory."""
        digests = None if self.digests is None else self.digests[rows]
        vectors = np.require(self.vectors[rows], requirements=["C", "W"])  # a copy, if it is mapped
        return Rows(self.records[rows], vectors, digests)

    def blocks(self) -> list[slice]:
        return [slice(start, start + BLOCK) for start in range(0, len(self), BLOCK)]

    def present(self) -> np.ndarray:
        """The numbers (n,) of the rows that were not taken out."""
        return np.flatnonzero(self.records["key"] != b"")

    def damaged(self) -> np.ndarray:
        """Whether each row (N,), in memory, is another one than was written, or no unit vector."""
        bad = not_unit(torch.from_numpy(self.vectors)).numpy()
        return bad if self.digests is None else bad | (self.digests != digests_of(self))


def digests_of(rows: Rows) -> np.ndarray:
    """The digest (N,) of every row."""
    heads = rows.records.view((np.uint8, RECORD.itemsize))  # (N, 17)
    bodies = np.ascontiguousarray(rows.vectors, VALUE)
    return np.fromiter(map(crc32, bodies, map(crc32, heads)), DIGEST, len(rows))


def read_facts(folder: Path) -> tuple[dict[str, Any], int]:
    """The facts of a store, with the `dimension` of its vectors, and the version of its layout.

    Raises:
        DataError: they are damaged, or of a later version.
    """
    try:
        facts: dict[str, Any] = read_json(folder / FACTS)
        version, dimension = facts.pop("version", 1), facts["dimension"]
    except KeyError as error:
        problem = f"no {error}"
    except DataError as error:
        problem = str(error).removeprefix(f"{folder / FACTS}: ")
    else:
        if type(version) is int and version > VERSION:
            raise DataError(f"{folder / FACTS}: version {version} is of a newer unime")
        if type(version) is int and version > 0 and type(dimension) is int and dimension > 0:
            return facts, version
        problem = f"version {version!r}, dimension {dimension!r}"
    raise DataError(f"{folder / FACTS} is damaged ({problem}); remove {folder}") from None


def write_facts(folder: Path, facts: dict[str, Any]) -> None:
    write_json(folder / FACTS, {"version": VERSION} | facts)


def row_sizes(dimension: int, version: int = VERSION) -> dict[str, int]:
    """Bytes of a row in each file."""
    sizes = {
        "vectors": dimension * VALUE.itemsize,
        "digests": DIGEST.itemsize,
        "records": RECORD.itemsize,
    }
    return {name: sizes[name] for name in GROWING if version > 1 or name != "digests"}


def file_sizes(folder: Path) -> dict[str, int]:
    """Bytes of each file, the last written first: whoever reads while another process adds sees no
    record without its vector.

    Raises:
        DataError: one is a pipe, a device or a folder.
    """
    paths = {name: regular(folder / name) for name in reversed(GROWING)}
    return {name: path.stat().st_size if path.is_file() else 0 for name, path in paths.items()}


def read_rows(folder: Path, dimension: int, version: int = VERSION) -> Rows:
    """The rows that have a record.

    Raises:
        DataError: there is less of another file, which no process that was killed leaves.
    """
    have = file_sizes(folder)
    sizes = row_sizes(dimension, version)
    count = have["records"] // RECORD.itemsize
    for name, size in sizes.items():
        if have[name] // size < count:
            raise DataError(
                f"{folder / name}: cut, or not of {dimension} dimensions: {have[name]:,} bytes for"
                f" {count:,} records, expected {count * size:,}; {hint(folder)}"
            )
    return mapped_rows(folder, dimension, count, version)


def mapped_rows(folder: Path, dimension: int, count: int, version: int) -> Rows:
    """So many rows, which are there."""
    if not count:
        return Rows(np.zeros(0, RECORD), np.zeros((0, dimension), VALUE), np.zeros(0, DIGEST))
    records = np.fromfile(folder / "records", RECORD, count)
    digests = np.fromfile(folder / "digests", DIGEST, count) if version > 1 else None
    vectors = np.memmap(folder / "vectors", VALUE, "r", shape=(count, dimension))
    return Rows(records, np.asarray(vectors), digests)  # rows of a memmap take longer


def add_digests(folder: Path, facts: dict[str, Any], rows: Rows) -> None:
    """Make a store of version 1 one of this version; may be interrupted and called again.

    Raises:
        DataError: a row that is no unit vector.
    """
    digests = []
    for block in rows.blocks():
        part = rows[block]
        bad = np.intersect1d(np.flatnonzero(part.damaged()), part.present())
        if len(bad):
            number = block.start + bad[0]
            raise DataError(f"{folder}, row {number}: damaged: no unit vector; {hint(folder)}")
        digests.append(digests_of(part).tobytes())
    write_aside(folder / "digests", b"".join(digests))
    write_facts(folder, facts)


def hint(folder: Path) -> str:
    """What to do about damaged rows."""
    return (
        f"`./launch.sh check {folder} repair=true` takes out what is damaged, for the command that"
        " made the store to embed again, or says that nothing of it can be kept"
    )
