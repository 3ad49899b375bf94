"""The page of an index, answered by this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.serving.services import Running, answering
from tests.support.paths import ROOT
from unime.app.page import About, make_page, make_service
from unime.config import IndexConfig, ServeConfig, VectorStoreConfig
from unime.embedder import Embedder
from unime.search import Index

MEMORY = IndexConfig(store=VectorStoreConfig(url=":memory:"), passage_characters=400)
LOOKS = ROOT / "eval/page/static"


@contextmanager
def indexed(folder: Path, embedder: Embedder, place: Path) -> Iterator[Index]:
    """An index in memory of a folder."""
    with Index(place, embedder, MEMORY) as index:
        report = index.update(folder)
        assert not report.unreadable
        yield index


@contextmanager
def paged(index: Index, about: About, **words: Any) -> Iterator[Running]:
    config = ServeConfig(**({"model": "app", "port": 0} | words))
    service = make_service(index, config, about.model)
    style, elements = ((LOOKS / name).read_text() for name in ("page.css", "elements.js"))
    with answering(service, make_page(service, index, about, style, elements)) as found:
        yield found
