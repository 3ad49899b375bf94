"""Vectors and what they are of, in Qdrant: in a folder, in memory, or on a server."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from unime.config.searching import VectorStoreConfig
from unime.embedder import as_output
from unime.errors import ConfigError, RunError, require_package
from unime.search.local_mode import LARGE, local_mode, open_local, sync
from unime.search.outcome import Hit
from unime.search.points import folders_of, point_id, quantization_of
from unime.search.server import open_server, told

if TYPE_CHECKING:
    from qdrant_client.http.models import PointStruct

WHOLE = "whole"  # the name of the vectors of full size
IN_MEMORY = ":memory:"
PAGE = 1000  # points at a time
FILTERED = ("path", "kind", "folders")
SHOWN = ["path", "kind", "place", "line", "text"]


class VectorStore:
    """A collection of vectors of several sizes.

    Args:
        folder: where they are unless `config` names a server.
        dimension: of whole vectors.
        dimensions: other sizes that can be searched.

    Raises:
        ConfigError: the server does not answer, or there is another collection of that name.
    """

    def __init__(
        self,
        folder: Path,
        dimension: int,
        dimensions: Sequence[int],
        config: VectorStoreConfig,
    ) -> None:
        require_package("qdrant_client", "use", "index")
        from qdrant_client import QdrantClient

        self.sizes = {WHOLE: dimension} | {str(size): size for size in dimensions}
        self._name, self._quantized = config.collection or "unime", config.quantization
        self.is_local = config.url in (None, IN_MEMORY)
        self._where = "the index" if config.url is None else config.url
        self._folder = folder if config.url is None else None
        if config.url is None:
            self._client = open_local(folder)
        elif config.url == IN_MEMORY:
            self._client = QdrantClient(IN_MEMORY)
        else:
            with self._told(ConfigError, "store.url: "):
                self._client = open_server(config.url)

    def check_new(self) -> None:
        """Refuse a collection that is there already.

        Raises:
            ConfigError: a server has one of this name, which may be another index's.
        """
        with self._told(ConfigError, "store.url: "):
            if not self.is_local and self._client.collection_exists(self._name):
                raise ConfigError(
                    f"store.collection: {self._where} has a collection {self._name} already, which"
                    " may be another index's; name another one",
                    "store.collection",
                )

    def make(self) -> None:
        """Make the collection unless it is there.

        Raises:
            ConfigError: there is another one, or the server does not make it, which then has none.
        """
        from qdrant_client import models

        with self._told(ConfigError, "store.url: "):
            if self._client.collection_exists(self._name):
                self._check_sizes()
                return
            with local_mode() if self.is_local else nullcontext():
                self._client.create_collection(
                    self._name,
                    vectors_config={
                        name: models.VectorParams(size=size, distance=models.Distance.COSINE)
                        for name, size in self.sizes.items()
                    },
                    quantization_config=quantization_of(self._quantized),
                )
            try:
                for key in () if self.is_local else FILTERED:
                    kind = models.PayloadSchemaType.KEYWORD
                    self._client.create_payload_index(self._name, key, kind)
            except Exception:
                with suppress(Exception):  # the first error is the one that is told
                    self._client.delete_collection(self._name)
                raise

    def _check_sizes(self) -> None:
        vectors = self._client.get_collection(self._name).config.params.vectors
        sizes = {name: v.size for name, v in vectors.items()} if isinstance(vectors, dict) else {}
        if sizes != self.sizes:
            raise ConfigError(
                f"store.collection: {self._name} has vectors {sizes}, expected {self.sizes}",
                "store.collection",
            )

    def close(self) -> None:
        self._client.close()

    def sync(self) -> None:
        """Have on the disk what was stored, before somebody relies on it."""
        if self._folder is not None:
            sync(self._folder)

    def count(self) -> int:
        with self._told():
            return self._client.count(self._name, exact=True).count

    def put(self, vectors: NDArray[np.float32], payloads: Sequence[dict[str, Any]]) -> None:
        """Store vectors (N, D); those of the same parts are replaced."""
        from qdrant_client.http.models import PointStruct

        sized = {name: as_output(vectors, size, "float32") for name, size in self.sizes.items()}
        points = [
            # without a check of each number; local mode keeps arrays as they are, 4 bytes a number
            PointStruct.model_construct(
                id=point_id(payload["path"], payload["place"]),
                vector={
                    name: of[row].copy() if self.is_local else of[row].tolist()
                    for name, of in sized.items()
                },
                payload=payload,
            )
            for row, payload in enumerate(payloads)
        ]
        self._upsert(points)

    def _upsert(self, points: list[PointStruct]) -> None:
        with self._told(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", LARGE)
            for begin in range(0, len(points), PAGE):
                self._client.upsert(self._name, points[begin : begin + PAGE], wait=True)

    def copy(self, old: str, new: str, places: Sequence[int]) -> None:
        """Store the parts of a file under another path, too.

        Raises:
            LookupError: one is not there.
        """
        ids = [point_id(old, place) for place in places]
        for begin in range(0, len(ids), PAGE):
            wanted = ids[begin : begin + PAGE]
            with self._told():
                found = self._client.retrieve(self._name, wanted, with_vectors=True)
            if len(found) != len(wanted):
                raise LookupError(old)
            payloads = [dict(one.payload or {}) for one in found]
            vectors = [one.vector[WHOLE] for one in found]  # type: ignore[call-overload,index]
            above = {"path": new, "folders": folders_of(new)}
            self.put(np.asarray(vectors, np.float32), [one | above for one in payloads])

    def remove(self, parts: Sequence[tuple[str, int]]) -> None:
        self.remove_ids([point_id(path, place) for path, place in parts])

    def remove_ids(self, ids: Sequence[str]) -> None:
        for begin in range(0, len(ids), PAGE):
            with self._told():
                self._client.delete(self._name, list(ids[begin : begin + PAGE]), wait=True)

    def remove_files(self, paths: Sequence[str]) -> None:
        """All parts of files, whichever there are."""
        from qdrant_client import models

        wanted = models.FieldCondition(key="path", match=models.MatchAny(any=list(paths)))
        with self._told():
            self._client.delete(self._name, models.Filter(must=[wanted]), wait=True)

    def ids(self) -> Iterator[str]:
        """Of all that is there."""
        following: Any = None
        while True:
            with self._told():
                found, following = self._client.scroll(
                    self._name, limit=PAGE, offset=following, with_payload=False
                )
            yield from (str(one.id) for one in found)
            if following is None:
                return

    def search(
        self,
        vectors: NDArray[np.float32],
        limit: int,
        size: str,
        kind: str | None,
        below: str | None,
    ) -> list[list[Hit]]:
        """The nearest of each of the vectors (N, D), the best first."""
        from qdrant_client import models

        wanted = {"kind": kind, "folders": below}
        conditions = [
            models.FieldCondition(key=key, match=models.MatchValue(value=value))
            for key, value in wanted.items()
            if value is not None
        ]
        asked = [
            models.QueryRequest(
                query=row.tolist(),
                using=size,
                filter=models.Filter(must=conditions) if conditions else None,  # type: ignore[arg-type]
                limit=limit,
                with_payload=SHOWN,
            )
            for row in as_output(vectors, self.sizes[size], "float32")
        ]
        with self._told():
            answers = self._client.query_batch_points(self._name, asked)
        return [
            [Hit(one.score, **one.payload) for one in answer.points]  # type: ignore[arg-type]
            for answer in answers
        ]

    def part(self, point: str) -> Hit | None:
        """What a point is of, with a score of 1; None: there is none of this id."""
        with self._told():
            found = self._client.retrieve(self._name, [point], with_payload=SHOWN)
        return Hit(1.0, **(found[0].payload or {})) if found else None

    def _told(
        self, kind: type[Exception] = RunError, key: str = ""
    ) -> AbstractContextManager[None]:
        """What a server does not do is told in one line."""
        return nullcontext() if self.is_local else told(self._where, kind, key)
