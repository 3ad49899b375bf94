"""What all rows of the data say is right is no negative, wherever a batch finds it.

./launch.sh test tests/data/test_labels.py
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoProcessor

from tests.support.ranks import Ranks
from unime.backbones.families import BACKBONES
from unime.config import InputConfig, MiningConfig
from unime.data.labels import RightAnswers
from unime.data.survey import survey
from unime.inputs.items import Item, Pair, item_key, right_targets
from unime.losses import negatives_of
from unime.mining.corpus import Corpus
from unime.mining.miner import Miner
from unime.models.item_processor import ItemProcessor
from unime.runtime.distributed import gather_rows
from unime.training.chunks import ChunkLimits
from unime.training.collator import PairCollator

CAPTIONS = [
    Pair(Item("P"), Item("c1"), row_id="0"),
    Pair(Item("P"), Item("c2"), row_id="1"),
    Pair(Item("R"), Item("r1"), (Item("c2"),), "2"),
]


@pytest.fixture
def processor(tiny_model: Callable[..., Path]) -> ItemProcessor:
    loaded = AutoProcessor.from_pretrained(tiny_model("qwen2_vl"))
    return ItemProcessor(loaded, BACKBONES["qwen2_vl"], InputConfig())


def known(rows: Sequence[Pair]) -> RightAnswers:
    keys = survey(rows, {"T": len(rows)}, 1).answers
    assert keys is not None
    return RightAnswers(keys)


def negatives(labels: dict[str, Tensor]) -> Tensor:
    positives = labels["target_key"][labels["is_positive"]]
    keys = labels["query_key"], positives, labels["target_key"]
    return negatives_of(*keys, labels.get("asked"), labels.get("named"))


def texts_of(batch: Sequence[Pair], labels: dict[str, Tensor]) -> list[set[str]]:
    """What are negatives of each row's query."""
    targets = [pair.target for pair in batch] + [n for pair in batch for n in pair.negatives]
    return [
        {item.text for item, is_one in zip(targets, row, strict=True) if is_one}
        for row in negatives(labels).tolist()
    ]


def test_what_is_mined_for_one_answer_is_no_negative_of_another_row(
    processor: ItemProcessor,
) -> None:
    """Three cats and three dogs: those mined for the dog of a batch are right for its cat."""
    rows = [
        Pair(Item(f"q{name}{n}"), Item(f"t{name}{n}"), (), f"{name}{n}", (), name, "T")
        for name in ("cat", "dog")
        for n in range(3)
    ]
    torch.manual_seed(0)
    corpus, vectors = Corpus.of(rows), normalize(torch.randn(12, 8), dim=1)
    settings = MiningConfig(num_negatives=3, range_max=10, false_negative_margin=None)
    mined = Miner(corpus, vectors[:6], vectors[6:], settings).mine().negatives.tolist()
    batch = [
        replace(rows[n], negatives=tuple(corpus.targets[m] for m in mined[n] if m >= 0))
        for n in (0, 3)
    ]
    limits = ChunkLimits(9, 9)
    alone = PairCollator(processor, limits)(batch).labels
    assert {"tcat1", "tcat2"} & texts_of(batch, alone)[0]
    labels = PairCollator(processor, limits, right=known(rows))(batch).labels
    dogs, cats = ({f"t{name}{n}" for n in range(3)} for name in ("dog", "cat"))
    assert texts_of(batch, labels) == [dogs, cats]


def test_another_right_answer_is_no_negative_because_another_row_brings_it(
    processor: ItemProcessor,
) -> None:
    """Of rows (P, c1), (P, c2) and (R, r1) the first and the last meet, c2 mined for R."""
    batch = [CAPTIONS[0], CAPTIONS[2]]
    labels = PairCollator(processor, ChunkLimits(9, 9), right=known(CAPTIONS))(batch).labels
    assert texts_of(batch, labels) == [{"r1"}, {"c1", "c2"}]


def of_two_ranks(folder: str, model: str) -> None:
    accelerator = Accelerator(cpu=True)
    loaded = AutoProcessor.from_pretrained(model)
    prepare = ItemProcessor(loaded, BACKBONES["qwen2_vl"], InputConfig())
    own = [CAPTIONS[0], CAPTIONS[2]][accelerator.process_index]
    labels = PairCollator(prepare, ChunkLimits(9, 9), right=known(CAPTIONS))([own]).labels
    gathered = {name: gather_rows(of) for name, of in labels.items()}
    torch.save(gathered, Path(folder) / f"{accelerator.process_index}.pt")


def test_ranks_tell_each_other(
    two_ranks: Ranks, tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    two_ranks.run(of_two_ranks, str(tmp_path), str(tiny_model("qwen2_vl")))
    for rank in range(2):
        labels = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert texts_of([CAPTIONS[0], CAPTIONS[2]], labels) == [{"r1"}, {"c1", "c2"}]


@pytest.mark.parametrize("kinds", [0, 30])
def test_all_that_rows_say_is_known(kinds: int) -> None:
    """On random rows, any of their targets beside them, against `right_targets`."""
    random = np.random.default_rng(kinds)
    changed = 0
    for _ in range(20):
        asked, wanted = random.integers(12, size=60), random.integers(25, size=60)
        kind = random.integers(kinds, size=60) if kinds else [0] * 60
        rows = [
            Pair(Item(f"q{q}"), Item(f"t{t}"), (), f"{n}", (), f"{k}" if k % 3 else "", "T")
            for n, (q, t, k) in enumerate(zip(asked, wanted, kind, strict=True))
        ]
        right = right_targets((pair.query, pair.target, pair.answer) for pair in rows)
        batch = [rows[n] for n in random.permutation(60)[:6]]
        targets = [pair.target for pair in batch]
        targets += [rows[n].target for n in random.permutation(60)[:8]]
        queries = [pair.query for pair in batch]
        keys = [[item_key(item) for item in side] for side in (queries, targets)]
        items = ({item_key(item): item for item in side} for side in (queries, targets))
        labels = known(rows).labels(*items)
        asking, offered = map(torch.tensor, keys)
        plain = negatives_of(asking, offered[:6], offered)
        found = negatives_of(asking, offered[:6], offered, **labels)
        for q, query in enumerate(queries):
            for t, target in enumerate(targets):
                is_first = targets.index(target) == t
                assert bool(found[q, t]) == (is_first and target not in right[query])
        changed += int((plain & ~found).sum())
    assert changed > 20


def test_what_has_many_partners_has_few_names() -> None:
    """A label of a thousand queries, and a query of a thousand targets."""
    rows = [Pair(Item(f"q{n}"), Item("label"), (), f"a{n}") for n in range(1000)]
    assert len(known(rows)) == 0  # a batch knows all by itself
    rows += [Pair(Item("query"), Item(f"t{n}"), (), f"b{n}") for n in range(1000)]
    rows += [Pair(Item("q0"), Item(f"t{n}"), (), f"c{n}") for n in range(3)]
    items = [{item_key(item): item} for item in (Item("query"), Item("label"))]
    labels = known(rows).labels(*items)
    assert (len(labels["asked"]), len(labels["named"])) == (1, 1)
