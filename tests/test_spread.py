"""How far embeddings lie apart: closed forms.

./launch.sh test tests/test_spread.py
"""

from __future__ import annotations

import math

import pytest
import torch

from tests.test_losses import unit
from unime.config import DistillationLossConfig
from unime.losses import SPREAD_ROWS, distillation_loss, effective_rank, spread


def test_effective_rank_closed_forms() -> None:
    assert float(effective_rank(torch.eye(5))) == pytest.approx(5)
    assert float(effective_rank(torch.ones(7, 3))) == pytest.approx(1, abs=1e-5)
    tall, wide = unit(9, 4), unit(9, 4).T
    assert float(effective_rank(tall)) == pytest.approx(float(effective_rank(wide)))
    singular = torch.linalg.svdvals(tall)
    share = singular / singular.sum()
    assert float(effective_rank(tall)) == pytest.approx(
        float(torch.exp(-(share * share.log()).sum()))
    )


def test_spread_closed_forms() -> None:
    same, apart = torch.ones(9, 4) / 2, torch.eye(9)[:, :9]
    stats = spread({"query": same})
    assert float(stats["mean_similarity"]) == pytest.approx(1)
    assert float(stats["effective_rank"]) == pytest.approx(1, abs=1e-4)
    assert float(stats["distinct_items"]) == 9
    stats = spread({"query": apart, "target": apart})
    assert float(stats["query_mean_similarity"]) == pytest.approx(0)
    assert float(stats["query_effective_rank"]) == pytest.approx(9)
    assert float(stats["mean_similarity"]) == pytest.approx(2 * 9 / (18 * 17))
    assert float(stats["distinct_items"]) == 18
    assert float(spread({"text": unit(2 * SPREAD_ROWS, 8)})["distinct_items"]) == SPREAD_ROWS


def test_statistics_of_what_is_not_finite_are_nan() -> None:
    rows = unit(5, 4)
    rows[2] = float("nan")
    assert math.isnan(float(effective_rank(rows)))
    assert not math.isfinite(
        float(distillation_loss(rows, unit(5, 3), DistillationLossConfig()).loss)
    )
