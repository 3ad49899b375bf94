r"""UniME-V2's training rows: MMEB's with ten negatives, and scores of a judge, as one JSON list.

As its example has it (GaryGuTC/UniME-v2, data/example_data.json; whole as
``train_data_*_scores.json`` in TianchengGu/UniME-V2-Training-Datasets)::

    [{"query_text": "<|image_1|>\nRepresent the given image with the following question: …?\n",
      "query_image": "images/A-OKVQA/Train/A-OKVQA_image_3179.jpg",
      "pos_text": "parking/standing", "pos_image": "", "query_pos_scores": 0.72,
      "hard_negatives": [["prevent parking", ""], ["parked", ""], …],
      "hard_negatives_scores": [0.44, 0.23, …]}]

Pictures are MMEB-train's, below its folder, which is image_root. Instructions stand in the texts.
All tasks are in one list: a row's is the folder below ``images/`` of its first picture. Rows may
lack the scores. The pickles that the repository reads, too, are not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from data_prep.own.readers.base import BadRow, SourceItem, SourceRow
from data_prep.own.readers.rows import Pictures, first_row, json_files, read_each
from unime.config import OwnDataConfig
from unime.data.mmeb_rows import strip_image_tokens
from unime.data.rows import Row, is_number
from unime.runtime.names import is_name

SCORES = ("query_pos_scores", "hard_negatives_scores")
COLUMNS = ("query_text", "query_image", "pos_text", "pos_image", "hard_negatives")


class UnimeV2:
    """A file, or a folder of files."""

    def __init__(self, path: Path, settings: OwnDataConfig) -> None:
        self.files = json_files(path)
        self.pictures = Pictures(path if path.is_dir() else path.parent, settings)
        self.image_root = self.pictures.root
        self.recognised = [
            f"{file.name}: query_… → query, pos_… → target, hard_negatives → negatives, folder of"
            " the pictures → task; …_scores → scores of a judge"
            for file in self.files
        ]

    @staticmethod
    def recognises(path: Path) -> str | None:
        """In words what it is; None: something else."""
        files = json_files(path)
        is_it = files and {*COLUMNS} <= first_row(files[0]).keys()
        return "query_text, pos_text and hard_negatives, as of UniME-V2" if is_it else None

    def __iter__(self) -> Iterator[SourceRow | BadRow]:
        for file in self.files:
            yield from read_each(file, file.name, self._read)

    def _read(self, row: Row, row_id: str) -> SourceRow:
        query = self._item(row, *COLUMNS[:2])
        target = self._item(row, *COLUMNS[2:4])
        negatives = []
        for entry in row.entries("hard_negatives"):
            (place,) = entry.values
            if len(entry.entries(place)) != 2:
                raise entry.expected("a text and a path", place)
            sides = {f"{place}[{n}]": value for n, value in enumerate(entry[place])}
            negatives.append(self._item(Row(sides, row.where), *sides))
        paths = [PurePosixPath(str(path)).parts for path in (*query.pictures, *target.pictures)]
        named = [parts[1] for parts in paths if len(parts) > 2 and parts[0] == "images"]
        task = named[0] if named and is_name(named[0]) else ""
        found = tuple(negatives)
        return SourceRow(
            row.where, row_id, query, (target,), found, task, scores=_scores(row, len(found))
        )

    def _item(self, row: Row, text: str, path: str) -> SourceItem:
        found = (self.pictures.find(row, path),) if row.text_or_none(path) else ()
        item = SourceItem(strip_image_tokens(row.text_or_none(text)), found, "", (path,))
        if not item.text and not item.pictures:
            raise row.error("both empty", text, path)
        return item


def _scores(row: Row, negatives: int) -> tuple[float, ...]:
    """The target's, then the negatives', where the row has them."""
    own, others = (row.values.get(column) for column in SCORES)
    if own is None and others is None:
        return ()
    found = [own, *(others if isinstance(others, list) else [None])]
    if len(found) != 1 + negatives or not all(map(is_number, found)):
        raise row.error(f"expected a number and a list of {negatives}", *SCORES)
    return tuple(map(float, found))
