"""What a run writes down before its first step, and how a program ends.

pytest tests/test_runlog.py
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from unime import interruption, runlog
from unime.config import (
    ConfigError,
    LoraSettings,
    ModelConfig,
    OptimConfig,
    RunConfig,
    Stage1Config,
    TextData,
)
from unime.items import DataError
from unime.runlog import git_commit, run_program, start_run

REPOSITORY = Path(__file__).parent.parent


def make_config(folder: Path) -> Stage1Config:
    return Stage1Config(
        run=RunConfig(output_dir=str(folder), tensorboard=False, seed=11),
        model=ModelConfig(name="m"),
        data=TextData(texts=["t"], teacher="t"),
        optim=OptimConfig(5, None, 8, 4, 1e-3),
    )


def test_facts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = start_run(make_config(tmp_path / "new" / "run"))
    first = torch.rand(2)
    assert run.global_batch_size == 8 and run.is_main_process
    assert run.checkpoint is None and not run.finished
    assert "chunk_size: 4" in (run.output_dir / "config.yaml").read_text()
    commit = (run.output_dir / "commit.txt").read_text().strip()
    assert commit == git_commit()
    versions = (run.output_dir / "versions.txt").read_text().splitlines()
    assert versions[0].startswith("python==3.") and versions[1].startswith("# Linux")
    assert {"torch", "transformers", "peft"} <= {line.split("==")[0] for line in versions}
    said = capsys.readouterr().err
    assert f"commit: {commit}" in said and "chunk_size: 4" in said
    assert "global batch size: 8 (8 on each of 1 processes; cpu, mixed precision: no)" in said
    start_run(make_config(tmp_path / "new" / "run"))  # nothing was trained: any settings will do
    assert torch.equal(torch.rand(2), first)  # the same fresh adapters for the same seed


def test_commit_of_a_checkout_and_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*words: str) -> str:
        person = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        command = ["git", "-C", str(tmp_path), *person, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    package = tmp_path / "unime"
    package.mkdir()
    shutil.copy(runlog.__file__, package / "runlog.py")
    monkeypatch.setattr(runlog, "__file__", str(package / "runlog.py"))
    assert git_commit() == "unknown"
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    assert git_commit() == git("rev-parse", "HEAD")
    (package / "runlog.py").write_text("changed")
    assert git_commit() == git("rev-parse", "HEAD") + " (with uncommitted changes)"
    monkeypatch.setattr(runlog, "__file__", str(package / "deeper" / "runlog.py"))
    assert git_commit() == "unknown"  # site-packages inside some other repository


def test_processes_that_would_not_train_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")  # without what is needed to find the other one
    with pytest.raises(ConfigError, match="2 processes were launched, but each sees 1"):
        start_run(make_config(tmp_path))


def test_fp16_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    half = SimpleNamespace(
        mixed_precision="fp16",
        num_processes=1,
        distributed_type=runlog.DistributedType.NO,
        gradient_accumulation_steps=1,
    )
    monkeypatch.setattr(runlog, "Accelerator", lambda **_: half)
    with pytest.raises(ConfigError, match="mixed_precision: got 'fp16', expected 'no' or 'bf16'"):
        start_run(make_config(tmp_path))


@pytest.mark.parametrize(("train", "expected"), [(["llm"], False), (["llm", "vision"], True)])
def test_ddp_looks_for_unused_parameters_only_where_needed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, train: list[str], expected: bool
) -> None:
    seen = {}

    def stop(**settings: object) -> None:
        seen.update(settings)
        raise KeyboardInterrupt

    monkeypatch.setattr(runlog, "Accelerator", stop)
    config = make_config(tmp_path)
    config.lora = LoraSettings(train=train)
    with pytest.raises(KeyboardInterrupt):
        start_run(config)
    assert seen["kwargs_handlers"][0].find_unused_parameters is expected  # type: ignore[index]


@pytest.mark.parametrize("error", [ConfigError("a.b: wrong"), DataError("rows.csv: wrong")])
def test_errors_of_the_user_are_one_line(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as stopped:
        run_program(main)
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"error: {error}\n"


def test_ctrl_c_before_training(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stopped:
        run_program(main)
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "stopped\n"


@pytest.mark.parametrize(
    ("parent", "expected"),
    [
        (["bash"], "python -m stages.some --config 'a b.yaml'"),
        (["/x/python3", "/x/bin/accelerate", "launch", "-m", "stages.some", "--config", "a b.yaml"],
         "/x/bin/accelerate launch -m stages.some --config 'a b.yaml'"),
        (["python", "-m", "torch.distributed.run", "-m", "stages.some"],
         "python -m torch.distributed.run -m stages.some"),
        (["timeout", "9", "python", "-m", "stages.some"], "timeout 9 python -m stages.some"),
        (["sh", "-c", "python -m stages.some"], "python -m stages.some --config 'a b.yaml'"),
    ],
)  # fmt: skip
def test_typed_command(parent: list[str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    main = SimpleNamespace(__spec__=SimpleNamespace(name="stages.some"))
    monkeypatch.setitem(sys.modules, "__main__", main)  # type: ignore[arg-type]
    monkeypatch.setattr(sys, "argv", ["/x/stages/some.py", "--config", "a b.yaml"])
    monkeypatch.setattr(interruption, "_parents_words", lambda: parent)
    assert interruption.typed_command() == expected
