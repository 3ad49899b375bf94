"""Negatives for every row of a task: what is near its query, less what rules drop, n of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from unime.config import MiningConfig
from unime.mining.corpus import Corpus
from unime.mining.rules import Found, Rule, known_rules, rules_of
from unime.mining.search import GIB, Search, make_search
from unime.retrieval.ranking import NONE
from unime.runtime.progress import progress_bar

OF_CANDIDATE = 96  # bytes that one of a row takes at most, while rules look at it
BINS = 400  # of similarities, from -1 to 1


@dataclass
class Tally:
    """What became of the candidates of all rows.

    Attributes:
        candidates: how many there were.
        dropped: by rule, how many it drops, and how many of them no rule before it does.
        scores: by what they are of ("positive", "negative", "dropped" and each rule) how many
            similarities are in each of BINS parts of -1 to 1.
    """

    candidates: int = 0
    dropped: dict[str, tuple[int, int]] = field(default_factory=dict)
    scores: dict[str, Tensor] = field(default_factory=dict)

    def add(self, name: str, hits: Tensor, before: Tensor, scores: Tensor) -> None:
        all_of_it, first = self.dropped.get(name, (0, 0))
        new = hits & ~before
        self.dropped[name] = all_of_it + int(hits.sum()), first + int(new.sum())
        self.count(name, scores[hits])

    def count(self, name: str, scores: Tensor) -> None:
        place = ((scores.double() + 1) * (BINS / 2)).long().clamp(0, BINS - 1)
        counts = torch.bincount(place.flatten(), minlength=BINS)
        self.scores[name] = self.scores.get(name, 0) + counts


@dataclass(frozen=True)
class Mined:
    """What was found for the N rows of a task.

    Attributes:
        negatives: targets by their number in the corpus (N, n), the most similar first, -1 where
            fewer are left.
        scores: their similarity to the query (N, n), -inf there.
        positive_scores: that of each row's own target (N,).
    """

    negatives: Tensor
    scores: Tensor
    positive_scores: Tensor
    tally: Tally


class Miner:
    """Looks for the negatives of a task's rows.

    Args:
        queries, targets: embeddings of the corpus (Q, D) and (T, D), of unit norm, on one device.
        more: rules beside those of the settings.
        seed: of a random choice.
    """

    def __init__(
        self,
        corpus: Corpus,
        queries: Tensor,
        targets: Tensor,
        config: MiningConfig,
        more: Sequence[Rule] = (),
        seed: int = 0,
    ) -> None:
        self.corpus, self.queries, self.targets = corpus, queries, targets
        self.config, self.seed = config, seed
        self.known = known_rules(corpus)
        self.rules = [*rules_of(config), *more]
        self._order = corpus.query_of.argsort(stable=True)  # rows of equal queries together
        ends = corpus.query_of.bincount(minlength=len(queries)).cumsum(0)
        self._begins = torch.nn.functional.pad(ends, (1, 0)).tolist()

    def mine(
        self, leave: Callable[[], None] = lambda: None, rank: int = 0, world: int = 1
    ) -> Mined:
        """Negatives of all rows, the same whatever the memory; of several ranks each its share, the
        rows of others being left empty.

        Args:
            leave: called equally often on all ranks; raises where a signal has come.
        """
        count = len(self.corpus.query_of)
        size = count, self.config.num_negatives
        mined = Mined(
            torch.full(size, -1, dtype=torch.long), torch.full(size, NONE), torch.zeros(count),
            Tally(),
        )  # fmt: skip
        search = self._search()
        starts = range(0, len(self.queries), search.rows)
        with progress_bar(total=count, desc="mining", unit="row") as bar:
            for number in range(0, len(starts), world):
                for first in starts[number + rank : number + rank + 1]:
                    for found in self._found(search, first):
                        self._fill(mined, found)
                        bar.update(len(found.rows))
                leave()
        mined.tally.count("positive", mined.positive_scores)
        return mined

    def candidates(self) -> Iterator[Found]:
        """Those of all rows, some rows at a time."""
        search = self._search()
        for first in range(0, len(self.queries), search.rows):
            yield from self._found(search, first)

    def judged(self, rows: Sequence[int]) -> Iterator[tuple[Found, dict[str, Tensor]]]:
        """The candidates of a few rows, each row alone, and which of them each rule drops."""
        search = self._search()
        for row in rows:
            query = self.corpus.query_of[row]
            targets, scores = search(self.queries[query][None])
            found = self._as_found(torch.tensor([row]), targets, scores)
            yield found, {rule.name: rule(found) for rule in (*self.known, *self.rules)}

    def _search(self) -> Search:
        depth = self.config.range_max + self.corpus.most_excluded
        return make_search(self.targets, depth, self.config)

    def _found(self, search: Search, first: int) -> Iterator[Found]:
        """The candidates of the rows of a block of queries, those of equal ones after another."""
        targets, scores = search(self.queries[first : first + search.rows])
        rows = self._order[self._begins[first] : self._begins[first + len(targets)]]
        at_once = max(1, int(self.config.memory * GIB / OF_CANDIDATE / targets.shape[1]))
        for some in rows.split(at_once):
            own = self.corpus.query_of[some] - first
            yield self._as_found(some, targets[own], scores[own])

    def _fill(self, mined: Mined, found: Found) -> None:
        """Take note of the rows of a block."""
        kept = ~self._dropped(found, mined.tally) & (found.targets >= 0)
        places = self._chosen(found, kept)  # (B, n)
        there, places, width = places >= 0, places.clamp(min=0), places.shape[1]
        scores = found.scores.gather(1, places).where(there, NONE)
        mined.negatives[found.rows, :width] = found.targets.gather(1, places).where(there, -1)
        mined.scores[found.rows, :width] = scores
        mined.positive_scores[found.rows] = found.positive_scores[:, 0]
        mined.tally.count("negative", scores[there])

    def _as_found(self, rows: Tensor, targets: Tensor, scores: Tensor) -> Found:
        queries, positives = self.corpus.query_of[rows], self.corpus.target_of[rows]
        device = self.targets.device
        asked, wanted = self.queries[queries.to(device)], self.targets[positives.to(device)]
        positive_scores = (asked * wanted).sum(dim=1, keepdim=True).cpu()
        found = Found(rows, queries, positives, positive_scores, targets, scores, targets)
        excluded = torch.stack([rule(found) for rule in self.known]).any(dim=0)
        return replace(found, ranks=(~excluded).cumsum(dim=1) - 1)

    def _dropped(self, found: Found, tally: Tally) -> Tensor:
        """Whatever any rule drops (B, K)."""
        is_there = found.targets >= 0
        dropped = torch.zeros_like(is_there)
        tally.candidates += int(is_there.sum())
        for rule in (*self.known, *self.rules):
            hits = rule(found) & is_there
            tally.add(rule.name, hits, dropped, found.scores)
            dropped |= hits
        tally.count("dropped", found.scores[dropped])
        return dropped

    def _chosen(self, found: Found, kept: Tensor) -> Tensor:
        """The places of n of those that are left, in order (B, n); -1 where there are fewer."""
        count = min(self.config.num_negatives, kept.shape[1])
        if self.config.sampling_strategy == "random":
            lots = drawn(found.rows, found.targets, self.seed).masked_fill(~kept, 2**62)
            kept = kept & (lots.argsort(dim=1).argsort(dim=1) < count)
        order = (~kept).to(torch.uint8).argsort(dim=1, stable=True)[:, :count]
        return order.where(kept.gather(1, order), -1)


def drawn(rows: Tensor, targets: Tensor, seed: int) -> Tensor:
    """A random number for each candidate of each row (B, K), below 2**62, whatever stands beside
    them: splitmix64 of seed, row and target."""
    mixed = np.full(targets.shape, seed, dtype=np.uint64)
    for part in (rows[:, None], targets):
        mixed = (mixed ^ part.numpy().astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return torch.from_numpy((mixed >> np.uint64(2)).astype(np.int64))
