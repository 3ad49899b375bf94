r"""MMEB's evaluation rows as MMEB-V2 reads them: each text with its instruction beside it.

A row::

    qry_inst      "<|image_1|>\nFind a news image that matches the provided caption:"
    qry_text      "The harbour at night."
    qry_img_path  ""
    tgt_inst      "<|image_1|>\nRepresent the given image with related text information:"
    tgt_text      ["Ships in the harbour.", …]  (its candidates, the right one first)
    tgt_img_path  ["EDIS/Test/0.jpg", …]

The same 36 tasks as version 1's rows (mmeb_v1.py). The functions below put instruction and text
together as VLM2Vec does (TIGER-AI-Lab/VLM2Vec, branch main, src/data/eval_dataset/image_*.py, and
process_input_text of src/model/processor.py), which gives version 1's very strings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from omegaconf import MISSING

from eval.tasks.base import Instructed
from eval.tasks.mmeb_v1 import Candidates, MmebRows, candidate_name
from unime.data.mmeb_rows import MakeItem, read_candidates, read_query
from unime.data.rows import Row
from unime.errors import require
from unime.inputs.items import Item

TOKEN = "<|image_1|>"
LISTS = ("tgt_text", "tgt_img_path")


def without_token(instruction: str) -> str:
    return instruction.replace(TOKEN, "")


def image_query(instruction: str, text: str) -> str:
    """A picture, what to do with it and perhaps a text: `instruction` begins with its new line."""
    words = f"{TOKEN} {without_token(instruction)}" + (f" {text}" if text else "")
    return words.replace(" \n", "\n") + "\n"


def question(instruction: str, text: str) -> str:
    """As `image_query`, on a new line whatever the instruction begins with."""
    return image_query("\n" + without_token(instruction).strip(), text)


def text_query(instruction: str, text: str) -> str:
    """No picture, even if the instruction has a token (WebQA's and EDIS's do)."""
    return f"{instruction} {text}\n"


def described_image(instruction: str, caption: str) -> str:
    """A picture among which a text is searched, and perhaps its caption."""
    return image_query(without_token(instruction) + (f" {caption}" if caption.strip() else ""), "")


def image_part(instruction: str, caption: str) -> str:
    """A picture among which a picture is searched: one without a caption has no new line after."""
    words = described_image(instruction, caption)
    return words if caption.strip() else words.removesuffix("\n")


@dataclass(frozen=True)
class Parser:
    """How the rows of a kind of task are read.

    Attributes:
        query: of the instruction and the text, the whole text of a query.
        candidate: of the instruction and a caption, that of a candidate with a picture; None:
            candidates are texts, as they are.
        shows: whether queries have a picture.
    """

    query: Callable[[str, str], str]
    candidate: Callable[[str, str], str] | None = None
    shows: bool = True

    @property
    def columns(self) -> tuple[str, ...]:
        query = ("qry_inst", "qry_text", *(["qry_img_path"] if self.shows else []))
        return (*query, *(["tgt_inst", "tgt_img_path"] if self.candidate else []), "tgt_text")


PARSERS = {  # VLM2Vec's names
    "image_cls": Parser(image_query),
    "image_qa": Parser(question),
    "image_i2t": Parser(image_query),
    "image_t2i": Parser(text_query, described_image, shows=False),
    "image_i2i_vg": Parser(question, image_part),
}


@dataclass(frozen=True)
class MmebInstructRows(Instructed, MmebRows):
    """``ziyjiang/MMEB_Test_Instruct``: one row a query, with its own candidates, the right first.

    Candidates are told apart by path and caption, as in version 1; VLM2Vec's own image_t2i goes by
    the path alone, by which one picture with two captions (WebQA, EDIS) keeps only the first.

    Whether a candidate has a caption is asked of each one. VLM2Vec asks the first one of a row: if
    that has none, it drops all others' captions; if it has one, it gives the blank ones a space and
    (image_i2i_vg) a new line at the end. The same strings come of rows whose candidates all have
    captions or all have none: by VLM2Vec's comments those of WebQA, EDIS and RefCOCO-Matching, and
    of all other tasks. Of mixed rows ours is right: no caption is lost, whatever the others are.

    Pictures (``image-tasks/mmeb_v1.tar.gz`` of ``TIGER-Lab/MMEB-V2``, or version 1's) are looked
    for below ``data.root``, its ``image-tasks`` or ``eval_images``, or ``data.image_root``.
    """

    below: ClassVar = ("image-tasks", "image-tasks/MMEB", "eval_images")
    parser: str = MISSING  # one of PARSERS
    target_instruction: bool = True  # False: candidates without it, as Qwen3-VL-Embedding's are
    blank_line: bool = False  # a further new line after an inline query: VisDial's

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.parser in PARSERS, "parser", self.parser, f"one of {', '.join(PARSERS)}")

    @property
    def columns(self) -> tuple[str, ...]:
        return PARSERS[self.parser].columns

    def read_row(self, row: Row, make: MakeItem) -> tuple[Item, Candidates]:
        _check(row, self.columns)
        captions = [text or "" for text in row["tgt_text"]]
        as_v1 = Row(self.row_of_v1(row.values, captions), row.where)
        query, own = read_query(as_v1, make), read_candidates(as_v1, make)
        if self.instruction == "apart":
            searched = row.values.get("tgt_inst") if self.target_instruction else None
            query, own = _apart(query, row["qry_inst"]), [_apart(item, searched) for item in own]
        names = map(candidate_name, as_v1["tgt_img_path"], map(str.strip, captions))
        return query, list(zip(names, own, strict=True))

    def row_of_v1(self, row: Mapping[str, Any], captions: list[str]) -> dict[str, Any]:
        """The row as version 1 has it; with instructions apart, of the texts without them."""
        parser = PARSERS[self.parser]
        instruction, text = row["qry_inst"] or "", row["qry_text"] or ""
        texts = captions
        if self.instruction == "inline":
            text = parser.query(instruction, text) + ("\n" if self.blank_line else "")
            if parser.candidate and self.target_instruction:
                texts = [parser.candidate(row["tgt_inst"] or "", words) for words in captions]
        return {
            "qry_text": text,
            "qry_img_path": row["qry_img_path"] if parser.shows else "",
            "tgt_text": texts,
            "tgt_img_path": row["tgt_img_path"] if parser.candidate else [""] * len(texts),
        }


def _apart(item: Item, instruction: str | None) -> Item:
    return replace(item, instruction=without_token(instruction or "").strip(), spacing=None)


def _check(row: Row, columns: tuple[str, ...]) -> None:
    """Refuse a row with a value of another type, or without a picture where one belongs.

    Raises:
        DataError: names file, row, column and value.
    """
    lists = [column for column in LISTS if column in columns]
    single = Row({column: row[column] for column in columns if column not in LISTS}, row.where)
    for cells in (single, *row.entries(*lists)):
        for column in cells.values:
            if not cells.text_or_none(column) and "img_path" in column:
                raise cells.expected("a picture", column)
