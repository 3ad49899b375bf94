"""Data sets of sentence-transformers: saved with `datasets` (`save_to_disk`), or on the hub.

As its pages "Dataset Overview" and "Multimodal Training" have them (sbert.net)::

    pets/dataset_dict.json                      {"splits": ["train", "test"]}; without it one set
    pets/train/state.json, dataset_info.json    its files, its features
    pets/train/data-00000-of-00001.arrow        anchor     "What does a tabby look like?"
                                                positive   a picture (Image: bytes, or a path), or
                                                           {"text": "A tabby.", "image": a picture}
                                                negative_1, negative_2, …, or a list in negatives
                                                label, score   1 of pairs; others are none

Columns are taken by their names, as those of tables are (:mod:`data_prep.own.readers.columns`). A
row of a loss with labels or scores that is not labelled 1 is no right answer. ``org/name`` is a
data set of the hub, which `datasets` downloads into its cache; ``org/name/config`` one of its
configurations.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa

from data_prep.own.readers.base import BadRow, SourceRow, check_named
from data_prep.own.readers.columns import SPLITS, Columns, first_values_of_table
from data_prep.own.readers.rows import AT_ONCE, check_label
from unime.config import OwnDataConfig
from unime.data.rows import Row
from unime.data.split_files import boundary, check_inside
from unime.data.tables import HUB_NAME
from unime.errors import DataError
from unime.runtime.files import check_kinds, inside, read_json, regular

DICT, STATE = "dataset_dict.json", "state.json"
LABELS = ("label", "labels", "score", "scores")


@dataclass
class Part:
    """One split.

    Attributes:
        place: its folder, or its name on the hub.
        names: of classes, by column.
    """

    place: str
    split: str | None
    batches: partial[Iterator[pa.RecordBatch]]
    names: dict[str, list[str]]

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        for batch in self.batches():
            batch = batch if columns is None else batch.select(columns)
            for start in range(0, len(batch), AT_ONCE):
                for row in batch.slice(start, AT_ONCE).to_pylist():
                    for column, names in self.names.items():
                        if isinstance(row.get(column), int) and 0 <= row[column] < len(names):
                            row[column] = names[row[column]]
                    yield row


class SentenceTransformers:
    """A data set, or several splits of one."""

    files = None

    def __init__(self, path: Path, settings: OwnDataConfig) -> None:
        within = boundary(path, settings.follow_links)
        self.parts = list(_saved(path, within) if path.exists() else _on_hub(str(path)))
        self.image_root = str(Path(settings.image_root or path).absolute())
        heads = [first_values_of_table(part.rows) for part in self.parts]
        for part, first in zip(self.parts, heads, strict=True):
            if not first:
                raise DataError(f"{part.place}: no rows")
        splits = ["split"] if any(part.split for part in self.parts) else []
        check_named(settings.columns, [*heads, splits], f"no split of {path}")
        if settings.columns.get("split") == "ignore":
            self.parts = [replace(part, split=None) for part in self.parts]
        self.columns = [
            Columns.of(part.place, first, settings.columns, "")
            for part, first in zip(self.parts, heads, strict=True)
        ]
        self.recognised = [
            f"{part.place} ({part.split or 'no split'}): {columns.in_words()}"
            for part, columns in zip(self.parts, self.columns, strict=True)
        ]

    @staticmethod
    def recognises(path: Path) -> str | None:
        """In words what it is; None: something else."""
        if (path / DICT).is_file() or (path / STATE).is_file():
            return "a data set that `datasets` saved, as of sentence-transformers"
        is_name = HUB_NAME.fullmatch("/".join(path.parts[:2])) and len(path.parts) in (2, 3)
        return "a data set of the hub" if is_name and not path.parent.exists() else None

    def __iter__(self) -> Iterator[SourceRow | BadRow]:
        for part, columns in zip(self.parts, self.columns, strict=True):
            name = part.place.rpartition("/")[2]
            for number, values in enumerate(part.rows()):
                row = Row(values, f"{part.place}, row {number}")
                try:
                    yield self._read(row, f"{name}:{number}", columns, part.split)
                except DataError as error:
                    yield BadRow.of(row.where, error)

    def _read(self, row: Row, row_id: str, columns: Columns, split: str | None) -> SourceRow:
        used = {name for side in columns.sides.values() for name in side}
        check_label(row, *(name for name in LABELS if name not in used))
        found = columns.read(row, row_id)
        return SourceRow(**{**vars(found), "split": found.split or split})


def _saved(path: Path, within: str) -> Iterable[Part]:
    if not (path / DICT).is_file():
        yield _part(path, None, within)
        return
    found = check_kinds(read_json(path / DICT), {"splits": list}, str(path / DICT))["splits"]
    for name in found:
        if not isinstance(name, str) or not inside(name):
            raise DataError(f"{path / DICT}, splits: got {name!r}, expected a folder's name")
        yield _part(path / name, _split_of(str(path), name), within)


def _split_of(where: str, name: str) -> str:
    if name not in SPLITS:
        known = ", ".join(SPLITS)
        raise DataError(f"{where}: split {name!r}, expected one of {known}")
    return SPLITS[name]


def _part(folder: Path, split: str | None, within: str) -> Part:
    """A split of which the state names the files."""
    state = check_kinds(read_json(folder / STATE), {"_data_files": list}, str(folder / STATE))
    files = []
    for entry in state["_data_files"]:
        name = entry.get("filename") if isinstance(entry, dict) else None
        if not inside(name):
            raise DataError(f"{folder / STATE}, _data_files: got {name!r}, expected a file's name")
        check_inside(folder / str(name), within)
        files.append(folder / str(name))
    info = folder / "dataset_info.json"
    features = read_json(info).get("features") if info.is_file() else None
    return Part(str(folder), split, partial(_batches, files), _class_names(features))


def _batches(files: list[Path]) -> Iterator[pa.RecordBatch]:
    """Of files that are read, not mapped: one that is cut is an error, and no SIGBUS."""
    for file in files:
        try:
            with regular(file).open("rb") as opened, pa.ipc.open_stream(opened) as stream:
                for batch in stream:
                    batch.validate(full=True)
                    yield batch
        except (OSError, ValueError, pa.ArrowException) as error:
            if isinstance(error, DataError):
                raise
            reason = " ".join(str(error).split())
            raise DataError(f"{file}: cannot read it: {reason}") from None


def _on_hub(name: str) -> Iterable[Part]:
    """Its splits, as `datasets` keeps them in its cache."""
    parts = name.split("/")
    try:
        found = datasets.load_dataset("/".join(parts[:2]), *parts[2:])
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"{name}: no such folder, and as a data set of the hub: {reason}") from None
    for split, rows in found.items():
        names = _class_names(json.loads(json.dumps(rows.features.to_dict())))
        stored = rows.with_format("arrow")  # pictures are bytes, as stored
        yield Part(f"{name}/{split}", _split_of(name, str(split)), partial(_tables, stored), names)


def _tables(stored: Any) -> Iterator[pa.RecordBatch]:
    for table in stored.iter(AT_ONCE):
        yield from table.to_batches()


def _class_names(features: Any) -> dict[str, list[str]]:
    """Of columns with numbers for classes (ClassLabel): the classes."""
    return {
        column: [str(one) for one in feature["names"]]
        for column, feature in (features if isinstance(features, dict) else {}).items()
        if isinstance(feature, dict) and isinstance(feature.get("names"), list)
    }
