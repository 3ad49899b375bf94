"""Checkpoints: what they hold, and that nothing half-written is ever taken for one.

pytest tests/training/test_checkpoint.py
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import nn

from unime.errors import ConfigError, RunError
from unime.runtime.files import write_json
from unime.training.checkpoints import checkpoint

SEED = 5


@pytest.fixture(scope="module")
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


def make_parts(seed: int) -> tuple[dict[str, nn.Parameter], torch.optim.Optimizer]:
    """Three parameters, of which the optimizer has stepped two; one is a transposed view."""
    torch.manual_seed(seed)
    parameters: dict[str, nn.Parameter] = {
        "a.weight": nn.Parameter(torch.randn(3, 2)),
        "b/c": nn.Parameter(torch.randn(4, 2).T),
        "never.used": nn.Parameter(torch.randn(1)),
    }
    optimizer = torch.optim.AdamW(parameters.values(), lr=0.1, fused=True)
    for _ in range(3):
        loss = parameters["a.weight"].square().sum() + parameters["b/c"].pow(4).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return parameters, optimizer


def save_adapters(parameters: dict[str, nn.Parameter]) -> Callable[[Path, bool], None]:
    """A stand-in for Encoder.save_adapters."""

    def save(folder: Path, writes: bool) -> None:
        folder.mkdir()
        save_file({name: p.detach().contiguous() for name, p in parameters.items()}, folder / "a")

    return save


def run_state(step: int) -> dict[str, Any]:
    """As a run writes it."""
    return {
        "step": step,
        "world_size": 1,
        "collapsed_steps": 0,
        "metrics": {"seconds": 1.5, "skipped": 0, "sums": {}, "counts": {}},
        "validation": {"step": 0, "best": None},
        "data": {},
        "identity": {"settings": {}, "contents": {}, "global_batch_size": 8},
    }


def save(
    folder: Path,
    step: int,
    accelerator: Accelerator,
    limit: int = 9,
    best: int | None = None,
    **more: Any,
) -> Path:
    parameters, optimizer = make_parts(SEED)
    state = run_state(step) | {"validation": {"step": 0, "best": best and {"step": best}}} | more
    return checkpoint.save(
        folder, state, save_adapters(parameters), parameters, optimizer, accelerator, limit
    )


def test_everything_comes_back(tmp_path: Path, accelerator: Accelerator) -> None:
    parameters, optimizer = make_parts(SEED)
    random.gauss(0, 1)  # both keep a second number for later
    np.random.standard_normal()
    metrics = {"seconds": 2, "skipped": 0, "sums": {"loss": 0.1 + 0.2}, "counts": {"loss": 1}}
    folder = save(tmp_path, 7, accelerator, metrics=metrics)
    drawn = [torch.rand(3), np.random.standard_normal(3), random.gauss(0, 1), random.random()]

    others, other_optimizer = make_parts(SEED + 1)
    assert checkpoint.restore(folder, others, other_optimizer, accelerator, 0) is None
    again = [torch.rand(3), np.random.standard_normal(3), random.gauss(0, 1), random.random()]
    assert all(np.array_equal(a, b) for a, b in zip(drawn, again, strict=True))
    state = checkpoint.read_state(folder)
    assert (state["step"], state["metrics"]) == (7, metrics)
    for name, parameter in parameters.items():
        first = optimizer.state.get(parameter, {})
        second = other_optimizer.state.get(others[name], {})
        torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert len(optimizer.state[parameters["b/c"]]) == 3
    assert other_optimizer.param_groups[0]["lr"] == 0.1


def test_files(tmp_path: Path, accelerator: Accelerator) -> None:
    folder = save(tmp_path, 100, accelerator)
    assert folder == tmp_path / "checkpoints" / "step_00000100"
    assert {path.name for path in folder.iterdir()} == {
        "a", "digests.json", "optimizer.safetensors", "random_00000.safetensors", "state.json",
    }  # fmt: skip
    assert "b/c/exp_avg_sq" in load_file(folder / "optimizer.safetensors")
    usual = (folder / "state.json").stat().st_mode
    assert {path.stat().st_mode for path in folder.rglob("*") if path.is_file()} == {usual}


def test_newest_complete_one(tmp_path: Path, accelerator: Accelerator) -> None:
    assert checkpoint.latest(tmp_path) is None
    save(tmp_path, 9, accelerator)
    save(tmp_path, 100_000_000, accelerator)
    folders = tmp_path / "checkpoints"
    for name in ("step_00000200.partial", "step_00000300", "step_x", "steps", ".step_00000400"):
        (folders / name).mkdir()
    (folders / "step_00000200.partial" / "state.json").write_text("{}")
    assert checkpoint.latest(tmp_path) == folders / "step_100000000"
    checkpoint.remove_stale(tmp_path)
    assert not (folders / "step_00000200.partial").exists()
    assert checkpoint.latest(tmp_path) == folders / "step_100000000"


def test_only_the_newest_stay(tmp_path: Path, accelerator: Accelerator) -> None:
    for step in (2, 10, 4, 6):
        save(tmp_path, step, accelerator, limit=2)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step_00000006", "step_00000010"]


def test_the_best_one_stays_too(tmp_path: Path, accelerator: Accelerator) -> None:
    for step, best in ((2, 2), (4, 2), (6, 2), (8, 8), (10, 8)):
        save(tmp_path, step, accelerator, limit=1, best=best)
        names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
        assert names == sorted({f"step_{best:08d}", f"step_{step:08d}"})


def test_other_world_size(tmp_path: Path, accelerator: Accelerator) -> None:
    folder = save(tmp_path, 5000, accelerator, world_size=4)
    warning = checkpoint.restore(folder, *make_parts(SEED), accelerator, 0)
    assert warning is not None and "written by 4 processes and is continued by 1" in warning


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "state.json",
            b"{",
            r"step_00000005: cannot be read \(.*state.json is not what was written",
        ),
        ("optimizer.safetensors", b"12", "step_00000005: cannot be read .* delete this folder"),
        ("optimizer.safetensors", None, "step_00000005: cannot be read"),
        ("random_00000.safetensors", b"", "step_00000005: cannot be read"),
    ],
)
def test_damaged_files(
    tmp_path: Path, accelerator: Accelerator, name: str, content: bytes | None, message: str
) -> None:
    path = save(tmp_path, 5, accelerator) / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        checkpoint.restore(path.parent, *make_parts(SEED), accelerator, 0)


def test_the_reason_of_another_rank_is_told(
    tmp_path: Path, accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 5, accelerator)
    reasons = ["", " on rank 1: [Errno 28] No space left on device"]
    monkeypatch.setattr(checkpoint, "gather_object", lambda mine: mine + reasons)
    with pytest.raises(RunError, match=r"step 6 could not be written on rank 1: .*No sp.*00005$"):
        save(tmp_path, 6, accelerator)


def test_json_is_written_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "finished.json"
    write_json(path, {"loss": 1})
    monkeypatch.setattr(checkpoint.os, "replace", lambda *_: None)
    write_json(path, {"loss": 2})
    assert json.loads(path.read_text()) == {"loss": 1}
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"loss": float("nan")})
