"""The training loop on a stand-in for the encoder: pytest tests/training/test_loop.py"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from tests.support.ranks import TwoRanks
from unime.config import (
    DistillationLossConfig,
    ModelConfig,
    OnCollapse,
    OnNonfinite,
    OptimConfig,
    ResumeConfig,
    RunConfig,
    Schedule,
    Stage1Config,
    TextData,
)
from unime.data.datasets import TextRow
from unime.data.sampler import GlobalBatchSampler, Mixing
from unime.errors import ConfigError, RunError
from unime.losses import LossOutput, distillation_loss
from unime.runtime import interruption
from unime.training import checkpoint
from unime.training.chunks import Batch, ChunkLimits
from unime.training.loop import train
from unime.training.run import start_run
from unime.training.schedule import learning_rate, total_steps

WIDTH = 12
TIMING = ("texts_per_second", "tokens_per_second", "seconds", "memory_gib")


class StandIn(nn.Module):
    """What the loop needs of an Encoder: chunks to unit rows, trained parameters by name."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.frozen = nn.Linear(WIDTH, 16).requires_grad_(False)
        self.register_buffer("constant", torch.ones(1))  # which DDP sends around, as of real models
        self.adapter = nn.Sequential(nn.Dropout(dropout), nn.Linear(16, 8), nn.LayerNorm(8))

    def forward(self, chunk: list[dict[str, Tensor]]) -> Tensor:
        features = torch.cat([part["features"] for part in chunk])
        return functional.normalize(self.adapter(self.frozen(features)), dim=1)

    def trainable_named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, p) for name, p in self.named_parameters() if p.requires_grad)

    def describe(self) -> str:
        return "a stand-in"

    def save_adapters(self, folder: Path, writes: bool) -> None:
        if not writes:
            return
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: p.detach() for name, p in self.trainable_named_parameters()}
        save_file(tensors, folder / "adapter.safetensors")

    def load_trained(self, folder: Path) -> None:
        saved = load_file(folder / "adapter.safetensors")
        with torch.no_grad():
            for name, parameter in self.trainable_named_parameters():
                parameter.copy_(saved[name])


def rows(count: int = 40) -> list[TextRow]:
    vectors = torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(3))
    vectors = functional.normalize(vectors, dim=1)
    return [TextRow(f"text {i}", vector, f"f:{i}") for i, vector in enumerate(vectors)]


def collate(batch: Sequence[TextRow]) -> Batch:
    teacher = torch.stack([row.teacher for row in batch])
    masks = torch.ones(len(batch), 2)
    parts = zip(teacher.split(3), masks.split(3), strict=True)
    chunks = [[{"features": chunk, "attention_mask": mask}] for chunk, mask in parts]
    groups, row_ids = {"text": len(batch)}, [row.row_id for row in batch]
    return Batch(chunks, groups, {"teacher": teacher}, row_ids, num_truncated=1)


def make_config(folder: Path, batch_size: int = 8, **settings: Any) -> Stage1Config:
    resume: dict[str, Any] = {}
    run = {"output_dir": str(folder), "log_every": 2, "save_every": 2, "save_total_limit": 9}
    optim = {"steps": 6, "chunk_size": 3, "learning_rate": 1e-2, "warmup_steps": 2}
    optim["batch_size_per_device"] = batch_size
    run["trackers"] = []
    for name, value in settings.items():
        groups = (("run", RunConfig, run), ("resume", ResumeConfig, resume))
        group = next((g for _, cls, g in groups if name in cls.__dataclass_fields__), optim)
        group[name] = value
    return Stage1Config(
        resume=ResumeConfig(**resume),
        run=RunConfig(**run),
        model=ModelConfig(name="stand-in"),
        data=TextData(texts=["texts.csv"], teacher="teacher"),
        optim=OptimConfig(**optim),
    )


def fit(
    config: Stage1Config,
    dropout: float = 0.3,
    signal_at: int = 0,
    signum: int = signal.SIGINT,
    signal_rank: int = 0,
    while_collating: bool = False,
    nan_at: int = 0,
    dataset: list[TextRow] | None = None,
    encoder: StandIn | None = None,
    collator: Callable[..., Batch] | None = None,
) -> StandIn:
    """One start of a run; `signal_at`: a real signal to this process during that step's loss, or
    while its rows are collated."""
    run = start_run(config)
    encoder, data = encoder or StandIn(dropout), dataset or rows()
    if run.take_data(data, {"text": len(data)}, {"texts": 3}):
        return encoder
    sampler = GlobalBatchSampler({"text": len(data)}, run.global_batch_size, Mixing.mixed, 0)
    calls = batches = 0
    before = checkpoint.read_state(run.checkpoint)["step"] if run.checkpoint else 0

    def interrupt(step: int) -> None:
        if step == signal_at and run.accelerator.process_index == signal_rank:
            os.kill(os.getpid(), signum)

    def prepare(batch: Sequence[TextRow]) -> Batch:
        nonlocal batches
        batches += 1
        if while_collating:
            interrupt(before + batches)
        return collate(batch)

    def loss(
        embeddings: dict[str, Tensor], labels: dict[str, Tensor], step: int | None = None
    ) -> LossOutput:
        nonlocal calls
        calls += 1
        if not while_collating:
            interrupt(before + calls)
        output = distillation_loss(
            embeddings["text"], labels["teacher"], DistillationLossConfig(0.1, 0.1)
        )
        if before + calls == nan_at:
            output.loss = output.loss * float("nan")
        return output

    collate.limits = prepare.limits = ChunkLimits(3, 3)  # type: ignore[attr-defined]
    chosen = collator or (prepare if while_collating else collate)  # workers take no closure
    train(run, encoder, data, sampler, chosen, loss)  # type: ignore[arg-type]
    return encoder


def outcome(folder: Path, step: int = 6) -> dict[str, Any]:
    """Everything that must be the same: parameters, optimizer, metrics but for the clock."""
    last = folder / "checkpoints" / f"step_{step:08d}"
    tensors = load_file(last / "adapter.safetensors") | load_file(last / "optimizer.safetensors")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        for name in TIMING:
            line.pop(name)
    random = {path.name: path.read_bytes() for path in sorted(last.glob("random_*.safetensors"))}
    return {"tensors": tensors, "lines": lines, "random": random}


def assert_same(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert first["lines"] == second["lines"]
    assert first["tensors"].keys() == second["tensors"].keys()
    for name, tensor in first["tensors"].items():
        assert torch.equal(tensor, second["tensors"][name]), name
    assert first["random"] == second["random"]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six steps without a break."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    fit(make_config(folder))
    return folder


class Collapsed(StandIn):
    """Gives different texts nearly one embedding."""

    def forward(self, chunk: list[dict[str, Tensor]]) -> Tensor:
        constant = functional.normalize(torch.ones(1, 8), dim=1)
        return functional.normalize(1e-3 * super().forward(chunk) + constant, dim=1)


# What a run does and leaves behind


def test_a_collapsed_run_stops(tmp_path: Path) -> None:
    """Not in its warm-up of 2 steps, and not before 10 more; no checkpoint of it is written."""
    config = make_config(tmp_path / "run", steps=20, save_every=5)
    with pytest.raises(RunError, match=r"step 12: collapsed: .*optim.learning_rate.*on_collapse"):
        fit(config, encoder=Collapsed(0.0))
    assert checkpoint.latest(tmp_path / "run").name == "step_00000010"  # type: ignore[union-attr]
    assert not (tmp_path / "run/final").exists()
    with pytest.raises(RunError, match="step 12: collapsed"):  # counted on over a resumption
        fit(config, encoder=Collapsed(0.0))
    config.optim.on_collapse = OnCollapse.warn  # as the message says
    fit(config, encoder=Collapsed(0.0))
    assert (tmp_path / "run/final").exists()


def test_a_collapsed_run_that_goes_on_says_so(tmp_path: Path, capsys: Any) -> None:
    config = make_config(tmp_path / "run", steps=20, on_collapse=OnCollapse.warn)
    fit(config, encoder=Collapsed(0.0))
    told = capsys.readouterr().err
    assert told.count("step 12: collapsed") == 1
    assert told.count("the model that came out has collapsed") == 1
    finished = json.loads((tmp_path / "run/finished.json").read_text())
    assert "collapsed" in finished["collapsed"] and finished["steps"] == 20


def test_metrics_and_files(straight: Path) -> None:
    lines = [json.loads(line) for line in (straight / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert list(lines[0]) == [
        "step", "loss", "grad_norm", "teacher_correlation", "teacher_mean_similarity",
        "mean_similarity", "effective_rank", "distinct_items",
        "skipped_steps", "learning_rate", "truncated_texts", "tokens", "padding_share",
        "memory_gib", "texts_per_second", "tokens_per_second", "seconds",
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
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
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
    with pytest.raises(ConfigError, match="run.trackers: wandb is not installed: pip install wand"):
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
    expected = dict(reference.trainable_named_parameters())
    for name, parameter in trained.trainable_named_parameters():
        torch.testing.assert_close(parameter, expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule.constant, [0.5, 1, 1, 1, 1, 1]),
        (Schedule.linear, [0.5, 1, 1, 0.75, 0.5, 0.25]),
        (Schedule.cosine, [0.5, 1, 1, 0.8535534, 0.5, 0.1464466]),
    ],
)
def test_learning_rate(schedule: Schedule, expected: list[float]) -> None:
    optim = OptimConfig(6, None, 1, 1, 1.0, schedule=schedule, warmup_steps=2)
    assert [learning_rate(optim, step, 6) for step in range(6)] == pytest.approx(expected)


def test_steps_from_epochs() -> None:
    assert total_steps(OptimConfig(None, 2.5, 1, 1, 1.0), 10) == 25
    assert total_steps(OptimConfig(None, 0.01, 1, 1, 1.0), 10) == 1
    with pytest.raises(ConfigError, match="warmup_steps: got 50, expected at most all 20 steps"):
        total_steps(OptimConfig(None, 2, 1, 1, 1.0, warmup_steps=50), 10)


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

    def die(*arguments: Any, **_: Any) -> None:
        if "step_00000004" in str(arguments) or dies_in == "rmtree":
            raise KeyboardInterrupt("killed")
        real(*arguments)

    place = {"save_file": checkpoint, "replace": checkpoint.os, "rmtree": checkpoint.shutil}
    real = getattr(place[dies_in], dies_in)
    with monkeypatch.context() as patch:
        patch.setattr(place[dies_in], dies_in, die)
        with pytest.raises(KeyboardInterrupt):
            fit(config)
    found = checkpoint.latest(tmp_path)
    assert found is not None and found.name == f"step_0000000{4 if dies_in == 'rmtree' else 2}"
    stale = list((tmp_path / "checkpoints").glob("*.partial"))
    assert len(stale) == 1
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


# What stops a run


def test_loss_that_is_not_finite(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"step 3: loss nan.*rows of rank 0: f:") as error:
        fit(make_config(tmp_path), nan_at=3)
    report = json.loads((tmp_path / "not_finite_step3_rank0.json").read_text())
    assert len(report["rows"]) == 8 and report["rows"][0] in str(error.value)
    latest = checkpoint.latest(tmp_path)
    assert latest is not None and latest.name == "step_00000002"
    tensors = load_file(latest / "adapter.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())


def test_a_step_that_is_not_finite_can_be_skipped(tmp_path: Path) -> None:
    """Counted, its rows written down, and nothing moved by it."""
    fit(make_config(tmp_path, on_nonfinite=OnNonfinite.skip, log_every=1, steps=4), nan_at=2)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["skipped_steps"] for line in lines] == [0, 1, 0, 0]
    assert "loss" not in lines[1] and lines[2]["loss"] > 0
    report = json.loads((tmp_path / "not_finite_step2_rank0.json").read_text())
    assert report["loss"] == "nan" and len(report["rows"]) == 8
    assert json.loads((tmp_path / "finished.json").read_text())["skipped_steps"] == 1
    saved = [
        load_file(tmp_path / "checkpoints" / f"step_0000000{step}" / "optimizer.safetensors")
        for step in (2, 4)
    ]
    assert [float(tensors["adapter.1.weight/step"]) for tensors in saved] == [1, 3]


def test_a_gradient_that_is_not_finite(tmp_path: Path) -> None:
    class Overflowing(StandIn):
        def forward(self, chunk: list[dict[str, Tensor]]) -> Tensor:
            rows = super().forward(chunk)
            if rows.requires_grad:
                rows.register_hook(lambda gradient: gradient * float("inf"))
            return rows

    with pytest.raises(
        RunError, match=r"step 1: loss \d.*, gradient norm (nan|inf); rows of rank 0"
    ):
        fit(make_config(tmp_path), encoder=Overflowing(0.0))


@pytest.mark.parametrize("file", ["adapter", "optimizer", "random_00000", "state"])
def test_a_full_disk_leaves_the_former_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, straight: Path, file: str
) -> None:
    """A real limit on the size of files would spare the small ones, so writing fails by name."""
    full = OSError(28, "No space left on device")
    saves, opens = checkpoint.save_file, Path.write_text

    def save_or_fail(tensors: Any, path: Path, **options: Any) -> None:
        if file in str(path) and "step_00000004" in str(path):
            Path(path).write_bytes(b"half")
            raise full
        saves(tensors, path, **options)

    def write_text(path: Path, text: str, *arguments: Any, **options: Any) -> int:
        if file in path.name and "step_00000004" in str(path):
            raise full
        return opens(path, text, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", save_or_fail)
        patch.setattr(f"{__name__}.save_file", save_or_fail)
        patch.setattr("unime.training.random_state.save_file", save_or_fail)
        patch.setattr(Path, "write_text", write_text)
        with pytest.raises(
            RunError, match=r"of step 4 could not .* on rank 0: .*No space .*00002$"
        ):
            fit(make_config(tmp_path))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000002"]
    fit(make_config(tmp_path))
    assert_same(outcome(straight), outcome(tmp_path))


class Small(StandIn):
    """A device whose memory holds two rows, one with a graph."""

    def forward(self, chunk: list[dict[str, Tensor]]) -> Tensor:
        if len(chunk[0]["features"]) > 2 - torch.is_grad_enabled():
            raise torch.OutOfMemoryError("no memory")
        return super().forward(chunk)


class LimitedCollator:
    def __init__(self, items: int) -> None:
        self.limits = ChunkLimits(items, items)

    def __call__(self, batch: Sequence[TextRow]) -> Batch:
        whole = collate(batch)
        of = [torch.cat([chunk[0][key] for chunk in whole.chunks]).split(self.limits.items)
              for key in ("features", "attention_mask")]  # fmt: skip
        chunks = [[{"features": f, "attention_mask": m}] for f, m in zip(*of, strict=True)]
        return replace(whole, chunks=chunks)


@pytest.mark.parametrize("items", [3, 8])
def test_chunks_are_halved_until_they_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], items: int
) -> None:
    """With the same gradients, so the same parameters, as with chunks that fit from the start."""
    config = make_config(tmp_path / "small", auto_chunk=True, chunk_size=items)
    halved = fit(config, encoder=Small(0.0), collator=LimitedCollator(items))
    said = capsys.readouterr().err
    sizes = {3: [3, 1], 8: [8, 4, 2, 1]}[items]
    for size, smaller in pairwise(sizes):
        assert (
            f"step 1: out of cpu memory with optim.chunk_size={size};"
            f" going on with optim.chunk_size={smaller}"
        ) in said
    fits = fit(make_config(tmp_path / "fits"), dropout=0.0, collator=LimitedCollator(1))
    for ours, theirs in zip(halved.parameters(), fits.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


def test_out_of_memory_says_what_to_try(tmp_path: Path) -> None:
    with pytest.raises(
        RunError,
        match=r"step 1: out of cpu memory with optim.chunk_size=3; try optim.chunk_size=1, or "
        r"optim.auto_chunk=true",
    ):
        fit(make_config(tmp_path), encoder=Small(0.0), collator=LimitedCollator(3))

    class Tiny(Small):
        def forward(self, chunk: list[dict[str, Tensor]]) -> Tensor:
            raise torch.OutOfMemoryError("no memory")

    config = make_config(tmp_path, auto_chunk=True)
    with pytest.raises(RunError, match="with one item a chunk; try optim.gradient_checkpointing"):
        fit(config, encoder=Tiny(0.0), collator=LimitedCollator(1))


def test_output_dir_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"run.output_dir: .*file is not a folder"):
        start_run(make_config(tmp_path / "file"))


def test_accumulation_by_accelerate_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    with pytest.raises(ConfigError, match="gradient_accumulation_steps: got 4, expected 1"):
        start_run(make_config(tmp_path))


def test_second_ctrl_c_quits_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[int] = []
    monkeypatch.setattr(interruption.os, "_exit", left.append)
    before = signal.getsignal(signal.SIGINT)
    with interruption.Interruption(speaks=False) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # a launcher passing on the same key press
        assert (stop.signum, left) == (signal.SIGINT, [])
        monkeypatch.setattr(interruption, "SAME_SECONDS", 0.0)
        os.kill(os.getpid(), signal.SIGINT)
        assert left == [130]
    assert signal.getsignal(signal.SIGINT) is before


# Two ranks


@pytest.fixture(scope="module")
def of_two_ranks(two_ranks: TwoRanks, tmp_path_factory: pytest.TempPathFactory) -> Path:
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
        latest = checkpoint.latest(folder / "stopped")
        assert latest is not None and latest.name == f"step_0000000{step - 1}"
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
    for name, tensor in one["tensors"].items():
        torch.testing.assert_close(tensor, two["tensors"][name], rtol=1e-4, atol=1e-6)


def test_one_process_goes_on_after_two(
    of_two_ranks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = of_two_ranks / "no_dropout" / "checkpoints" / "step_00000002"
    target = tmp_path / "checkpoints" / source.name
    target.mkdir(parents=True)
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ConfigError, match="global batch size: 8 -> 4"):
        start_run(make_config(tmp_path, 4))
    fit(make_config(tmp_path, 8), dropout=0.0)
    assert "written by 2 processes and is continued by 1" in capsys.readouterr().err
    resumed, two = outcome(tmp_path)["tensors"], outcome(of_two_ranks / "no_dropout")["tensors"]
    for name, tensor in resumed.items():
        torch.testing.assert_close(tensor, two[name], rtol=1e-4, atol=1e-6)
