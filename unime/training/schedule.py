"""How many steps, and the learning rate of each: pure functions, so resuming needs no state."""

from __future__ import annotations

import math

from unime.config import OptimConfig, Schedule
from unime.errors import ConfigError


def total_steps(optim: OptimConfig, steps_per_epoch: int) -> int:
    """Optimizer steps of the whole run.

    Raises:
        ConfigError: the warm-up is longer.
    """
    steps = optim.steps or max(1, round((optim.epochs or 0) * steps_per_epoch))
    if optim.warmup_steps > steps:
        raise ConfigError(
            f"optim.warmup_steps: got {optim.warmup_steps}, expected at most all {steps} steps"
        )
    return steps


def learning_rate(optim: OptimConfig, step: int, steps: int) -> float:
    """Of update number `step` (from 0): linear warm-up to the full rate, then the schedule, which
    would reach zero at update number `steps`."""
    if step < optim.warmup_steps:
        return optim.learning_rate * (step + 1) / optim.warmup_steps
    progress = (step - optim.warmup_steps) / max(1, steps - optim.warmup_steps)  # in [0, 1)
    share = {
        Schedule.linear: 1 - progress,
        Schedule.cosine: (1 + math.cos(math.pi * progress)) / 2,
        Schedule.constant: 1.0,
    }
    return optim.learning_rate * share[optim.schedule]
