"""Settings of an index of files, of search in it, and of the page for it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated

from omegaconf import MISSING

from unime.config.data import FOLLOW_LINKS
from unime.config.serving import Port
from unime.config.settings import Bounds, FilePath, Positive, Settings, one_of, setting

KINDS = ("picture", "text", "page")
INDEX = "runs/index"
KEPT = "null: as the index was made, else "  # settings that an index is made with

SERVER = Bounds(
    "http://… or https://…, or :memory:", re.compile(r"https?://[^\s/]\S*|:memory:").fullmatch
)
Pixels = Annotated[int, Bounds("in [64, 2048]", lambda value: 64 <= value <= 2048)]


@dataclass
class VectorStoreConfig(Settings, section="store"):
    """Where the vectors are: Qdrant in the index's folder, or a server."""

    url: Annotated[str, SERVER] | None = setting(
        None,
        "of a Qdrant server, whose key is in QDRANT_API_KEY, or :memory:; null: in the index's "
        "folder, by qdrant-client alone",
    )
    collection: str | None = setting(None, f"its name; {KEPT}unime")
    quantization: Annotated[str, one_of("none", "scalar", "binary")] | None = setting(
        None, f"how a server holds vectors in memory, int8 or bits; {KEPT}none"
    )


@dataclass
class IndexConfig(Settings):
    """stages.index: which files can be found, and by which model."""

    folder: FilePath = setting(MISSING, "whose pictures, texts and PDF files are indexed")
    index: FilePath = setting(INDEX, "the index's folder")
    model: FilePath | None = setting(
        None,
        f"a run, an export, an adapter or a hub id; {KEPT}the demo's, or assets/base",
    )
    device: str | None = setting(None, "cpu, cuda:1, …; null: a GPU where there is one")
    batch_size: Positive[int] = setting(16, "items embedded at a time")
    dimensions: list[Positive[int]] | None = setting(
        None,
        "sizes that can be searched besides the whole vectors (Matryoshka), each a named vector; "
        f"{KEPT}none",
    )
    passage_characters: Positive[int] | None = setting(
        None, f"of a text that are one item at most; {KEPT}3 a token that the model is shown"
    )
    page_pixels: Pixels | None = setting(None, f"the longer side of a PDF page; {KEPT}1024")
    max_pages: Positive[int] | None = setting(
        None, f"of a PDF file, whose others are listed; {KEPT}2000"
    )
    max_text_mib: Positive[float] | None = setting(
        None, f"size of a text, larger ones are listed; {KEPT}16"
    )
    follow_links: bool = setting(False, FOLLOW_LINKS)
    forget: bool = setting(
        False, "take out what the index has of the folder, whether it is there or gone"
    )
    store: VectorStoreConfig = field(default_factory=VectorStoreConfig)


@dataclass
class SearchConfig(Settings):
    """stages.search: what is looked for."""

    text: str = setting("", "what it looks like or says")
    index: FilePath = setting(INDEX, "the index's folder")
    image: FilePath | None = setting(None, "a picture that it is like")
    instruction: str = setting("", "what kind of search it is, where the model was trained on such")
    limit: Annotated[int, Bounds("in [1, 1000]", lambda value: 1 <= value <= 1000)] = setting(
        10, "how many are shown"
    )
    kind: Annotated[str, one_of(*KINDS)] | None = setting(None, "of what is found; null: any")
    below: FilePath | None = setting(None, "a folder that it is in; null: any")
    dimensions: Positive[int] | None = setting(
        None, "size of the vectors, one that the index was made with; null: the whole"
    )
    device: str | None = setting(None, "cpu, cuda:1, …; null: a GPU where there is one")


@dataclass
class AppConfig(Settings):
    """stages.app: what the page searches in, and who reaches it."""

    index: FilePath | None = setting(
        None,
        f"the index's folder; null: {INDEX} if no model is named, else one of the demo's pictures",
    )
    model: FilePath | None = setting(
        None,
        "a run, an export, an adapter or a hub id; null: the one that made the index, else the "
        "demo's, or assets/base",
    )
    device: str | None = setting(None, "cpu, cuda:1, …; null: a GPU where there is one")
    host: str = setting("127.0.0.1", "address to listen at; another than loopback needs a key")
    port: Port = setting(8080, "0: any that is free, which is printed")
