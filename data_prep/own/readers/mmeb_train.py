r"""MMEB-train's rows: a folder a subset, Parquet or JSON (TIGER-Lab/MMEB-train on the hub).

    A-OKVQA/original-00000-of-00001.parquet                 the rows that the paper trained on
    A-OKVQA/diverse_instruction-00000-of-00001.parquet      with other wordings: not read
    images/A-OKVQA/Train/A-OKVQA_image_3179.jpg

A row::

    qry             "<|image_1|>\nRepresent the given image with the following question: …?\n"
    qry_image_path  "images/A-OKVQA/Train/A-OKVQA_image_3179.jpg"  ("" or null: no picture)
    pos_text        "parking/standing"
    pos_image_path  ""
    neg_text, neg_image_path    of some subsets: a text or a list

The instruction is part of the text. A token without a picture (WebQA's queries) is dropped, and a
picture needs none: the paths say what there is (:mod:`unime.data.mmeb_rows`). Old revisions hold
subsets that MMEB evaluates on (FashionIQ, ImageNet-A, …): beside any of its own they are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import ClassVar

from data_prep.mmeb.published import OUT_OF_DOMAIN
from data_prep.own.readers.base import BadRow, SourceItem, SourceRow
from data_prep.own.readers.rows import JSON, PARQUET, Pictures, first_row, read_each
from unime.config import TRAIN_SUBSETS, OwnDataConfig
from unime.data.mmeb_rows import NEGATIVE_COLUMNS, TRAIN_COLUMNS, read_pair
from unime.data.rows import Row
from unime.data.split_files import MissingSplitError, split_files
from unime.errors import DataError

SPLITS = ("original", "train")


class MmebTrain:
    """A folder with subsets, one of them, or a file of one."""

    form: ClassVar[str] = "MMEB-train"

    def __init__(self, path: Path, settings: OwnDataConfig) -> None:
        self.subsets = subsets_at(path)
        left_out = [name for name in self.subsets if name in OUT_OF_DOMAIN]
        if self.subsets.keys() & {*TRAIN_SUBSETS}:
            self.subsets = {n: files for n, files in self.subsets.items() if n not in left_out}
        else:
            left_out = []
        self.files = [file for files in self.subsets.values() for file in files]
        parts = (path, *path.absolute().parents)[:3]  # a subset's own folder has no pictures
        folder = next((part for part in parts if (part / "images").is_dir()), path)
        self.pictures = Pictures(folder if folder.is_dir() else folder.parent, settings)
        self.image_root = self.pictures.root
        self.recognised = [
            f"{name or path.name}: {', '.join(file.name for file in files)}: qry → query, pos →"
            " target, neg → negatives"
            for name, files in self.subsets.items()
        ]
        if left_out:
            self.recognised.append(f"left out, as MMEB evaluates on them: {', '.join(left_out)}")

    @classmethod
    def recognises(cls, path: Path) -> str | None:
        """In words what it is; None: something else."""
        subsets = subsets_at(path, DataError)
        first = next(iter(subsets.values()), [])
        if not first or not cls.takes(first_row(first[0])):
            return None
        return f"{', '.join(TRAIN_COLUMNS)}, as of {cls.form}"

    @classmethod
    def takes(cls, row: dict[str, object]) -> bool:
        """Whether a row is of this form."""
        return {*TRAIN_COLUMNS} <= row.keys()

    def __iter__(self) -> Iterator[SourceRow | BadRow]:
        for name, files in self.subsets.items():
            for file in files:
                read = partial(self._read, name)
                yield from read_each(file, f"{name}/{file.name}".lstrip("/"), read)

    def _read(self, task: str, row: Row, row_id: str) -> SourceRow:
        pair = read_pair(row, self.pictures.find_path, row_id)
        query, target = (
            SourceItem(item.text, item.images, "", (column,))
            for item, column in ((pair.query, TRAIN_COLUMNS[1]), (pair.target, TRAIN_COLUMNS[3]))
        )
        negatives = tuple(
            SourceItem(item.text, item.images, "", (f"{NEGATIVE_COLUMNS[1]}[{n}]",))
            for n, item in enumerate(pair.negatives)
        )
        return SourceRow(row.where, row_id, query, (target,), negatives, task)


def subsets_at(path: Path, passed: type[DataError] = MissingSplitError) -> dict[str, list[Path]]:
    """The files of each subset in a folder; of "" the folder's own, or the file.

    Args:
        passed: what may be wrong with a split in whose place the next one is read.

    Raises:
        DataError: something else is, such as a missing shard.
    """
    if path.is_file():
        return {"": [path]} if path.suffix in (*JSON, PARQUET) else {}
    if not path.is_dir():
        return {}
    below = sorted(entry.name for entry in path.iterdir() if entry.is_dir())
    found = {name: files for name in below if (files := _files(path, name, passed))}
    if not found and (files := _files(path, None, passed)):
        found[""] = files
    return found


def _files(path: Path, subset: str | None, passed: type[DataError]) -> list[Path]:
    for split in SPLITS:
        with suppress(passed):
            return split_files(path, subset, split)
    return []
