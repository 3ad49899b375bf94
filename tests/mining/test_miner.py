"""What is mined is what a plain loop finds, in any memory, with ties and where there is little.

./launch.sh test tests/mining/test_miner.py
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from unime.config import MiningConfig
from unime.inputs.items import Item, Pair
from unime.mining import miner as miner_module
from unime.mining import search as search_module
from unime.mining.corpus import Corpus
from unime.mining.miner import Miner, drawn
from unime.mining.search import ExactSearch, IvfSearch

DIMENSION = 64


def exact_unit(count: int, seed: int) -> Tensor:
    """Vectors of 16 entries of ±1/4: norm 1, products exact in any order, and many ties."""
    random = np.random.default_rng(seed)
    rows = np.zeros((count, DIMENSION), dtype=np.float32)
    for row in rows:
        row[random.choice(DIMENSION, 16, replace=False)] = random.choice([-0.25, 0.25], 16)
    return torch.from_numpy(rows)


def corpus_of(rows: int, queries: int, targets: int) -> Corpus:
    return Corpus.of(
        [Pair(Item(f"q{n * 7 % queries}"), Item(f"t{n * 11 % targets}")) for n in range(rows)]
    )


def plain_loop(
    corpus: Corpus, queries: Tensor, targets: Tensor, config: MiningConfig
) -> list[list[int]]:
    """The same by eye: one row after the other, one candidate after the other."""
    names = [query.text for query in corpus.queries], [target.text for target in corpus.targets]
    rows = [
        (names[0][q], names[1][t])
        for q, t in zip(corpus.query_of.tolist(), corpus.target_of.tolist(), strict=True)
    ]
    mined = []
    for asked, wanted in rows:
        right = {t for q, t in rows if q == asked}
        friends = {q for q, t in rows if t in right}
        right |= {t for q, t in rows if q in friends}
        query = queries[names[0].index(asked)].tolist()

        def score(text: str, query: list[float] = query) -> float:
            vector = targets[names[1].index(text)].tolist()
            return sum(a * b for a, b in zip(query, vector, strict=True))

        others = [text for text in names[1] if text not in right]
        others.sort(key=lambda text: -score(text))  # of equal scores the first in the list
        positive, kept = score(wanted), []
        for text in others[config.range_min : config.range_max]:
            margin = config.false_negative_margin
            if margin is not None and score(text) > positive + margin:
                continue
            if (
                config.absolute_margin is not None
                and score(text) + config.absolute_margin > positive
            ):
                continue
            if config.min_score is not None and score(text) < config.min_score:
                continue
            kept.append(names[1].index(text))
        kept = kept[: config.num_negatives]
        mined.append(kept + [-1] * (config.num_negatives - len(kept)))
    return mined


CONFIGS = {
    "UniME": MiningConfig(range_max=20),
    "window": MiningConfig(range_min=3, range_max=9, false_negative_margin=None),
    "margin": MiningConfig(absolute_margin=0.0625, range_max=30, min_score=-0.125),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("memory", [1.0, 1e-5])
def test_a_plain_loop_finds_the_same(
    config: MiningConfig, memory: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "memory", memory)
    monkeypatch.setattr(search_module, "COLUMNS", 17)  # targets in five blocks
    corpus = corpus_of(90, 40, 70)
    queries, targets = exact_unit(len(corpus.queries), 1), exact_unit(len(corpus.targets), 2)
    mined = Miner(corpus, queries, targets, config).mine()
    assert mined.negatives.tolist() == plain_loop(corpus, queries, targets, config)
    expected = torch.stack([(queries[q] * targets[t]).sum() for q, t in
                            zip(corpus.query_of, corpus.target_of, strict=True)])  # fmt: skip
    assert torch.equal(mined.positive_scores, expected)


def test_shares_of_ranks_are_one_whole() -> None:
    corpus = corpus_of(90, 40, 70)
    queries, targets = exact_unit(len(corpus.queries), 1), exact_unit(len(corpus.targets), 2)
    config = MiningConfig(memory=2e-5)
    whole = Miner(corpus, queries, targets, config).mine().negatives
    calls = [0, 0, 0]

    def count(rank: int) -> None:
        calls[rank] += 1

    shares = [
        Miner(corpus, queries, targets, config).mine(lambda r=rank: count(r), rank, 3).negatives  # type: ignore[misc]
        for rank in range(3)
    ]
    assert torch.equal(torch.stack(shares).add(1).sum(dim=0).sub(1), whole)
    assert calls[0] == calls[1] == calls[2] > 1  # nobody waits for another


@pytest.mark.parametrize("search", ["exact", "ivf"])
def test_ties_are_in_the_order_of_the_list(search: str) -> None:
    if search == "ivf":
        pytest.importorskip("faiss")
    targets = exact_unit(1, 0).repeat(300, 1)
    found = (
        ExactSearch(targets, 9, 1.0) if search == "exact" else IvfSearch(targets, 300, 1.0, 4, 4)
    )
    places, scores = found(targets[:2])
    assert places[:, :9].tolist() == [list(range(9))] * 2 and (scores == 1).all()


def test_fewer_candidates_than_asked_for() -> None:
    corpus = corpus_of(6, 6, 3)  # six queries, three targets: each shares one with another
    mined = Miner(corpus, exact_unit(6, 1), exact_unit(3, 2), MiningConfig(
        num_negatives=5, false_negative_margin=None)).mine()  # fmt: skip
    assert ((mined.negatives >= 0).sum(dim=1) == 2).all()
    assert (mined.negatives[:, 2:] == -1).all() and (mined.scores[:, 2:] == -torch.inf).all()
    alone = Corpus.of([Pair(Item("a"), Item("1")), Pair(Item("b"), Item("1"))])
    mined = Miner(alone, exact_unit(2, 1), exact_unit(1, 2), MiningConfig()).mine()
    assert (mined.negatives == -1).all()


def test_a_random_choice_is_seeded_and_fair(monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = corpus_of(400, 400, 60)
    queries, targets = exact_unit(400, 1), exact_unit(60, 2)
    settings = {"sampling_strategy": "random", "false_negative_margin": None, "range_max": 10}

    def mine(seed: int = 0, memory: float = 1.0) -> Tensor:
        config = MiningConfig(**settings, memory=memory)  # type: ignore[arg-type]
        return Miner(corpus, queries, targets, config, seed=seed).mine().negatives

    first = mine()
    assert torch.equal(first, mine()) and torch.equal(first, mine(memory=1e-5))
    assert not torch.equal(first, mine(seed=1))
    top = Miner(corpus, queries, targets, MiningConfig(
        num_negatives=10, false_negative_margin=None, range_max=10)).mine().negatives  # fmt: skip
    ranks = (first[:, :, None] == top[:, None]).nonzero()[:, 2]  # all of them are in the window
    assert len(ranks) == first.numel()
    counts = torch.bincount(ranks, minlength=10)  # 160 each, of a standard deviation of 9.8
    assert counts.min() > 115 and counts.max() < 205
    order = [[top_row.index(n) for n in own] for own, top_row in
             zip(first.tolist(), top.tolist(), strict=True)]  # fmt: skip
    assert all(row == sorted(row) for row in order)  # the most similar first
    assert (drawn(torch.arange(9), torch.arange(9)[None].expand(9, -1), 0) < 2**62).all()


def test_every_dropped_candidate_is_counted() -> None:
    corpus = corpus_of(90, 40, 70)
    queries, targets = exact_unit(len(corpus.queries), 1), exact_unit(len(corpus.targets), 2)
    config = MiningConfig(num_negatives=70, range_max=70, max_score=0.25)
    mined = Miner(corpus, queries, targets, config).mine()
    tally, count = mined.tally, 90 * 70
    similar = (queries @ targets.T)[corpus.query_of]  # every target is a candidate of every row
    assert tally.candidates == count
    assert tally.dropped["max_score"][0] == (similar > 0.25).sum()
    above = similar > mined.positive_scores[:, None] + 0.1
    assert tally.dropped["false_negative_margin"][0] == above.sum()
    first = sum(first for _, first in tally.dropped.values())
    assert first + (mined.negatives >= 0).sum() == count
    assert int(tally.scores["negative"].sum()) == (mined.negatives >= 0).sum()
    assert int(tally.scores["dropped"].sum()) == first


def test_lists_find_nearly_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clustered vectors, as texts' are: recall of the ten nearest by the defaults of IVF."""
    pytest.importorskip("faiss")
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(50, 32, generator=generator)
    near = centres[torch.randint(50, (4400,), generator=generator)]
    vectors = torch.nn.functional.normalize(
        near + 0.5 * torch.randn(4400, 32, generator=generator), dim=1
    )
    queries, targets = vectors[:400], vectors[400:]
    exact, _ = ExactSearch(targets, 10, 1.0)(queries)
    places, scores = IvfSearch(targets, 10, 1.0, None, None)(queries)
    shared = (exact[:, :, None] == places[:, None]).any(dim=2).float().mean()
    assert shared > 0.95
    own = torch.einsum("qd,qkd->qk", queries, targets[places.clamp(min=0)])
    torch.testing.assert_close(scores, own, atol=1e-5, rtol=0)
    assert torch.equal(IvfSearch(targets, 10, 1.0, None, None)(queries)[0], places)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """No block of similarities is larger than the settings allow."""
    sizes = []
    original = search_module.best

    def best(scores: Tensor, depth: int) -> tuple[Tensor, Tensor, Tensor]:
        sizes.append(scores.numel() * search_module.OF_SIMILARITY)
        return original(scores, depth)

    monkeypatch.setattr(search_module, "best", best)
    corpus = corpus_of(3000, 3000, 500)
    vectors = exact_unit(3000, 1)
    Miner(corpus, vectors, vectors[:500], MiningConfig(memory=0.01)).mine()
    assert len(sizes) > 5 and max(sizes) <= 0.01 * miner_module.GIB
