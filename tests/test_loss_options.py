"""What the losses of other recipes add: weights by hardness, a temperature that is learnt, a
judge's scores as soft labels, the square of differences in stage 1.

pytest tests/test_loss_options.py
"""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from torch import Tensor

from tests.support.embedding import unit
from tests.support.material import EXACT, metrics, stage1, stage2
from tests.test_loss_blocks import THREE_BLOCKS, check_equal, pairs
from tests.test_losses import loss_of_pairs
from tests.test_matryoshka import Embed
from unime.config import (
    DistillationLossConfig,
    HardNegativeLossConfig,
    Objective,
    OptimConfig,
)
from unime.data.prepared.folder import PreparedSet, RowWriter
from unime.errors import ConfigError, DataError
from unime.inputs.items import Item, Pair
from unime.losses import (
    LearntTemperature,
    LossOutput,
    distillation_loss,
    instruction_loss,
)
from unime.runtime.files import read_json

MEMORY = [1e-9, THREE_BLOCKS, 1.0]
INFO_NCE = HardNegativeLossConfig(0.05, None, None)
OPTIM = OptimConfig(steps=1, batch_size_per_device=1, chunk_size=1, learning_rate=1e-3)


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("include_diagonal", [False, True])
def test_the_square_of_differences(memory: float, include_diagonal: bool) -> None:
    teacher, rows = unit(37, 9, seed=1), unit(37, 6)
    config = DistillationLossConfig(
        include_diagonal=include_diagonal, objective=Objective.mse, block_memory=memory
    )

    def dense(sides: dict[str, Tensor]) -> LossOutput:
        difference = sides["text"] @ sides["text"].T - teacher @ teacher.T
        if not include_diagonal:
            difference = difference[~torch.eye(37, dtype=torch.bool)]
        stats = distillation_loss(sides["text"].detach(), teacher, config).stats
        return LossOutput(difference.square().mean(), stats)

    check_equal(
        lambda sides: distillation_loss(sides["text"], teacher, config), dense, {"text": rows}
    )


def test_weights_by_hardness_equal_sentence_transformers() -> None:
    """Loss and gradient over all of a batch, right answers of others and explicit negatives."""
    columns = [
        torch.randn(7, 5, generator=torch.Generator().manual_seed(n)).double() for n in range(3)
    ]
    model = SentenceTransformer(modules=[Embed()], device="cpu")
    theirs = MultipleNegativesRankingLoss(
        model, scale=20.0, hardness_mode="all_negatives", hardness_strength=5.0
    )
    expected = theirs([{"x": column} for column in columns], torch.zeros(7))
    expected.backward()
    own = Embed()
    query, right, wrong = (own({"x": column})["sentence_embedding"] for column in columns)
    labels = {"query_key": torch.arange(7), "target_key": torch.arange(14)}
    labels["is_positive"] = torch.arange(14) < 7
    config = replace(INFO_NCE, hardness_strength=5.0)
    found = instruction_loss({"query": query, "target": torch.cat([right, wrong])}, labels, config)
    found.loss.backward()
    assert float(found.loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-6)
    for mine, other in zip(own.parameters(), model.parameters(), strict=True):
        assert mine.grad is not None and other.grad is not None
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-6, atol=1e-6)
    plain = instruction_loss(
        {"query": query.detach(), "target": torch.cat([right, wrong]).detach()}, labels, INFO_NCE
    )
    assert float(plain.loss) < float(found.loss.detach())


def test_weights_and_the_level_of_a_collapsed_model() -> None:
    """Where all similarities are 1 a query costs ln(1 + k e^alpha), which is no less."""
    rows = unit(1, 4).expand(9, 4)
    config = HardNegativeLossConfig(0.05, 4, None, hardness_strength=3.0)
    output = loss_of_pairs(rows, rows, config, 0)
    level = math.log(1 + 4 * math.exp(3.0))
    assert float(output.stats["hard_negative_loss"]) == pytest.approx(level)
    assert not bool(output.stats["hard_negatives"])


def learnt(value: float = 0.05, least: float = 0.01) -> LearntTemperature:
    return LearntTemperature(value, least, OPTIM)


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_hard_negatives": 4, "false_negative_margin": 0.1, "hard_negatives_after": 0},
        {"symmetric": True},
        {"hardness_strength": 3.0},
        {"matryoshka_dimensions": [2, 5]},
    ],
)
def test_the_gradient_of_a_temperature(memory: float, settings: dict[str, Any]) -> None:
    """It is the slope of the loss, and embeddings get what they get at a temperature that is
    given."""
    sides, labels = pairs()
    config = replace(INFO_NCE, block_memory=memory, **settings)
    temperature, rows = (
        learnt(),
        {name: own.clone().requires_grad_() for name, own in sides.items()},
    )
    output = instruction_loss(rows, labels, config, None, temperature.value)
    output.loss.backward()
    assert float(output.stats["temperature"]) == pytest.approx(0.05)
    given = {name: own.clone().requires_grad_() for name, own in sides.items()}
    value = float(temperature.value.detach())
    plain = instruction_loss(given, labels, replace(config, temperature=value))
    plain.loss.backward()
    assert torch.equal(output.loss.detach(), plain.loss.detach())
    for name, own in given.items():
        assert rows[name].grad is not None and own.grad is not None
        torch.testing.assert_close(rows[name].grad, own.grad, rtol=1e-12, atol=1e-12)

    def at(shift: float) -> float:
        value = math.exp(math.log(0.05) - shift)
        return float(instruction_loss(sides, labels, replace(config, temperature=value)).loss)

    slope = (at(1e-4) - at(-1e-4)) / 2e-4
    assert temperature.log_scale.grad is not None and abs(slope) > 1e-2
    assert float(temperature.log_scale.grad) == pytest.approx(slope, rel=1e-5)


def test_a_learnt_temperature_is_bounded_and_goes_on() -> None:
    """To the last bit, where it was left."""
    one, other = learnt(0.02), learnt(0.02)
    values = []
    for step in range(6):
        for temperature in (one, other):
            temperature.log_scale.grad = torch.tensor(-1.0 - step, dtype=torch.double)
            temperature.step(0.2)
        state, other = other.state, learnt(0.5)
        other.go_on(state)
        values.append(float(one.value.detach()))
        assert one.state == other.state
    assert values == sorted(values, reverse=True) and values[-1] == pytest.approx(0.01, abs=1e-12)
    fresh = learnt()
    fresh.go_on(learnt(0.07).state)
    assert float(fresh.value.detach()) == pytest.approx(0.07)


def test_a_run_that_learns_its_temperature(material: Path) -> None:
    """Stopped halfway and gone on with it is the run that was not stopped."""
    words = ("loss.learn_temperature=true", *EXACT)
    whole = stage2(material, "learnt", *words)
    lines = metrics(whole)
    assert len({line["temperature"] for line in lines}) == len(lines)
    for line in lines[1:]:
        assert abs(math.log(line["temperature"] / 0.05)) < 0.05  # 4 steps of at most 0.01
    state = read_json(last_state(whole))
    shutil.rmtree(last_state(whole).parent)
    (whole / "finished.json").unlink()
    stage2(material, "learnt", *words)
    again = read_json(last_state(whole))
    assert again["temperature"] == state["temperature"] and again["step"] == 4
    assert [line["temperature"] for line in metrics(whole)] == [
        line["temperature"] for line in lines
    ]


def test_a_temperature_begins_where_a_run_is_made_to_learn_it(material: Path) -> None:
    """A checkpoint of a run that did not has none (``resume.force``)."""
    run = stage2(material, "told", *EXACT)
    (run / "finished.json").unlink()
    stage2(material, "told", *EXACT, "loss.learn_temperature=true", "resume.force=true",
           "optim.steps=5")  # fmt: skip
    state = read_json(run / "checkpoints/step_00000005/state.json")
    assert state["temperature"]["step"] == 1


def last_state(run: Path) -> Path:
    return run / "checkpoints/step_00000004/state.json"


def judged_labels(negatives: list[int], scores: list[float]) -> dict[str, Tensor]:
    """Of rows that have so many negatives."""
    count = len(negatives)
    own = [-1] * count + [row - count for row, n in enumerate(negatives) for _ in range(n)]
    return {
        "query_key": torch.arange(count),
        "target_key": torch.arange(len(own)),
        "is_positive": torch.arange(len(own)) < count,
        "own_query": torch.tensor(own),
        "score": torch.tensor(scores),
    }


@pytest.mark.parametrize("sizes", [None, [3]])
def test_soft_labels_equal_a_loop(sizes: list[int] | None) -> None:
    negatives = [2, 0, 3, 1]
    scores = [0.9, 0.8, 0.7, 0.6, 0.1, 0.5, 0.65, 0.2, 0.3, 0.55]
    labels = judged_labels(negatives, scores)
    queries, targets = unit(4, 6), unit(10, 6, seed=1)
    config = replace(INFO_NCE, soft_labels=1.0, judge_temperature=0.1, matryoshka_dimensions=sizes)
    total, owners = 0.0, [0, 1, 2, 3, 0, 0, 2, 2, 2, 3]
    for size in (6, *(sizes or [])):
        for row in range(4):
            own = [n for n, owner in enumerate(owners) if owner == row]
            q = queries[row, :size] / queries[row, :size].norm()
            t = targets[own, :size] / targets[own, :size].norm(dim=1, keepdim=True)
            found = (t @ q / 0.05).softmax(dim=0)
            wanted = (torch.tensor(scores)[own].double() / 0.1).softmax(dim=0)
            total += float((wanted * (wanted / found).log()).sum()) / 2
            total += float((found * (found / wanted).log()).sum()) / 2
    output = instruction_loss({"query": queries, "target": targets}, labels, config)
    assert float(output.loss) == pytest.approx(total / 4 / (1 + len(sizes or [])), rel=1e-6)
    half = instruction_loss(
        {"query": queries, "target": targets}, labels, replace(config, soft_labels=0.5)
    )
    hard = instruction_loss(
        {"query": queries, "target": targets}, labels, replace(config, soft_labels=0.0)
    )
    assert float(half.loss) == pytest.approx(float(output.loss + hard.loss) / 2)


def test_soft_labels_have_a_finite_gradient() -> None:
    """Also where rows have different numbers of negatives, and where a judge is certain."""
    labels = judged_labels([3, 0], [1.0, 1.0, 0.0, 0.0, 1.0])
    rows = {"query": unit(2, 6).requires_grad_(), "target": unit(5, 6, seed=1).requires_grad_()}
    config = replace(INFO_NCE, soft_labels=1.0, judge_temperature=1e-4)
    instruction_loss(rows, labels, config).loss.backward()
    for own in rows.values():
        assert own.grad is not None and own.grad.isfinite().all() and own.grad.abs().max() > 0


def judged_set(folder: Path, scored: bool = True) -> Path:
    """Sixteen rows of texts with two negatives each."""
    pairs_of_set = [
        Pair(
            Item(f"the number {n}", instruction="Find the same:"),
            Item(f"it is {n}"),
            tuple(Item(f"it is {n + k} or more") for k in range(1, 1 + n % 3)),
            f"rows:{n}",
            (0.9, *([0.3] * (n % 3))) if scored else (),
        )
        for n in range(16)
    ]
    folder.mkdir()
    writer = RowWriter(folder / "numbers", "train", len(pairs_of_set))
    for pair in pairs_of_set:
        writer.add(pair)
    writer.close()
    PreparedSet("", {"numbers": {"train": 16}}, {}).write(folder)
    return folder


def judged_run(material: Path, name: str, data: Path, *words: str) -> Path:
    sources = "data.sources={numbers: {}}"
    return stage2(
        material,
        name,
        f"data.root={data}",
        sources,
        "loss.soft_labels=1",
        "lora.train=[llm]",
        *words,
    )


def test_a_run_by_a_judge(material: Path, tmp_path: Path) -> None:
    """Scores decide: with others, other adapters; and rows without are refused before a step."""
    data = judged_set(tmp_path / "judged")
    words = ("validation.rows=4", "validation.every=2", *EXACT)
    run = judged_run(material, "judged", data, *words)
    line = [line for line in metrics(run) if "loss" in line][-1]
    assert line["loss"] == pytest.approx(line["soft_label_loss"]) != line["hard_label_loss"]
    other = judged_run(material, "judged-other", data, *words, "loss.judge_temperature=0.5")
    first, second = (load_file(next(r.glob("final/**/*.safetensors"))) for r in (run, other))
    assert any(not torch.equal(first[name], second[name]) for name in first)
    with pytest.raises(DataError, match=r"rows:0: no scores.*judge"):
        judged_run(material, "unjudged", judged_set(tmp_path / "bare", scored=False))


def test_settings_that_are_refused(material: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="loss.temperature: got 0.005"):
        HardNegativeLossConfig(0.005, learn_temperature=True)
    with pytest.raises(SystemExit):
        stage2(material, "refused", "loss.soft_labels=0.5", "data.mine_every=2")
    with pytest.raises(SystemExit):
        stage1(material, "refused-objective", "loss.objective=cosine")
    told = capsys.readouterr().err
    assert "data.mine_every" in told and "loss.objective" in told
