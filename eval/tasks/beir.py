"""Retrieval tasks as BEIR triples: queries, a corpus of documents, and who is relevant to whom.

A repository holds three tables, as subsets of its own: ``queries`` (``query-id``, ``query``),
``corpus`` (``corpus-id``, ``image``) and ``qrels`` (``query-id``, ``corpus-id``, ``score``). The
visual-document tasks of MMEB-V2 come so (VLM2Vec: src/data/eval_dataset/vidore_dataset.py,
visrag_dataset.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import datasets

from eval.tasks.base import EvalTask, Relevance
from eval.tasks.sources import EvalSource
from unime.data.tables import Table, plain_rows
from unime.errors import DataError, require
from unime.inputs.items import Item
from unime.runtime.progress import progress_bar

READ_AT_ONCE = 16  # pages of several MB each: a corpus of thousands is never in memory
FIRST = 5  # of what is left out, so many are named


@dataclass(frozen=True)
class _Query:
    id: str
    text: str
    language: str | None
    where: str


@dataclass(frozen=True)
class Beir:
    """Every query is searched among the whole corpus, in the order of which ties are decided.

    A document counts as relevant with its highest score in ``qrels`` if that is above 0
    (VLM2Vec: src/utils/dataset_utils.py, load_qrels_mapping). Ids are texts or whole numbers; what
    they print as is compared.

    Attributes:
        instruction: "inline": before the text, one space between them, as VLM2Vec has it; "apart":
            the item's instruction, which the prompt puts where the model expects it.
    """

    repository: str | None = None
    revision: str | None = None
    split: str = "test"
    language: str | None = None  # queries whose column `language` says so; None: of all languages
    document_text: str | None = None  # column of the corpus with its documents' text; None: unread
    query_instruction: str = ""
    target_instruction: str = ""
    instruction: str = "inline"

    def __post_init__(self) -> None:
        forms = ("inline", "apart")
        require(self.instruction in forms, "instruction", self.instruction, " or ".join(forms))

    def read(self, name: str, source: EvalSource) -> EvalTask:
        places, documents, left_out = self._read_corpus(name, source)
        asked = self._read_queries(source)
        relevant, of_others = self._read_qrels(source, places, asked)
        left_out += of_others
        of_language = [query for query in asked.values() if self.language in (None, query.language)]
        if not of_language:
            raise DataError(f"{self.repository}, queries: none has the language {self.language!r}")
        queries, relevance = [], []
        for query in of_language[: source.data.limit]:
            if query.id in relevant:
                queries.append(self._item(self.query_instruction, query.text))
                relevance.append(relevant[query.id])
            else:
                left_out.append(f"{query.where}: query {query.id!r} has no relevant document")
        return EvalTask(
            name, len(of_language), queries, documents, list(places), relevance, left_out=left_out
        )

    def _read_corpus(
        self, name: str, source: EvalSource
    ) -> tuple[dict[str, int], list[Item], list[str]]:
        """Each id's place, the documents, and rows that say what an earlier one said.

        Copies of one document under several ids stay several candidates, as VLM2Vec has it: they
        are encoded once and tie.
        """
        text = self.document_text
        required = ("corpus-id", "image" if text is None else text)
        table = self._table(source, "corpus", required, ("image",))
        places: dict[str, int] = {}
        documents: list[Item] = []
        again = []
        rows = progress_bar(
            _undecoded(table.rows), total=len(table.rows), desc=f"reading {name}", unit="document"
        )
        for number, row in enumerate(rows):
            where = table.where(number)
            document_id, document = _id(row, "corpus-id", where), self._document(row, where, source)
            place = places.setdefault(document_id, len(documents))
            if place == len(documents):
                documents.append(document)
            elif documents[place] == document:
                again.append(f"{where}: document {document_id!r} comes again")
            else:
                raise DataError(
                    f"{where}, column 'corpus-id': {document_id!r} is another document than in"
                    f" an earlier row"
                )
        return places, documents, again

    def _document(self, row: dict[str, Any], where: str, source: EvalSource) -> Item:
        text, picture = "", row.get("image")
        if self.document_text is not None:
            text = row[self.document_text]
            if not isinstance(text, str | None):
                column = self.document_text
                raise DataError(f"{where}, column {column!r}: got {text!r}, expected a text")
            text = text or ""
        if picture is None and not text.strip():
            raise DataError(f"{where}: neither text nor image")
        try:
            images = (source.keep_image(picture),) if picture is not None else ()
        except DataError as error:
            raise DataError(f"{where}, column 'image': {error}") from None
        return self._item(self.target_instruction, text, images)

    def _read_queries(self, source: EvalSource) -> dict[str, _Query]:
        required = ("query-id", "query", *(["language"] if self.language is not None else []))
        table = self._table(source, "queries", required)
        asked: dict[str, _Query] = {}
        for number, row in enumerate(plain_rows(table.rows)):
            where = table.where(number)
            query_id, text = _id(row, "query-id", where), row["query"]
            if not isinstance(text, str) or not text.strip():
                raise DataError(f"{where}, column 'query': got {text!r}, expected a text")
            if query_id in asked:
                earlier = asked[query_id].where
                raise DataError(f"{where}, column 'query-id': {query_id!r} is also in {earlier}")
            asked[query_id] = _Query(query_id, text, row.get("language"), where)
        return asked

    def _read_qrels(
        self, source: EvalSource, places: dict[str, int], asked: dict[str, _Query]
    ) -> tuple[dict[str, Relevance], list[str]]:
        """The relevant documents of each query that has any, and what is said of queries that are
        not there (VLM2Vec reads past them too)."""
        table = self._table(source, "qrels", ("query-id", "corpus-id", "score"))
        relevant: dict[str, Relevance] = {}
        others: list[str] = []  # a row
        for number, row in enumerate(plain_rows(table.rows)):
            where = table.where(number)
            query_id, document_id = _id(row, "query-id", where), _id(row, "corpus-id", where)
            if query_id not in asked:
                others += [f"{where}: {query_id!r}"]
                continue
            if document_id not in places:
                raise DataError(f"{where}, column 'corpus-id': no document {document_id!r}")
            score = row["score"]
            if not isinstance(score, int | float) or not math.isfinite(score):
                raise DataError(f"{where}, column 'score': got {score!r}, expected a number")
            if score > 0:
                own = relevant.setdefault(query_id, {})
                place = places[document_id]
                own[place] = max(own.get(place, 0.0), float(score))
        if not others:
            return relevant, []
        named = ", ".join(others[:FIRST]) + (", …" if len(others) > FIRST else "")
        return relevant, [f"{len(others)} rows of qrels, whose query is not there: {named}"]

    def _table(
        self,
        source: EvalSource,
        subset: str,
        required: tuple[str, ...],
        optional: tuple[str, ...] = (),
    ) -> Table:
        return source.rows(
            self.repository, subset, self.split, self.revision, required,
            tuple(column for column in optional if column not in required),
        )  # fmt: skip

    def _item(self, instruction: str, text: str, images: tuple[str, ...] = ()) -> Item:
        """VLM2Vec: src/model/processor.py, process_input_text, without its image token."""
        if self.instruction == "apart":
            return Item(text, images, instruction=instruction)
        words = " ".join(part for part in (instruction, text) if part)
        return Item(words, images, spacing=(" ", "") if images else None)


def _undecoded(rows: datasets.Dataset) -> Iterator[dict[str, Any]]:
    """The rows, few at a time, with pictures as the bytes that the table holds."""
    if isinstance(rows.features.get("image"), datasets.Image):
        rows = rows.cast_column("image", datasets.Image(decode=False))
    for batch in rows.iter(batch_size=READ_AT_ONCE):
        for values in zip(*batch.values(), strict=True):
            yield dict(zip(batch, values, strict=True))


def _id(row: dict[str, Any], column: str, where: str) -> str:
    value = row[column]
    if not isinstance(value, int | str) or isinstance(value, bool) or value == "":
        raise DataError(f"{where}, column {column!r}: got {value!r}, expected an id")
    return str(value)
