"""MMEB-V2's questions about videos, with the answers among which the right one is."""

from __future__ import annotations

from dataclasses import dataclass, field

from eval.tasks.base import EvalTask, Relevance, Targets, each_once
from eval.tasks.sources import EvalSource
from eval.tasks.video_rows import (
    FrameFinder,
    Row,
    VideoRows,
    check_template,
    count_rows,
    read_rows,
    read_text,
    read_texts,
)
from unime.errors import ConfigError, DataError
from unime.inputs.items import Item

ANSWERS = ("text", "letter", "index")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class VideoQA(VideoRows):
    """A row is a video, a question and the possible answers.

    The templates take ``{question}`` and ``{options}``; ``{letter}``, ``{option}`` as the data has
    it, and ``{answer}``, which is the option without a leading "A. " and without full stops and
    spaces at both ends.

    Attributes:
        subsets: several subsets are one task, in this order; None: only `subset`.
        options: columns of the options, or one that holds a list.
        fixed_options: the same options for all rows, in place of columns.
        query: the text after the instruction.
        listed: an option in the query.
        between: what separates options in the query.
        candidate: an option as a candidate. Two of the same text are one candidate.
        answer_is: what the column `answer` holds: "text", an option; "letter", A for the first;
            "index", 0 for the first.
    """

    subsets: list[str] | None = None
    question: str = "question"  # column
    answer: str = "answer"  # column
    options: list[str] = field(default_factory=list)
    fixed_options: list[str] = field(default_factory=list)
    query: str = "{question}\nOptions:\n{options}"
    listed: str = "({letter}) {option}"
    between: str = "\n"
    candidate: str = "{option}"
    answer_is: str = "text"
    query_instruction: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.options) == bool(self.fixed_options):
            raise ConfigError("options and fixed_options: expected one of the two")
        if self.answer_is not in ANSWERS:
            expected = ", ".join(ANSWERS)
            raise ConfigError(f"answer_is: got {self.answer_is!r}, expected one of {expected}")
        if self.subset is not None and self.subsets:
            raise ConfigError("subset and subsets: expected one of the two")
        check_template("query", self.query, ("question", "options"))
        for key in ("listed", "candidate"):
            check_template(key, getattr(self, key), ("letter", "option", "answer"))

    def read(self, name: str, source: EvalSource) -> EvalTask:
        columns = tuple(dict.fromkeys([self.video, self.question, self.answer, *self.options]))
        tables = self.tables(source, columns, self.subsets)
        finder, targets = FrameFinder(source), Targets()
        queries: list[Item] = []
        relevance: list[Relevance] = []
        candidates: list[list[int]] = []
        for row, where, subset in read_rows(tables, source.data.limit, name):
            places = self.places(read_text(row, self.video, where), subset)
            video = finder.frames(places, where, self.video)
            options = self._options(row, where)
            filled = [fill(self.candidate, number, text) for number, text in enumerate(options)]
            if not all(filled):
                raise DataError(f"{where}: options {options}: one is empty as a candidate")
            own = [targets.place(text, Item(text)) for text in filled]
            text = self._query(read_text(row, self.question, where), options)
            queries.append(self.item(self.query_instruction, text, video=video))
            candidates.append(each_once(own))
            relevance.append({own[place]: 1.0 for place in self._right(row, options, where)})
        return targets.task(name, count_rows(tables), queries, relevance, candidates)

    def _options(self, row: Row, where: str) -> list[str]:
        if self.fixed_options:
            return self.fixed_options
        options = []
        for column in self.options:
            several = isinstance(row[column], list)
            options += (read_texts if several else _one_text)(row, column, where)
        if not 2 <= len(options) <= len(LETTERS):
            raise DataError(f"{where}, columns {self.options}: {len(options)} options")
        return options

    def _query(self, question: str, options: list[str]) -> str:
        listed = (fill(self.listed, number, text) for number, text in enumerate(options))
        return self.query.format(question=question, options=self.between.join(listed)).rstrip()

    def _right(self, row: Row, options: list[str], where: str) -> list[int]:
        """The places of the right options.

        Raises:
            DataError: the answer is none of the options.
        """
        answer = read_text(row, self.answer, where)
        if self.answer_is == "text":
            right = [place for place, option in enumerate(options) if option == answer]
        else:
            valid = LETTERS if self.answer_is == "letter" else list(map(str, range(len(LETTERS))))
            right = [place for place in range(len(options)) if valid[place] == answer]
        if not right:
            raise DataError(
                f"{where}, column {self.answer!r}: got {answer!r}, expected the {self.answer_is} of"
                f" one of {options}"
            )
        return right


def _one_text(row: Row, column: str, where: str) -> list[str]:
    return [read_text(row, column, where)]


def fill(template: str, place: int, option: str) -> str:
    """An option, as the query lists it or as a candidate."""
    answer = option.partition(". ")[2] or option
    return template.format(letter=LETTERS[place], option=option, answer=answer.strip(". "))
