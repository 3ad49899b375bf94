"""What the columns of a table are: by their names, or as the setting `columns` says.

image + text|caption|label     a picture with captions, either of which can be asked for
query|anchor + positive        what is asked and what is right; beside them negative
query + image                  a text that is asked, and the picture that is right
image + question + answer      a picture with a question about it
same_answer                    beside any of them: rows of equal values have one right answer

Texts in `query`, `positive` and `negative` are paths where all of them end as pictures' names do,
unless `columns` names the column. `image` and `query` may be lists: several pictures of one item.
`text`, `positive` and `negative` may be: several captions, right answers, wrong ones; a list in
such a list is one item of several pictures. A value is a text, a path (in columns of pictures), a
file's content (bytes, or {"bytes": …, "path": …}), or an item {"text": …, "image": …}.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

from data_prep.own.readers.base import Picture, SourceItem, SourceRow
from data_prep.own.readers.folder import SUFFIXES as PICTURES
from unime.data.rows import Row, quoted
from unime.errors import DataError

NAMES = {
    "image": "image images img image_path image_paths img_path file_name picture pictures photo",
    "text": "text texts caption captions description",
    "query": "query question anchor qry",
    "query_image": "query_image query_images query_image_path anchor_image anchor_image_path",
    "query_text": "query_text anchor_text",
    "positive": "positive positives pos answer answers target",
    "positive_image": "positive_image positive_images positive_image_path",
    "positive_text": "positive_text positive_texts",
    "negative": "negative negatives neg",
    "negative_image": "negative_image negative_images negative_image_path",
    "negative_text": "negative_text negative_texts",
    "label": "label labels class category",
    "instruction": "instruction",
    "same_answer": "same_answer",
    "task": "task",
    "group": "group group_id",
    "split": "split",
    "id": "id row_id",
}
PART_OF = {name: part for part, names in NAMES.items() for name in names.split()}
NUMBERED = re.compile(r"[_-]?\d+$")  # negative_1, negative_2
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "val", "valid", "validation", "dev", "eval"), "test"),
}
BESIDE = ("instruction", "same_answer", "task", "group", "split", "id")  # parts of no side
EITHER = ("query", "positive", "negative")  # parts that are texts, or paths where all look like it
LOOKED_AT = 100  # values of a column, for what it holds
EMPTY: tuple[Any, ...] = (None, "", [])
Parts = tuple[list[str], list[Picture], list[str]]  # of an item: texts, pictures, their columns
IN_A_FILES_FOLDER = "file_name"  # `datasets`' image folders: paths are relative to the table


@dataclass(frozen=True)
class Columns:
    """The columns of one table.

    Attributes:
        parts: column -> what it is, of all columns.
        sides: "query", "targets" and "negatives" -> their columns.
        is_caption: the query is a picture and the targets are its captions.
        pictures: columns whose texts are paths.
        held: columns in which pictures lie.
        below: the table's folder, as a path from that of the data.
    """

    parts: Mapping[str, str]
    sides: Mapping[str, Sequence[str]]
    is_caption: bool
    pictures: frozenset[str]
    below: str
    held: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls, where: str, found: Mapping[str, list[Any]], named: Mapping[str, str], below: str
    ) -> Columns:
        """By the first values of every column.

        Raises:
            DataError: no query or no target is among them.
        """
        parts = {name: named.get(name) or _part_of(name) for name in found}
        pictures = {
            name
            for name, part in parts.items()
            if part.endswith("image")
            or (part in EITHER and name not in named and _holds_paths(found[name]))
        }
        sides, is_caption = _sides(where, parts)
        held = frozenset(name for name, values in found.items() if _holds_pictures(values))
        return cls(parts, sides, is_caption, frozenset(pictures), below, held)

    def in_words(self) -> str:
        """Each column with its part."""
        said = []
        for side, columns in self.sides.items():
            title = "captions" if self.is_caption and side == "targets" else side
            title = "picture" if self.is_caption and side == "query" else title
            said += [f"{name} → {title}{self._kind_of(name)}" for name in columns]
        said += [f"{name} → {part}" for name, part in self.parts.items() if part in BESIDE]
        used = {name for columns in self.sides.values() for name in columns}
        rest = [n for n, part in self.parts.items() if n not in used and part not in BESIDE]
        return ", ".join(said) + (f"; not used: {', '.join(rest)}" if rest else "")

    def _kind_of(self, name: str) -> str:
        return " (in the table)" if name in self.held else " (paths)" * (name in self.pictures)

    def read(self, row: Row, row_id: str) -> SourceRow:
        """A row.

        Raises:
            DataError: a value that is none of its column's; names the column.
        """
        beside = {part: self._beside(row, part) for part in BESIDE}
        split = beside["split"]
        if split is not None and split.lower() not in SPLITS:
            raise DataError(f"split: got {quoted(split)}, expected one of {', '.join(SPLITS)}")
        queries = self._items(row, "query", beside["instruction"])
        if len(queries) != 1:
            raise DataError(f"{_listed(self.sides['query'])}: no query")
        targets = self._items(row, "targets")
        if not targets:
            raise DataError(f"{_listed(self.sides['targets'])}: no target")
        name = row_id.rpartition(":")[0]
        return SourceRow(
            row.where,
            row_id if beside["id"] is None else f"{name}:{beside['id']}",
            queries[0],
            tuple(targets),
            tuple(self._items(row, "negatives")),
            beside["task"] or "",
            beside["group"],
            None if split is None else SPLITS[split.lower()],
            self.is_caption,
            answer=beside["same_answer"] or "",
        )

    def _beside(self, row: Row, part: str) -> str | None:
        for name, own in self.parts.items():
            if own == part and row.values.get(name) not in (None, ""):
                value = row[name]
                if not isinstance(value, str | int):
                    raise row.expected("a text", name)
                return str(value)
        return None

    def _items(self, row: Row, side: str, instruction: str | None = None) -> list[SourceItem]:
        """The items of a side: each place of its columns' lists is one; of the query all places
        are one item's."""
        items: dict[Any, Parts] = {}
        for name in self.sides[side]:
            value = row.values.get(name)
            numbered = NUMBERED.search(name) if side == "negatives" else None
            entries = value if isinstance(value, list) and side != "query" else [value]
            for place, entry in enumerate(entries):
                key = (numbered and numbered[0], place)
                item = items.setdefault(key, ([], [], []))
                self._add(item, row, name, entry)
                if side != "query" and isinstance(value, list) and not any(item):
                    raise row.error(f"got {quoted(value)}, of which one is empty", name)
        return [
            SourceItem("\n".join(texts), tuple(pictures), instruction, tuple(columns))
            for texts, pictures, columns in items.values()
            if texts or pictures
        ]

    def _add(self, item: Parts, row: Row, name: str, value: Any) -> None:
        """Put what a cell holds into the texts and pictures of an item."""
        texts, pictures, columns = item
        if value is None or value == "" or value != value:  # pandas' NaN is a missing value
            return
        if isinstance(value, list):
            for entry in value:
                self._add(item, row, name, entry)
        elif isinstance(value, dict) and not value.keys() & {"bytes", "path"}:
            for key, entry in value.items():
                part = _part_of(key)
                if part not in ("image", "text"):
                    raise row.error(f"got {quoted(value)}, expected text and image", name)
                shown = frozenset([name] if part == "image" else [])
                replace(self, parts={name: part}, pictures=shown)._add(item, row, name, entry)
        elif isinstance(value, bytes | dict) or (isinstance(value, str) and name in self.pictures):
            pictures.append(self._picture(row, name, value))
            columns.append(name)
        elif self.parts[name].endswith("image"):
            raise row.expected("a picture", name)
        elif isinstance(value, str | int | float) and not isinstance(value, bool):
            texts += [str(value).strip()] if str(value).strip() else []
        else:
            raise row.expected("a text or a picture", name)

    def _picture(self, row: Row, name: str, value: Any) -> Picture:
        if isinstance(value, dict):
            content, path = value.get("bytes"), value.get("path")
            value = content if isinstance(content, bytes) else path
        if isinstance(value, bytes):
            return value
        if not isinstance(value, str):
            raise row.expected("a picture", name)
        below = self.below if name == IN_A_FILES_FOLDER else ""
        return str(PurePosixPath(below, value)) if below else value


def first_values(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Of every column that some row has, the first values that are there."""
    found: dict[str, list[Any]] = {}
    for row in rows:
        for name, value in row.items():
            values = found.get(name)
            if values is None:
                values = found[name] = []
            if len(values) < LOOKED_AT and value not in EMPTY:
                values.append(value)
    return found


def first_values_of_table(
    rows: Callable[[Sequence[str] | None], Iterable[Mapping[str, Any]]],
) -> dict[str, list[Any]]:
    """The same of rows that all have the same columns: by the first rows, and by all where a column
    of texts or paths is empty in these.

    Args:
        rows: all, of at least these columns; None: of every column.
    """
    found = first_values(islice(rows(None), LOOKED_AT))
    late = [name for name, values in found.items() if not values and _part_of(name) in EITHER]
    return found | first_values(rows(late)) if late else found


def _part_of(name: str) -> str:
    plain = re.sub(r"[\s-]+", "_", name.strip().lower())
    if plain not in PART_OF and NUMBERED.sub("", plain) in NAMES["negative"].split():
        return "negative"
    return PART_OF.get(plain, "")


def _holds_paths(values: Sequence[Any]) -> bool:
    """Whether all texts that are there end as names of pictures do."""
    texts = [t for v in values for t in (v if isinstance(v, list) else [v]) if isinstance(t, str)]
    texts = [text for text in texts if text]
    return bool(texts) and all(
        PurePosixPath(text).suffix.lower() in PICTURES and "\n" not in text for text in texts
    )


def _holds_pictures(values: Sequence[Any]) -> bool:
    """Whether some are files' contents."""
    entries = [entry for v in values for entry in (v if isinstance(v, list) else [v])]
    contents = [entry.get("bytes") if isinstance(entry, dict) else entry for entry in entries]
    return any(isinstance(content, bytes) for content in contents)


def _sides(where: str, parts: Mapping[str, str]) -> tuple[dict[str, list[str]], bool]:
    def of(*wanted: str) -> list[str]:
        return [name for name, part in parts.items() if part in wanted]

    query = of("query", "query_image", "query_text")
    positive = of("positive", "positive_image", "positive_text")
    image, text, label = of("image"), of("text"), of("label")
    negatives = of("negative", "negative_image", "negative_text")
    is_caption = False
    if positive:
        query += [*image, *text]
    elif query:
        positive = [*image, *text] or label
    elif image and (text or label) and not (text and label):
        query, positive, is_caption = image, text or label, True
    elif text and label and not image:
        query, positive = text, label
    if not (query and positive):
        found = ", ".join(f"{name} ({part or 'unknown'})" for name, part in parts.items())
        raise DataError(
            f"{where}: which column is the query, which the target? it has {found}; say it:"
            " columns.NAME=image|text|query|positive|negative|label|…|ignore"
        )
    is_caption = is_caption and not negatives
    return {"query": query, "targets": positive, "negatives": negatives}, is_caption


def _listed(columns: Sequence[str]) -> str:
    return " and ".join(map(repr, columns))
