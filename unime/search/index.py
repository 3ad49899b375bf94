"""An index of files that can be searched with texts and pictures.

>>> with Index("my-index", "runs/qwen2-vl-2b/stage2") as index:
...     index.update("~/pictures")
...     index.search("a dog on a beach", limit=3)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unime.config.searching import KINDS, IndexConfig, VectorStoreConfig
from unime.embedder import Embedder, is_whole
from unime.errors import ConfigError
from unime.inputs.given import Input
from unime.inputs.items import Item
from unime.runtime.folder_lock import lock_folder, unlock_folder
from unime.search.about import fingerprint, read_about, remove_about, settled, write_about
from unime.search.embedding_files import FileEmbedder
from unime.search.ledger import Ledger
from unime.search.outcome import Hit, Report
from unime.search.parts import Limits
from unime.search.store import WHOLE, VectorStore
from unime.search.updating import Update

LEDGER, VECTORS = "files.sqlite", "qdrant"
CHARACTERS_A_TOKEN = 3


class Index:
    """Vectors of the pictures, passages of texts, and pages of PDF files of folders.

    Args:
        folder: the index's own, made if it is not there; one program at a time has it (with
            a server: updates it).
        model: an `Embedder`, or what it takes: a run, an export, an adapter, a hub id; None: the
            one that made the index.
        config: how files are taken apart, and where vectors are; None: as the index was made.

    Raises:
        ConfigError: another model or other settings made the index, another program has it, or
            nothing says which model.
    """

    def __init__(
        self,
        folder: str | Path,
        model: Embedder | str | Path | None = None,
        config: IndexConfig | None = None,
    ) -> None:
        self.folder = Path(folder).expanduser().resolve()
        self.config = config or IndexConfig()
        made = read_about(self.folder)
        settings = settled(made, self.config, self.folder)
        is_server = settings["url"] not in (None, ":memory:")
        if not is_server:
            lock_folder("index", self.folder)
        try:
            self.embedder = self._embedder(model, made)
            if settings["passage_characters"] is None:
                tokens = self.embedder.encoders[0].processor.inputs.max_text_tokens or 512
                settings["passage_characters"] = CHARACTERS_A_TOKEN * tokens
            self.settings, self._is_server = settings, is_server
            self._begin(made)
        except BaseException:
            unlock_folder(self.folder)
            raise

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let others have it."""
        self.store.close()
        self.ledger.close()
        unlock_folder(self.folder)

    def update(
        self, folder: str | Path, follow_links: bool = False, say: Callable[[str], object] = str
    ) -> Report:
        """Bring the index up to date with the files of a folder; other folders stay in it. New and
        changed files are embedded, those that are gone leave; a folder that is gone itself, or
        empty, may be a disk that is not mounted: see `forget`. Killed, it goes on where it was.

        Args:
            follow_links: to files and folders elsewhere, too.
            say: told what is done, once in a while.

        Raises:
            ConfigError: no such folder, or it is empty where the index has files of it.
            RunError: the store does not do what it is asked.
        """
        place = Path(folder).expanduser().resolve()
        return self._update().run(place, self.folder, follow_links, say)

    def forget(self, folder: str | Path) -> Report:
        """Take out what the index has of a folder, whether it is gone or not.

        Raises:
            ConfigError: there is nothing of it.
            RunError: the store does not do what it is asked.
        """
        return self._update().forget(Path(folder).expanduser().resolve())

    def _update(self) -> Update:
        if self._is_server:
            lock_folder("index", self.folder)
        limits = Limits(*(self.settings[name] for name in Limits.__dataclass_fields__))
        size = self.config.batch_size
        files = FileEmbedder(self.embedder, self.store, self.ledger, limits, size)
        return Update(files)

    def search(
        self,
        items: Input | Sequence[Input],
        limit: int = 10,
        *,
        kind: str | None = None,
        below: str | Path | None = None,
        dimensions: int | None = None,
    ) -> Any:
        """Find what is nearest to items, each as `Embedder.encode` takes it: a text, a picture, or
        both in a dict.

        Args:
            kind: of what is found, "picture", "text" or "page".
            below: a folder that it is in.
            dimensions: the size of the vectors, one that the index was made with.

        Returns:
            For each item a list of `Hit`, the best first; of one alone its list.

        Raises:
            ValueError: there is no such kind or limit, or the index has no vectors of this size.
            DataError: an item that cannot be read.
        """
        alone = isinstance(items, str | Path | bytes | Image.Image | Item | Mapping)
        vectors = np.atleast_2d(self.embedder.encode(items))
        found = self.nearest(vectors, limit, kind=kind, below=below, dimensions=dimensions)
        return found[0] if alone else found

    def nearest(
        self,
        vectors: np.ndarray,
        limit: int = 10,
        *,
        kind: str | None = None,
        below: str | Path | None = None,
        dimensions: int | None = None,
    ) -> list[list[Hit]]:
        """The same of whole vectors (N, D)."""
        if kind is not None and kind not in KINDS:
            raise ValueError(f"kind: got {kind!r}, expected one of {', '.join(KINDS)}")
        if not is_whole(limit) or limit < 1:
            raise ValueError(f"limit: got {limit!r}, expected a whole number from 1 on")
        size = WHOLE if dimensions in (None, self.embedder.dimension) else str(dimensions)
        if size not in self.store.sizes:
            sizes = ", ".join(map(str, self.store.sizes.values()))
            raise ValueError(f"dimensions: got {dimensions}, expected one of {sizes}")
        folder = str(Path(below).expanduser().resolve()) if below is not None else None
        return self.store.search(vectors, int(limit), size, kind, folder)

    def part(self, point: str) -> Hit | None:
        """What is found under an id (`Hit.id`), with a score of 1; None: nothing."""
        return self.store.part(point)

    def _embedder(
        self, model: Embedder | str | Path | None, made: dict[str, Any] | None
    ) -> Embedder:
        if isinstance(model, Embedder):
            return model
        name = model or (made["model"] if made else None)
        if name is None:
            raise ConfigError(f"model: none is given, and {self.folder} is no index", "model")
        return Embedder(name, device=self.config.device)

    def _begin(self, made: dict[str, Any] | None) -> None:
        """Open the store and the ledger of the index, which is new where nothing was made."""
        print_of_model, name = fingerprint(self.embedder), self.embedder.name
        if made is not None and made["fingerprint"] != print_of_model:
            raise ConfigError(
                f"model: {self.folder} was made by {made['model']}, and {name} is another model or"
                " has changed: their vectors cannot be compared; name another index",
                "model",
            )
        settings, size = self.settings, self.embedder.dimension
        if large := [n for n in settings["dimensions"] if n >= size]:
            raise ConfigError(f"dimensions: got {large[0]}, expected less than {size}")
        config = VectorStoreConfig(*(settings[n] for n in ("url", "collection", "quantization")))
        self.folder.mkdir(parents=True, exist_ok=True)
        self.store = VectorStore(self.folder / VECTORS, size, settings["dimensions"], config)
        try:
            self.ledger = Ledger(self.folder / LEDGER)
            if made is None:
                self.store.check_new()
                write_about(self.folder, self.embedder, settings)
            self._make(is_new=made is None)
        except BaseException:
            self.store.close()
            raise

    def _make(self, is_new: bool) -> None:
        """Make the store; a new index whose store cannot be made is none. Killed, it is one: so it
        knows the store for its own."""
        try:
            self.store.make()
        except Exception:
            if is_new:
                remove_about(self.folder)
            raise
