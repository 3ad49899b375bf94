"""One vector of many sizes: both losses against closed forms, a slow reference, and
sentence-transformers' MatryoshkaLoss.

pytest tests/test_matryoshka.py
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
)
from torch import Tensor, nn

from tests.support import dense_losses
from tests.support.embedding import unit
from tests.support.material import metrics, stage1, stage2
from tests.test_loss_blocks import THREE_BLOCKS, check_equal, pairs
from unime.config import DistillationLossConfig, HardNegativeLossConfig
from unime.errors import ConfigError
from unime.losses import LossOutput, distillation_loss, hard_negative_loss, instruction_loss

ROWS = 37


def cut(rows: Tensor, size: int) -> Tensor:
    first = rows[:, :size]
    return first / first.norm(dim=1, keepdim=True)


def test_the_closed_form() -> None:
    """Six pairs alike in their first two coordinates, orthogonal in the others: nothing is told
    apart at size 2, and at size 8 what is left of the others decides."""
    n, temperature = 6, 0.5
    rows = torch.cat([torch.full((n, 2), 0.5), torch.eye(n) * math.sqrt(0.5)], dim=1).double()
    config = HardNegativeLossConfig(
        temperature, None, None, matryoshka_dimensions=[2], matryoshka_weights=[3.0]
    )
    output = hard_negative_loss(
        rows, rows, torch.arange(n), ~torch.eye(n, dtype=torch.bool), config
    )
    whole = math.log(1 + (n - 1) * math.exp((0.5 - 1) / temperature))
    assert float(output.stats["loss_8"]) == pytest.approx(whole)
    assert float(output.stats["loss_2"]) == pytest.approx(math.log(n))
    assert float(output.loss) == pytest.approx((whole + 3 * math.log(n)) / 4)


def test_the_closed_form_of_distillation() -> None:
    """A student that is its teacher, and at size 2 a point: there it costs what the teacher's
    rows are from equal shares."""
    rows = torch.cat([torch.full((5, 2), 0.5), torch.eye(5) * math.sqrt(0.5)], dim=1).double()
    teacher = unit(5, 9)
    config = DistillationLossConfig(0.1, 0.1, matryoshka_dimensions=[2])
    output = distillation_loss(rows, teacher, config)
    scores = (teacher @ teacher.T / 0.1).masked_fill(torch.eye(5) > 0, -math.inf)
    shares = scores.softmax(dim=1)
    equal = (torch.xlogy(shares, shares).sum(dim=1) + math.log(4)).mean()
    for name in ("loss_2", "loss_7"):  # of size 7, too, all similarities are equal
        assert float(output.stats[name]) == pytest.approx(float(equal))


SIZES = (5, 2)  # of 6
WEIGHTS = (0.5, 2.0)


def reference(
    rows: dict[str, Tensor],
    loss_of: Callable[[dict[str, Tensor], bool | None], LossOutput],
) -> LossOutput:
    """Every matrix whole, one size after another; (rows, whether hard negatives have begun)."""
    whole = loss_of(rows, None)
    begun = bool(whole.stats.get("hard_negatives", True))
    outputs = {6: whole}
    for size in SIZES:
        outputs[size] = loss_of({name: cut(own, size) for name, own in rows.items()}, begun)
    each = zip((1.0, *WEIGHTS), outputs.values(), strict=True)
    loss = sum((w * output.loss for w, output in each), torch.zeros(())) / (1 + sum(WEIGHTS))
    stats = whole.stats | {f"loss_{size}": o.loss.detach() for size, o in outputs.items()}
    return LossOutput(loss, stats)


@pytest.mark.parametrize("memory", [1e-9, THREE_BLOCKS, 1.0])
def test_distillation_equals_the_reference(memory: float) -> None:
    config = DistillationLossConfig(
        *(0.1, 0.2), block_memory=memory, matryoshka_dimensions=[*SIZES],
        matryoshka_weights=[*WEIGHTS],
    )  # fmt: skip
    teacher = unit(ROWS, 9, seed=1)
    check_equal(
        lambda sides: distillation_loss(sides["text"], teacher, config),
        lambda sides: reference(
            sides, lambda rows, _: dense_losses.distillation_loss(rows["text"], teacher, config)
        ),
        {"text": unit(ROWS, 6)},
    )


@pytest.mark.parametrize("memory", [1e-9, THREE_BLOCKS, 1.0])
@pytest.mark.parametrize(
    ("k", "margin", "after", "noise", "begun"),
    [
        (4, 0.1, 0, 1.0, True),
        (None, None, 0, 1.0, True),
        (4, 0.1, "auto", 0.05, True),
        (4, 0.1, "auto", 4.0, False),  # the whole vector decides: at size 2 they would have
        (4, 0.1, 5, 1.0, False),
    ],
)
def test_instruction_equals_the_reference(
    memory: float, k: int | None, margin: float | None, after: int | str, noise: float, begun: bool
) -> None:
    """Each size has its own hardest negatives and its own filter."""
    config = HardNegativeLossConfig(
        *(0.05, k, margin), hard_negatives_after=after, block_memory=memory,
        matryoshka_dimensions=[*SIZES], matryoshka_weights=[*WEIGHTS],
    )  # fmt: skip
    sides, labels = pairs(noise)

    def dense(rows: dict[str, Tensor], decided: bool | None) -> LossOutput:
        own = config
        if decided is not None:
            own = replace(config, hard_negatives_after=0 if decided else 99)
        return dense_losses.instruction_loss(rows, labels, own, 0)

    own = check_equal(
        lambda rows: instruction_loss(rows, labels, config, 0),
        lambda rows: reference(rows, dense),
        sides,
    )
    assert bool(own.stats["hard_negatives"]) == begun


def test_both_directions_have_all_sizes() -> None:
    config = HardNegativeLossConfig(
        0.1, 4, hard_negatives_after=0, symmetric=True, matryoshka_dimensions=[2, 6]
    )
    sides, labels = pairs()
    sizes = [
        instruction_loss(
            {name: cut(rows, size) for name, rows in sides.items()},
            labels,
            replace(config, matryoshka_dimensions=None),
        ).loss
        for size in (6, 2)
    ]
    both = instruction_loss(sides, labels, config)
    assert float(both.loss) == pytest.approx(float(sum(sizes) / 2))
    assert {"loss_2", "reverse_loss_2"} <= both.stats.keys()


def test_the_whole_vector_listed_is_the_whole_vector() -> None:
    sides, labels = pairs()
    alone, listed = (
        instruction_loss(sides, labels, HardNegativeLossConfig(matryoshka_dimensions=sizes))
        for sizes in (None, [6])
    )
    assert torch.equal(alone.loss, listed.loss) and alone.stats.keys() == listed.stats.keys()


def test_collapse_is_watched_in_the_whole_vector() -> None:
    sides, labels = pairs()
    alone, sized = (
        instruction_loss(sides, labels, HardNegativeLossConfig(matryoshka_dimensions=sizes)).stats
        for sizes in (None, [2])
    )
    assert all(torch.equal(sized[name], value) for name, value in alone.items() if value == value)


class Embed(nn.Module):
    """Of a column x, as a module of sentence-transformers; the smaller sizes are not unit."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(5, 8).double()

    def forward(self, features: dict[str, Tensor], **_: Any) -> dict[str, Tensor]:
        return {"sentence_embedding": F.normalize(self.layer(features["x"]), dim=1)}

    def get_embedding_dimension(self) -> int:
        return 8


@pytest.mark.parametrize("cached", [False, True])
def test_equals_sentence_transformers(cached: bool) -> None:
    """Loss and gradient, of queries, right answers and one explicit negative each; where theirs
    adds the sizes up, ours takes the mean."""
    columns = [
        torch.randn(7, 5, generator=torch.Generator().manual_seed(n)).double() for n in range(3)
    ]
    weights = [1.0, 0.5, 2.0]
    model = SentenceTransformer(modules=[Embed()], device="cpu")
    kind: Any = CachedMultipleNegativesRankingLoss if cached else MultipleNegativesRankingLoss
    inner = kind(model, scale=20.0, **({"mini_batch_size": 2} if cached else {}))
    theirs = MatryoshkaLoss(model, inner, [8, 4, 2], weights)
    expected = theirs([{"x": column} for column in columns], torch.zeros(7)) / sum(weights)
    expected.backward()

    own = Embed()
    query, right, wrong = (own({"x": column})["sentence_embedding"] for column in columns)
    config = HardNegativeLossConfig(
        0.05, None, None, matryoshka_dimensions=[4, 2], matryoshka_weights=weights[1:]
    )
    labels = {
        "query_key": torch.arange(7),
        "target_key": torch.arange(14),
        "is_positive": torch.arange(14) < 7,
    }
    found = instruction_loss({"query": query, "target": torch.cat([right, wrong])}, labels, config)
    found.loss.backward()
    assert float(found.loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-5)
    for mine, other in zip(own.parameters(), model.parameters(), strict=True):
        assert mine.grad is not None and other.grad is not None
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-5, atol=1e-5)
        assert other.grad.abs().max() > 1e-3


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"matryoshka_dimensions": [64, 64]}, "different sizes"),
        ({"matryoshka_dimensions": []}, "at least one"),
        ({"matryoshka_dimensions": [0]}, "positive"),
        ({"matryoshka_weights": [1.0]}, "one for each"),
        ({"matryoshka_dimensions": [4], "matryoshka_weights": [0.0]}, "positive"),
        ({"matryoshka_dimensions": [4], "matryoshka_weights": [1.0, 1.0]}, "one for each"),
    ],
)
@pytest.mark.parametrize("loss", [DistillationLossConfig, HardNegativeLossConfig])
def test_settings_that_are_refused(loss: Any, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=rf"loss\.matryoshka_.*{words}"):
        loss(**settings)


@pytest.mark.parametrize("stage", [stage1, stage2])
def test_both_stages(stage: Callable[..., Path], material: Path) -> None:
    """A size that the model does not have is refused before anything is trained."""
    sizes = "loss.matryoshka_dimensions=[8, 9999]"
    with pytest.raises(ConfigError, match=r"loss\.matryoshka_dimensions: got 9999, expected at mo"):
        stage(material, f"refused-{stage.__name__}", sizes)
    assert not (material / f"refused-{stage.__name__}/metrics.jsonl").exists()
    words = ("loss.matryoshka_dimensions=[8, 4]", "loss.matryoshka_weights=[2, 1]")
    line = metrics(stage(material, f"sized-{stage.__name__}", "optim.steps=2", *words))[-1]
    own = [name for name in line if name.startswith("loss_")]
    whole = max(own, key=lambda name: int(name.removeprefix("loss_")))
    mean = (line[whole] + 2 * line["loss_8"] + line["loss_4"]) / 4
    assert len(own) == 3 and line["loss"] == pytest.approx(mean)
