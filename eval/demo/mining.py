"""How well mining's rules find the false negatives of the demo's data, which are known, and what
share of its negatives is true, beside those of a batch.

    python -m eval.demo.mining OUTPUT.json [ADAPTER [SECOND_ADAPTER]] [key=value …]

ADAPTER is a run's final/ (none: the base alone), SECOND_ADAPTER another's, which cross-checks; what
follows are settings of an evaluation. Embeddings stay in OUTPUT's folder, so that it goes on after
a stop. Prints Markdown.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from unime.config import EvalConfig, MiningConfig, Stage2Config, build_config
from unime.data.datasets import PairDataset
from unime.data.sampler import GlobalBatchSampler
from unime.data.tables import load_table
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
from unime.retrieval.encoding import DistinctItems, distinct_items
from unime.retrieval.stored import StoredModel
from unime.runtime.environment import git_commit
from unime.runtime.files import write_json
from unime.runtime.program import run_program

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


def load(config: Stage2Config, models: Sequence[StoredModel]) -> Iterator[Marked]:
    """The demo's training tasks, embedded."""
    for name in config.data.sources:
        data = config.data
        subset = PairDataset.load(
            build_config(
                Stage2Config,
                Path("configs/demo/stage2.yaml"),
                [f"data.sources={{{name}: {{}}}}", "data.verify_images=false"],
            ).data,
            0,
        )
        pairs = list(subset)
        table = load_table(data.root, name, "original", None, ("answer_key",), ())
        keys = [row["answer_key"] for row in table.read()]
        numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        items = [*(pair.query for pair in pairs), *(pair.target for pair in pairs)]
        accelerator = models[0].accelerator
        distinct = distinct_items(accelerator, items)
        corpus = Corpus.of(pairs)
        sides = [_sides(model, distinct, name) for model in models]
        vectors = [(asked[corpus.first_rows], wanted[corpus.row_of]) for asked, wanted in sides]
        answers = torch.tensor([numbers[key] for key in keys])
        yield Marked(name, pairs, answers, corpus, vectors, sides[0])


def _sides(model: StoredModel, distinct: DistinctItems, name: str) -> tuple[Tensor, Tensor]:
    """The embeddings of all rows' queries and targets (N, D)."""
    model.encode(distinct, model.missing(distinct), name)
    assert model.store is not None
    queries, targets = model.store.embeddings(distinct.keys)[distinct.index].tensor_split(2)
    return queries, targets


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


def rule_table(counts: Counts) -> str:
    lines = [
        "| rule, alone | candidates | false | dropped | precision | recall |",
        "|" + " --- |" * 6,
    ]
    for name, (there, false, dropped, both) in ((n, c.tolist()) for n, c in counts.items()):
        precision, recall = (f"{both / of:.3f}" if of else "–" for of in (dropped, false))
        lines.append(f"| {name} | {there:,} | {false:,} | {dropped:,} | {precision} | {recall} |")
    return "\n".join(lines)


def negative_table(sums: dict[str, Tensor]) -> str:
    lines = [
        "| negatives of a row | different | different and true | true of those there are |"
        " similarity of the true | true within 0.1 of the positive |",
        "|" + " --- |" * 6,
    ]
    for name, (places, filled, true, scores, near) in ((n, s.tolist()) for n, s in sums.items()):
        shares = [f"{100 * part / places:.1f} %" for part in (filled, true)]
        shares += [f"{100 * true / max(filled, 1):.1f} %", f"{scores / max(true, 1):.3f}"]
        lines.append(f"| {name} | {' | '.join(shares)} | {100 * near / places:.1f} % |")
    return "\n".join(lines)


def main(words: list[str]) -> None:
    """Judge, print and write."""
    if not words or words[0].startswith("-"):
        raise SystemExit(__doc__)
    settings = [word for word in words if "=" in word]
    output, *adapters = [word for word in words if "=" not in word]
    folder = Path(output).resolve().parent / "mining_embeddings"
    accelerator = Accelerator(cpu=True)
    configs = [
        build_config(
            EvalConfig,
            Path("configs/demo/eval.yaml"),
            [f"output_dir={folder}", f"model.adapter={adapter}", *settings],
        )
        for adapter in (adapters or ["null"])
    ]
    models = [StoredModel(config, accelerator) for config in configs]
    stage2 = build_config(Stage2Config, Path("configs/demo/stage2.yaml"))
    rules: Counts = defaultdict(lambda: torch.zeros(4, dtype=torch.long))
    negatives: dict[str, Tensor] = defaultdict(lambda: torch.zeros(5, dtype=torch.double))
    by_task: dict[str, Any] = {}
    for model in models:
        model.open()
    for task in load(stage2, models):
        print(task.name, file=sys.stderr, flush=True)
        own_rules, own = judge_rules(task), judge_mined(task)
        for margin, name in ((0.1, "of the batch, UniME's margin 0.1"), (None, "of the batch")):
            own = {name: judge_batches(task, margin)} | own
        for name, four in own_rules.items():
            rules[name] += four
        for name, five in own.items():
            negatives[name] += five
        by_task[task.name] = {
            "rules": {name: four.tolist() for name, four in own_rules.items()},
            "negatives": {name: five.tolist() for name, five in own.items()},
        }
    for model in models:
        with closing(model):
            pass
    print(f"{rule_table(rules)}\n\n{negative_table(negatives)}")
    facts = {"commit": git_commit(), "models": adapters, "window": WINDOW, "batch": BATCH}
    write_json(Path(output), facts | {"tasks": by_task})


if __name__ == "__main__":
    run_program(lambda: main(sys.argv[1:]))
