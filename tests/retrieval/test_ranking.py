"""Ranking and its metrics: against the definitions, one query at a time; ties; chance.

./launch.sh test tests/retrieval/test_ranking.py
"""

from __future__ import annotations

import itertools
import json
import math
import random
import statistics
from collections.abc import Iterator

import pytest
import torch

from benchmarks import scoring
from unime.retrieval import ranking
from unime.retrieval.measures import METRICS
from unime.retrieval.ranking import (
    best,
    expected_by_chance,
    first_equal,
    rank_targets,
    ranking_metrics,
)

NONE = float("-inf")
# Key order of VLM2Vec's `_score.json` files (experiments/public/all_scores/v2.0.1).
NAMES = [
    *("hit@1", "hit@5", "hit@10", "ndcg_linear@1", "ndcg_linear@5", "ndcg_linear@10"),
    *("ndcg_exponential@1", "ndcg_exponential@5", "ndcg_exponential@10"),
    *("precision@1", "precision@5", "precision@10", "recall@1", "recall@5", "recall@10"),
    *("f1@1", "f1@5", "f1@10", "map@1", "map@5", "map@10", "mrr@1", "mrr@5", "mrr@10"),
]


@pytest.mark.parametrize("seed", range(20))
def test_the_best_without_a_sort(seed):
    """Scores of few values, so that ties are everywhere; the reference sorts whole rows."""
    generator = torch.Generator().manual_seed(seed)
    width = int(torch.randint(1, 40, (), generator=generator))
    scores = torch.randint(-3, 4, (30, width), generator=generator).float() / 2
    scores[torch.rand(scores.shape, generator=generator) < 0.1] = NONE
    scores[torch.rand(scores.shape, generator=generator) < 0.1] = -0.0
    columns, values, tied = best(scores, 10)
    expected = scores.sort(dim=1, descending=True, stable=True)
    count = min(10, width)
    places = expected.indices[:, :10].where(expected.values[:, :10] > NONE, -1)
    assert torch.equal(columns[:, :count], places)
    assert torch.equal(values[:, :count], expected.values[:, :10])
    assert (columns[:, count:] == -1).all() and (values[:, count:] == NONE).all()
    shares = (scores[:, None] == values[:, :, None]).sum(dim=2) > 1  # (30, 10)
    assert torch.equal(tied, (shares & (values > NONE)).any(dim=1))


def test_metrics_by_hand():
    assert list(METRICS) == NAMES
    found = torch.tensor([[7, 3, 9, 1, 4, 0, 2, 5, 6, 8], [2, 0, -1, -1, -1, -1, -1, -1, -1, -1]])
    metrics = ranking_metrics(found, [{3: 2.0, 4: 1.0, 50: 3.0}, {2: 1.0}])
    first = {name: values[0].item() for name, values in metrics.items()}
    assert first["hit@1"] == 0 and first["hit@5"] == 1
    assert first["precision@5"] == 2 / 5 and first["precision@10"] == 2 / 10
    assert first["recall@5"] == pytest.approx(2 / 3)
    assert first["f1@5"] == pytest.approx(2 * 0.4 * (2 / 3) / (0.4 + 2 / 3))
    assert first["map@5"] == pytest.approx((1 / 2 + 2 / 5) / 3)
    assert first["mrr@10"] == 1 / 2 and first["mrr@1"] == 0
    gained = 2 / math.log2(3) + 1 / math.log2(6)
    ideal = 3 / math.log2(2) + 2 / math.log2(3) + 1 / math.log2(4)
    assert first["ndcg_linear@5"] == pytest.approx(gained / ideal)
    gained = 3 / math.log2(3) + 1 / math.log2(6)
    ideal = 7 / math.log2(2) + 3 / math.log2(3) + 1 / math.log2(4)
    assert first["ndcg_exponential@5"] == pytest.approx(gained / ideal)
    second = {name: values[1].item() for name, values in metrics.items()}
    assert {name for name, value in second.items() if value == 1} >= {"hit@1", "map@10", "mrr@10"}
    assert second["precision@10"] == 0.1, "of ten places, even where there are two candidates"


@pytest.mark.parametrize(("pool", "shared"), [(30, True), (30, False), (400, False)])
def test_equals_a_loop_over_queries(pool, shared, monkeypatch):
    """Local lists of different lengths, of vectors that repeat; small blocks; graded relevance."""
    monkeypatch.setattr(ranking, "BLOCK_VALUES", 5000)
    monkeypatch.setattr(ranking, "SHARED", 256 if shared else 0)
    rng = random.Random(pool)
    targets = torch.randn(pool, 8, generator=torch.Generator().manual_seed(1)).round()
    targets[pool // 2 :: 3] = targets[0]
    queries = torch.randn(50, 8, generator=torch.Generator().manual_seed(2)).round()
    candidates = [rng.sample(range(pool), rng.randint(2, 25)) for _ in range(50)]
    relevance = [
        {place: float(rng.randint(1, 3)) for place in rng.sample(own, rng.randint(1, 2))}
        for own in candidates
    ]
    for lists in (candidates, None):
        own = [list(range(pool))] * 50 if lists is None else lists
        found = rank_targets(queries, targets, lists)
        metrics = ranking_metrics(found.targets, relevance)
        expected = scoring.reference_scores(queries.numpy(), targets.numpy(), own, relevance)
        for name, value in expected.items():
            assert metrics[name].mean().item() == pytest.approx(value, abs=1e-12), name
        similarity = (queries[:, None] * targets[found.targets.clamp(min=0)]).sum(dim=2)
        shown = found.targets >= 0
        assert torch.equal(similarity[shown], found.scores[shown])


def test_equal_embeddings_never_part():
    """Rows that are equal bit by bit score equal wherever they stand, in any shape of a product."""
    generator = torch.Generator().manual_seed(0)
    row = torch.nn.functional.normalize(torch.randn(1, 384, generator=generator))
    for count in (2, 3, 17, 100, 1001):
        targets = row.expand(count, -1).contiguous()
        queries = torch.nn.functional.normalize(torch.randn(5, 384, generator=generator))
        found = rank_targets(queries, targets)
        assert found.targets[:, 0].tolist() == [0] * 5
        assert (found.scores[:, :2].diff() == 0).all()
    rows = torch.tensor([[1.0], [2.0], [1.0], [0.0], [2.0]])
    assert first_equal(rows).tolist() == [0, 1, 0, 3, 1]


def all_orders(scores: list[float], items: list[int], own: list[int]) -> Iterator[tuple[int, ...]]:
    """Every order of candidates that their scores allow, by the rule of ties: copies of one item
    stand as in the list, different items in any order."""
    groups = []
    for score in sorted(set(scores), reverse=True):
        group = [place for place, value in zip(own, scores, strict=True) if value == score]
        differ = len({items[place] for place in group}) > 1
        groups.append(list(itertools.permutations(group)) if differ else [tuple(group)])
    for chosen in itertools.product(*groups):
        yield tuple(itertools.chain(*chosen))


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_ties_are_worth_the_mean_of_all_orders(seed, shared, monkeypatch):
    """All 24 metrics, graded relevance, copies; against enumeration."""
    monkeypatch.setattr(ranking, "SHARED", 256 if shared else 0)
    monkeypatch.setattr(ranking, "BLOCK_VALUES", 40)
    rng = random.Random(seed)
    queries, pool = torch.tensor([[1.0]] * 5), 12
    targets = torch.tensor([[rng.choice([-0.5, 0.0, 0.5])] for _ in range(pool)])
    items = [rng.randrange(6) for _ in range(pool)]
    targets = targets[items]  # equal items have equal embeddings
    lists = [rng.sample(range(pool), rng.randint(2, 6)) for _ in range(5)]
    for candidates in (lists, None):
        places = range(6) if candidates is None else range(pool)
        searched = targets[: len(places)]
        relevance = [
            {place: float(rng.randint(1, 3)) for place in rng.sample(own, rng.randint(1, 2))}
            for own in (candidates or [list(places)] * 5)
        ]
        found = rank_targets(
            queries, searched, candidates, relevance=relevance, items=torch.tensor(items)[places]
        )
        metrics = ranking_metrics(found.targets, relevance, found.ties)
        assert found.ties is not None
        decided = 0
        for number, relevant in enumerate(relevance):
            own = candidates[number] if candidates else list(places)
            scores = [targets[place].item() for place in own]
            values = [
                scoring.reference_metrics(order, relevant)
                for order in all_orders(scores, items, own)
            ]
            for name in METRICS:
                expected = statistics.fmean(value[name] for value in values)
                assert metrics[name][number].item() == pytest.approx(expected, abs=1e-12), name
            firsts = {order[0] in relevant for order in all_orders(scores, items, own)}
            decided += len(firsts) > 1
        gains_differ = found.ties.count(1)
        assert gains_differ >= decided


def test_who_cannot_tell_candidates_apart_scores_at_chance():
    """A model that is blind to pictures gives every one the same vector; MMEB lists the right one
    first. Copies of the right one cost nothing, as in MMEB."""
    blind = torch.nn.functional.normalize(torch.ones(60, 4))
    candidates = [[6 * number + place for place in range(6)] for number in range(10)]
    relevance = [{own[0]: 1.0} for own in candidates]
    found = rank_targets(blind[:10], blind, candidates, relevance=relevance)
    assert ranking_metrics(found.targets, relevance)["hit@1"].mean() == 1, "the listed order"
    metrics = ranking_metrics(found.targets, relevance, found.ties)
    assert metrics["hit@1"].tolist() == pytest.approx([1 / 6] * 10)
    for metric in ("hit@1", "ndcg_linear@5"):
        chance = expected_by_chance(metric, relevance, [6] * 10)
        assert metrics[metric].mean().item() == pytest.approx(chance)
    assert found.ties is not None and found.ties.count(1) == 10
    copies = torch.zeros(60, dtype=torch.long)
    found = rank_targets(blind[:10], blind, candidates, relevance=relevance, items=copies)
    metrics = ranking_metrics(found.targets, relevance, found.ties)
    assert metrics["hit@1"].mean() == 1
    assert found.ties is not None and found.ties.count(1) == 0


def test_a_tie_below_the_right_one_decides_nothing():
    """And one that is longer than the ten places that are looked at is counted whole."""
    targets = torch.tensor([[1.0]] + [[0.5]] * 40)
    found = rank_targets(torch.ones(1, 1), targets, relevance=[{0: 1.0}])
    metrics = ranking_metrics(found.targets, [{0: 1.0}], found.ties)
    assert all(value == 1 for name, value in metrics.items() if name.startswith(("hit", "ndcg")))
    assert found.ties is not None and found.ties.count(10) == 0
    found = rank_targets(torch.ones(1, 1), targets, relevance=[{40: 1.0}])
    metrics = ranking_metrics(found.targets, [{40: 1.0}], found.ties)
    assert metrics["hit@10"].item() == pytest.approx(9 / 40)
    assert metrics["mrr@5"].item() == pytest.approx(sum(1 / rank for rank in range(2, 6)) / 40)
    assert found.ties is not None and (found.ties.count(1), found.ties.count(5)) == (0, 1)


@pytest.mark.parametrize("metric", ["hit@1", "ndcg_linear@5"])
@pytest.mark.parametrize("gains", [{0: 1.0}, {0: 1.0, 2: 2.0}])
def test_chance_is_the_mean_over_all_orders(metric, gains):
    values = []
    for order in itertools.permutations(range(6)):
        found = torch.tensor([[*order, *[-1] * 4]])
        values.append(ranking_metrics(found, [gains])[metric].item())
    assert expected_by_chance(metric, [gains], [6]) == pytest.approx(statistics.fmean(values))
    with pytest.raises(ValueError, match="no chance level known of mrr@5"):
        expected_by_chance("mrr@5", [gains], [6])


def test_the_benchmark_compares_equal_metrics(tmp_path, capsys):
    words = "tasks=2 queries=20 candidates=30 pool=60 dimension=1100".split()
    scoring.main(words)
    printed = capsys.readouterr().out
    result = json.loads(printed[printed.index("{") :])
    assert result["largest_difference"] < 1e-12
    assert result["ratio"] == pytest.approx(result["seconds"]["ours"] / result["seconds"]["loop"])
