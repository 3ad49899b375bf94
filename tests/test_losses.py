"""The losses against closed forms and against slow loops written from the paper's text.

pytest tests/test_losses.py
"""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from tests.support.embedding import unit
from unime.config import DistillationLossConfig, HardNegativeLossConfig, OnShort
from unime.losses import (
    LossOutput,
    distillation_loss,
    hard_negative_loss,
    instruction_loss,
    negatives_of,
)
from unime.losses.negatives import Negatives


def loss_of_pairs(
    queries: Tensor, targets: Tensor, config: HardNegativeLossConfig, step: int | None = None
) -> LossOutput:
    """All items differ: each query's own target is right, the others are wrong."""
    n = len(queries)
    negatives = ~torch.eye(n, dtype=torch.bool)
    return hard_negative_loss(queries, targets, torch.arange(n), negatives, config, step)


def labels_of(query: list[int], target: list[int], positives: list[int]) -> dict[str, Tensor]:
    """Keys of the items, and which targets are right."""
    is_positive = torch.zeros(len(target), dtype=torch.bool)
    is_positive[positives] = True
    keys = {"query_key": torch.tensor(query), "target_key": torch.tensor(target)}
    return keys | {"is_positive": is_positive}


@pytest.mark.parametrize("include_diagonal", [False, True])
def test_distillation_equals_a_loop(include_diagonal: bool) -> None:
    student, teacher = unit(6, 4), unit(6, 9, seed=1)
    config = DistillationLossConfig(0.1, 0.2, include_diagonal)
    total = 0.0
    for i in range(6):
        others = [j for j in range(6) if include_diagonal or j != i]
        p = [math.exp(float(teacher[i] @ teacher[j]) / 0.2) for j in others]
        q = [math.exp(float(student[i] @ student[j]) / 0.1) for j in others]
        p, q = [v / sum(p) for v in p], [v / sum(q) for v in q]
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    loss = distillation_loss(student, teacher, config).loss
    assert float(loss) == pytest.approx(total / 6, abs=1e-12)


def test_distillation_is_zero_for_a_rotated_teacher() -> None:
    """Only similarities matter: a rotation (and another width) of the student costs nothing."""
    student = unit(8, 4)
    rotation = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q
    teacher = torch.cat([student @ rotation, torch.zeros(8, 3, dtype=torch.float64)], dim=1)
    output = distillation_loss(student, teacher, DistillationLossConfig())
    assert float(output.loss) == pytest.approx(0, abs=1e-12)
    assert float(output.stats["teacher_correlation"]) == pytest.approx(1)


def test_the_diagonal_swallows_the_gradient() -> None:
    """The reason for the default: same embeddings, far smaller gradient with the diagonal."""
    norms = []
    for include_diagonal in (False, True):
        student = unit(32, 16).requires_grad_()
        config = DistillationLossConfig(include_diagonal=include_diagonal)
        distillation_loss(student, unit(32, 16, seed=1), config).loss.backward()
        assert student.grad is not None
        norms.append(float(student.grad.norm()))
    assert norms[1] < 0.1 * norms[0]


def test_distillation_refuses_too_few_rows() -> None:
    with pytest.raises(ValueError, match="at least 3 rows, got 2"):
        distillation_loss(unit(2, 4), unit(2, 4), DistillationLossConfig())


@pytest.mark.parametrize("k", [1, 3, 7])
def test_equal_scores_cost_log_of_their_number(k: int) -> None:
    same = torch.ones(8, 1, dtype=torch.float64)
    config = HardNegativeLossConfig(num_hard_negatives=k)
    loss = loss_of_pairs(same, same, config).loss
    assert float(loss) == pytest.approx(math.log(1 + k))


@pytest.mark.parametrize("k", [None, 9, 50])
def test_no_margin_and_all_negatives_is_plain_infonce(k: int | None) -> None:
    queries, targets = unit(10, 6), unit(10, 6, seed=1)
    config = HardNegativeLossConfig(0.05, k, None)
    loss = loss_of_pairs(queries, targets, config).loss
    plain = F.cross_entropy(queries @ targets.T / 0.05, torch.arange(10))
    assert float(loss) == pytest.approx(float(plain), abs=1e-12)


def loop_reference(
    queries: Tensor,
    candidates: Tensor,
    positive_index: list[int],
    keys: list[int],
    config: HardNegativeLossConfig,
) -> tuple[float, int]:
    """Written from the issue's sentence, one query and one candidate at a time."""
    total, empty = 0.0, 0
    for i, p in enumerate(positive_index):
        positive = float(queries[i] @ candidates[p])
        left = []
        for j in range(len(candidates)):
            similarity = float(queries[i] @ candidates[j])
            if keys[j] == keys[p]:
                continue
            margin = config.false_negative_margin
            if margin is not None and similarity > positive + margin:
                continue
            left.append(similarity)
        left.sort(reverse=True)
        k = config.num_hard_negatives or len(left)
        hard = left[:k]
        if config.on_short is OnShort.repeat and left:
            hard = [left[n % len(left)] for n in range(k)]
        empty += not left
        numerator = math.exp(positive / config.temperature)
        others = sum(math.exp(s / config.temperature) for s in hard)
        total -= math.log(numerator / (numerator + others))
    return total / len(positive_index), empty


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("on_short", list(OnShort))
@pytest.mark.parametrize("margin", [None, 0.1, -0.2, -5.0])
@pytest.mark.parametrize("k", [1, 4, 30])
def test_hard_negatives_equal_a_loop(
    seed: int, on_short: OnShort, margin: float | None, k: int
) -> None:
    """Explicit negatives, duplicates, fewer than k left, all filtered (margin -5)."""
    queries, candidates = unit(7, 5, seed=seed), unit(12, 5, seed=seed + 100)
    keys = [0, 1, 2, 2, 4, 5, 6, 1, 8, 9, 10, 11]  # 3 duplicates 2, and 7 duplicates 1
    candidates[3], candidates[7] = candidates[2], candidates[1]
    config = HardNegativeLossConfig(0.1, k, margin, on_short)
    positive_index = torch.arange(7)
    key = torch.tensor(keys)
    is_negative = key[positive_index][:, None] != key[None]
    output = hard_negative_loss(queries, candidates, positive_index, is_negative, config)
    expected, empty = loop_reference(queries, candidates, list(range(7)), keys, config)
    assert float(output.loss) == pytest.approx(expected, abs=1e-12)
    assert int(output.stats["empty_queries"]) == empty
    if margin == -5.0:
        assert empty == 7 and float(output.loss) == 0


@pytest.mark.parametrize("on_short", list(OnShort))
def test_everything_filtered_is_zero_with_zero_gradient(on_short: OnShort) -> None:
    queries = unit(4, 3).requires_grad_()
    candidates = unit(4, 3, seed=1).requires_grad_()
    config = HardNegativeLossConfig(0.05, 2, -5.0, on_short)
    loss = loss_of_pairs(queries, candidates, config).loss
    loss.backward()
    assert float(loss.detach()) == 0
    assert queries.grad is not None and candidates.grad is not None
    assert not queries.grad.any() and not candidates.grad.any()


def test_a_filtered_item_never_comes_back() -> None:
    """Two of three negatives are filtered: no gradient reaches them, whatever k asks for."""
    query = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    angles = torch.tensor([0.6, 0.1, 0.2, 2.0], dtype=torch.float64)  # positive, 2 false, 1 true
    candidates = torch.stack([angles.cos(), angles.sin()], dim=1).requires_grad_()
    is_negative = torch.tensor([[False, True, True, True]])
    for on_short in OnShort:
        config = HardNegativeLossConfig(0.1, 3, 0.1, on_short)
        candidates.grad = None
        output = hard_negative_loss(query, candidates, torch.tensor([0]), is_negative, config)
        output.loss.backward()
        assert candidates.grad is not None
        assert candidates.grad[1:3].abs().max() == 0
        assert candidates.grad[3].abs().max() > 0
        assert float(output.stats["filtered_share"]) == pytest.approx(2 / 3)
        assert float(output.stats["short_queries"]) == 1


def test_dropping_a_false_negative_lowers_the_loss() -> None:
    queries, targets = unit(5, 4), unit(5, 4, seed=1)
    targets[1] = queries[0]
    losses = [
        float(loss_of_pairs(queries, targets, HardNegativeLossConfig(0.05, 4, margin)).loss)
        for margin in (None, 0.1)
    ]
    assert losses[1] < losses[0]


def test_instruction_loss_masks_duplicates_and_uses_explicit_negatives() -> None:
    queries, targets = unit(3, 4), unit(5, 4, seed=1)
    targets[2] = targets[0]  # queries 0 and 2 have the same right answer
    labels = labels_of([10, 11, 12], [1, 2, 1, 3, 4], [0, 1, 2])
    config = HardNegativeLossConfig(0.1, None, None)
    loss = instruction_loss({"query": queries, "target": targets}, labels, config).loss
    scores = queries @ targets.T / 0.1
    scores[0, 2] = scores[2, 0] = float("-inf")
    scores[1, 2] = float("-inf")  # of equal targets the first is query 1's negative
    expected = F.cross_entropy(scores, torch.arange(3))
    assert float(loss) == pytest.approx(float(expected), abs=1e-12)


def test_symmetric_is_the_mean_of_both_directions() -> None:
    queries, targets = unit(4, 3), unit(6, 3, seed=1)
    labels = labels_of([1, 2, 3, 1], [5, 6, 7, 8, 9, 10], [0, 1, 3, 5])  # query 0 is query 3
    config = HardNegativeLossConfig(0.1, None, None, symmetric=True)
    output = instruction_loss({"query": queries, "target": targets}, labels, config)
    positives = torch.tensor([0, 1, 3, 5])
    scores = queries @ targets.T / 0.1
    scores[0, 5] = scores[3, 0] = float("-inf")  # each is right for the other's equal query
    forward = F.cross_entropy(scores, positives)
    scores = targets[positives] @ queries.T / 0.1
    scores[0, 3] = scores[3, 0] = float("-inf")
    scores[1, 3] = scores[2, 3] = float("-inf")  # of equal queries the first takes part
    backward = F.cross_entropy(scores, torch.arange(4))
    assert float(output.loss) == pytest.approx(float(forward + backward) / 2, abs=1e-12)
    assert "reverse_positive_similarity" in output.stats


def test_a_missing_positive_is_refused() -> None:
    embeddings = {"query": unit(2, 3), "target": unit(2, 3)}
    with pytest.raises(ValueError, match="2 queries but 1 positives"):
        instruction_loss(embeddings, labels_of([0, 1], [0, 1], [0]), HardNegativeLossConfig())


@pytest.mark.parametrize("copies", [1, 5, 16])
def test_the_k_hardest_are_k_different_ones(copies: int) -> None:
    """Targets of which each comes `copies` times: a collapsed model pays log(1 + 3) for its 3
    hardest of 4 different ones, and the gradient reaches one row of each."""
    rows = list(range(4 * copies))
    one = torch.ones(len(rows), 3, dtype=torch.float64) / 3**0.5
    targets = one.clone().requires_grad_()
    labels = labels_of(rows, [0, 1, 2, 3] * copies, rows)
    config = HardNegativeLossConfig(0.1, 8, None)
    output = instruction_loss({"query": one, "target": targets}, labels, config)
    assert float(output.loss.detach()) == pytest.approx(math.log(1 + 3))
    assert float(output.stats["distinct_negatives"]) == 3
    output.loss.backward()
    assert targets.grad is not None
    # query 0 pushes at one copy of each other label and pulls at its own positive
    pushed = {0, 1, 2, 3}
    is_negative = negatives_of(
        labels["query_key"][:1], labels["target_key"][:1], labels["target_key"]
    )
    assert set(is_negative[0].nonzero()[:, 0].tolist()) == pushed - {0}
    alone = targets.detach().clone().requires_grad_()
    hard_negative_loss(one[:1], alone, torch.tensor([0]), is_negative, config).loss.backward()
    assert alone.grad is not None
    assert set(alone.grad.abs().sum(dim=1).nonzero()[:, 0].tolist()) == pushed


@pytest.mark.parametrize("symmetric", [False, True])
def test_right_answers_of_one_query_are_no_negatives_of_each_other(symmetric: bool) -> None:
    """Rows (A, a1), (A, a2), (B, b): no gradient of d sim(A, a2) in the row of a1, nor the other
    way; a copy of a2 that another row names as its negative is none of A's either."""
    queries = unit(3, 4)
    queries[1] = queries[0]
    targets = unit(4, 4, seed=1)
    targets[3] = targets[1]
    labels = labels_of([7, 7, 8], [1, 2, 3, 2], [0, 1, 2])
    config = HardNegativeLossConfig(0.1, None, None, symmetric=symmetric)
    similarity = queries @ targets.T / 0.1
    rows = [
        torch.stack([similarity[0, 0], similarity[0, 2]]),
        torch.stack([similarity[1, 1], similarity[1, 2]]),
        torch.stack([similarity[2, 2], similarity[2, 0], similarity[2, 1]]),
    ]
    if symmetric:  # of the equal queries of rows 0 and 1 one takes part
        reverse = [
            torch.stack([similarity[0, 0], similarity[2, 0]]),
            torch.stack([similarity[1, 1], similarity[2, 1]]),
            torch.stack([similarity[2, 2], similarity[0, 2]]),
        ]
    expected = sum(float(row.logsumexp(0) - row[0]) for row in rows) / 3
    if symmetric:
        back = sum(float(row.logsumexp(0) - row[0]) for row in reverse) / 3
        expected = (expected + back) / 2
    loss = instruction_loss({"query": queries, "target": targets}, labels, config).loss
    assert float(loss) == pytest.approx(expected, abs=1e-12)


def test_negatives_equal_a_loop() -> None:
    """Against the sentence itself, one query and one target at a time, on random keys."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        query = torch.randint(6, (9,), generator=generator).tolist()
        target = torch.randint(8, (14,), generator=generator).tolist()
        positive = target[:9]
        found = negatives_of(*(torch.tensor(keys) for keys in (query, positive, target)))
        for i, own in enumerate(query):
            right = {p for q, p in zip(query, positive, strict=True) if q == own}
            for j, key in enumerate(target):
                assert bool(found[i, j]) == (key not in right and target.index(key) == j)


def answered(seed: int) -> dict[str, Tensor]:
    """Nine rows and five explicit negatives of random keys, with names that some ask for and go by,
    of queries and targets too that are not there."""
    generator = torch.Generator().manual_seed(seed)
    query, target = (
        torch.randint(size, (n,), generator=generator) for size, n in ((6, 9), (9, 14))
    )
    labels = labels_of(query.tolist(), target.tolist(), list(range(9)))
    asked, named = (
        torch.stack([torch.randint(most, (n,), generator=generator) for most in (size, 5)], dim=1)
        for n, size in ((9, 7), (14, 11))
    )
    return labels | {"asked": asked, "named": named}


def right_by_a_loop(
    query: list[int],
    positive: list[int],
    target: list[int],
    asked: list[list[int]],
    named: list[list[int]],
) -> list[set[int]]:
    """Of each query the keys that are right: what rows of equal queries give, and what goes by one
    of the names that it asks for."""
    found = []
    for own in query:
        given = {p for q, p in zip(query, positive, strict=True) if q == own}
        names = {name for q, name in asked if q == own}
        found.append(given | {t for t, name in named if name in names and t in target})
    return found


def test_targets_of_a_known_answer_are_no_negatives() -> None:
    """Against a loop; whole and in parts. A copy of one that stands among the explicit negatives is
    none either."""
    more = 0
    for seed in range(20):
        labels = answered(seed)
        query, target = labels["query_key"], labels["target_key"]
        keys = (query, target[:9], target, labels["asked"], labels["named"])
        found, parts = negatives_of(*keys), Negatives(*keys)
        assert torch.equal(torch.cat([parts[:4], parts[4:8], parts[8:]]), found)
        right = right_by_a_loop(*(own.tolist() for own in keys))
        for i, j in product(range(9), range(14)):
            key = int(target[j])
            assert bool(found[i, j]) == (key not in right[i] and target.tolist().index(key) == j)
        plain = negatives_of(*keys[:3])
        more += int((plain & ~found).sum())
        assert not (found & ~plain).any()
        nothing = torch.empty(0, 2, dtype=torch.long)
        assert torch.equal(negatives_of(*keys[:3], nothing, nothing), plain)
    assert more > 100


@pytest.mark.parametrize("symmetric", [False, True])
def test_the_loss_leaves_out_known_answers_in_both_directions(symmetric: bool) -> None:
    """InfoNCE by a loop over what is no right answer, each different one once."""
    config = HardNegativeLossConfig(0.1, None, None, symmetric=symmetric)
    changed = 0

    def info_nce(row: Tensor, own: int, keys: list[int], right: set[int]) -> float:
        wrong = [j for j, key in enumerate(keys) if key not in right and keys.index(key) == j]
        logits = row[[own, *wrong]] / 0.1
        return float(logits.logsumexp(0) - logits[0])

    for seed in range(5):
        labels = answered(seed)
        queries = unit(6, 4)[labels["query_key"]]
        targets = unit(9, 4, seed=1)[labels["target_key"]]
        sides = {"query": queries, "target": targets}
        query, target, asked, named = (
            labels[name].tolist() for name in ("query_key", "target_key", "asked", "named")
        )
        forth = right_by_a_loop(query, target[:9], target, asked, named)
        expected = sum(info_nce(queries[i] @ targets.T, i, target, forth[i]) for i in range(9)) / 9
        if symmetric:
            back = right_by_a_loop(target[:9], query, query, named, asked)
            rows = targets[:9] @ queries.T
            reverse = sum(info_nce(rows[i], i, query, back[i]) for i in range(9)) / 9
            expected = (expected + reverse) / 2
        loss = float(instruction_loss(sides, labels, config).loss)
        assert loss == pytest.approx(expected, abs=1e-12)
        plain = {name: own for name, own in labels.items() if name not in ("asked", "named")}
        changed += loss < float(instruction_loss(sides, plain, config).loss) - 1e-3
    assert changed > 3


@pytest.mark.parametrize(
    ("after", "step", "hard"),
    [(0, 0, True), (5, 4, False), (5, 5, True), ("5", 5, True), (5, None, True),
     ("auto", None, True)],
)  # fmt: skip
def test_hard_negatives_begin_after_so_many_steps(after: int | str, step: int, hard: bool) -> None:
    queries, targets = unit(10, 6), unit(10, 6, seed=1)
    config = HardNegativeLossConfig(0.05, 3, None, hard_negatives_after=after)
    output = loss_of_pairs(queries, targets, config, step)
    k = 3 if hard else None
    alone = loss_of_pairs(queries, targets, HardNegativeLossConfig(0.05, k, None))
    assert float(output.loss) == pytest.approx(float(alone.loss), abs=1e-12)
    assert float(output.stats["hard_negatives"]) == hard


@pytest.mark.parametrize(("noise", "hard"), [(9.0, False), (0.1, True)])
def test_hard_negatives_wait_until_they_cost_less_than_collapse(noise: float, hard: bool) -> None:
    """auto: while the k hardest cost more than ln(1 + k) all negatives count, without a filter."""
    queries = unit(32, 16)
    targets = F.normalize(queries + noise * unit(32, 16, seed=1), dim=1)
    config = HardNegativeLossConfig(0.05, 8, 0.1)
    output = loss_of_pairs(queries, targets, config, 0)
    assert (float(output.stats["hard_negative_loss"]) < math.log(9)) == hard
    expected = config if hard else HardNegativeLossConfig(0.05, None, None)
    alone = loss_of_pairs(queries, targets, expected)
    assert float(output.loss) == pytest.approx(float(alone.loss))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("k", [1, 2, 3, 8, 31])
def test_equal_similarities_are_no_beginning(k: int, dtype: torch.dtype) -> None:
    """A collapsed model costs ln(1 + k) to rounding, which must not decide."""
    same = F.normalize(torch.ones(32, 7, dtype=dtype), dim=1)
    config = HardNegativeLossConfig(0.05, k, 0.1)
    output = loss_of_pairs(same, same, config, step=0)
    assert float(output.stats["hard_negatives"]) == 0
    assert float(output.stats["filtered_share"]) == 0  # what is told is of the loss that was taken
