"""The pairs that a row of somebody's data makes: in which directions, in which task, asked how."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from data_prep.own.instructions import PRESETS, Instruction, instruction_of
from data_prep.own.readers.base import SourceItem, SourceRow
from unime.config import OwnDataConfig
from unime.data.rows import quoted
from unime.errors import ConfigError, DataError
from unime.inputs.items import whole_characters
from unime.runtime.names import LONGEST_NAME

UNFIT = re.compile(r"[^\w.-]+")


@dataclass(frozen=True)
class SourcePair:
    """A pair as the data have it, with what is decided of it."""

    task: str
    query: SourceItem
    target: SourceItem
    negatives: tuple[SourceItem, ...]
    row_id: str
    instruction: Instruction
    scores: tuple[float, ...] = ()
    answer: str = ""


def pairs_of(row: SourceRow, config: OwnDataConfig) -> Iterator[SourcePair]:
    """All pairs of a row.

    Raises:
        DataError: it has an item of neither text nor picture, or no target.
        ConfigError: an instruction for pictures with captions that are asked for in both
            directions.
    """
    _check(row)
    name = task_name(row.task or Path(config.path).absolute().stem)
    directions: list[str | None] = [None]
    if row.is_caption:
        directions = ["i2t", "t2i"] if config.directions == "both" else [config.directions]
        if len(directions) > 1 and config.instruction:
            presets = ", ".join(PRESETS)
            raise ConfigError(
                f"instruction: got {config.instruction!r} for pictures with captions in both"
                f" directions, which are asked for differently; set directions=t2i or i2t, or leave"
                f" it out ({presets} are known)",
                "instruction",
            )
    for direction in directions:
        task = name if direction is None else f"{name}_{direction}"
        words = instruction_of(config, direction)
        for number, target in enumerate(row.targets):
            row_id = row.row_id if len(row.targets) == 1 else f"{row.row_id}:{number}"
            sides = (target, row.query) if direction == "t2i" else (row.query, target)
            yield SourcePair(task, *sides, row.negatives, row_id, words, row.scores, row.answer)


def task_name(name: str) -> str:
    """A name that a folder can have."""
    plain = UNFIT.sub("_", name).strip("._-") or "own"
    return plain.encode()[: LONGEST_NAME - 8].decode(errors="ignore")


def _check(row: SourceRow) -> None:
    if not row.targets:
        raise DataError("no target")
    if row.scores and (len(row.targets) != 1 or len(row.scores) != 1 + len(row.negatives)):
        count = f"{len(row.targets)} targets and {len(row.negatives)} negatives"
        raise DataError(f"{len(row.scores)} scores of {count}, expected one of each candidate")
    named = {"query": row.query}
    named |= {f"target {n}": item for n, item in enumerate(row.targets)}
    named |= {f"negative {n}": item for n, item in enumerate(row.negatives)}
    for number, item in enumerate(row.negatives):
        if any(
            replace(item, instruction=None) == replace(t, instruction=None) for t in row.targets
        ):
            raise DataError(f"negative {number}: the same as a right answer")
    for name, item in named.items():
        if not item.text.strip() and not item.pictures:
            raise DataError(f"{name}: neither text nor picture")
    texts = {name: item.text for name, item in named.items()}
    texts |= {f"{name}'s instruction": item.instruction or "" for name, item in named.items()}
    texts |= {"group": row.group or "", "right answer": row.answer, "id": row.row_id}
    for name, text in texts.items():
        if whole_characters(text) != text:
            raise DataError(f"{name}: half a character (a lone surrogate): {quoted(text)}")
