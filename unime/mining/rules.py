"""What a negative must not be: each rule looks at the candidates of some rows and says which it
drops.

Names and meanings are those of sentence-transformers' `mine_hard_negatives` where it has them. A
rank is a place among the candidates that the corpus does not exclude, whatever other rules drop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from unime.config import MiningConfig
from unime.losses import false_negatives
from unime.mining.corpus import Corpus

GATHERED = 1 << 24  # values of a second model's vectors at a time (64 MB)


@dataclass(frozen=True)
class Found:
    """The candidates of some rows of a task, the most similar first.

    Attributes:
        rows: which ones (B,), and of each of them
        queries, positives: its query and its target (B,), by their number in the corpus.
        positive_scores: the similarity of these two (B, 1).
        targets: the candidates (B, K), -1 where there are no more.
        scores: their similarity to the query (B, K).
        ranks: among the candidates that the corpus does not exclude (B, K), from 0.
    """

    rows: Tensor
    queries: Tensor
    positives: Tensor
    positive_scores: Tensor
    targets: Tensor
    scores: Tensor
    ranks: Tensor


class Rule(Protocol):
    """Says which candidates are no negatives, whatever other rules say."""

    @property
    def name(self) -> str:
        """As the report has it."""

    def __call__(self, found: Found) -> Tensor:
        """Which candidates it drops (B, K)."""


@dataclass(frozen=True)
class Listed:
    """What the corpus excludes: pairs ``query * num_targets + target``, sorted."""

    name: str
    pairs: Tensor
    num_targets: int

    def __call__(self, found: Found) -> Tensor:
        if not len(self.pairs):
            return torch.zeros_like(found.targets, dtype=torch.bool)
        asked = found.queries[:, None] * self.num_targets + found.targets  # (B, K)
        places = torch.searchsorted(self.pairs, asked).clamp(max=len(self.pairs) - 1)
        return (self.pairs[places] == asked) & (found.targets >= 0)


@dataclass(frozen=True)
class RankWindow:
    """Keeps ranks from `range_min` to `range_max` - 1."""

    range_min: int
    range_max: int
    name: str = "rank window"

    def __call__(self, found: Found) -> Tensor:
        return (found.ranks < self.range_min) | (found.ranks >= self.range_max)


@dataclass(frozen=True)
class FalseNegatives:
    """UniME's rule (paper 3.3, equation 3): what is more similar to the query than its positive
    plus a margin is taken for a false negative, as in the loss."""

    margin: float
    name: str = "false_negative_margin"

    def __call__(self, found: Found) -> Tensor:
        return false_negatives(found.scores, found.positive_scores, found.targets >= 0, self.margin)


@dataclass(frozen=True)
class AbsoluteMargin:
    """Drops what is not less similar than the positive by a margin."""

    margin: float
    name: str = "absolute_margin"

    def __call__(self, found: Found) -> Tensor:
        return found.scores + self.margin > found.positive_scores


@dataclass(frozen=True)
class RelativeMargin:
    """Drops what is not less similar than the positive by a share of that one's similarity."""

    margin: float
    name: str = "relative_margin"

    def __call__(self, found: Found) -> Tensor:
        positive = found.positive_scores
        return found.scores > positive - positive.abs() * self.margin


@dataclass(frozen=True)
class HighestScore:
    limit: float
    name: str = "max_score"

    def __call__(self, found: Found) -> Tensor:
        return found.scores > self.limit


@dataclass(frozen=True)
class LowestScore:
    limit: float
    name: str = "min_score"

    def __call__(self, found: Found) -> Tensor:
        return found.scores < self.limit


@dataclass(frozen=True)
class SecondModel:
    """Drops what another model finds too similar to the query: above its own limit, or above its
    own similarity of the positive plus a margin.

    Attributes:
        queries, targets: its embeddings of the corpus (Q, D) and (T, D).
        max_score, margin: None: not looked at.
    """

    queries: Tensor
    targets: Tensor
    max_score: float | None
    margin: float | None
    name: str = "second model"

    def __call__(self, found: Found) -> Tensor:
        asked = self.queries[found.queries]  # (B, D)
        at_once = max(1, GATHERED // (found.targets.shape[1] * asked.shape[1]))
        parts = zip(asked.split(at_once), found.targets.split(at_once), strict=True)
        scores = torch.cat(
            [
                (self.targets[own.clamp(min=0)] @ some[:, :, None]).squeeze(2)  # (b, K)
                for some, own in parts
            ]
        )
        dropped = torch.zeros_like(found.targets, dtype=torch.bool)
        if self.max_score is not None:
            dropped |= scores > self.max_score
        if self.margin is not None:
            positive = (asked * self.targets[found.positives]).sum(dim=1, keepdim=True)
            dropped |= scores > positive + self.margin
        return dropped


def known_rules(corpus: Corpus) -> list[Rule]:
    """What is known to be right, which is never a negative, or to be one already."""
    return [Listed(name, pairs, len(corpus.targets)) for name, pairs in corpus.excluded.items()]


def rules_of(config: MiningConfig) -> list[Rule]:
    """Those that the settings ask for by numbers, the window first."""
    rules: list[Rule] = [RankWindow(config.range_min, config.range_max)]
    kinds: dict[str, Callable[[float], Rule]] = {
        "false_negative_margin": FalseNegatives,
        "absolute_margin": AbsoluteMargin,
        "relative_margin": RelativeMargin,
        "max_score": HighestScore,
        "min_score": LowestScore,
    }
    for key, kind in kinds.items():
        if (value := getattr(config, key)) is not None:
            rules.append(kind(value))
    return rules
