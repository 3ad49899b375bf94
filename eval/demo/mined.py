"""Which negatives of the demo's data are true: of those that rules drop, of mined ones, of a
batch's."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unime.config import MiningConfig, Stage2Config, build_config
from unime.data.sampler import GlobalBatchSampler
from unime.inputs.items import Pair, item_key
from unime.losses import false_negatives, negatives_of
from unime.mining.corpus import Corpus
from unime.mining.miner import Miner
from unime.mining.near_duplicates import NearDuplicates
from unime.mining.rules import (
    AbsoluteMargin,
    FalseNegatives,
    HighestScore,
    RelativeMargin,
    Rule,
    SecondModel,
)

WINDOW, NEGATIVES, BATCH = 100, 8, 64
EPOCHS = 2  # of batches that are looked at
Counts = dict[str, Tensor]


@dataclass(frozen=True)
class Marked:
    """A task's rows with their answers, and its embeddings by one model or two."""

    name: str
    pairs: list[Pair]
    answers: Tensor  # (N,): equal exactly where targets are right for each other's queries
    corpus: Corpus
    vectors: list[tuple[Tensor, Tensor]]  # (Q, D) and (T, D) of each model
    rows: tuple[Tensor, Tensor]  # (N, D) queries and targets of the first

    def is_false(self, rows: Tensor, targets: Tensor) -> Tensor:
        """Which targets (B, K) are right answers of rows (B,)."""
        own = self.answers[self.corpus.row_of[targets.clamp(min=0)]]
        return (own == self.answers[rows][:, None]) & (targets >= 0)


def single_rules(task: Marked) -> list[tuple[str, Rule]]:
    """What is judged alone, and how it is called in the table."""
    rules: list[tuple[str, Rule]] = [
        ("false_negative_margin 0.1 (UniME)", FalseNegatives(0.1)),
        ("false_negative_margin 0", FalseNegatives(0.0)),
        ("absolute_margin 0.05", AbsoluteMargin(0.05)),
        ("absolute_margin 0.1", AbsoluteMargin(0.1)),
        ("relative_margin 0.05 (NV-Retriever)", RelativeMargin(0.05)),
        ("relative_margin 0.2", RelativeMargin(0.2)),
        ("max_score 0.8", HighestScore(0.8)),
        ("near_duplicates 4", NearDuplicates.of(task.corpus, 4, 50_000_000)),
        ("near_duplicates 8", NearDuplicates.of(task.corpus, 8, 50_000_000)),
    ]
    for queries, targets in task.vectors[1:]:
        rules.append(("second model, margin 0", SecondModel(queries, targets, None, 0.0)))
    return rules


def judge_rules(task: Marked) -> Counts:
    """Of each rule: candidates, false ones, dropped ones, and both."""
    config = MiningConfig(range_max=WINDOW, false_negative_margin=None)
    miner = Miner(task.corpus, *task.vectors[0], config)
    counts: Counts = defaultdict(lambda: torch.zeros(4, dtype=torch.long))
    window, rules = miner.rules[0], single_rules(task)
    for found in miner.candidates():
        there = (found.targets >= 0) & (found.targets != found.positives[:, None])
        false = task.is_false(found.rows, found.targets) & there
        excluded = torch.zeros_like(there)
        for rule in miner.known:
            hits = rule(found) & there
            counts[rule.name] += _four(there, false, hits)
            excluded |= hits
        left = there & ~excluded & ~window(found)
        for name, rule in rules:
            counts[name] += _four(left, false & left, rule(found) & left)
    return counts


def _four(there: Tensor, false: Tensor, dropped: Tensor) -> Tensor:
    return torch.stack([part.sum() for part in (there, false, dropped, false & dropped)])


MINED: dict[str, dict[str, Any]] = {
    "mined, no rule but known answers": {"false_negative_margin": None},
    "mined, UniME's margin 0.1": {},
    "mined, margin 0": {"false_negative_margin": 0.0},
    "mined, relative_margin 0.05": {"relative_margin": 0.05},
    "mined, relative_margin 0.2": {"relative_margin": 0.2},
    "mined, ranks from 10": {"range_min": 10},
    "mined, ranks from 10, margin 0": {"range_min": 10, "false_negative_margin": 0.0},
    "mined, ranks from 10, relative_margin 0.05": {"range_min": 10, "relative_margin": 0.05},
    "mined, ranks from 20": {"range_min": 20},
    "mined, ranks from 20, margin 0": {"range_min": 20, "false_negative_margin": 0.0},
    "mined, ranks from 30": {"range_min": 30},
    "mined, margin 0, near_duplicates 8": {"false_negative_margin": 0.0, "near_duplicates": 8},
    "mined, random of 100, margin 0": {
        "false_negative_margin": 0.0, "sampling_strategy": "random"},
}  # fmt: skip


def judge_mined(task: Marked) -> dict[str, Tensor]:
    """Of each way: places for negatives, those filled by different ones, true ones among them, the
    sum of their similarities, and those of them above the positive's less 0.1."""
    found = {}
    ways = dict(MINED)
    if len(task.vectors) > 1:
        ways["mined, margin 0, second model"] = {"false_negative_margin": 0.0, "second": True}
    for name, settings in ways.items():
        settings = dict(settings)
        second = settings.pop("second", False)
        config = MiningConfig(num_negatives=NEGATIVES, range_max=WINDOW, **settings)
        more: list[Rule] = [SecondModel(*task.vectors[1], None, 0.0)] if second else []
        if config.near_duplicates is not None:
            more.append(NearDuplicates.of(task.corpus, config.near_duplicates, 50_000_000))
        mined = Miner(task.corpus, *task.vectors[0], config, more).mine()
        filled = mined.negatives >= 0
        rows = torch.arange(len(task.pairs))
        true = filled & ~task.is_false(rows, mined.negatives)
        found[name] = _five(filled, true, mined.scores, mined.positive_scores[:, None])
    return found


def _five(filled: Tensor, true: Tensor, scores: Tensor, positive: Tensor) -> Tensor:
    near = true & (scores > positive - 0.1)
    parts = (torch.ones_like(filled), filled, true, scores[true], near)
    return torch.stack([part.double().sum() for part in parts])


def judge_batches(task: Marked, margin: float | None) -> Tensor:
    """The same of what the loss takes of a batch: the hardest that its filter leaves."""
    sampler = GlobalBatchSampler(
        {task.name: len(task.pairs)}, BATCH, build_config(
            Stage2Config, Path("configs/demo/stage2.yaml")).data.mixing, seed=1
    )  # fmt: skip
    total = torch.zeros(5, dtype=torch.double)
    asked_keys, wanted_keys = (
        torch.tensor([item_key(item) for item in side])
        for side in ([pair.query for pair in task.pairs], [pair.target for pair in task.pairs])
    )
    for step in range(EPOCHS * sampler.steps_per_epoch):
        rows = torch.tensor(sampler.batch(step))
        scores = task.rows[0][rows] @ task.rows[1][rows].T
        eligible = negatives_of(asked_keys[rows], wanted_keys[rows], wanted_keys[rows])
        positive = scores.diag()[:, None]
        kept = eligible & ~false_negatives(scores, positive, eligible, margin)
        top, places = scores.masked_fill(~kept, -torch.inf).topk(NEGATIVES)
        filled = top > -torch.inf
        answers = task.answers[rows]
        true = filled & (answers[places] != answers[:, None])
        total += _five(filled, true, top, positive)
    return total
