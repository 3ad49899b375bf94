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

Given a folder, all such files in it are read. A corpus's path is absolute or relative to the file;
it and the JSON are held in memory. Ids are compared as texts; every positive is a right answer. The
corpus's instructions, which NeMo uses only if asked to, are the items' own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_prep.own.readers.base import BadRow, Picture, SourceItem, SourceRow
from data_prep.own.readers.rows import Pictures, json_files
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
    """A file, or those in a folder, with the corpora that they name."""

    def __init__(self, path: Path, settings: OwnDataConfig) -> None:
        found = nemo_files(path)
        if not found:
            raise DataError(f"{path}: no JSON of corpus and data")
        self.folder = path if path.is_dir() else path.parent
        self.pictures = Pictures(self.folder, settings)
        self.image_root = self.pictures.root
        self.rows: dict[Path, list[Any]] = {}
        self.corpora: dict[str, Corpus] = {}
        for file in found:
            content = read_json(file)
            self.rows[file] = check_kinds(content, {"data": list}, str(file))["data"]
            self._add_corpora(file, content.get("corpus"), settings.follow_links)
        self.recognised = [
            *(
                f"{len(rows)} rows of {file.name}: question → query, pos_doc → targets, neg_doc →"
                " negatives"
                for file, rows in self.rows.items()
            ),
            *(f"corpus {n}: {len(c.table)} documents" for n, c in self.corpora.items()),
        ]

    @property
    def files(self) -> list[Path]:
        """Those of the rows, and the corpora's."""
        shards = [name for corpus in self.corpora.values() for name, _ in corpus.table.shards]
        about = [corpus.folder / METADATA for corpus in self.corpora.values()]
        return [*self.rows, *map(Path, shards), *about]

    def _add_corpora(self, file: Path, listed: Any, follow_links: bool) -> None:
        listed = [listed] if isinstance(listed, dict) else listed
        if not isinstance(listed, list):
            raise DataError(f"{file}, corpus: got {quoted(listed)}, expected a list of paths")
        for entry in listed:
            found = Row(entry if isinstance(entry, dict) else {}, f"{file}, corpus").text("path")
            folder = (file.parent / found).resolve()
            if any(folder == corpus.folder.resolve() for corpus in self.corpora.values()):
                continue  # another file has named it
            name, corpus = read_corpus(file.parent / found, follow_links)
            if name in self.corpora:
                raise DataError(f"{file}, corpus: two are called {name!r}")
            self.corpora[name] = corpus

    @staticmethod
    def recognises(path: Path) -> str | None:
        """In words what it is; None: something else."""
        found = nemo_files(path)
        words = "corpus and data, as of NeMo's retrieval sets"
        return f"{', '.join(file.name for file in found)}: {words}" if found else None

    def __iter__(self) -> Iterator[SourceRow | BadRow]:
        for file, rows in self.rows.items():
            for number, values in enumerate(rows):
                row = Row(values if isinstance(values, dict) else {}, f"{file}, row {number}")
                try:
                    if not isinstance(values, dict):
                        raise row.error(f"got {quoted(values)}, expected an object")
                    yield self._read(row, f"{file.name}:{number}")
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
            document = corpus.table[corpus.places[str(name)]]
            found.append(self._document(corpus, document, f"{place}, which is {document.where}"))
        return tuple(found)

    def _document(self, corpus: Corpus, row: Row, column: str) -> SourceItem:
        picture: tuple[Picture, ...] = ()
        value = row.values.get("image")
        if isinstance(value, dict) and value.get("bytes"):
            picture = (value["bytes"],)
        elif path := value.get("path") if isinstance(value, dict) else value:
            joined = os.path.join(corpus.folder.absolute(), path) if isinstance(path, str) else path
            picture = (self.pictures.find(Row({"image": joined}, row.where), "image"),)
        words = corpus.passage_instruction
        item = SourceItem(row.text_or_none("text").strip(), picture, words, (column,))
        if not item.text and not item.pictures:
            raise row.error("neither text nor image", "text")
        return item


def nemo_files(path: Path) -> list[Path]:
    """The file, or those in a folder, that have a corpus and data."""
    return [file for file in json_files(path) if file.suffix == ".json" and _is_nemo(file)]


def _is_nemo(file: Path) -> bool:
    if not file.is_file():
        return False
    with regular(file).open("rb") as opened:
        head = opened.read(HEAD).lstrip()
    is_it = head.startswith(b"{") and (b'"corpus"' in head or b'"pos_doc"' in head)
    try:
        found = read_json(file) if is_it else {}
    except DataError:
        return False
    return {"corpus", "data"} <= found.keys()


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
