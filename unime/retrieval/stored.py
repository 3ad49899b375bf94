"""A model and its embeddings on disk: every distinct item is encoded once, however often a program
is stopped or asked."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

from accelerate import Accelerator

from unime.config import EmbeddingConfig
from unime.data.embedding_store import EmbeddingStore
from unime.errors import ConfigError, DataError, require
from unime.retrieval.embedder import ItemEmbedder
from unime.retrieval.encoding import DistinctItems, Encoded, encode
from unime.retrieval.encoding_on_ray import encode_on_ray
from unime.retrieval.fingerprint import (
    check_folders,
    package_versions,
    plain,
    settings_fingerprint,
    vectors_fingerprint,
)
from unime.retrieval.loading import find_model, inputs_of, load_embedder
from unime.runtime.distributed import on_main, together
from unime.runtime.environment import device_name, git_commit


class StoredModel:
    """What a configuration names; it is loaded when the first embedding is missing.

    Attributes:
        found: what model and adapter led to.
        inputs: as they are, nulls filled in.
        store: on the main process, once it is opened.

    Raises:
        ConfigError: the model is not there, or what is written would lie in its folder.
    """

    def __init__(self, config: EmbeddingConfig, accelerator: Accelerator) -> None:
        self.config, self.accelerator = config, accelerator
        self.found = find_model(config)
        check_folders(config, self.found)
        self.inputs = inputs_of(config, self.found)
        self.store: EmbeddingStore | None = None

    @cached_property
    def fingerprint(self) -> str:
        """Of settings and model; asked for on all ranks together."""
        return on_main(
            self.accelerator, lambda: settings_fingerprint(self.config, self.found, self.inputs)
        )

    @cached_property
    def vectors(self) -> str:
        """Of all that decides an embedding but the item."""
        return vectors_fingerprint(self.fingerprint, self.accelerator.device.type)

    @cached_property
    def embedder(self) -> ItemEmbedder:
        return load_embedder(self.config, self.accelerator.device)

    def open(self) -> None:
        """Open the store on the main process.

        Raises:
            ConfigError: it cannot be written, or another process has it.
            DataError: it is damaged.
        """
        folder = self.config.stores / self.vectors

        def opened() -> EmbeddingStore | None:
            if not self.accelerator.is_main_process:
                return None
            return EmbeddingStore(folder, self.provenance())

        self.store = together(self.accelerator, opened)

    def missing(self, distinct: DistinctItems) -> list[int]:
        """The items that the store lacks."""
        store = self.store
        return on_main(
            self.accelerator, lambda: [] if store is None else store.missing(distinct.keys)
        )

    def refusal(self, distinct: DistinctItems, missing: list[int]) -> str | None:
        """Why the model cannot embed some of the items at all, if so.

        Raises:
            ConfigError: it cannot be loaded.
        """
        if not missing:
            return None
        try:  # on all ranks or none: the others would wait for one that goes on to the next task
            together(self.accelerator, lambda: self.embedder)
        except DataError as error:
            name = self.config.model.name
            raise ConfigError(f"model.name: {name} cannot be loaded: {error}") from error
        reasons = (self.embedder.refuses(distinct.items[place]) for place in missing)
        return next((reason for reason in reasons if reason is not None), None)

    def dimension(self, missing: list[int]) -> int:
        """Of the embeddings that the store has, or will have; asked for on all ranks together."""
        if missing:
            return self.embedder.dimension
        store = self.store
        known = on_main(self.accelerator, lambda: store.facts["dimension"] if store else 0)
        return int(known)

    def encode(
        self,
        distinct: DistinctItems,
        missing: list[int],
        title: str,
        name: Callable[[int], str] | None = None,
    ) -> None:
        """Embed what the store lacks, and put it there round by round.

        Args:
            name: what messages call the item at a place of `missing`.

        Raises:
            ConfigError: the disk is full or cannot be written.
            DataError: an item that cannot be read or encoded, on whichever rank.
        """
        store, accelerator, config = self.store, self.accelerator, self.config
        if not missing:
            return
        if store is not None and store.facts.get("shown") is None:
            store.facts["shown"] = self.embedder.describe()
        space = (len(missing), self.embedder.dimension)
        on_main(accelerator, lambda: None if store is None else store.check_space(*space))
        items = [distinct.items[place] for place in missing]
        workers = config.num_workers
        if config.ray is None:
            size = config.batch_size
            rounds = encode(accelerator, self.embedder, items, size, workers, title, name)
        else:
            alone = accelerator.num_processes == 1
            require(alone, "ray", config.ray, "null where several processes encode")
            rounds = encode_on_ray(config, items, title)
        for encoded in rounds:
            keys = [distinct.keys[missing[place]] for place in encoded.places]
            together(accelerator, partial(_keep, store, keys, encoded))

    def complete(self, distinct: DistinctItems, title: str) -> None:
        """Embed all that the store lacks of some items.

        Raises:
            ConfigError: the model cannot be loaded, or the disk is full or cannot be written.
            DataError: the model cannot embed such an item, or fails at one, on whichever rank.
        """
        missing = self.missing(distinct)
        if (refusal := self.refusal(distinct, missing)) is not None:
            raise DataError(f"{title}: {self.config.model.name}: {refusal}")
        self.encode(distinct, missing, title)

    def provenance(self) -> dict[str, Any]:
        """What made the embeddings; on the main process."""
        shown = None if self.store is None else self.store.facts.get("shown")
        return {
            "encoder": self.config.encoder.value,
            "model": self.config.model.name,
            "adapter": self.config.model.adapter,
            "resolved": self.found.describe(),  # where the two lead: an adapter to its base
            "inputs": plain(self.inputs),  # nulls filled in
            "shown": shown,  # as the model itself says it, prompts and limits in full
            "config": plain(self.config),
            "commit": git_commit(),
            "versions": package_versions(),
            "device": f"{self.accelerator.num_processes} x {device_name()}",
        }

    def close(self) -> None:
        if self.store is not None:
            self.store.close()


def _keep(store: EmbeddingStore | None, keys: list[bytes], encoded: Encoded) -> None:
    if store is not None:  # on the main process
        store.add(keys, encoded.embeddings, encoded.truncated)
