"""What a row of MMEB becomes: the only place that knows its column names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from unime.data.rows import Row
from unime.inputs.items import Item, Pair

TRAIN_COLUMNS = ("qry", "qry_image_path", "pos_text", "pos_image_path")
NEGATIVE_COLUMNS = ("neg_text", "neg_image_path")
EVAL_COLUMNS = ("qry_text", "qry_img_path", "tgt_text", "tgt_img_path")
IMAGE_TOKEN = re.compile(r"\s*<\|image_\d+\|>\s*")
FIRST_TOKENS = re.compile(r"\s*(?:<\|image_\d+\|>(\s*))+")
MakeItem = Callable[[str, str], Item]


def strip_image_tokens(text: str) -> str:
    """The text without MMEB's inline ``<|image_1|>``, which only marks that there is an image.

    A token goes with the white space around it, leaving one line break if that had any, else one
    space; white space at both ends goes too, because chats add their own (:func:`read_item` keeps
    it for prompts that have no chat). Line breaks inside stay, as they separate the instruction
    from the text:

    - ``"<|image_1|>\\nRepresent the given image …\\nWhat is it?\\n"`` (the canonical layout) gives
      ``"Represent the given image …\\nWhat is it?"``.
    - A token without an image (WebQA's queries) leaves a text item, an image without a token an
      item of image and text, and a text of nothing but the token an image item: the path columns
      alone say whether there is an image.
    """
    return IMAGE_TOKEN.sub(lambda found: "\n" if "\n" in found.group() else " ", text).strip()


def _spacing(text: str, has_image: bool) -> tuple[str, str] | None:
    """The white space after the image token that a text begins with, and at its end; None: a line
    break each beside an image and nothing after a text alone, as prompts have it by themselves.

    By these the preset "vlm2vec" gives back the row's own string, if the row has either one image,
    whose token comes first and a text after it, or neither image nor token. It is another string:

    - White space at the beginning of the text, before or without the token, is lost.
    - A token inside or at the end of the text stands first, before a line break, and where it
      was there is one space or line break (nothing at the end).
    - A token too many is lost, as where there is no image (WebQA's queries, with the line break
      after it); one that lacks is put first. VLM2Vec leaves the former as they are.
    - An image whose text is nothing but the token is asked with the preset's own words.
    """
    found = FIRST_TOKENS.match(text) if has_image else None
    spacing = (found[1] if found else "\n"), text[len(text.rstrip()) :]
    return None if spacing == ("\n", "\n" if has_image else "") else spacing


def read_pair(
    row: Row, find: Callable[[str], str], row_id: str, answer_column: str | None = None
) -> Pair:
    """A training row.

    Args:
        find: a path of the row to the image's own path; raises DataError where there is none.
        answer_column: what names its right answer; None: nothing does.

    Raises:
        DataError: a bad row; names file, row, column and value.
    """
    make = partial(read_item, find=find)
    query = _side(row, TRAIN_COLUMNS[:2], make)
    target = _side(row, TRAIN_COLUMNS[2:], make)
    negatives = tuple(_side(entry, entry.values, make) for entry in _negatives(row))
    answer = row.name_or_none(answer_column) if answer_column is not None else ""
    return Pair(query, target, negatives, row_id, answer=answer)


def read_item(text: str, path: str, find: Callable[[str], str]) -> Item:
    """A text and an image path, "" for none, as one item."""
    images = (find(path),) if path else ()
    return Item(strip_image_tokens(text), images, spacing=_spacing(text, bool(path)))


def _side(row: Row, columns: Iterable[str], make: MakeItem) -> Item:
    """The item of a text column and an image column; None and "" both mean that there is none."""
    text_column, path_column = columns
    text, path = row.text_or_none(text_column), row.text_or_none(path_column)
    with row.naming(path_column):
        item = make(text, path)
    if not item.kind:
        values = f"{row[text_column]!r} and {row[path_column]!r}"
        raise row.error(f"got {values}, both empty", text_column, path_column, kind="empty side")
    return item


def _negatives(row: Row) -> list[Row]:
    """The explicit negatives: each column a text or a list, one of the two may be empty."""
    lists = {column: _as_list(row.values.get(column)) for column in NEGATIVE_COLUMNS}
    if not (count := max(map(len, lists.values()))):
        return []
    filled = {column: values or [None] * count for column, values in lists.items()}
    entries = Row(filled, row.where).entries(*filled)
    return [one for one in entries if any(v not in (None, "") for v in one.values.values())]


def _as_list(value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    return [] if value in (None, "") else [value]


def read_query(row: Row, make: MakeItem) -> Item:
    """The query of an evaluation row."""
    return _side(row, EVAL_COLUMNS[:2], make)


def read_candidates(row: Row, make: MakeItem) -> list[Item]:
    """The candidates of an evaluation row, the right one first."""
    columns = EVAL_COLUMNS[2:]
    entries = row.entries(*columns)
    if len(entries) < 2:
        raise row.error(f"{len(entries)} entries, expected 2 or more", *columns)
    return [_side(entry, entry.values, make) for entry in entries]
