"""What stops a run, and what it leaves behind then.

pytest tests/training/test_stops.py
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import weakref
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.support.stand_in import (
    Collapsed,
    StandIn,
    assert_same,
    collate,
    fit,
    make_config,
    outcome,
)
from unime.config import OnCollapse, OnNonfinite
from unime.data.datasets import TextRow
from unime.errors import ConfigError, RunError
from unime.runtime import interruption
from unime.training.checkpoints import checkpoint
from unime.training.chunks import Batch, ChunkLimits
from unime.training.metrics import read_lines
from unime.training.run import start_run


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


def test_loss_that_is_not_finite(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"step 3: loss nan.*rows of rank 0: f:") as error:
        fit(make_config(tmp_path), nan_at=3)
    report = json.loads((tmp_path / "not_finite_step3_rank0.json").read_text())
    assert len(report["rows"]) == 8 and report["rows"][0] in str(error.value)
    assert checkpoint.latest(tmp_path) == (newest := tmp_path / "checkpoints/step_00000002")
    tensors = load_file(newest / "adapter.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())


def test_a_step_that_is_not_finite_can_be_skipped(tmp_path: Path) -> None:
    """Counted, its rows written down, and nothing moved by it."""
    fit(make_config(tmp_path, on_nonfinite=OnNonfinite.skip, log_every=1, steps=4), nan_at=2)
    lines = read_lines(tmp_path / "metrics.jsonl")
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
    saves, writes = checkpoint.save_file, Path.write_bytes

    def save_or_fail(tensors: Any, path: Path, **options: Any) -> None:
        if file in str(path) and "step_00000004" in str(path):
            Path(path).write_bytes(b"half")
            raise full
        saves(tensors, path, **options)

    def write_bytes(path: Path, content: bytes) -> int:
        if file in path.name and "step_00000004" in str(path):
            raise full
        return writes(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", save_or_fail)
        patch.setattr("unime.training.checkpoints.random_state.save_file", save_or_fail)
        patch.setattr("tests.support.stand_in.save_file", save_or_fail)
        patch.setattr(Path, "write_bytes", write_bytes)
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
    ours, theirs = list(halved.parameters()), list(fits.parameters())
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


class FullOnce(StandIn):
    """A device that has no room in the middle of the second step, when another uses it."""

    def forward(self, chunk: list[dict[str, Tensor]]) -> Tensor:
        self.calls = vars(self).setdefault("calls", 0) + 1
        if self.calls == 8:  # of 6 a step
            raise torch.OutOfMemoryError("no memory")
        return super().forward(chunk)


def test_chunks_that_were_halved_stay_so_when_a_run_goes_on(tmp_path: Path) -> None:
    """With dropout, whose masks are those of the chunks. Not where the settings are others."""
    settings = {"auto_chunk": True, "chunk_size": 3}
    whole, again = tmp_path / "whole", tmp_path / "again"
    collator = LimitedCollator(3)
    fit(make_config(whole, **settings), encoder=FullOnce(0.3), collator=collator)
    assert collator.limits == ChunkLimits(1, 1)
    shutil.copytree(whole, again)
    for name in ("final", "checkpoints/step_00000006"):
        shutil.rmtree(again / name)
    (again / "finished.json").unlink()
    shutil.copytree(again, tmp_path / "other")
    fit(make_config(again, **settings), collator=LimitedCollator(3))
    assert_same(outcome(again), outcome(whole))
    for other in ({"chunk_size": 2}, {"chunk_size": 3, "auto_chunk": False}):
        shutil.copytree(tmp_path / "other", folder := tmp_path / f"other {len(other)}")
        collator = LimitedCollator(other["chunk_size"])
        fit(make_config(folder, **{**settings, **other}), collator=collator)
        assert collator.limits == ChunkLimits(other["chunk_size"], other["chunk_size"])


class HoldsTwoGraphs(StandIn):
    """A device whose memory holds the graphs of two chunks."""

    def forward(self, chunk: list[dict[str, Tensor]]) -> Tensor:
        alive = [graph for graph in vars(self).setdefault("graphs", []) if graph() is not None]
        if len(alive) == 2 and torch.is_grad_enabled():
            raise torch.OutOfMemoryError("no memory")
        rows = super().forward(chunk)
        self.graphs = alive + [weakref.ref(rows)] * rows.requires_grad
        return rows


def test_graphs_make_way_until_they_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the step that has no memory for them; parameters, dropout too, are the same to the last
    bit, and so are those of a run that is stopped and goes on with fewer graphs."""
    kept = {"graph_memory": 1.0}
    fit(
        make_config(tmp_path / "kept", **kept),
        encoder=HoldsTwoGraphs(0.3),
        collator=LimitedCollator(2),
    )
    said = capsys.readouterr().err
    assert "step 1: out of cpu memory with 2 graphs kept; going on with 0.00 GiB" in said
    assert "1 of 4 chunks keep their graph and are embedded once" in said
    fit(make_config(tmp_path / "none"), encoder=StandIn(0.3), collator=LimitedCollator(2))
    assert_same(outcome(tmp_path / "kept"), outcome(tmp_path / "none"))
    lines = [read_lines(tmp_path / name / "metrics.jsonl")[-1] for name in ("kept", "none")]
    assert [line["kept_graphs"] for line in lines] == [1, 0]
    newest = checkpoint.latest(tmp_path / "kept")
    assert newest is not None and checkpoint.read_state(newest)["kept_graphs"] == 1


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
