"""Encodes items on all ranks and ranks candidates for queries."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, send_to_device
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from unime.distributed import gather_rows
from unime.encoder import Encoder
from unime.item_processor import ItemProcessor
from unime.items import DataError, Item, item_key
from unime.losses import effective_rank
from unime.progress import progress_bar

T = TypeVar("T")
QUERY_BLOCK = 256  # queries scored at a time
MOST_ROWS = 4096  # embeddings that the statistics are computed from


@dataclass
class DistinctItems:
    """The distinct ones of a list of items, in the order of their first appearance."""

    items: list[Item]
    keys: Tensor  # (U,) int64, see items.item_key
    index: Tensor  # (N,) int64: the distinct item that each item of the list is


@dataclass
class Encoded:
    """Embeddings in item order, on the CPU of every rank."""

    embeddings: Tensor  # (U, D) float32, unit norm
    num_truncated: int  # texts that were cut at inputs.max_text_tokens


def together(accelerator: Accelerator, work: Callable[[], T]) -> T:
    """Do `work` on every rank; if it fails on one, it fails on all, none waits for another.

    Raises:
        DataError: with the message of the first rank that failed.
    """
    message, result = "", None
    try:
        result = work()
    except DataError as error:
        message = str(error)
    except Exception as error:  # whatever a model or an image library raises
        traceback.print_exc(file=sys.stderr)
        message = f"{type(error).__name__}: {error}"
    messages = [message for message in gather_object([message]) if message]
    if messages:
        raise DataError(messages[0])
    return result  # type: ignore[return-value]


def distinct_items(accelerator: Accelerator, items: Iterable[Item]) -> DistinctItems:
    """Find equal items: equal text and equal image content, whatever the paths. Each image file is
    read on one rank only.

    Raises:
        DataError: an image that cannot be read.
    """
    first: dict[Item, int] = {}
    index = torch.tensor([first.setdefault(item, len(first)) for item in items], dtype=torch.long)
    different = list(first)  # by text and paths
    own = range(accelerator.process_index, len(different), accelerator.num_processes)
    keys = together(accelerator, lambda: torch.tensor([item_key(different[i]) for i in own]).long())
    keys = _in_order(accelerator, keys, list(own), len(different))
    by_key: dict[int, int] = {}
    number = [by_key.setdefault(key, len(by_key)) for key in keys.tolist()]
    representative: dict[int, Item] = {}
    for item, position in zip(different, number, strict=True):
        representative.setdefault(position, item)
    unique = torch.tensor(list(by_key), dtype=torch.long)
    return DistinctItems(
        list(representative.values()), unique, torch.tensor(number, dtype=torch.long)[index]
    )


def encode_items(
    accelerator: Accelerator,
    encoder: Encoder,
    items: Sequence[Item],
    batch_size: int,
    num_workers: int = 0,
) -> Tensor:
    """The embedding of every item (N, D), in their order, each distinct item encoded once."""
    distinct = distinct_items(accelerator, items)
    encoded = encode_distinct(accelerator, encoder, distinct.items, batch_size, num_workers)
    return encoded.embeddings[distinct.index]


def encode_distinct(
    accelerator: Accelerator,
    encoder: Encoder,
    items: Sequence[Item],
    batch_size: int,
    num_workers: int = 0,
    description: str = "encoding",
) -> Encoded:
    """The embedding of every item, which are split over the ranks and put back by index.

    Batches are made of items of similar length before they are dealt out, so that any number of
    ranks encodes the very same batches. A rank may get none.

    Raises:
        DataError: an item that cannot be read or encoded, on whichever rank.
    """
    lengths = [(len(item.images), len(item.text)) for item in items]
    order = sorted(range(len(items)), key=lambda i: lengths[i], reverse=True)
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    own = batches[accelerator.process_index :: accelerator.num_processes]
    rows, truncated = together(
        accelerator,
        lambda: _encode_batches(accelerator, encoder, items, own, num_workers, description),
    )
    indices = [index for batch in own for index in batch]
    embeddings = _in_order(accelerator, rows, indices, len(items))
    return Encoded(embeddings, sum(gather_object([truncated])))


Parts = list[tuple[list[int], dict[str, Tensor]]]


class _Batches(Dataset[tuple[Parts, int]]):
    """Prepares whole batches, in worker processes if there are any."""

    def __init__(self, items: Sequence[Item], batches: list[list[int]], processor: ItemProcessor):
        self.items = items
        self.batches = batches
        self.processor = processor

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> tuple[Parts, int]:
        before = self.processor.num_truncated
        samples = [self.processor(self.items[index]) for index in self.batches[number]]
        return self.processor.parts(samples), self.processor.num_truncated - before


def _encode_batches(
    accelerator: Accelerator,
    encoder: Encoder,
    items: Sequence[Item],
    batches: list[list[int]],
    num_workers: int,
    description: str,
) -> tuple[Tensor, int]:
    """The embeddings of one rank's batches (n, D), and how many texts were cut."""
    loader = DataLoader(
        _Batches(items, batches, encoder.processor), batch_size=None, num_workers=num_workers
    )
    rows, truncated = [torch.empty(0, encoder.hidden_size)], 0
    was_training = encoder.training
    encoder.eval()
    try:
        with (
            torch.inference_mode(),
            progress_bar(total=sum(map(len, batches)), desc=description, unit="item") as bar,
        ):
            for batch, (parts, cut) in zip(batches, loader, strict=True):
                inputs = send_to_device([part for _, part in parts], accelerator.device)
                places = [place for of, _ in parts for place in of]
                embeddings = encoder(inputs).float().cpu()[torch.tensor(places).argsort()]  # (B, D)
                finite = embeddings.isfinite().all(dim=1)  # (B,)
                if not finite.all():
                    item = items[batch[int(finite.logical_not().nonzero()[0])]]
                    raise DataError(f"the embedding of {item} is not finite")
                rows.append(embeddings)
                truncated += cut
                bar.update(len(batch))
    finally:
        encoder.train(was_training)
    return torch.cat(rows), truncated


def _in_order(accelerator: Accelerator, rows: Tensor, indices: list[int], total: int) -> Tensor:
    """The rows of all ranks (total, …), put where their indices say; each index exactly once."""
    device = accelerator.device
    everyone = gather_rows(torch.tensor(indices, dtype=torch.long, device=device))
    gathered = gather_rows(rows.to(device))
    counts = torch.bincount(everyone, minlength=total)
    if len(counts) != total or (counts != 1).any():
        raise RuntimeError(f"{len(everyone)} rows for {total} items, some lacking or twice")
    ordered = torch.empty_like(gathered)
    ordered[everyone] = gathered
    return ordered.cpu()


def candidate_index(candidates: Sequence[Sequence[int]]) -> Tensor:
    """Lists of different lengths as one matrix (Q, C), filled up with -1."""
    width = max(map(len, candidates))
    return torch.tensor([[*row, *[-1] * (width - len(row))] for row in candidates])


def score_candidates(queries: Tensor, items: Tensor, index: Tensor) -> Tensor:
    """The similarity of each query to each of its own candidates, -inf where it has fewer.

    Equal embeddings score exactly equal: each distinct one is multiplied once.

    Args:
        queries: (Q, D).
        items: (U, D), which the candidates are among.
        index: row of `items` for each candidate of each query, -1: none (Q, C).
    """
    first: dict[bytes, int] = {}
    same = torch.tensor([first.setdefault(row.tobytes(), n) for n, row in enumerate(items.numpy())])
    blocks = []
    for start in range(0, len(queries), QUERY_BLOCK):
        own = index[start : start + QUERY_BLOCK]
        similarity = queries[start : start + QUERY_BLOCK] @ items.T  # (q, U)
        scores = similarity.gather(1, same[own.clamp(min=0)])  # (q, C)
        blocks.append(scores.masked_fill(own < 0, float("-inf")))
    return torch.cat(blocks)


def hit_at_1(scores: Tensor) -> Tensor:
    """Which queries have their first candidate, the right one, on top (Q,).

    Ties go to the lowest index, as with MMEB's own argmax, so a copy of the right candidate, or
    another with the same embedding, never turns a hit into a miss.
    """
    return scores[:, 0] >= scores.amax(dim=1)


def rank_candidates(scores: Tensor, count: int | None = None) -> Tensor:
    """The places of the `count` best candidates (Q, count), best first, ties by lowest index."""
    return scores.sort(dim=1, descending=True, stable=True).indices[:, :count]


def embedding_statistics(embeddings: Tensor) -> dict[str, float]:
    """Signs of collapse: the mean cosine of two different embeddings (near 1) and the effective
    rank (near 1), from at most MOST_ROWS of them, evenly spaced."""
    rows = embeddings[:: ceil(len(embeddings) / MOST_ROWS)].double()
    count = len(rows)
    pairs = max(count * (count - 1), 1)
    mean_similarity = (rows.sum(dim=0).square().sum() - rows.square().sum()) / pairs
    return {
        "mean_similarity": mean_similarity.item(),
        "effective_rank": effective_rank(rows).item(),
    }
