"""MMEB-V2's questions about videos, with the answers among which the right one is.

A row of ``VLM2Vec/MVBench``::

    {"video": "clip.mp4", "question": "What happened after the person took the food?",
     "candidates": ["Ate the medicine.", "Tidied up the blanket."], "answer": "Ate the medicine."}
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from eval.tasks.base import EvalTask
from eval.tasks.video_rows import VideoRows, Videos, check_template
from unime.data.rows import Row
from unime.errors import ConfigError, require
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
        options: columns of the options, or one that holds a list.
        fixed_options: the same options for all rows, in place of columns.
        query: the text after the instruction.
        listed: an option in the query.
        between: what separates options in the query.
        candidate: an option as a candidate. Two of the same text are one candidate.
        answer_is: what the column `answer` holds: "text", an option; "letter", A for the first;
            "index", 0 for the first.
    """

    columns: ClassVar = ("video", "question", "answer", "options")
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
        known = self.answer_is in ANSWERS
        require(known, "answer_is", self.answer_is, f"one of {', '.join(ANSWERS)}")
        check_template("query", self.query, ("question", "options"))
        for key in ("listed", "candidate"):
            check_template(key, getattr(self, key), ("letter", "option", "answer"))

    def ask(self, row: Row, videos: Videos, task: EvalTask) -> None:
        video = videos.frames(row.text(self.video), row, self.video)
        options = self._options(row)
        filled = [fill(self.candidate, number, text) for number, text in enumerate(options)]
        if not all(filled):
            raise row.error(f"{options}: one is empty as a candidate", *self.options)
        own = [task.place(text, Item(text)) for text in filled]
        listed = (fill(self.listed, number, text) for number, text in enumerate(options))
        question, shown = row.text(self.question), self.between.join(listed)
        text = self.query.format(question=question, options=shown).rstrip()
        query = self.item(self.query_instruction, text, video=video)
        task.ask(query, [own[place] for place in self._right(row, options)], own)

    def _options(self, row: Row) -> list[str]:
        if self.fixed_options:
            return self.fixed_options
        options = []
        for column in self.options:
            several = isinstance(row[column], list)
            options += row.texts(column) if several else [row.text(column)]
        if not 2 <= len(options) <= len(LETTERS):
            raise row.error(f"got {options}, expected 2 to {len(LETTERS)}", *self.options)
        return options

    def _right(self, row: Row, options: list[str]) -> list[int]:
        """The places of the right options.

        Raises:
            DataError: the answer is none of the options.
        """
        answer = row.text(self.answer)
        called = {"text": options, "letter": LETTERS, "index": map(str, range(len(options)))}
        names = zip(range(len(options)), called[self.answer_is], strict=False)
        right = [place for place, name in names if name == answer]
        if not right:
            raise row.expected(f"the {self.answer_is} of one of {options}", self.answer)
        return right


def fill(template: str, place: int, option: str) -> str:
    """An option, as the query lists it or as a candidate."""
    answer = option.partition(". ")[2] or option
    return template.format(letter=LETTERS[place], option=option, answer=answer.strip(". "))
