"""Learning rates and numbers of steps.

pytest tests/training/test_schedule.py
"""

from __future__ import annotations

import pytest

from unime.config import OptimConfig, Schedule
from unime.errors import ConfigError
from unime.training.schedule import learning_rate, total_steps


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule.constant, [0.5, 1, 1, 1, 1, 1]),
        (Schedule.linear, [0.5, 1, 1, 0.75, 0.5, 0.25]),
        (Schedule.cosine, [0.5, 1, 1, 0.8535534, 0.5, 0.1464466]),
    ],
)
def test_learning_rate(schedule: Schedule, expected: list[float]) -> None:
    optim = OptimConfig(6, None, 1, 1, 1.0, schedule=schedule, warmup_steps=2)
    assert [learning_rate(optim, step, 6) for step in range(6)] == pytest.approx(expected)


def test_steps_from_epochs() -> None:
    assert total_steps(OptimConfig(None, 2.5, 1, 1, 1.0), 10) == 25
    assert total_steps(OptimConfig(None, 0.01, 1, 1, 1.0), 10) == 1
    with pytest.raises(ConfigError, match="warmup_steps: got 50, expected at most all 20 steps"):
        total_steps(OptimConfig(None, 2, 1, 1, 1.0, warmup_steps=50), 10)
