"""Negatives that are mined again and again while a model learns (``data.mine_every``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor

from unime.config import MiningConfig
from unime.data.datasets import PairDataset
from unime.errors import DataError
from unime.inputs.items import Pair
from unime.mining.corpus import Corpus
from unime.mining.miner import Miner
from unime.mining.near_duplicates import NearDuplicates
from unime.mining.rules import Rule
from unime.retrieval.embedder import ItemEmbedder
from unime.retrieval.encoding import DistinctItems, distinct_items, encode

MINED = "mined.safetensors"  # in a checkpoint


class MinedRows(Sequence[Pair]):
    """Rows with the newest negatives after those that they have themselves.

    Attributes:
        negatives: of each row the rows whose targets these are (N, n), -1 where there are fewer.
    """

    def __init__(self, rows: PairDataset) -> None:
        self.rows = rows
        self.negatives = torch.empty(len(rows), 0, dtype=torch.long)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Pair:  # type: ignore[override]  # no slices
        pair, numbers = self.rows[index], self.negatives[index].tolist()
        mined = (self.rows[number].target for number in numbers if number >= 0)
        return replace(pair, negatives=(*pair.negatives, *mined))


@dataclass(frozen=True)
class _Told:
    """What is known of the rows before any is embedded."""

    distinct: DistinctItems  # queries of all rows, then their targets
    corpora: list[Corpus]  # of the tasks
    rules: list[list[Rule]]


class Mining:
    """When negatives are mined, and what was.

    Attributes:
        rows: those that are trained on.
        step: of the newest negatives; -1: there are none yet.

    Args:
        every: steps from one mining to the next.
        batch_size: items embedded at a time.
        max_pixels: of a picture.
        seed: of a random choice.
    """

    def __init__(
        self,
        rows: PairDataset,
        config: MiningConfig,
        every: int,
        batch_size: int,
        max_pixels: int,
        seed: int,
    ) -> None:
        self.rows = MinedRows(rows)
        self.step = -1
        self._config, self._every, self._batch_size = config, every, batch_size
        self._max_pixels, self._seed = max_pixels, seed
        self._told: _Told | None = None

    def is_due(self, step: int) -> bool:
        """Whether to mine before the step that follows so many."""
        return self.step < 0 or (step > self.step and step % self._every == 0)

    def next_step(self, step: int) -> int:
        """How many steps are taken when it is due again."""
        return (step // self._every + 1) * self._every

    def mine(
        self, accelerator: Accelerator, embedder: ItemEmbedder, leave: Callable[[], None], step: int
    ) -> str:
        """Find new negatives for all rows, on all ranks together; the same on any number of them.

        Args:
            leave: called on all ranks from time to time; raises where a signal has come, and the
                negatives stay what they were.

        Returns:
            What was found, in words.

        Raises:
            DataError: a picture that cannot be read.
        """
        if self._told is None:
            self._told = self._look(accelerator)
        distinct = self._told.distinct
        vectors = torch.empty(len(distinct.items), embedder.dimension)
        rounds = encode(
            accelerator, embedder, distinct.items, self._batch_size, description="mining"
        )
        for encoded in rounds:
            vectors[encoded.places] = encoded.embeddings
            leave()
        parts = list(self._of_tasks(accelerator, self._told, vectors, leave, step))
        self.rows.negatives, self.step = torch.cat(parts), step
        found = (self.rows.negatives >= 0).sum(dim=1)
        short = int((found < self._config.num_negatives).sum())
        return (
            f"mined after step {step}: {int(found.sum()):,} negatives of {len(self.rows):,} rows,"
            f" {short:,} of which got fewer than {self._config.num_negatives}"
        )

    def save(self, folder: Path) -> None:
        """Put the negatives into a checkpoint; where there are none yet there is nothing to put."""
        if self.step >= 0:
            save_file({"negatives": self.rows.negatives}, folder / MINED)

    def go_on(self, step: int, folder: Path) -> None:
        """Take the negatives of a checkpoint.

        Raises:
            DataError: they are of other rows.
        """
        self.step = step
        if step < 0:
            return
        negatives = load_file(folder / MINED)["negatives"]
        rows = len(self.rows)
        if len(negatives) != rows or (negatives >= rows).any() or (negatives < -1).any():
            raise DataError(f"{folder / MINED}: negatives of other rows")
        self.rows.negatives = negatives

    def _look(self, accelerator: Accelerator) -> _Told:
        pairs = list(self.rows.rows)
        items = [*(pair.query for pair in pairs), *(pair.target for pair in pairs)]
        distinct = distinct_items(accelerator, items)
        corpora, first = list[Corpus](), 0
        for size in self.rows.rows.task_sizes.values():
            corpora.append(Corpus.of(pairs[first : first + size], self._config.shared_targets))
            first += size
        bits = self._config.near_duplicates
        rules: list[list[Rule]] = [
            [] if bits is None else [NearDuplicates.of(corpus, bits, self._max_pixels)]
            for corpus in corpora
        ]
        return _Told(distinct, corpora, rules)

    def _of_tasks(
        self,
        accelerator: Accelerator,
        told: _Told,
        vectors: Tensor,
        leave: Callable[[], None],
        step: int,
    ) -> Iterator[Tensor]:
        """Of the rows of each task, the rows whose targets are their negatives (n, ...)."""
        first, count, device = 0, len(self.rows), accelerator.device
        seed = (self._seed << 32) + step
        for corpus, rules in zip(told.corpora, told.rules, strict=True):
            places = told.distinct.index
            queries = vectors[places[corpus.first_rows + first]].to(device)
            targets = vectors[places[corpus.row_of + first + count]].to(device)
            miner = Miner(corpus, queries, targets, self._config, rules, seed)
            mined = miner.mine(leave, accelerator.process_index, accelerator.num_processes)
            numbers = mined.negatives + 1  # of the rows of other ranks 0
            numbers = accelerator.reduce(numbers.to(device), "sum").cpu() - 1
            yield torch.where(numbers >= 0, corpus.row_of[numbers.clamp(min=0)] + first, -1)
            first += len(corpus.query_of)
