"""Scores while training, what is held out for them, and checkpoints as models.

pytest tests/validation/test_validation.py
"""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional

from eval.miniatures.mmeb import train_rows, write_eval_suite, write_rows
from eval.validation import SuiteValidation
from stages.export import final_folder
from tests.data.test_labels import known
from tests.support.embedding import embed, load_exact
from tests.support.material import (
    adapters,
    assert_same_run,
    metrics,
    stage1,
    stage2,
)
from unime.collapse import of_batch
from unime.config import (
    DistillationLossConfig,
    HardNegativeLossConfig,
    OptimConfig,
    PairData,
    PairSource,
    Stage2Config,
    ValidationConfig,
)
from unime.data.datasets import PairDataset, TextRow
from unime.errors import ConfigError, DataError
from unime.export.run_facts import recipe, recipes
from unime.inputs.items import Item, Pair, item_key
from unime.losses import distillation_loss, instruction_loss
from unime.models.encoder import Encoder
from unime.retrieval.embedder import Prepared
from unime.training.checkpoints import checkpoint
from unime.training.engines import check_combination
from unime.validation.hold_out import choose, hold_out, wanted_rows
from unime.validation.measure import Validation
from unime.validation.scores import HeldItems, HeldOutPairs, HeldOutTexts, hit_share

HELD = ("validation.every=1", "validation.rows=6")


@pytest.fixture(scope="module")
def validated(material: Path) -> Path:
    return stage2(material, "validated", *HELD, "run.save_total_limit=1", "optim.steps=5")


def scores_of(folder: Path) -> list[dict[str, Any]]:
    return [line for line in metrics(folder) if "validation/hit@1" in line]


# A run that is validated


def test_scores_are_written_and_the_best_checkpoint_stays(validated: Path) -> None:
    found = scores_of(validated)
    assert [line["step"] for line in found] == [1, 2, 3, 4, 5]
    for line in found:
        tasks = [line[f"validation/hit@1/{task}"] for task in ("Questions", "Captions")]
        assert line["validation/hit@1"] == pytest.approx(sum(tasks) / 2)  # three rows each
        assert line["validation/loss"] > 0
        assert line["validation/chance"] == pytest.approx(1 / 3)  # three targets for each
        assert -1 <= line["validation/target_mean_similarity"] <= 1
    best = max(found, key=lambda line: (line["validation/hit@1"], -line["validation/loss"]))
    named = json.loads((validated / "best.json").read_text())
    assert named == json.loads((validated / "finished.json").read_text())["best"]
    assert named["step"] == best["step"] and named["hit@1"] == best["validation/hit@1"]
    assert named["loss"] == best["validation/loss"]
    kept = {path.name for path in (validated / "checkpoints").iterdir()}
    assert kept == {"step_00000005", Path(named["checkpoint"]).name}
    assert json.loads((validated / "finished.json").read_text())["metrics"]["loss"] > 0


def test_validation_disturbs_nothing(
    material: Path, validated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores after every step or after the last one: the same training, dropout and all; and a run
    that is stopped in the middle of its validation, and goes on, has the same scores too: once,
    also where it was killed after it."""
    rare = stage2(material, "rare", "validation.every=99", HELD[1], "optim.steps=5")
    steps = [[line for line in metrics(run) if "loss" in line] for run in (rare, validated)]
    for ours, theirs in zip(*steps, strict=True):
        assert ours["loss"] == theirs["loss"] and ours["grad_norm"] == theirs["grad_norm"]
    expected = adapters(validated)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in adapters(rare).items())
    assert scores_of(rare) == scores_of(validated)[-1:]
    settings = (*HELD, "run.save_total_limit=1", "optim.steps=5")
    stop_in_validation(monkeypatch, material, "stopped", 0, *settings)
    assert scores_of(material / "stopped") == []
    newest = checkpoint.latest(material / "stopped")
    assert newest is not None and newest.name == "step_00000001"
    with (material / "stopped/metrics.jsonl").open("a") as lines:
        lines.write(json.dumps(scores_of(validated)[0]) + "\n")
    assert_same_run(stage2(material, "stopped", *settings), validated)


def stop_in_validation(
    monkeypatch: pytest.MonkeyPatch, material: Path, name: str, after: int, *settings: str
) -> None:
    """SIGINT in the validation that follows so many complete ones."""
    forward = Encoder.forward

    def interrupted(self: Encoder, *inputs: Any) -> Tensor:
        if torch.is_inference_mode_enabled() and len(scores_of(material / name)) == after:
            monkeypatch.undo()  # once
            os.kill(os.getpid(), signal.SIGINT)
        return forward(self, *inputs)

    monkeypatch.setattr(Encoder, "forward", interrupted)
    with pytest.raises(SystemExit, match="130"):
        stage2(material, name, *settings)


def test_the_best_is_known_after_a_stop(material: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is learnt all scores are equal, and the first stays the best."""
    settings = (*HELD, "optim.steps=3", "optim.learning_rate=1e-30")
    stop_in_validation(monkeypatch, material, "still", 2, *settings)
    run = stage2(material, "still", *settings)
    assert [line["step"] for line in scores_of(run)] == [1, 2, 3]
    assert json.loads((run / "best.json").read_text())["step"] == 1


def test_a_checkpoint_is_a_model(
    material: Path, validated: Path, tiny_model: Callable[..., Path]
) -> None:
    """It is loaded, embeds and is exported as final/ is."""
    model, item = tiny_model("qwen2_vl"), Item("what is it?")
    last = validated / "checkpoints" / "step_00000005"
    named = [(model, validated / "final"), (model, last), (last, None), (model, None)]
    final, by_adapter, by_name, base = (embed(load_exact(*names), [item]) for names in named)
    assert torch.equal(by_adapter, final) and (final - base).norm() > 1e-3
    assert torch.equal(by_name, final)  # it names its base
    assert final_folder(last) == last and recipes(last).keys() == recipes(validated).keys()
    first = last.with_name("step_00000002")
    told = [recipe(*found) for folder in (first, validated) for found in recipes(folder).items()]
    assert "the first 2 of 5 steps" in told[0] and "; 6 rows held out" in told[0]
    assert "of 5 steps" not in told[1] and "; 5 steps" in told[1]


def test_a_suite_of_tasks_is_the_measure(material: Path) -> None:
    write_eval_suite(material / "eval", material / "suite.yaml")
    run = stage2(
        material, "by_suite", "validation.every=2", f"validation.suite={material}/suite.yaml",
        f"validation.root={material}/eval", "validation.tasks=[Words_t2i,Names]", "optim.steps=2",
    )  # fmt: skip
    (line,) = scores_of(run)
    tasks = [line[f"validation/hit@1/{task}"] for task in ("Words_t2i", "Names")]
    assert line["validation/hit@1"] == pytest.approx(sum(tasks) / 2)
    with pytest.raises(ConfigError, match="has no task 'Word'; the nearest is 'Words_"):
        stage2(material, "none", "validation.every=2", f"validation.suite={material}/suite.yaml",
               "validation.tasks=[Word]")  # fmt: skip


def test_a_model_that_sees_nothing_is_at_chance(
    material: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a suite too, where the right candidate is listed first."""
    write_eval_suite(material / "blind", material / "blind.yaml")
    config = ValidationConfig(
        every=1, suite=str(material / "blind.yaml"), root=str(material / "blind")
    )
    accelerator = Accelerator(cpu=True)
    measure = SuiteValidation(config, 8, accelerator)
    monkeypatch.setattr(HeldItems, "embed", lambda held, *_: torch.ones(len(held._items), 4) / 2)
    seen = SimpleNamespace(describe=lambda: {"num_frames": 8})
    scores = measure(accelerator, seen, lambda: None)  # type: ignore[arg-type]
    hits = [score for name, score in scores.items() if name.startswith("hit@1")]
    assert 0 < scores["hit@1"] <= 0.5 and max(hits) <= 0.5
    assert scores["hit@1"] == pytest.approx(scores["chance"])
    assert "hardly told apart" in str(of_batch(scores))


def test_stage1_is_validated_by_the_teachers_neighbours(material: Path) -> None:
    """The scores go to tensorboard too."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = ("validation.every=4", "validation.share=0.25", "run.trackers=[tensorboard]")
    run = stage1(material, "stage1", *settings)
    (line,) = scores_of(run)
    assert 0 <= line["validation/hit@1"] <= 1 and line["validation/loss"] > 0
    assert json.loads((run / "best.json").read_text())["step"] == 4
    events = EventAccumulator(str(run / "tensorboard" / "unime")).Reload()
    (logged,) = events.Scalars("validation/hit@1")
    assert logged.value == pytest.approx(line["validation/hit@1"])


# Which checkpoint is the best


def test_the_best_is_by_hits_and_then_by_loss() -> None:
    validation = Validation(lambda *_: {}, every=10)
    given = [(10, 0.5, 2.0), (20, 0.4, 1.0), (30, 0.5, 1.9), (40, 0.5, math.nan), (50, 0.6, 3.0)]
    better = [validation.take(step, {"hit@1": hit, "loss": loss}) for step, hit, loss in given]
    point = {"mean_similarity": 1.0, "effective_rank": 1.0, "distinct_items": 40.0}
    assert not validation.take(50, {"hit@1": 0.9, "loss": 0.1, **point}), "its hits are rounding"
    assert better == [True, False, True, False, True]
    assert validation.best == {"step": 50, "hit@1": 0.6, "loss": 3.0}
    assert not validation.is_due(50, True) and not validation.is_due(55, False)
    assert validation.is_due(55, True) and validation.is_due(60, False)


# What the scores are


def test_equal_scores_are_no_hits_by_luck() -> None:
    scores = torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.2, 0.9, 0.9, 0.1], [0.2, 0.9, 0.8, 0.1]])
    right = torch.tensor([[True, False, False, False], [False, True, True, False]])
    right = torch.cat([right, torch.tensor([[False, True, False, False]])])
    assert hit_share(scores, right).tolist() == [0.25, 1.0, 1.0]


class Texts(list[TextRow]):
    texts_per_row = 1

    @property
    def texts(self) -> list[str]:
        return [row.text for row in self]


class Fixed:
    """Embeds the texts "0", "1", … as the rows of a matrix."""

    dimension = 4

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def prepare(self, items: list[Item]) -> Any:
        return Prepared([int(item.text) for item in items], [False] * len(items))

    def embed(self, numbers: list[int]) -> Tensor:
        return self.rows[numbers]


def test_agreement_with_the_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: 9 texts of which the student's nearest neighbour is the teacher's."""
    monkeypatch.setattr("unime.validation.scores.BLOCK", 4)
    random = torch.Generator().manual_seed(0)
    student, teacher = (
        functional.normalize(torch.randn(9, 4, generator=random), dim=1) for _ in range(2)
    )
    rows = Texts(TextRow(str(n), teacher[n]) for n in range(9))
    config = DistillationLossConfig()

    def loss(embeddings: dict[str, Tensor], labels: dict[str, Tensor]) -> Any:
        return distillation_loss(embeddings["text"], labels["teacher"], config)

    measure = HeldOutTexts(rows, loss, 4, 2)  # type: ignore[arg-type]
    found = measure(Accelerator(cpu=True), Fixed(student), lambda: None)  # type: ignore[arg-type]
    nearest = [(m @ m.T).fill_diagonal_(-2).argmax(dim=1) for m in (student, teacher)]
    assert found["chance"] == pytest.approx(1 / 8)
    assert found["hit@1"] == pytest.approx((nearest[0] == nearest[1]).float().mean().item())
    parts = [slice(0, 4), slice(4, 9)]
    losses = [distillation_loss(student[p], teacher[p], config).loss.item() for p in parts]
    assert found["loss"] == pytest.approx((4 * losses[0] + 5 * losses[1]) / 9, rel=1e-5)


class Pairs(list[Pair]):
    @property
    def task_sizes(self) -> dict[str, int]:
        return {"T": len(self)}


@pytest.mark.parametrize("trained", [False, True])
def test_answers_are_right_and_no_negatives(trained: bool) -> None:
    """By hand: 8 rows and an explicit negative. Rows 0, 2 and 5 have one answer, and so has row 1,
    whose query is row 0's; nobody knows of the others, but where a row that is trained on says that
    the negative has row 6's."""
    named = ["cat", "", "cat", "", "", "cat", "dog", ""]
    random = torch.Generator().manual_seed(9)
    vectors = functional.normalize(torch.randn(17, 4, generator=random), dim=1)
    asked = [0, 0, 2, 3, 4, 5, 6, 7]
    wanted = [8, 9, 10, 11, 12, 13, 14, 15]
    pairs = Pairs(
        Pair(Item(str(q)), Item(str(t)), (Item("16"),) * (n == 3), f"T:{n}", (), answer, "T")
        for n, (q, t, answer) in enumerate(zip(asked, wanted, named, strict=True))
    )
    rest = [Pair(Item("x"), Item("16"), (), "T:8", (), "dog", "T")] * trained
    cats, dogs = {8, 10, 13}, {14, 16} if trained else {14}
    right = [cats | {9}, cats | {9}, cats, {11}, {12}, cats, dogs, {15}]
    config = HardNegativeLossConfig(0.1, None, None)

    def loss(embeddings: dict[str, Tensor], labels: dict[str, Tensor]) -> Any:
        return instruction_loss(embeddings, labels, config)

    measure = HeldOutPairs(pairs, loss, 99, 4, known([*pairs, *rest]))  # type: ignore[arg-type]
    found = measure(Accelerator(cpu=True), Fixed(vectors), lambda: None)  # type: ignore[arg-type]
    hits, losses = [], []
    for own, target, good in zip(asked, wanted, right, strict=True):
        scores = vectors[own] @ vectors.T
        hits.append(max(range(8, 17), key=lambda place: float(scores[place])) in good)
        wrong = [place for place in range(8, 17) if place not in good]
        logits = scores[[target, *wrong]] / 0.1
        losses.append(float(logits.logsumexp(0) - logits[0]))
    assert found["hit@1"] == pytest.approx(sum(hits) / 8)
    assert found["chance"] == pytest.approx(sum(map(len, right)) / 8 / 9)
    assert found["loss"] == pytest.approx(sum(losses) / 8, rel=1e-5)
    blind = Pairs(replace(pair, answer="") for pair in pairs)
    measure = HeldOutPairs(blind, loss, 99, 4, known(blind))  # type: ignore[arg-type]
    plain = measure(Accelerator(cpu=True), Fixed(vectors), lambda: None)  # type: ignore[arg-type]
    assert plain["hit@1"] < found["hit@1"] and plain["loss"] > found["loss"]


def kinds(root: Path, count: int = 16) -> Path:
    """Rows whose answers differ in text, and of which four each are of one kind."""
    rows = train_rows(root, "Questions", count)
    write_rows(root, "Questions", "original", [row | {"kind": n % 4} for n, row in enumerate(rows)])
    return root


def test_a_run_takes_answers_of_a_column(material: Path, tmp_path: Path) -> None:
    """From the rows to loss and validation: others of a row's kind are no negatives of it, nor
    wrong; a run that began before there was the setting goes on without one."""
    words = (f"data.root={kinds(tmp_path / 'kinds')}", "data.sources={Questions: {}}",
             "data.shared_answers=true", "validation.every=2", "validation.rows=6",
             "optim.steps=2")  # fmt: skip
    plain = stage2(material, "of-no-kind", *words)
    ours = stage2(material, "of-kinds", *words, "data.answer_column=kind")
    for line, other in zip(metrics(ours), metrics(plain), strict=True):
        if "loss" in line:
            assert line["distinct_negatives"] < other["distinct_negatives"] == 7
    assert scores_of(ours)[0]["validation/chance"] > scores_of(plain)[0]["validation/chance"]
    for run in (plain, ours):
        state = run / "finished.json"
        saved = json.loads(state.read_text())
        del saved["identity"]["settings"]["data.answer_column"]
        state.write_text(json.dumps(saved))
    stage2(material, "of-no-kind", *words)
    with pytest.raises(ConfigError, match=r"data\.answer_column: None -> kind"):
        stage2(material, "of-kinds", *words, "data.answer_column=kind")


# What is held out


def test_rows_that_share_a_thing_are_held_out_together() -> None:
    things = [["a", "b"], ["b", "c"], ["d"], ["e"], ["e", "f"], ["g"], ["h"], ["c"]]
    sizes = {"one": 4, "two": 4}
    parts = ({0, 1, 7}, {2}, {3, 4}, {5}, {6})
    seen = set()
    for seed in range(20):
        held = choose(things, sizes, {"one": 2, "two": 2}, seed)
        assert all(part <= held or not part & held for part in parts)
        assert sum(row < 4 for row in held) <= 2 and sum(row >= 4 for row in held) <= 2
        assert held == choose(things, sizes, {"one": 2, "two": 2}, seed)
        seen.add(frozenset(held))
    assert len(seen) > 3


def held_and_rest(material: Path, config: ValidationConfig) -> tuple[Any, Any, str]:
    data = PairData(
        root=str(material / "mmeb"), sources={"Questions": PairSource(), "Captions": PairSource()}
    )
    rest, held, told = hold_out(PairDataset.load(data, 0), config, 7)
    assert held is not None
    return held, rest, told


def test_nothing_held_out_is_trained_on(material: Path) -> None:
    held, rest, told = held_and_rest(material, ValidationConfig(every=1, share=0.25))
    assert held.task_sizes == {"Questions": 4, "Captions": 4} and len(rest) == 24
    assert "8 rows are held out (Questions: 4, Captions: 4): no text or picture" in told
    of_held, of_rest = (
        {item_key(item) for pair in part for item in (pair.query, pair.target, *negatives(pair))}
        for part, negatives in ((held, lambda pair: ()), (rest, lambda pair: pair.negatives))
    )
    assert any(pair.negatives for pair in rest)
    assert not of_held & of_rest
    assert len({pair.row_id for part in (held, rest) for pair in part}) == 32
    for part in (held, rest):
        assert list(part) == [part[index] for index in range(len(part))]


def test_labels_that_connect_all_rows_hold_nothing_back(material: Path, tmp_path: Path) -> None:
    """Two labels for 20 pictures: whole labels can't be held out, pictures can."""
    rows = train_rows(tmp_path, "Kinds", 20)
    for number, row in enumerate(rows):
        row["pos_text"] = f"label {number % 2}"
    write_rows(tmp_path, "Kinds", "original", rows)
    data = PairData(root=str(tmp_path), sources={"Kinds": PairSource()})
    rest, held, told = hold_out(PairDataset.load(data, 0), ValidationConfig(every=1, rows=5), 0)
    assert held is not None and len(held) == 5
    assert "no picture of theirs is, texts are, trained on" in told
    shown = [{pair.query.images for pair in part} for part in (rest, held)]
    assert not shown[0] & shown[1]
    for row in rows:
        row["qry_image_path"] = rows[0]["qry_image_path"]
    write_rows(tmp_path, "Kinds", "original", rows)
    with pytest.raises(DataError, match=r"too large to hold out so many \(Kinds: 0 of 5\)"):
        hold_out(PairDataset.load(data, 0), ValidationConfig(every=1, rows=5), 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every": 5}, "validation.every: got '5 with neither rows, share nor suite"),
        ({"rows": 5}, "validation.every: got 'None with validation.rows"),
        (
            {"every": 5, "rows": 5, "share": 0.1},
            "validation: got 'validation.rows, validation.share",
        ),
        ({"every": 5, "share": 1.0}, "validation.share: got 1.0"),
        ({"every": 5, "rows": 5, "root": "x"}, "validation.root: got 'x', expected validation.su"),
    ],
)
def test_settings_that_do_not_go_together(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ValidationConfig(**settings)


@pytest.mark.parametrize("engine", ["zero3", "fsdp2"])
def test_engines_that_split_weights_refuse_it(engine: str) -> None:
    config = Stage2Config(
        data=PairData(root="r", sources={"T": PairSource()}),
        optim=OptimConfig(5, None, 8, 4, 1e-3),
        validation=ValidationConfig(every=5, rows=5),
    )
    check_combination("zero2", config)
    with pytest.raises(ConfigError, match=f"validation.every: got 5 with {engine}, expected null"):
        check_combination(engine, config)


def test_more_than_half_is_not_held_out(material: Path) -> None:
    with pytest.raises(DataError, match="9 rows of task 'Questions' would be held out of 16"):
        held_and_rest(material, ValidationConfig(every=1, rows=18))


def test_a_task_too_small_is_named() -> None:
    config = ValidationConfig(every=1, rows=3)
    with pytest.raises(DataError, match="task 'b' has 5 rows, 1 too few .* leave it out"):
        wanted_rows({"a": 1000, "b": 5}, config)
    assert wanted_rows({"a": 1000, "b": 6}, config) == {"a": 3, "b": 3}


def test_counts_are_in_proportion() -> None:
    wanted = wanted_rows({"a": 1000, "b": 100, "c": 8}, ValidationConfig(every=1, rows=111))
    assert wanted == {"a": 100, "b": 10, "c": 3}
