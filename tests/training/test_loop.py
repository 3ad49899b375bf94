"""The training loop on a stand-in for the encoder: pytest tests/training/test_loop.py"""

from __future__ import annotations

import io
import json
import shutil
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor, nn

from eval.miniatures.mmeb import train_rows, write_rows
from tests.support.ranks import Ranks
from tests.support.stand_in import WIDTH, StandIn, assert_same, fit, make_config, outcome, rows
from unime.config import DistillationLossConfig, PairData, PairSource
from unime.data.checks import pictures
from unime.data.datasets import PairDataset, TextRow
from unime.data.sampler import GlobalBatchSampler, Mixing
from unime.errors import ConfigError
from unime.losses import distillation_loss
from unime.runtime import distributed
from unime.training.checkpoints import checkpoint
from unime.training.metrics import read_lines
from unime.training.run import start_run
from unime.training.schedule import learning_rate

# What a run does and leaves behind


def test_metrics_and_files(straight: Path) -> None:
    lines = read_lines(straight / "metrics.jsonl")
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert list(lines[0]) == [
        "step", "loss", "grad_norm", "teacher_correlation", "teacher_mean_similarity",
        "mean_similarity", "effective_rank", "distinct_items",
        "skipped_steps", "learning_rate", "kept_graphs", "truncated_texts", "tokens",
        "padding_share", "memory_gib", "texts_per_second", "tokens_per_second", "seconds",
    ]  # fmt: skip
    assert lines[0]["texts_per_second"] is None and lines[1]["texts_per_second"] > 0
    assert lines[0]["seconds"] < lines[2]["seconds"]
    assert lines[0]["truncated_texts"] == 1
    assert lines[2]["loss"] < lines[0]["loss"]
    assert {path.name for path in straight.iterdir()} == {
        "config.yaml", "commit.txt", "versions.txt", "starts.jsonl", "metrics.jsonl",
        "checkpoints", "final", "finished.json", ".lock",
    }  # fmt: skip
    finished = json.loads((straight / "finished.json").read_text())
    assert finished["steps"] == 6 and finished["metrics"] == lines[2]
    final = load_file(straight / "final" / "adapter.safetensors")
    last = load_file(straight / "checkpoints" / "step_00000006" / "adapter.safetensors")
    assert all(torch.equal(last[name], tensor) for name, tensor in final.items())
    assert f"torch=={torch.__version__.split('+')[0]}" in (straight / "versions.txt").read_text()
    assert "learning_rate: 0.01" in (straight / "config.yaml").read_text()


def test_first_log_lines_say_what_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(make_config(tmp_path, steps=2))
    text = capsys.readouterr().err
    parts = ["configuration:", "learning_rate=0.01", "commit: ", "global batch size: 8", "a stand"]
    positions = [text.index(part) for part in parts]
    assert positions == sorted(positions)
    assert "step 2/2: loss" in text and "similarity" in text and "left" in text


def test_progress_bar_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    fit(make_config(tmp_path, steps=4))
    text = sys.stderr.getvalue()  # type: ignore[attr-defined]
    for part in ("4/4", "loss ", "similarity ", "rank ", "teacher ", "texts/s"):
        assert part in text
    assert "step 4/4:" not in text  # the line that replaces the bar elsewhere


def test_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit(make_config(tmp_path, trackers=["tensorboard"], steps=2))
    events = EventAccumulator(str(tmp_path / "tensorboard" / "unime")).Reload()
    lines = read_lines(tmp_path / "metrics.jsonl")
    logged = events.Scalars("train/loss")
    assert [event.step for event in logged] == [2]
    assert logged[0].value == pytest.approx(lines[0]["loss"])


def test_weights_and_biases_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside TensorBoard; the second start goes on in the run that the first began."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    config = make_config(tmp_path, trackers=["tensorboard", "wandb"], steps=4)
    with pytest.raises(SystemExit):
        fit(config, signal_at=3)
    fit(config)
    runs = list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert len(runs) == 2 and len({path.name for path in runs}) == 1
    assert any(b"train/loss" in path.read_bytes() for path in runs)
    assert (tmp_path / "tensorboard" / "unime").is_dir()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"run.trackers: wandb is not .*unime\[wandb\]"):
        start_run(make_config(tmp_path / "other", trackers=["wandb"]))


def test_steps_equal_plain_adamw(tmp_path: Path) -> None:
    settings = {"steps": 3, "weight_decay": 0.1, "max_grad_norm": 0.05, "epsilon": 1e-6}
    config = make_config(tmp_path, **settings)
    trained = fit(config, dropout=0.0)

    reference = StandIn(0.0)
    parameters = [p for _, p in reference.trainable_named_parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1.0, weight_decay=0.1, eps=1e-6)
    data = rows()
    sampler = GlobalBatchSampler({"text": len(data)}, 8, Mixing.mixed, 0)
    for step in range(3):
        teacher = torch.stack([data[index].teacher for index in sampler.batch(step)])
        output = distillation_loss(
            reference([{"features": teacher}]), teacher, DistillationLossConfig(0.1, 0.1)
        )
        optimizer.zero_grad()
        output.loss.backward()
        nn.utils.clip_grad_norm_(parameters, 0.05)
        optimizer.param_groups[0]["lr"] = learning_rate(config.optim, step, 3)
        optimizer.step()
    torch.testing.assert_close(
        list(trained.parameters()), list(reference.parameters()), rtol=1e-5, atol=1e-6
    )


# Going on


def test_interrupted_equals_straight(
    straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C in steps 1, 3 and 6: before anything is trained, after a planned checkpoint, and
    between two log lines and two planned checkpoints. The step in hand is left and comes again."""
    config = make_config(tmp_path)
    for signal_at in (1, 3, 6):
        with pytest.raises(SystemExit) as stopped:
            fit(config, signal_at=signal_at)
        assert stopped.value.code == 130
        before = signal_at - 1
        assert checkpoint.latest(tmp_path) == tmp_path / "checkpoints" / f"step_{before:08d}"
        said = capsys.readouterr().err
        assert f"stopped at step {before} of 6, everything is saved; to go on:\n    " in said
    fit(config)
    assert "training from step 5 to 6" in capsys.readouterr().err
    assert_same(outcome(straight), outcome(tmp_path))


def test_terminated_equals_straight_with_workers(straight: Path, tmp_path: Path) -> None:
    """SIGTERM, and other settings of what does not change the result."""
    with pytest.raises(SystemExit) as stopped:
        fit(make_config(tmp_path, num_workers=2), signal_at=2, signum=signal.SIGTERM)
    assert stopped.value.code == 143
    fit(make_config(tmp_path, save_every=100, save_total_limit=1))
    assert_same(outcome(straight), outcome(tmp_path))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000006"]


def test_lines_of_lost_steps_are_dropped(straight: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        fit(make_config(tmp_path), signal_at=3)
    with (tmp_path / "metrics.jsonl").open("a") as lines:
        lines.write('{"step": 4, "loss": 1.0}\n{"step": 6, "lo')  # killed later, in mid-line
    fit(make_config(tmp_path))
    assert_same(outcome(straight), outcome(tmp_path))


@pytest.mark.parametrize("dies_in", ["save_file", "replace", "rmtree"])
def test_killed_while_saving(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_in: str
) -> None:
    """Dying in the middle of the second checkpoint leaves the first, or the second complete."""
    config = make_config(tmp_path, save_total_limit=1)

    def die(*arguments: Any, **options: Any) -> None:
        if "step_00000004" in str(arguments) or dies_in == "rmtree":
            raise KeyboardInterrupt("killed")
        real(*arguments, **options)

    place = {"save_file": checkpoint, "replace": checkpoint.os, "rmtree": checkpoint.shutil}
    real = getattr(place[dies_in], dies_in)
    with monkeypatch.context() as patch:
        patch.setattr(place[dies_in], dies_in, die)
        with pytest.raises(KeyboardInterrupt):
            fit(config)
    newest = f"step_0000000{4 if dies_in == 'rmtree' else 2}"
    assert checkpoint.latest(tmp_path) == tmp_path / "checkpoints" / newest
    assert len(list((tmp_path / "checkpoints").glob("*.partial"))) == 1
    fit(config)
    assert_same(outcome(straight), outcome(tmp_path))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000006"]


def test_finished_run(straight: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = outcome(straight)
    fit(make_config(straight))
    said = capsys.readouterr().err
    assert "finished already, nothing left to do" in said and "training from" not in said
    assert_same(before, outcome(straight))


def test_killed_before_the_end_was_written(straight: Path, tmp_path: Path) -> None:
    fit(make_config(tmp_path))
    (tmp_path / "finished.json").unlink()
    fit(make_config(tmp_path))
    assert json.loads((tmp_path / "finished.json").read_text())["steps"] == 6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": 0.5}, r"other settings \(optim.learning_rate: 0.01 -> 0.5\)"),
        ({"seed": 1, "steps": 9}, r"\(optim.steps: 6 -> 9; run.seed: 0 -> 1\)"),
        ({"batch_size": 4}, "global batch size: 8 -> 4"),
        ({"enabled": False}, "holds a run already and resume.enabled is false"),
    ],
)
def test_other_settings_are_refused(straight: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        start_run(make_config(straight, **settings))


def test_other_settings_can_be_forced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(make_config(tmp_path))
    config = make_config(tmp_path, learning_rate=0.5, steps=8, force=True)
    fit(config, dataset=[*rows()[:-1], TextRow("another", torch.ones(WIDTH), "f:x")])
    said = capsys.readouterr().err
    changed = "(optim.learning_rate: 0.01 -> 0.5; optim.steps: 6 -> 8); resume.force: going on all"
    assert changed in said and "holds a run with other data (content: " in said
    assert "training from step 6 to 8" in said
    assert json.loads((tmp_path / "finished.json").read_text())["steps"] == 8
    assert start_run(make_config(tmp_path, learning_rate=0.5, steps=8)).finished


def test_other_data_or_parameters_are_refused(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    with pytest.raises(SystemExit):
        fit(config, signal_at=3)
    with pytest.raises(
        ConfigError, match=r"holds a run with other data \(content: \w+ -> \w+\); give"
    ):
        fit(config, dataset=[*rows()[:-1], TextRow("another", torch.ones(WIDTH), "f:x")])
    path = tmp_path / "checkpoints" / "step_00000002" / "optimizer.safetensors"
    good = path.read_bytes()
    path.write_bytes(good[:100])
    with pytest.raises(ConfigError, match="cannot be read .* delete this folder"):
        fit(config)
    path.write_bytes(good)
    fit(config)


def test_ranks_that_read_other_data_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_rows(_: object, *numbers: int) -> Tensor:
        return torch.tensor([numbers, (*numbers[:2], numbers[2] - 1, *numbers[3:])])

    monkeypatch.setattr("unime.training.trainer.gather_numbers", other_rows)
    with pytest.raises(ConfigError, match=r"rows: ranks differ \(40, 39\); all hosts need"):
        fit(make_config(tmp_path))


# Two ranks


@pytest.fixture(scope="module")
def of_two_ranks(two_ranks: Ranks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("of_two_ranks")
    two_ranks.run(fit_on_two_ranks, str(folder))
    return folder


def fit_on_two_ranks(words: str) -> None:
    folder = Path(words)
    fit(make_config(folder / "straight", 4))
    fit(make_config(folder / "no_dropout", 4), dropout=0.0)
    config = make_config(folder / "stopped", 4)
    for step, while_collating in ((2, True), (4, False)):
        with pytest.raises(SystemExit, match="130"):
            fit(config, signal_at=step, signal_rank=1, while_collating=while_collating)
        newest = folder / f"stopped/checkpoints/step_0000000{step - 1}"
        assert checkpoint.latest(folder / "stopped") == newest
    fit(config)


def test_interrupted_equals_straight_on_two_ranks(of_two_ranks: Path) -> None:
    assert_same(outcome(of_two_ranks / "straight"), outcome(of_two_ranks / "stopped"))
    states = outcome(of_two_ranks / "straight")["random"]
    assert states["random_00000.safetensors"] != states["random_00001.safetensors"]


def test_two_ranks_equal_one(of_two_ranks: Path, tmp_path: Path) -> None:
    fit(make_config(tmp_path, 8), dropout=0.0)
    one, two = outcome(tmp_path), outcome(of_two_ranks / "no_dropout")
    for ours, theirs in zip(one["lines"], two["lines"], strict=True):
        assert theirs.pop("truncated_texts") == 2 * ours.pop("truncated_texts")  # one a rank
        assert ours == pytest.approx(theirs, rel=1e-4)
    torch.testing.assert_close(one["tensors"], two["tensors"], rtol=1e-4, atol=1e-6)


def test_one_process_goes_on_after_two(
    of_two_ranks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = of_two_ranks / "no_dropout" / "checkpoints" / "step_00000002"
    shutil.copytree(source, tmp_path / "checkpoints" / source.name)
    with pytest.raises(ConfigError, match="global batch size: 8 -> 4"):
        start_run(make_config(tmp_path, 4))
    fit(make_config(tmp_path, 8), dropout=0.0)
    assert "written by 2 processes and is continued by 1" in capsys.readouterr().err
    resumed, two = outcome(tmp_path)["tensors"], outcome(of_two_ranks / "no_dropout")["tensors"]
    torch.testing.assert_close(resumed, two, rtol=1e-4, atol=1e-6)


# What ranks read of the data


def check_on_two_ranks(folder: str) -> None:
    """Each rank loads the rows, meeting the other between all steps, and writes what it did."""
    accelerator = Accelerator(cpu=True)
    opened: list[str] = []
    load, pictures.BLOCK, distributed.APART = pictures.images.load_image, 1, 0.0
    seen = {"load_image": lambda path, *more: opened.append(path) or load(path, *more)}
    data = PairData(folder, sources={"X": PairSource()}, on_bad_row="drop")
    with patch.multiple(pictures.images, **seen), patch.object(pictures, "cores", lambda: 1):
        share = partial(distributed.on_main_in_steps, accelerator)
        found = PairDataset.load(data, 0, None, share)
    ids = [row.row_id for row in found]
    said = json.dumps([len(opened), ids, found.dropped])
    Path(folder, f"rank{accelerator.process_index}.json").write_text(said)
    accelerator.wait_for_everyone()


def test_one_rank_reads_the_pictures_of_all(two_ranks: Ranks, tmp_path: Path) -> None:
    pairs = train_rows(tmp_path, "X", 5)
    write_rows(tmp_path, "X", "original", [*pairs, pairs[0] | {"pos_text": ""}])
    (tmp_path / pairs[3]["qry_image_path"]).write_text("no picture")
    for opened in (5, 0):  # the second time, what is remembered serves both
        two_ranks.run(check_on_two_ranks, str(tmp_path))
        first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
        assert (first[0], second[0]) == (opened, 0)
        assert first[1:] == second[1:] and first[1] == ["X:0", "X:1", "X:2", "X:4"]
        assert len(first[2]) == 2
