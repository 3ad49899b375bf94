"""Retrieval tasks as BEIR triples: queries, a corpus of documents, and who is relevant to whom.

A repository holds three tables, as subsets of its own; a row of each::

    queries  query-id "q7"   query "Which year had the highest sales?"
    corpus   corpus-id "p3"  image {"bytes": …}
    qrels    query-id "q7"   corpus-id "p3"  score 2

The visual-document tasks of MMEB-V2 come so (VLM2Vec: src/data/eval_dataset/vidore_dataset.py,
visrag_dataset.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from eval.tasks.base import EvalTask, Instructed, Relevance
from eval.tasks.sources import READ_AT_ONCE, EvalSource
from unime.data.rows import Row
from unime.data.tables import Table
from unime.errors import DataError
from unime.inputs.items import Item
from unime.runtime.progress import progress_bar

FIRST = 5  # of what is left out, so many are named


@dataclass(frozen=True)
class Beir(Instructed):
    """Every query is searched among the whole corpus, in the order of which ties are decided.

    A document counts as relevant with its highest score in ``qrels`` if that is above 0
    (VLM2Vec: src/utils/dataset_utils.py, load_qrels_mapping). Ids are texts or whole numbers; what
    they print as is compared.
    """

    repository: str | None = None
    revision: str | None = None
    split: str = "test"
    language: str | None = None  # queries whose column `language` says so; None: of all languages
    document_text: str | None = None  # column of the corpus with its documents' text; None: unread
    query_instruction: str = ""
    target_instruction: str = ""

    def read(self, name: str, source: EvalSource) -> EvalTask:
        places, documents, left_out = self._read_corpus(name, source)
        asked = self._read_queries(source)
        relevant, of_others = self._read_qrels(source, places, asked)
        left_out += of_others
        of_language = [
            (query_id, row)
            for query_id, row in asked.items()
            if self.language in (None, row.values.get("language"))
        ]
        if not of_language:
            raise DataError(f"{self.repository}, queries: none has the language {self.language!r}")
        queries, relevance = [], []
        for query_id, row in of_language[: source.data.limit]:
            if query_id in relevant:
                queries.append(self.item(self.query_instruction, row.text("query")))
                relevance.append(relevant[query_id])
            else:
                left_out.append(f"{row.where}: query {query_id!r} has no relevant document")
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
        table = self._table(source, "corpus", "corpus-id", text or "image", optional="image")
        places: dict[str, int] = {}
        documents: list[Item] = []
        again = []
        rows = progress_bar(
            table.read(at_once=READ_AT_ONCE), total=len(table), desc=f"reading {name}",
            unit="document",
        )  # fmt: skip
        for row in rows:
            document_id, document = _id(row, "corpus-id"), self._document(row, source)
            place = places.setdefault(document_id, len(documents))
            if place == len(documents):
                documents.append(document)
            elif documents[place] == document:
                again.append(f"{row.where}: document {document_id!r} comes again")
            else:
                problem = f"{document_id!r} is another document than in an earlier row"
                raise row.error(problem, "corpus-id")
        return places, documents, again

    def _document(self, row: Row, source: EvalSource) -> Item:
        text = row.text_or_none(self.document_text) if self.document_text is not None else ""
        picture = row.values.get("image")
        if picture is None and not text.strip():
            raise row.error("neither text nor image")
        with row.naming("image"):
            images = (source.keep_image(picture),) if picture is not None else ()
        return self.item(self.target_instruction, text, images)

    def _read_queries(self, source: EvalSource) -> dict[str, Row]:
        columns = ("query-id", "query", *(["language"] if self.language is not None else []))
        asked: dict[str, Row] = {}
        for row in self._table(source, "queries", *columns).read():
            query_id = _id(row, "query-id")
            row.text("query")
            if query_id in asked:
                raise row.error(f"{query_id!r} is also in {asked[query_id].where}", "query-id")
            asked[query_id] = row
        return asked

    def _read_qrels(
        self, source: EvalSource, places: dict[str, int], asked: dict[str, Row]
    ) -> tuple[dict[str, Relevance], list[str]]:
        """The relevant documents of each query that has any, and what is said of queries that are
        not there (VLM2Vec reads past them too)."""
        relevant: dict[str, Relevance] = {}
        others: list[str] = []  # a row
        for row in self._table(source, "qrels", "query-id", "corpus-id", "score").read():
            query_id, document_id = _id(row, "query-id"), _id(row, "corpus-id")
            if query_id not in asked:
                others += [f"{row.where}: {query_id!r}"]
                continue
            if document_id not in places:
                raise row.error(f"no document {document_id!r}", "corpus-id")
            score = row["score"]
            if not isinstance(score, int | float) or not math.isfinite(score):
                raise row.expected("a number", "score")
            if score > 0:
                own = relevant.setdefault(query_id, {})
                place = places[document_id]
                own[place] = max(own.get(place, 0.0), float(score))
        if not others:
            return relevant, []
        named = ", ".join(others[:FIRST]) + (", …" if len(others) > FIRST else "")
        return relevant, [f"{len(others)} rows of qrels, whose query is not there: {named}"]

    def _table(self, source: EvalSource, subset: str, *columns: str, optional: str = "") -> Table:
        others = (optional,) if optional and optional not in columns else ()
        return source.rows(self.repository, subset, self.split, self.revision, columns, others)


def _id(row: Row, column: str) -> str:
    value = row[column]
    if not isinstance(value, int | str) or isinstance(value, bool) or value == "":
        raise row.expected("an id", column)
    return str(value)
