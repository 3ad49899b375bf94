"""NeMo's corpus-id JSON: questions, with the ids of right and wrong documents in a corpus.

As its page "Retrieval Dataset" has it (NVIDIA-NeMo/Automodel, docs/guides/llm/retrieval-dataset.md;
read as in nemo_automodel/components/datasets/llm/retrieval_dataset.py)::

    train.json                   {"corpus": [{"path": "wiki_corpus"}],
                                  "data": [{"question_id": "q_001",
                                            "question": "Explain transformers",
                                            "corpus_id": "wiki_corpus",
                                            "pos_doc": [{"id": "d_123"}],
                                            "neg_doc": [{"id": "d_456"}, "d_789"]}]}
    wiki_corpus/merlin_metadata.json      {"class": "TextQADataset", "corpus_id": "wiki_corpus",
                                           "query_instruction": "…", "passage_instruction": "…"}
    wiki_corpus/train-00000-of-00001.parquet    id, text; image, if it has pictures

A corpus's path is absolute or relative to the file; it and the JSON are held in memory. Ids are
compared as texts; every positive is a right answer. The corpus's instructions, which NeMo uses only
if asked to, are the items' own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_prep.own.readers.base import BadRow, Picture, SourceItem, SourceRow
from data_prep.own.readers.rows import Pictures
from unime.config import OwnDataConfig
from unime.data.rows import Row, quoted
from unime.data.tables import HeldTable, load_table
from unime.errors import DataError
from unime.runtime.files import check_kinds, read_json, regular

METADATA = "merlin_metadata.json"
HEAD = 1 << 16  # bytes of a file, among which its keys begin
REQUIRED = ("question_id", "question", "corpus_id", "pos_doc", "neg_doc")


@dataclass
class Corpus:
    """Documents by their ids, and what NeMo says before a question and a document."""

    folder: Path
    table: HeldTable
    places: dict[str, int]
    query_instruction: str | None
    passage_instruction: str | None


class Nemo:
    """A file, with the corpora that it names."""

    files = None

    def __init__(self, path: Path, settings: OwnDataConfig) -> None:
        self.path = path
        content = read_json(path)
        kinds = {"data": list}
        self.rows = check_kinds(content, kinds, str(path))["data"]
        listed = content.get("corpus")
        listed = [listed] if isinstance(listed, dict) else listed
        if not isinstance(listed, list):
            raise DataError(f"{path}, corpus: got {quoted(listed)}, expected a list of paths")
        self.pictures = Pictures(path.parent, settings)
        self.image_root = self.pictures.root
        self.corpora: dict[str, Corpus] = {}
        for entry in listed:
            found = Row(entry if isinstance(entry, dict) else {}, f"{path}, corpus").text("path")
            name, corpus = read_corpus(path.parent / found, settings.follow_links)
            if name in self.corpora:
                raise DataError(f"{path}, corpus: two are called {name!r}")
            self.corpora[name] = corpus
        self.recognised = [
            f"{len(self.rows)} rows of {path.name}: question → query, pos_doc → targets, neg_doc →"
            " negatives",
            *(f"corpus {n}: {len(c.table)} documents" for n, c in self.corpora.items()),
        ]

    @staticmethod
    def recognises(path: Path) -> str | None:
        """In words what it is; None: something else."""
        if path.suffix != ".json" or not path.is_file():
            return None
        with regular(path).open("rb") as file:
            head = file.read(HEAD).lstrip()
        is_it = head.startswith(b"{") and (b'"corpus"' in head or b'"pos_doc"' in head)
        try:
            found = read_json(path) if is_it else {}
        except DataError:
            return None
        return (
            "corpus and data, as of NeMo's retrieval sets"
            if {"corpus", "data"} <= found.keys()
            else None
        )

    def __iter__(self) -> Iterator[SourceRow | BadRow]:
        for number, values in enumerate(self.rows):
            row = Row(values if isinstance(values, dict) else {}, f"{self.path}, row {number}")
            try:
                if not isinstance(values, dict):
                    raise row.error(f"got {quoted(values)}, expected an object")
                yield self._read(row, f"{self.path.name}:{number}")
            except DataError as error:
                yield BadRow.of(row.where, error)

    def _read(self, row: Row, row_id: str) -> SourceRow:
        for column in REQUIRED:
            row[column]
        corpus = self.corpora.get(str(row["corpus_id"]))
        if corpus is None:
            raise row.expected(f"one of {', '.join(self.corpora)}", "corpus_id")
        query = SourceItem(row.text("question").strip(), (), corpus.query_instruction)
        targets, negatives = (self._items(row, column, corpus) for column in REQUIRED[3:])
        if not targets:
            raise row.expected("at least one", "pos_doc")
        return SourceRow(row.where, row_id, query, targets, negatives)

    def _items(self, row: Row, column: str, corpus: Corpus) -> tuple[SourceItem, ...]:
        found = []
        for entry in row.entries(column):
            (place,) = entry.values
            name = entry[place]
            name = name.get("id") if isinstance(name, dict) else name
            if not isinstance(name, str | int) or str(name) not in corpus.places:
                raise entry.expected("an id of the corpus", place)
            found.append(self._document(corpus, corpus.table[corpus.places[str(name)]]))
        return tuple(found)

    def _document(self, corpus: Corpus, row: Row) -> SourceItem:
        picture: tuple[Picture, ...] = ()
        value = row.values.get("image")
        if isinstance(value, dict) and value.get("bytes"):
            picture = (value["bytes"],)
        elif path := value.get("path") if isinstance(value, dict) else value:
            joined = os.path.join(corpus.folder.absolute(), path) if isinstance(path, str) else path
            picture = (self.pictures.find(Row({"image": joined}, row.where), "image"),)
        item = SourceItem(row.text_or_none("text").strip(), picture, corpus.passage_instruction)
        if not item.text and not item.pictures:
            raise row.error("neither text nor image", "text")
        return item


def read_corpus(folder: Path, follow_links: bool) -> tuple[str, Corpus]:
    """A corpus and its name.

    Raises:
        DataError: no such folder, or one that is no corpus; an id that comes twice.
    """
    metadata: dict[str, Any] = read_json(folder / METADATA)
    name = check_kinds(metadata, {"corpus_id": str}, str(folder / METADATA))["corpus_id"]
    said = Row(metadata, str(folder / METADATA))
    optional = {key: said.values.get(key) for key in ("query_instruction", "passage_instruction")}
    instructions = [said.text_or_none(key) if optional[key] else None for key in optional]
    table = load_table(str(folder), None, "train", None, ("id", "text"), ("image",), follow_links)
    places: dict[str, int] = {}
    held = table.held()
    for number, key in enumerate(_texts(held.rows["id"])):
        if key in places:
            raise Row({"id": key}, held.where(number)).error(f"{key!r} comes twice", "id")
        places[key] = number
    return name, Corpus(folder, held, places, *instructions)


def _texts(column: pa.ChunkedArray) -> list[str]:
    return [str(value) for value in column.to_pylist()]
