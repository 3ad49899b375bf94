"""What a run writes down before its first step, and how a program ends.

pytest tests/training/test_run.py
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import SafetensorError

from tests.support.engine_cases import settings
from tests.support.stand_in import make_config
from tests.training.test_checkpoint import run_state
from unime.config import DistillationLossConfig
from unime.errors import ConfigError, DataError, RunError
from unime.runtime import environment, interruption
from unime.runtime.environment import git_commit
from unime.runtime.files import write_json
from unime.runtime.lost_ranks import OTHER_RANKS_WAIT
from unime.runtime.program import run_program
from unime.training import engines
from unime.training import run as runlog
from unime.training.identity import run_identity
from unime.training.run import start_run


def test_facts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = start_run(make_config(tmp_path / "new" / "run", chunk_size=4))
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
    assert f"commit: {commit}" in said and "chunk_size=4" in said
    assert (
        "global batch size: 8 (8 on each of 1 processes; single on cpu, mixed precision: no)"
        in said
    )
    start_run(make_config(tmp_path / "new" / "run"))  # nothing was trained: any settings will do
    assert torch.equal(torch.rand(2), first)  # the same fresh adapters for the same seed


def test_commit_of_a_checkout_and_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*words: str) -> str:
        person = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        command = ["git", "-C", str(tmp_path), *person, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    package = tmp_path / "unime"
    package.mkdir()
    (package / "code.py").write_text("")
    monkeypatch.setattr(environment, "PACKAGE", package)
    assert git_commit() == "unknown"
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    assert git_commit() == git("rev-parse", "HEAD")
    (package / "code.py").write_text("changed")
    assert git_commit() == git("rev-parse", "HEAD") + " (with uncommitted changes)"
    monkeypatch.setattr(environment, "PACKAGE", package / "deeper")
    assert git_commit() == "unknown"  # site-packages inside some other repository


def test_every_start_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for commit, chunk_size in (("aaa", 4), ("bbb", 2)):
        monkeypatch.setattr(runlog, "git_commit", lambda commit=commit: commit)
        config = make_config(tmp_path, chunk_size=chunk_size)
        start_run(config)
        state = run_state(3) | {"identity": run_identity(config, 1)}
        write_json(tmp_path / "state.json", state)
        (tmp_path / "checkpoints" / "step_00000003").mkdir(parents=True, exist_ok=True)
        (tmp_path / "state.json").rename(tmp_path / "checkpoints/step_00000003/state.json")
    assert (tmp_path / "commit.txt").read_text() == "bbb\n"
    first, second = map(json.loads, (tmp_path / "starts.jsonl").read_text().splitlines())
    assert (first["commit"], first["step"], first["config"]["optim"]["chunk_size"]) == ("aaa", 0, 4)
    assert (second["commit"], second["step"], second["num_processes"]) == ("bbb", 3, 1)
    assert second["config"]["optim"]["chunk_size"] == 2 and first["time"] <= second["time"]
    assert first["versions"][0].startswith("python==3.")


@pytest.mark.parametrize(
    ("stage", "size", "diagonal", "least"),
    [(1, 2, False, 3), (1, 1, True, 2), (1, 3, False, 0), (1, 2, True, 0), (2, 1, False, 2)],
)
def test_batches_too_small(
    stage: int, size: int, diagonal: bool, least: int, tmp_path: Path
) -> None:
    """To distil, or to hold a negative."""
    config = make_config(tmp_path) if stage == 1 else settings(tmp_path)
    config.optim.batch_size_per_device = size
    if stage == 1:
        config.loss = DistillationLossConfig(include_diagonal=diagonal)
    if not least:
        start_run(config)
        return
    with pytest.raises(ConfigError, match=f"batch of {size}, expected at least {least}"):
        start_run(config)
    assert not list(tmp_path.iterdir())


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
        distributed_type=engines.DistributedType.NO,
        gradient_accumulation_steps=1,
    )
    monkeypatch.setattr(engines, "Accelerator", lambda **_: half)
    with pytest.raises(ConfigError, match="mixed_precision: got 'fp16', expected 'no' or 'bf16'"):
        start_run(make_config(tmp_path))


def test_an_adapter_that_is_not_there_is_refused_at_once(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    config.model.adapter = str(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="model.adapter: .*nowhere cannot be loaded: there is"):
        start_run(config)


@pytest.mark.parametrize(
    ("name", "message"),
    [("file", "file is not a folder"), ("file/run", "file/run cannot be written")],
)
def test_an_output_folder_that_cannot_be_made_is_named(
    name: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=f"run.output_dir: .*{message}"):
        start_run(make_config(tmp_path / name))


@pytest.mark.parametrize("rank", ["0", "1"])
def test_other_ranks_let_the_first_one_speak(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], rank: str
) -> None:
    waited: list[float] = []
    monkeypatch.setenv("RANK", rank)
    # not of the module `time` itself, by which others in this process sleep as well
    monkeypatch.setattr("unime.runtime.program.time", SimpleNamespace(sleep=waited.append))

    def fail() -> None:
        raise ConfigError("a key: wrong")

    with pytest.raises(SystemExit) as stopped:
        run_program(fail)
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "error: a key: wrong\n"
    assert waited == ([] if rank == "0" else [OTHER_RANKS_WAIT])


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (ConfigError("a.b: wrong"), 2, "error: a.b: wrong\n"),
        (DataError("rows.csv: wrong"), 2, "error: rows.csv: wrong\n"),
        (RunError("step 3: loss nan"), 1, "error: step 3: loss nan\n"),
        (KeyboardInterrupt(), 130, "stopped\n"),
        (
            OSError(30, "Read-only file system", "/a"),
            2,
            r"error: \[Errno 30\] Read-only .*: '/a'\n",
        ),
        (PermissionError(13, "denied", "/a"), 2, "error: .*denied: '/a'\n"),
        (OSError(36, "File name too long", "/a"), 2, "error: .*too long: '/a'\n"),
        (OSError(28, "No space left"), 1, r"error: .*No space left \(test_.*; once there is room"),
        (OSError("5 requested,\nand 3 written"), 2, "error: OSError: 5 requested, and 3 written"),
        (SafetensorError("I/O error"), 1, "error: SafetensorError: I/O error"),
    ],
)
def test_expected_errors_are_one_line(
    error: BaseException, status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as stopped:
        run_program(main)
    told = capsys.readouterr().err
    assert stopped.value.code == status and re.match(said, told) and told.count("\n") == 1


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
    monkeypatch.setattr(interruption, "_parents_variables", dict)
    assert interruption.typed_command() == expected
    variables = {"HOME": "/root", "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    monkeypatch.setattr(interruption, "_parents_variables", lambda: variables)
    shown = "env ACCELERATE_USE_CPU=true OMP_NUM_THREADS=1 "
    assert interruption.typed_command() == shown + expected
    monkeypatch.setenv("UNIME_TYPED", "../launch.sh stage1 a\\ b.yaml")
    monkeypatch.setenv("UNIME_NUM_PROCESSES", "2")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    typed = "UNIME_NUM_PROCESSES=2 ../launch.sh stage1 a\\ b.yaml"
    assert interruption.typed_command() == typed
