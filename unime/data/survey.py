"""One look at every row before a run: what the data are, and whether a loss can learn from them."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from unime.data.datasets import TextRow
from unime.errors import DataError
from unime.inputs.items import Item, Pair, answer_key
from unime.runtime.digests import add_pieces
from unime.runtime.files import regular

Rows = Sequence[TextRow] | Sequence[Pair]
PIECE_SIZE = 1 << 12  # bytes at a picture's begin, middle and end


@dataclass(frozen=True)
class Survey:
    """What all rows are together, and how many different things each task has of each kind, counted
    up to the size of a batch.

    Attributes:
        answers: of pairs, a key of each one's query and one of its target (N, 2) int64: equal for
            equal items (:func:`seen_key`). Where some name their right answer a third one (N, 3):
            of the answer, equal for equal ones of one task, 0 where it is not known.
    """

    rows: int
    content: str
    distinct: dict[str, dict[str, int]] = field(default_factory=dict)  # task -> kind -> how many
    answers: np.ndarray | None = field(default=None, compare=False, repr=False)

    @property
    def facts(self) -> dict[str, Any]:
        """What must be the same when a run goes on."""
        return {"rows": self.rows, "content": self.content}


def survey(rows: Rows, task_sizes: Mapping[str, int], batch_size: int) -> Survey:
    """Read every row once: its texts whole; of its pictures, wherever they lie, the size, the
    begin, the middle and the end (all of a picture below 12 KiB), each file once.

    Args:
        task_sizes: rows of each task, in order.

    Raises:
        DataError: a row or picture that cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    picture = cache(_picture)
    total, distinct, answers, named = 0, {}, bytearray(), array("q")
    numbered: Iterator[TextRow | Pair] = iter(rows)
    for task, size in task_sizes.items():
        seen: dict[str, set[object]] = {}
        for row in islice(numbered, size):
            total += 1
            if isinstance(row, TextRow):
                things: dict[str, list[Any]] = {"texts": [row.text]}
                digest.update(row.teacher.numpy().tobytes())
            else:
                items = (row.query, row.target, *row.negatives)
                query, *targets = (_seen(item, picture) for item in items)
                things = {"queries": [query], "targets": targets}
                answers += _key(query) + _key(targets[0])
                named.append(answer_key(row.task, row.answer))
                digest.update(repr([item.spacing for item in items]).encode())
                digest.update(repr(row.scores).encode() if row.scores else b"")
                key = answer_key(task, row.answer)  # as it was: runs go on by their content
                digest.update(repr([key]).encode() if row.answer else b"")
            digest.update(repr((row.row_id, things)).encode("utf-8", "surrogatepass"))
            for kind, found in things.items():
                known = seen.setdefault(kind, set())
                if len(known) < batch_size:
                    known.update(found)
        distinct[task] = {kind: len(known) for kind, known in seen.items()}
    keys = np.frombuffer(bytes(answers), dtype="<i8").reshape(-1, 2)
    if any(named):
        keys = np.column_stack([keys, np.array(named, np.int64)])
    return Survey(total, digest.hexdigest(), distinct, keys)


def seen_key(item: Item) -> int:
    """What a survey's answers have of an item.

    Raises:
        DataError: a picture that cannot be read.
    """
    return int.from_bytes(_key(_seen(item, _picture)), "little", signed=True)


def check_variety(found: Survey, batch_size: int, least: Mapping[str, int]) -> list[str]:
    """What there is too little of for a batch, in words, by task.

    Args:
        least: of each kind, how many different ones a loss needs to have anything to learn from.

    Raises:
        DataError: there are fewer than that.
    """
    notes = []
    for task, kinds in found.distinct.items():
        for kind, count in kinds.items():
            what = f"task {task!r} has {count} different {kind}"
            if count < least[kind]:
                raise DataError(
                    f"{what}, expected at least {least[kind]}: nothing can be told apart; are the"
                    " right columns read?"
                )
            if count < batch_size:
                notes.append(
                    f"{what} for batches of {batch_size}: the rest of a batch are copies, from"
                    " which nothing is learned; a smaller optim.batch_size_per_device, or more"
                    " different ones"
                )
    return notes


def _seen(item: Item, picture: Callable[[str], bytes]) -> tuple[object, ...]:
    """All that an item is, wherever its files lie."""
    found = map(picture, (*item.images, *item.video))
    return (item.text, item.instruction, len(item.images), *found)


def _key(seen: tuple[object, ...]) -> bytes:
    return hashlib.blake2b(repr(seen).encode("utf-8", "surrogatepass"), digest_size=8).digest()


def _picture(path: str) -> bytes:
    digest = hashlib.blake2b(digest_size=8)
    try:
        with regular(Path(path)).open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            digest.update(size.to_bytes(8, "big"))
            add_pieces(digest, file, 0, size, PIECE_SIZE)
    except OSError as error:
        raise DataError(f"{path}: cannot read the image: {error.strerror}") from None
    return digest.digest()
