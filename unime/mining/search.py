"""The nearest targets of every query, in a bounded memory: compared with all (exact), or with those
of the nearest lists of an index (IVF, by FAISS)."""

from __future__ import annotations

from math import ceil
from typing import Any, Protocol

import torch
from torch import Tensor

from unime.config import MiningConfig
from unime.errors import require_package
from unime.retrieval.ranking import NONE, best

GIB = 1 << 30
OF_SIMILARITY = 32  # bytes that one takes at most, while the highest are looked for
OF_NEIGHBOUR = 48  # the same of one that was found
OF_TABLE = 64  # bytes of a dimension of a query that is compared by codes
COLUMNS = 1 << 17  # targets at a time
SAMPLE = 64  # targets of each list that an index is made from
SEED = 0  # of its lists
IN_FULL = 10  # times as many targets as are asked for are compared in full
LEAST = 1000  # targets, of which no index is made


class Search(Protocol):
    """Looks for the nearest of some targets.

    Attributes:
        rows: how many queries may be asked at a time.
    """

    rows: int

    def __call__(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Of queries (q, D) the most similar targets (q, K), the best first, of equal scores the
        first in the list, -1 where there are no more, and their scores (q, K), -inf there."""


def make_search(targets: Tensor, depth: int, config: MiningConfig) -> Search:
    """As the settings say, exact where there are few targets; `depth` neighbours of each query, all
    where there are fewer.

    Raises:
        ConfigError: FAISS is asked for and not installed.
    """
    depth = min(depth, len(targets))
    if config.search == "exact" or len(targets) < LEAST:
        return ExactSearch(targets, depth, config.memory)
    return IvfSearch(targets, depth, config.memory, config.lists, config.probes)


class ExactSearch:
    """Every query against every target, a block of each at a time.

    Args:
        memory: GiB that similarities and what is found may take.
    """

    def __init__(self, targets: Tensor, depth: int, memory: float) -> None:
        self.targets, self.depth = targets, depth
        columns = min(len(targets), COLUMNS) + 2 * depth
        of_row = OF_SIMILARITY * columns + OF_NEIGHBOUR * depth
        self.rows = max(1, int(memory * GIB / of_row))

    def __call__(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] | None = None
        queries = queries.to(self.targets.device)
        for first in range(0, len(self.targets), COLUMNS):
            scores = queries @ self.targets[first : first + COLUMNS].T  # (q, C)
            columns, values, _ = best(scores, self.depth)
            del scores
            columns = torch.where(columns >= 0, columns + first, -1)
            if found is not None:  # of equal scores the former ones come first
                both = torch.cat([found[0], columns], dim=1), torch.cat([found[1], values], dim=1)
                order, values, _ = best(both[1], self.depth)
                columns = torch.where(order >= 0, both[0].gather(1, order.clamp(min=0)), -1)
            found = columns, values
        assert found is not None
        return found[0].cpu(), found[1].cpu()


class IvfSearch:
    """An inverted file: targets in lists around centres, of which those nearest to a query are
    compared with it, first by codes of 2 bits a dimension, then the best of them in full.

    Plain vectors in lists were slower than comparing with all: docs/mining.md.

    Args:
        memory: GiB that what is found may take.
        lists: null: 2 √targets.
        probes: lists that a query is compared with; null: half of them, which finds more than 95 %
            of the ten nearest even of words among definitions.
    """

    def __init__(
        self, targets: Tensor, depth: int, memory: float, lists: int | None, probes: int | None
    ) -> None:
        require_package("faiss", "data", "mining.search=ivf")
        import faiss

        self.depth = depth
        vectors = targets.cpu().float().contiguous().numpy()
        count, width = vectors.shape
        lists = min(lists or ceil(2 * count**0.5), count)
        parts = width // 2 if width % 2 == 0 else width
        key = f"IVF{lists},PQ{parts}x4fs,RFlat"
        index: Any = faiss.index_factory(width, key, faiss.METRIC_INNER_PRODUCT)
        inner = faiss.extract_index_ivf(index.base_index)
        inner.cp.seed, inner.cp.max_points_per_centroid = SEED, SAMPLE
        inner.cp.min_points_per_centroid = 1  # fewer are no mistake
        index.k_factor = IN_FULL
        index.train(vectors)
        index.add(vectors)
        self.index = index
        inner.nprobe = min(probes or ceil(lists / 2), lists)
        of_row = OF_NEIGHBOUR * IN_FULL * depth + OF_TABLE * width
        self.rows = max(1, int(memory * GIB / of_row))

    def __call__(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        scores, places = map(
            torch.from_numpy, self.index.search(queries.cpu().float().numpy(), self.depth)
        )
        scores = scores.masked_fill(places < 0, NONE)
        order = places.argsort(dim=1)  # of equal scores the first in the list
        scores, places = scores.gather(1, order), places.gather(1, order)
        scores, order = scores.sort(dim=1, descending=True, stable=True)
        return places.gather(1, order), scores
