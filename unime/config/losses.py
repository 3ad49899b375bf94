"""Settings of the losses of both stages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Annotated

from unime.config.settings import (
    Bounds,
    NotEmpty,
    NotNegative,
    Positive,
    Settings,
    Temperature,
    WholeOrLess,
    setting,
)
from unime.errors import require

BLOCK_MEMORY = "GiB of similarities at a time, so many rows of the batch; changes rounding alone"
STEPS = Bounds("auto, or a number of steps", lambda after: re.fullmatch("auto|[0-9]+", str(after)))


class OnShort(Enum):
    """What to do when fewer than ``num_hard_negatives`` candidates survive the filter."""

    mask = "mask"
    repeat = "repeat"


class Objective(Enum):
    """What stage 1 makes of the student's and the teacher's similarities: the divergence of their
    softmaxes, or the mean square of their differences."""

    kl = "kl"
    mse = "mse"


@dataclass(kw_only=True)
class LossConfig(Settings, section="loss"):
    """Of both losses: how much memory they take, and one vector of many sizes (Matryoshka
    representation learning, arXiv 2205.13147)."""

    matryoshka_dimensions: NotEmpty[list[Positive[int]]] | None = setting(
        None,
        "such as [64, 128]: the loss is taken of so many first coordinates, normalised again, as "
        "well; the whole vector always counts, listed or not; null: it alone",
    )
    matryoshka_weights: NotEmpty[list[Positive[float]]] | None = setting(
        None,
        "of these sizes in the mean, beside 1 of a whole vector that is not listed; null: 1 each",
    )

    block_memory: Positive[float] = setting(0.5, BLOCK_MEMORY)

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes, weights = self.matryoshka_dimensions or [], self.matryoshka_weights
        key = "loss.matryoshka_dimensions"
        require(len(set(sizes)) == len(sizes), key, sizes, "different sizes")
        fits = weights is None or len(weights) == len(sizes)
        require(
            fits, "loss.matryoshka_weights", weights, f"one for each of {key}, {sizes}, or null"
        )

    def shares(self, dimension: int) -> dict[int, float]:
        """How much the loss at each size counts, 1 together; the whole vector's comes first.

        Args:
            dimension: of the embeddings.

        Raises:
            ConfigError: they do not have so many.
        """
        sizes = self.matryoshka_dimensions or []
        for size in sizes:
            expected = f"at most {dimension}, which is what the model's embeddings have"
            require(size <= dimension, "loss.matryoshka_dimensions", size, expected)
        weights = self.matryoshka_weights or [1.0] * len(sizes)
        found = {dimension: 1.0} | dict(zip(sizes, weights, strict=True))
        return {size: weight / sum(found.values()) for size, weight in found.items()}


@dataclass
class DistillationLossConfig(LossConfig, section="loss"):
    """Stage 1 (paper 3.2, equation 2), which names no temperature and leaves the diagonal open."""

    student_temperature: Temperature = setting(0.05, "divides the student's similarities")
    teacher_temperature: Temperature = setting(0.05, "divides the teacher's")
    include_diagonal: bool = setting(
        False,
        "count a text's similarity to itself: 1.0, which at small temperatures takes nearly all "
        "the mass of each row in teacher and student alike, and with it the gradient",
    )
    objective: Objective = setting(
        Objective.kl, "mse: of the similarities themselves, without temperatures"
    )


@dataclass
class HardNegativeLossConfig(LossConfig, section="loss"):
    """Stage 2 (paper 3.3). Plain InfoNCE: ``false_negative_margin`` and ``num_hard_negatives``
    both null."""

    temperature: Temperature = setting(0.02, "divides; 0.02 as in the paper's published loss.py")
    num_hard_negatives: Positive[int] | None = setting(8, "k; null: all that survive the filter")
    false_negative_margin: float | None = setting(0.1, "beta; null: no filter")
    on_short: OnShort = setting(OnShort.mask, "what to do when fewer than k survive the filter")
    symmetric: bool = setting(False, "also target to query")
    hard_negatives_after: Annotated[int | str, STEPS] = setting(
        "auto",
        "steps in which all negatives count before the hardest do; auto: in each batch whose "
        "hardest negatives cost more than they would in a collapsed model, ln(1 + k), all count "
        "instead (docs/decisions.md); 0: hard negatives from the first step, as the paper says",
    )
    learn_temperature: bool = setting(
        False,
        "learn it with the adapters, at their learning rate, from this value on (CLIP, arXiv "
        "2103.00020, 2.5)",
    )
    least_temperature: Temperature = setting(0.01, "that is learnt; CLIP's scale of 100")
    hardness_strength: NotNegative[float] = setting(
        0.0,
        "alpha: a negative counts exp(alpha · cosine) times (LLaVE: 9 with all of a batch, "
        "EmbeddingGemma: 5 with explicit ones); 0: once",
    )
    soft_labels: WholeOrLess = setting(
        0.0,
        "share of the loss that follows the scores that a judge gives each row's own candidates "
        "(./launch.sh judge), in place of InfoNCE; 1: all of it (UniME-V2)",
    )
    judge_temperature: Temperature = setting(
        0.02, "divides the judge's scores, as temperature divides similarities"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        too_small = self.learn_temperature and self.temperature < self.least_temperature
        least = f"at least loss.least_temperature, {self.least_temperature}"
        require(not too_small, "loss.temperature", self.temperature, least)
        repeats_all = self.num_hard_negatives is None and self.on_short is OnShort.repeat
        expected = "mask when loss.num_hard_negatives is null"
        require(not repeats_all, "loss.on_short", "repeat", expected)
