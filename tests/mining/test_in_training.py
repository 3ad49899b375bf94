"""Negatives mined while training: at the right steps, on any number of ranks, through a stop.

./launch.sh test tests/mining/test_in_training.py
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.support.material import (
    EXACT,
    adapters,
    assert_same_run,
    metrics,
    stage2,
)
from tests.support.ranks import Ranks
from unime.config import Stage2Config, build_config
from unime.errors import ConfigError
from unime.mining.in_training import MINED, Mining
from unime.models.encoder import Encoder
from unime.training.checkpoints import checkpoint
from unime.training.engines import check_combination

SETTINGS = (
    "data.mine_every=2", "mining.num_negatives=2", "mining.false_negative_margin=null",
    "run.save_total_limit=9", "run.save_every=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def mined(material: Path) -> Path:
    return stage2(material, "mined", *SETTINGS)


def negatives(run: Path, step: int) -> Tensor:
    return load_file(run / f"checkpoints/step_{step:08d}" / MINED)["negatives"]


def test_new_negatives_count_from_their_step_on(material: Path, mined: Path) -> None:
    assert torch.equal(negatives(mined, 1), negatives(mined, 2))  # mined before the first step
    assert not torch.equal(negatives(mined, 2), negatives(mined, 3))  # and after the second
    plain = stage2(material, "plain")
    ours, theirs = metrics(mined), metrics(plain)
    for line, other in zip(ours, theirs, strict=True):  # different targets in the loss
        assert line["distinct_negatives"] > other["distinct_negatives"]
        assert line["loss"] != other["loss"]
    rows = negatives(mined, 1)  # 16 of each of two tasks, which never mix
    assert rows.shape == (32, 2) and (rows >= 0).all()
    assert (rows[:16] < 16).all() and (rows[16:] >= 16).all()


@pytest.mark.parametrize("where", ["mining", pytest.param("training", marks=pytest.mark.data)])
def test_a_stopped_run_goes_on_bit_for_bit(
    material: Path, mined: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """SIGTERM while negatives are mined again, and in the step after, which has older ones."""
    name = f"stopped_in_{where}"
    forward, mine, mines = Encoder.forward, Mining.mine, [0]

    def counted(self: Mining, *words: Any) -> str:
        mines[0] += 1
        return mine(self, *words)

    def interrupted(self: Encoder, *inputs: Any) -> Tensor:
        if mines[0] == 2 and self.training == (where == "training"):
            monkeypatch.undo()  # once
            os.kill(os.getpid(), signal.SIGTERM)
        return forward(self, *inputs)

    monkeypatch.setattr(Mining, "mine", counted)
    monkeypatch.setattr(Encoder, "forward", interrupted)
    with pytest.raises(SystemExit, match="143"):
        stage2(material, name, *SETTINGS)
    newest = checkpoint.latest(material / name)
    assert newest is not None and newest.name == "step_00000002"
    run = stage2(material, name, *SETTINGS)
    assert_same_run(run, mined)
    assert torch.equal(negatives(run, 4), negatives(mined, 4))


@pytest.mark.data
def test_a_run_goes_on_with_the_negatives_of_its_checkpoint(
    material: Path, mined: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between two minings: they are those of an older model, which is no longer there."""
    take_step, name = "unime.training.trainer.Trainer.take_step", "killed"

    def killed(self: Any, *words: Any) -> Any:
        if self.step == 3:
            raise KeyError("killed")
        return original(self, *words)

    from unime.training.trainer import Trainer

    original = Trainer.take_step
    monkeypatch.setattr(take_step, killed)
    with pytest.raises(KeyError, match="killed"):
        stage2(material, name, *SETTINGS)
    monkeypatch.undo()
    assert_same_run(stage2(material, name, *SETTINGS), mined)


@pytest.mark.data
def test_two_ranks_mine_what_one_mines(two_ranks: Ranks, material: Path) -> None:
    two_ranks.run(on_two_ranks, str(material))
    one = stage2(material, "one", *SETTINGS, *EXACT, "mining.sampling_strategy=random")
    two = material / "two"
    for step in (1, 3):
        assert torch.equal(negatives(one, step), negatives(two, step))
    for ours, theirs in zip(metrics(one), metrics(two), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
    torch.testing.assert_close(adapters(one), adapters(two), rtol=1e-5, atol=1e-5)


def on_two_ranks(words: str) -> None:
    settings = (
        *SETTINGS, *EXACT, "mining.sampling_strategy=random", "optim.batch_size_per_device=4",
        "mining.memory=1e-6",
    )  # fmt: skip
    stage2(Path(words), "two", *settings)


@pytest.mark.data
def test_every_epoch_and_only_then(material: Path) -> None:
    run = stage2(
        material, "epochs", *SETTINGS, "data.mine_every=epoch", "optim.steps=6",
        "mining.near_duplicates=4",
    )  # fmt: skip
    assert torch.equal(negatives(run, 1), negatives(run, 4))
    assert not torch.equal(negatives(run, 4), negatives(run, 5))  # 4 steps are an epoch


@pytest.mark.parametrize("engine", ["zero1", "zero2", "zero3", "fsdp2"])
def test_where_it_was_not_tried_it_is_refused(material: Path, engine: str) -> None:
    config = build_config(
        Stage2Config, material / "stage2.yaml", ["run.output_dir=o", "data.mine_every=epoch"]
    )
    check_combination("ddp", config)
    with pytest.raises(ConfigError, match=f"data.mine_every: got epoch with {engine}"):
        check_combination(engine, config)
