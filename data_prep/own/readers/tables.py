"""Tables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data_prep.own.readers.base import BadRow, SourceRow
from unime.config import OwnDataConfig


class Tables:
    """Placeholder."""

    recognised: list[str]
    image_root: str

    @classmethod
    def recognises(cls, path: Path) -> str | None:
        return None

    def __init__(self, path: Path, config: OwnDataConfig) -> None:
        raise NotImplementedError

    def __iter__(self) -> Iterator[SourceRow | BadRow]:
        raise NotImplementedError
