"""What a reader of somebody's data gives: rows of queries, targets and negatives.

A reader is a short file with an example row at its head, and a line in
`data_prep.own.recognise.READERS`. It knows the form of one kind of data and nothing else: which
direction is trained, what is held out, and how rows are written is decided of all alike.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from unime.config import OwnDataConfig
from unime.errors import ConfigError, DataError

Picture = str | bytes  # a path as the data have it, or a file's content where it lies in a table


@dataclass(frozen=True)
class SourceItem:
    """One side of a row as the data have it.

    Attributes:
        text: without image tokens.
        instruction: its own; None: what the settings say.
        columns: where each picture lies, for messages; fewer: the reader does not say it.
    """

    text: str = ""
    pictures: tuple[Picture, ...] = ()
    instruction: str | None = None
    columns: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class SourceRow:
    """A row as the data have it.

    Attributes:
        where: file and row, which is what errors and row ids say: "pets.csv, row 17".
        row_id: short, unique within the data: "pets.csv:17".
        query: what is asked.
        targets: every right answer; each makes a pair of its own.
        negatives: wrong answers that the data name.
        task: the set it belongs to, where the data hold several; "": one for all.
        group: rows of one group are held out together; None: they have none.
        split: "train" or "test", where the data say so; None: they do not.
        scores: of a judge, the only target's and each negative's; empty: the data have none.
        answer: what names the right answer: targets of rows with equal ones are right for each
            other's queries; "": the data do not say it.
        is_caption: the query is a picture and the targets are its captions, of which neither is
            what is asked: the setting `directions` says.
    """

    where: str
    row_id: str
    query: SourceItem
    targets: tuple[SourceItem, ...]
    negatives: tuple[SourceItem, ...] = ()
    task: str = ""
    group: str | None = None
    split: str | None = None
    is_caption: bool = False
    scores: tuple[float, ...] = ()
    answer: str = ""


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used: nothing of it is lost in silence.

    Attributes:
        where: file and row, as in `SourceRow`.
        reason: with column and value.
    """

    where: str
    reason: str

    @classmethod
    def of(cls, where: str, error: DataError) -> BadRow:
        """By an error, whose message may begin with the place."""
        return cls(where, str(error).removeprefix(where).lstrip(",: "))


class Reader(Protocol):
    """The rows of data in one form.

    Attributes:
        recognised: in words, what the reader took what it found for, each column with its part:
            "12 rows of pets.csv: image → target picture, caption → query text".
        image_root: the folder that paths of pictures are relative to.
    """

    recognised: list[str]
    image_root: str

    @property
    def files(self) -> Collection[Path] | None:
        """Those that rows are read from, known once all rows are; None: one of them names the
        others, and nothing else is looked for."""

    @classmethod
    def recognises(cls, path: Path) -> str | None:
        """Why these data are of this form, in words; None: they are not."""

    def __init__(self, path: Path, config: OwnDataConfig) -> None:
        """Look at the data, but for their rows.

        Raises:
            ConfigError: a setting that is missing for such data, or does not fit them.
            DataError: data that cannot be read.
        """

    def __iter__(self) -> Iterator[SourceRow | BadRow]:
        """All rows in the data's order, equal each time, of which few are in memory.

        Raises:
            DataError: a file that cannot be read at all.
        """


def check_named(columns: Iterable[str], known: Iterable[Iterable[str]], where: str) -> None:
    """Refuse a column of the setting `columns` that none of the tables has.

    Raises:
        ConfigError: there is one.
    """
    there = dict.fromkeys(name for names in known for name in names)
    for name in columns:
        if name not in there:
            key = f"columns.{name}"
            raise ConfigError(
                f"{key}: {where} has such a column; there are {', '.join(there)}", key
            )
