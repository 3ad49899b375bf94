"""Stage 1's loss: a student's similarities after a teacher's."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from torch import Tensor

from unime.config import DistillationLossConfig, Objective
from unime.losses.blocks import Numbers, Similarities
from unime.losses.matryoshka import over_sizes, truncated
from unime.losses.output import LossOutput
from unime.losses.statistics import mean_similarity, spread


def distillation_loss(
    student: Tensor, teacher: Tensor, config: DistillationLossConfig
) -> LossOutput:
    """Textual discriminative knowledge distillation: the mean over rows of KL(teacher ‖ student)
    between the softmaxes of the two batch similarity matrices (paper 3.2, equation 2), or with
    ``objective: mse`` the mean square of their differences; at every size of
    ``matryoshka_dimensions`` after the same matrix, the whole teacher's.

    The paper's formula is ambiguous about the diagonal. It is masked by default: an embedding's
    similarity to itself is always 1, so at a small temperature it takes nearly all of every row's
    mass in teacher and student alike, and what the loss should teach, the order of the *other*
    texts, is left with almost no gradient.

    Args:
        student: unit-norm embeddings with a graph (N, D).
        teacher: unit-norm embeddings of the same texts, any width (N, T).

    Raises:
        ValueError: fewer than 3 rows with the diagonal masked (2 with it): nothing to distribute.
    """
    rows = len(student)
    least = 2 if config.include_diagonal else 3
    if rows < least or len(teacher) != rows:
        raise ValueError(f"distillation needs at least {least} rows, got {rows} and {len(teacher)}")

    def of_size(size: int, memory: float) -> LossOutput:
        return _loss(truncated(student, size), teacher, config, memory)

    output = over_sizes(student.shape[1], config, of_size)
    return LossOutput(output.loss, output.stats | spread({"text": student}))


def _loss(
    student: Tensor, teacher: Tensor, config: DistillationLossConfig, memory: float
) -> LossOutput:
    """At one size."""
    means = mean_similarity(student.detach()), mean_similarity(teacher)

    def of_block(place: slice, similarity: Tensor) -> tuple[Tensor, Numbers]:
        of_teacher = (teacher[place] @ teacher.T).to(similarity.dtype)  # (B, N)
        numbers = _comparison(similarity, of_teacher, means, place.start)
        is_masked = not config.include_diagonal
        if config.objective is Objective.mse:
            return _squares(similarity - of_teacher, is_masked, place.start), numbers
        wanted = _log_shares(of_teacher, config.teacher_temperature, is_masked, place.start)
        found = _log_shares(similarity, config.student_temperature, is_masked, place.start)
        return F.kl_div(found, wanted, reduction="sum", log_target=True), numbers

    total, sums = Similarities(student, student, memory).total(of_block)
    product = (sums["student_square"] * sums["teacher_square"]).sqrt()
    stats = {
        "teacher_correlation": sums["product"] / product,
        "teacher_mean_similarity": means[1],
    }
    return LossOutput(total / len(student), stats)


def _log_shares(similarity: Tensor, temperature: float, is_masked: bool, start: int) -> Tensor:
    """The softmax's logarithm (B, N), and with the diagonal masked 0 on it, which costs nothing
    where teacher and student have it."""
    scores = similarity / temperature
    if not is_masked:
        return scores.log_softmax(dim=1)
    scores.diagonal(start).fill_(-math.inf)
    shares = scores.log_softmax(dim=1)
    return shares.diagonal_scatter(shares.new_zeros(len(shares)), start)


def _squares(difference: Tensor, is_masked: bool, start: int) -> Tensor:
    """The sum over rows of the mean square of each (B, N)."""
    if is_masked:
        difference.diagonal(start).zero_()
    return difference.square().sum() / (difference.shape[1] - is_masked)


@torch.no_grad()
def _comparison(
    student: Tensor, teacher: Tensor, means: tuple[Tensor, Tensor], start: int
) -> Numbers:
    """What the correlation of all similarities off the diagonal is made of (B, N each). Rows are
    added up in their own precision, what is left in double: nothing is lost around the means."""
    one, other = student - means[0], teacher - means[1]
    one.diagonal(start).zero_()
    other.diagonal(start).zero_()
    return {
        "student_square": one.square().sum(dim=1).double().sum(),
        "teacher_square": other.square().sum(dim=1).double().sum(),
        "product": (one * other).sum(dim=1).double().sum(),
    }
