"""How far embeddings lie apart, and the rule of what a collapsed model is.

./launch.sh test tests/test_collapse.py
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.support.embedding import unit
from unime.collapse import COLLAPSED_STEPS, CollapseWatch, collapsed, of_batch
from unime.config import DistillationLossConfig
from unime.losses import SPREAD_ROWS, distillation_loss, effective_rank, spread
from unime.retrieval.encoding import embedding_statistics
from unime.validation.scores import numbers


def test_effective_rank_closed_forms() -> None:
    assert float(effective_rank(torch.eye(5))) == pytest.approx(5)
    assert float(effective_rank(torch.ones(7, 3))) == pytest.approx(1, abs=1e-5)
    tall = unit(9, 4)
    share = torch.linalg.svdvals(tall) / torch.linalg.svdvals(tall).sum()
    expected = float(torch.exp(-(share * share.log()).sum()))
    for rows in (tall, tall.T):
        assert float(effective_rank(rows)) == pytest.approx(expected)


def test_spread_closed_forms() -> None:
    same, apart = torch.ones(9, 4) / 2, torch.eye(9)
    found = numbers(spread({"query": same}))
    assert found["mean_similarity"] == pytest.approx(1) and found["distinct_items"] == 9
    assert found["effective_rank"] == pytest.approx(1, abs=1e-4)
    found = numbers(spread({"query": apart, "target": apart}))
    expected = {"query_mean_similarity": 0, "query_effective_rank": 9}
    expected |= {"mean_similarity": 2 * 9 / (18 * 17), "distinct_items": 18}
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    found = numbers(spread({"text": unit(2 * SPREAD_ROWS, 8)}))
    assert found["distinct_items"] == SPREAD_ROWS


def test_statistics_of_what_is_not_finite_are_nan() -> None:
    rows = unit(5, 4)
    rows[2] = float("nan")
    assert math.isnan(float(effective_rank(rows)))
    loss = distillation_loss(rows, unit(5, 3), DistillationLossConfig()).loss
    assert not math.isfinite(float(loss))


def embeddings(num_items: int, common: float, directions: int, dimension: int = 256) -> Tensor:
    """Unit vectors whose mean similarity is about `common`, and whose own parts spread evenly over
    some directions."""
    generator = torch.Generator().manual_seed(num_items)
    own = torch.zeros(num_items, dimension + 1)
    own[:, :directions] = torch.randn(num_items, directions, generator=generator)
    own = torch.nn.functional.normalize(own) * math.sqrt(1 - common)
    own[:, -1] = math.sqrt(common)
    return own


def judged(rows: Tensor) -> str | None:
    found = embedding_statistics(rows)
    return collapsed(found["mean_similarity"], found["effective_rank"], len(rows))


@pytest.mark.parametrize("num_items", [16, 64, 768, 4000])
@pytest.mark.parametrize("directions", [60, 200])
def test_a_large_common_part_is_no_collapse(num_items: int, directions: int) -> None:
    for common in (0.0, 0.44, 0.62, 0.9, 0.93):
        assert judged(embeddings(num_items, common, directions)) is None, common


@pytest.mark.parametrize("num_items", [16, 64, 768, 4000])
@pytest.mark.parametrize("directions", [5, 60, 200])
def test_next_to_nothing_beside_the_common_part_is(num_items: int, directions: int) -> None:
    for common in (0.995, 0.999, 1.0):
        words = judged(embeddings(num_items, common, directions))
        assert words is not None and words.startswith("collapsed"), common
        assert str(num_items) in words


def test_alike_and_poor_is_a_collapse_and_alike_and_rich_is_none() -> None:
    """Stage 1 collapses to .96 in few directions."""
    assert judged(embeddings(768, 0.96, 8)) is not None
    assert judged(embeddings(768, 0.96, 200)) is None


def test_two_points_are_a_collapse_however_far_apart() -> None:
    """Every picture here, every text there: the mean similarity is near a half."""
    halves = embeddings(64, 0.9999, 60)
    halves[32:, -1] *= -1
    assert abs(embedding_statistics(halves)["mean_similarity"]) < 0.1
    assert judged(halves) is not None


def test_the_rank_of_a_few_items_says_nothing() -> None:
    assert judged(torch.ones(1, 4) / 2) is None
    assert judged(embeddings(3, 0.9, 60)) is None
    assert judged(embeddings(12, 0.9, 60)) is None, "a rank of 5 is much of twelve"


@pytest.mark.parametrize("numbers", [(math.nan, 1.0), (0.999, math.nan), (math.nan, math.nan)])
def test_what_is_no_number_is_no_collapse(numbers: tuple[float, float]) -> None:
    """Another check's business."""
    assert collapsed(*numbers, 64) is None


def values(similarity: float, rank: float, prefix: str = "") -> dict[str, float]:
    numbers = {"mean_similarity": similarity, "effective_rank": rank, "distinct_items": 64.0}
    return {f"{prefix}{name}": number for name, number in numbers.items()}


def test_a_run_has_collapsed_after_so_many_steps_in_a_row() -> None:
    """The warm-up does not count, and one healthy batch begins anew."""
    watch = CollapseWatch(warmup_steps=5)
    healthy, bad = values(0.6, 40.0), values(0.999, 2.0)
    batches = [bad] * 5 + [bad] * (COLLAPSED_STEPS - 1) + [healthy] + [bad] * COLLAPSED_STEPS
    told = [watch.add(step, batch) for step, batch in enumerate(batches, 1)]
    assert told[:-1] == [None] * (len(batches) - 1)
    assert told[-1] is not None and watch.steps == COLLAPSED_STEPS


def test_one_side_may_collapse_alone() -> None:
    batch = values(0.6, 40.0) | values(0.2, 30.0, "query_") | values(0.9999, 1.2, "target_")
    assert of_batch(batch) and not of_batch(values(0.6, 40.0) | values(0.2, 30.0, "query_"))
    assert of_batch({"loss": 1.0}) is None


@pytest.mark.parametrize(
    ("num_items", "similarity", "bad"),
    [(7, 1.0, True), (2, 0.9995, True), (7, 0.99, False), (1, 1.0, False)],
)
def test_a_few_labels_that_are_one_point(num_items: int, similarity: float, bad: bool) -> None:
    assert bool(collapsed(similarity, 1.0, num_items)) is bad
