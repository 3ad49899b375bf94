"""Scores while training, on what is not trained on, and which checkpoint had the best ones.

What is measured is a function (`Measure`): of rows held out of the training data
(scores.py), or of a suite of evaluation tasks, which the stage's program brings. It works
on all ranks together, through encoding.py: every distinct item is encoded once, in batches that no
number of ranks changes.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator

from unime.collapse import of_batch
from unime.models.encoder import Encoder
from unime.retrieval.embedder import ItemEmbedder
from unime.retrieval.unime_embedder import UnimeEmbedder

HIT, LOSS, CHANCE = "hit@1", "loss", "chance"
# HIT, what a random order has of it, perhaps LOSS, "hit@1/<task>"; and losses.spread
Scores = dict[str, float]
Leave = Callable[[], None]  # raises where a signal has come


class Measure(Protocol):
    def __call__(
        self, accelerator: Accelerator, embedder: ItemEmbedder, leave: Leave
    ) -> Scores: ...


class Validation:
    """When the model is measured, and how good it was at best.

    Attributes:
        step: the last one that was measured.
        best: step and scores of the best one: the highest hit@1, of equal ones the lowest loss. A
            collapsed model, whose hits are rounding, is none.
    """

    def __init__(self, measure: Measure, every: int) -> None:
        self.measure = measure
        self.step = 0
        self.best: dict[str, float] | None = None
        self._every = every

    def is_due(self, step: int, is_last: bool) -> bool:
        return step > self.step and (is_last or step % self._every == 0)

    def take(self, step: int, scores: Scores) -> bool:
        """Note the scores of a step; whether they are the best so far."""
        self.step = step
        if of_batch(scores) or (self.best is not None and _rank(scores) <= _rank(self.best)):
            return False
        self.best = {"step": step, **{key: scores[key] for key in (HIT, LOSS) if key in scores}}
        return True

    @property
    def state(self) -> dict[str, Any]:
        return {"step": self.step, "best": self.best}

    def go_on(self, state: Mapping[str, Any]) -> None:
        self.step, self.best = state["step"], state["best"]


def _rank(scores: Mapping[str, float]) -> tuple[float, float]:
    """What is not a number is worse than any."""
    hit, loss = scores[HIT], scores.get(LOSS, math.inf)
    return (
        hit if math.isfinite(hit) else -math.inf,
        -loss if math.isfinite(loss) else -math.inf,
    )


@contextmanager
def embedding(encoder: Encoder) -> Iterator[ItemEmbedder]:
    """The encoder as evaluation has it, in the middle of training, which it does not disturb:
    random states and modes are afterwards what they were."""
    states = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield UnimeEmbedder(encoder)
        finally:
            encoder.train()
            random.setstate(states[0])
            np.random.set_state(states[1])
