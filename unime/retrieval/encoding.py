"""Encodes items, each distinct one once, on all ranks together."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from unime.errors import DataError
from unime.inputs.images import longest_first
from unime.inputs.items import Item, item_digest
from unime.losses import effective_rank, first_unsound, mean_similarity
from unime.retrieval.embedder import ItemEmbedder, Prepared, item_name
from unime.runtime.distributed import gather_rows, on_main, together
from unime.runtime.progress import progress_bar
from unime.runtime.workers import load_batches, named

MOST_ROWS = 2048  # embeddings that the statistics are computed from


@dataclass
class DistinctItems:
    """The distinct ones of a list of items, in the order of their first appearance."""

    items: list[Item]
    keys: list[bytes]  # see items.item_digest
    index: Tensor  # (N,) int64: the distinct item that each item of the list is


@dataclass
class Encoded:
    """What all ranks encoded in one round, in order."""

    places: list[int]  # of the items
    embeddings: Tensor  # (n, D) float32 of norm 1, on the CPU
    truncated: list[bool]  # which of the texts were cut


def distinct_items(accelerator: Accelerator, items: Iterable[Item]) -> DistinctItems:
    """Find equal items: equal text and equal image content, whatever the paths. Each is read on one
    rank only.

    Raises:
        DataError: an image that cannot be read, or ranks that were given different items.
    """
    first: dict[tuple[Item, object], int] = {}  # spacing is no part of what makes items equal
    places = [first.setdefault((item, item.spacing), len(first)) for item in items]
    index = torch.tensor(places, dtype=torch.long)
    different = [item for item, _ in first]  # by text and paths
    told = hashlib.blake2b(repr(_without_folders(different)).encode("utf-8", "replace")).digest()
    if len(set(gather_object([told]))) > 1:
        raise DataError("the ranks have read different rows: is the data the same on every host?")
    own = range(accelerator.process_index, len(different), accelerator.num_processes)
    digests = together(accelerator, lambda: [(n, item_digest(different[n])) for n in own])
    keys = [key for _, key in sorted(gather_object(digests))]
    by_key: dict[bytes, Item] = {}
    for item, key in zip(different, keys, strict=True):
        by_key.setdefault(key, item)
    number = {key: place for place, key in enumerate(by_key)}
    numbers = torch.tensor([number[key] for key in keys], dtype=torch.long)
    return DistinctItems(list(by_key.values()), list(by_key), numbers[index])


def encode_items(
    accelerator: Accelerator, embedder: ItemEmbedder, items: Sequence[Item], batch_size: int
) -> Tensor:
    """The embedding of every item (N, D), in their order, on every rank."""
    distinct = distinct_items(accelerator, items)
    embeddings = torch.empty(len(distinct.items), embedder.dimension)
    for encoded in encode(accelerator, embedder, distinct.items, batch_size):
        embeddings[encoded.places] = encoded.embeddings
    return embeddings[distinct.index]


def encode(
    accelerator: Accelerator,
    embedder: ItemEmbedder,
    items: Sequence[Item],
    batch_size: int,
    num_workers: int = 0,
    description: str = "encoding",
    name: Callable[[int], str] | None = None,
) -> Iterator[Encoded]:
    """Encode every item once, in rounds: in each round every rank one batch, and all of them get
    what the others have.

    Batches are made of items of similar length, the longest first, and dealt out by index, so that
    any number of ranks encodes the very same batches; a rank may get none in the last round.

    Args:
        name: what messages call the item at a place; None: what it shows.

    Raises:
        DataError: an item that cannot be read or encoded, on whichever rank.
    """
    order = on_main(accelerator, lambda: longest_first(items))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    world = accelerator.num_processes
    own = batches[accelerator.process_index :: world]
    name = name or (lambda place: item_name(items[place]))
    preparing = partial(prepare, embedder, items, name)
    with (
        progress_bar(total=len(items), desc=description, unit="item") as bar,
        load_batches(preparing, own, num_workers) as prepared,
    ):
        for start in range(0, len(batches), world):
            places = [place for batch in batches[start : start + world] for place in batch]
            rows, truncated = together(accelerator, lambda: _embed_next(embedder, prepared))
            gathered = gather_rows(rows.to(accelerator.device)).cpu()
            flags = gather_rows(torch.tensor(truncated, device=accelerator.device).bool())
            if bad := first_unsound(gathered):
                raise DataError(f"{name(places[bad[0]])}: {bad[1]}")
            yield Encoded(places, gathered, flags.tolist())
            bar.update(len(places))


def _without_folders(items: Sequence[Item]) -> list[tuple[object, ...]]:
    """What items are, wherever their files lie on this host."""
    return [
        (item.text, item.instruction, *map(os.path.basename, (*item.images, *item.video)))
        for item in items
    ]


def prepare(
    embedder: ItemEmbedder, items: Sequence[Item], name: Callable[[int], str], places: list[int]
) -> Prepared:
    """One batch, in a worker process if there are any.

    Raises:
        DataError: an item that cannot be read or prepared, whatever the reason.
    """
    try:
        return embedder.prepare([items[place] for place in places])
    except Exception as error:  # which of them it was, the library does not say
        for place in places:
            try:
                embedder.prepare([items[place]])
            except Exception as own:
                raise named(name(place), own) from own
        raise named(f"{name(places[0])} (or beside it)", error) from error


def _embed_next(embedder: ItemEmbedder, batches: Iterator[Prepared]) -> tuple[Tensor, list[bool]]:
    """The embeddings (n, D) of this rank's next batch, if it has one."""
    batch = next(batches, None)
    if batch is None:
        return torch.empty(0, embedder.dimension), []
    with torch.inference_mode():
        return embedder.embed(batch.inputs).clone(), batch.truncated


def embedding_statistics(embeddings: Tensor) -> dict[str, float]:
    """Signs of collapse: the mean cosine of two different embeddings (near 1) and the effective
    rank (near 1), from at most MOST_ROWS of them, evenly spaced."""
    rows = embeddings[:: ceil(len(embeddings) / MOST_ROWS)].double()
    return {
        "mean_similarity": mean_similarity(rows).item(),
        "effective_rank": effective_rank(rows).item(),
    }
