"""How well stage 2's false-negative filter finds what the demo's data mark as false negatives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from data_prep.demo.emoji import load_concepts
from data_prep.demo.tasks import same
from eval.tasks.mmeb_v1 import read_mmeb
from unime.config import Stage2Config, build_config
from unime.data.datasets import PairDataset
from unime.data.sampler import GlobalBatchSampler
from unime.data.tables import load_table
from unime.inputs.items import Item, item_key
from unime.losses import false_negatives, negatives_of
from unime.models.encoder import Encoder
from unime.retrieval.encoding import encode_items
from unime.retrieval.unime_embedder import UnimeEmbedder

DATA = Path("data/demo")
FILTER_BATCHES = 8


@dataclass(frozen=True)
class MarkedPairs:
    """Queries and their targets, and which targets are right for each other's queries: those of
    equal answers."""

    queries: list[Item]
    targets: list[Item]
    answers: list[str]


def judge_filter(folder: Path, model: str, split: str) -> dict[str, dict[str, float]]:
    """The false-negative filter of stage 2 as `model` embeds things, against the known truth: on
    batches of its training rows, and on flags, which no stage has seen and some of which are
    identical.

    Of all (query, target) pairs that the loss may take for negatives (losses.negatives_of): which
    are right answers (``false_negatives``), which the margin filters, and how well the two agree.
    """
    adapter = f"model.adapter={folder / model / 'final'}"
    config = build_config(Stage2Config, folder / "stage1_stage2/config.yaml", [adapter])
    embedder = UnimeEmbedder(Encoder.load(config.model, config.inputs))
    accelerator = Accelerator(cpu=True)
    found = {}
    for name, batches in (("training", training_batches(config)), ("flags", [flags(split)])):
        counts = torch.zeros(4, dtype=torch.long)
        for batch in batches:
            asked = encode_items(accelerator, embedder, batch.queries, batch_size=64)  # (B, D)
            offered = encode_items(accelerator, embedder, batch.targets, batch_size=64)  # (B, D)
            counts += _agreement(asked @ offered.T, batch, config.loss.false_negative_margin)
        pairs, right, filtered, both = counts.tolist()
        found[name] = {
            "pairs": pairs,
            "false_negatives": right,
            "filtered": filtered,
            "precision": both / max(filtered, 1),
            "recall": both / max(right, 1),
        }
    return found


def training_batches(config: Stage2Config, count: int | None = None) -> Iterator[MarkedPairs]:
    """So many batches (else FILTER_BATCHES) of the demo's training rows."""
    data = config.data
    rows = PairDataset.load(data, config.run.seed)
    answers = {
        f"{name}:{number}": row["answer_key"]
        for name in data.sources
        for number, row in enumerate(
            load_table(data.root, name, data.split or "original", None, ("answer_key",), ()).read()
        )
    }
    size = 2 * config.optim.batch_size_per_device
    sampler = GlobalBatchSampler(rows.task_sizes, size, data.mixing, seed=1)
    for step in range(FILTER_BATCHES if count is None else count):
        batch = [rows[i] for i in sampler.batch(step)]
        yield MarkedPairs(
            [row.query for row in batch],
            [row.target for row in batch],
            [answers[row.row_id] for row in batch],
        )


def flags(split: str) -> MarkedPairs:
    """The flags among the queries of the task over groups that no stage sees, with their names."""
    task = read_mmeb(str(DATA / split), "Groups_i2t")
    looks = {concept.name: same(concept) for concept in load_concepts() if concept.is_flag}
    rows = zip(task.queries, (own[0] for own in task.candidate_items()), strict=True)
    found = [(query, name) for query, name in rows if name.text in looks]
    return MarkedPairs(
        [query for query, _ in found],
        [name for _, name in found],
        [looks[name.text] for _, name in found],
    )


def _agreement(similarity: Tensor, batch: MarkedPairs, margin: float | None) -> Tensor:
    """How many pairs there are, false negatives, filtered ones, and both (4,)."""
    asked = torch.tensor([item_key(query) for query in batch.queries])
    offered = torch.tensor([item_key(target) for target in batch.targets])
    eligible = negatives_of(asked, offered, offered)  # (B, B)
    right = torch.tensor([[a == b for b in batch.answers] for a in batch.answers]) & eligible
    filtered = false_negatives(similarity, similarity.diag()[:, None], eligible, margin)
    return torch.stack([part.sum() for part in (eligible, right, filtered, right & filtered)])
