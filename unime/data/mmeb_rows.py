"""What a row of MMEB becomes: the only place that knows its column names."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from unime.data.tables import quoted
from unime.errors import DataError
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


def read_pair(row: dict[str, Any], find: Callable[[str], str], where: str, row_id: str) -> Pair:
    """A training row.

    Args:
        find: a path of the row to the image's own path; raises DataError where there is none.
        where: file and row, for messages.

    Raises:
        DataError: a bad row; names file, row, column and value.
    """

    def make(text: str, path: str) -> Item:
        return read_item(text, path, find)

    query = _side(row, TRAIN_COLUMNS[:2], where, make)
    target = _side(row, TRAIN_COLUMNS[2:], where, make)
    return Pair(query, target, _negatives(row, where, make), row_id)


def read_item(text: str, path: str, find: Callable[[str], str]) -> Item:
    """A text and an image path, "" for none, as one item."""
    images = (find(path),) if path else ()
    return Item(strip_image_tokens(text), images, spacing=_spacing(text, bool(path)))


def _side(
    row: dict[str, Any], columns: tuple[str, ...], where: str, make: MakeItem, suffix: str = ""
) -> Item:
    """The item of a text column and an image column; None and "" both mean that there is none."""
    for column in columns:
        if not isinstance(row[column], str | None):
            value = repr(row[column])
            raise DataError(f"{where}, column '{column}{suffix}': got {value}, expected a text")
    text, path = row[columns[0]], row[columns[1]]
    try:
        item = make(text or "", path or "")
    except DataError as error:
        raise DataError(f"{where}, column '{columns[1]}{suffix}': {path!r}: {error}") from None
    if not item.kind:
        names = " and ".join(f"'{column}{suffix}'" for column in columns)
        raise DataError(f"{where}, columns {names}: got {text!r} and {path!r}, both empty")
    return item


def _negatives(row: dict[str, Any], where: str, make: MakeItem) -> tuple[Item, ...]:
    """The explicit negatives: each column a string or a list, one of the two may be empty."""
    lists = [_as_list(row.get(column)) for column in NEGATIVE_COLUMNS]
    count = max(map(len, lists))
    if any(values and len(values) != count for values in lists):
        sizes = " and ".join(str(len(values)) for values in lists)
        raise DataError(f"{where}, columns {quoted(NEGATIVE_COLUMNS)}: {sizes} entries")
    texts, paths = (values or [None] * count for values in lists)
    return tuple(
        _side(
            dict(zip(NEGATIVE_COLUMNS, side, strict=True)), NEGATIVE_COLUMNS, where, make, f"[{n}]"
        )
        for n, side in enumerate(zip(texts, paths, strict=True))
        if any(value not in (None, "") for value in side)
    )


def _as_list(value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    return [] if value in (None, "") else [value]


def read_query(row: dict[str, Any], where: str, make: MakeItem) -> Item:
    """The query of an evaluation row."""
    return _side(row, EVAL_COLUMNS[:2], where, make)


def read_candidates(row: dict[str, Any], where: str, make: MakeItem) -> list[Item]:
    """The candidates of an evaluation row, the right one first."""
    columns = EVAL_COLUMNS[2:]
    for column in columns:
        if not isinstance(row[column], list):
            raise DataError(f"{where}, column {column!r}: got {row[column]!r}, expected a list")
    texts, paths = row[columns[0]], row[columns[1]]
    if len(texts) != len(paths) or len(texts) < 2:
        sizes = f"{len(texts)} and {len(paths)} entries"
        raise DataError(
            f"{where}, columns {quoted(columns)}: {sizes}, expected equally many, 2 or more"
        )
    return [
        _side(dict(zip(columns, side, strict=True)), columns, where, make, f"[{n}]")
        for n, side in enumerate(zip(texts, paths, strict=True))
    ]
