"""A run's folder after a power cut, a bad disk or a stranger: every damage is harmless, or named in
one line that says what to do; none changes what comes out.

pytest tests/training/test_damage.py
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.stand_in import StandIn, fit, make_config
from unime.config import Optimizer
from unime.errors import ConfigError, DataError, RunError
from unime.training.metrics import read_lines

STEP = "checkpoints/step_00000004"
FILES = (
    *("config.yaml", "commit.txt", "versions.txt", "starts.jsonl", "metrics.jsonl", "best.json"),
    *(f"{STEP}/{name}" for name in ("adapter.safetensors", "optimizer.safetensors")),
    *(f"{STEP}/{name}" for name in ("random_00000.safetensors", "state.json", "digests.json")),
)


def cut(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content))] if content else b""


def flipped(content: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(content)) if content else 0
    return (
        content[:place]
        + bytes(byte ^ 1 << chance.randrange(8) for byte in content[place:][:1])
        + (content[place + 1 :])
    )


def zeroed(content: bytes, chance: random.Random) -> bytes:
    """The end, as of a file whose size was on the disk before what is in it."""
    place = chance.randrange(len(content)) if content else 0
    return content[:place] + bytes(len(content) - place)


def other_kind(content: bytes, chance: random.Random) -> bytes:
    return chance.choice([b"[]", b"null", b"{}\n", b"7", b'"x"\n', b"[" * 99999, b"\xff\xfe", b""])


DAMAGES = (cut, flipped, zeroed, other_kind)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six steps, killed after the fourth: no later checkpoint, no final."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    fit(make_config(folder))
    shutil.copytree(folder / "final", folder.parent / "straight")
    shutil.rmtree(folder / "final")
    shutil.rmtree(folder / "checkpoints/step_00000006")
    (folder / "finished.json").rename(folder.parent / "finished.json")
    (folder / "best.json").write_text("{}\n")
    return folder


def same(first: Path, second: Path) -> bool:
    ours, theirs = (load_file(folder / "adapter.safetensors") for folder in (first, second))
    return all(torch.equal(ours[name], theirs[name]) for name in theirs)


def goes_on(folder: Path, straight: Path) -> str:
    """What a run that goes on says when it cannot; "" where it ends as one that nothing damaged."""
    try:
        fit(make_config(folder))
    except (ConfigError, DataError, RunError) as error:
        return str(error)
    assert same(folder / "final", straight)
    return ""


@pytest.mark.parametrize("name", FILES)
def test_every_damage_is_harmless_or_named(name: str, stopped: Path, tmp_path: Path) -> None:
    chance = random.Random(name)
    for damage in DAMAGES * (2 if "/" in name else 1):
        folder = tmp_path / damage.__name__
        shutil.copytree(stopped, folder)
        path = folder / name
        path.write_bytes(damage(path.read_bytes(), chance))
        said = goes_on(folder, stopped.parent / "straight")
        assert "\n" not in said
        if said:
            assert str(path if "/" not in name else path.parent) in said and "delete this" in said
        shutil.rmtree(folder)


@pytest.mark.parametrize("damage", [*DAMAGES, None])
def test_a_damaged_finished_json_is_named_and_the_run_writes_it_anew(
    damage: Callable[[bytes, random.Random], bytes] | None, stopped: Path, tmp_path: Path
) -> None:
    folder, chance = tmp_path / "run", random.Random(0)
    shutil.copytree(stopped, folder)
    fit(make_config(folder))
    path = folder / "finished.json"
    path.write_bytes(damage(path.read_bytes(), chance) if damage else b'{"data": 1}')
    if said := goes_on(folder, stopped.parent / "straight"):
        assert str(path) in said
        if "delete this file" in said:
            path.unlink()
        else:  # it is JSON still, and of other settings
            assert damage is flipped and "delete the folder" in said
            return
    assert goes_on(folder, stopped.parent / "straight") == ""
    assert json.loads(path.read_text())["steps"] == 6


def test_what_a_damaged_checkpoint_says_to_do_works(stopped: Path, tmp_path: Path) -> None:
    """Delete it, and go on from the one before it; without one, from the start."""
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    for step, then in (
        ("4", "go on from the one before it, step_00000002"),
        ("2", "start the run"),
    ):
        place = folder / f"checkpoints/step_0000000{step}"
        (place / "state.json").write_text("{}")
        assert f"{place}: cannot be read" in (said := goes_on(folder, stopped)) and then in said
        shutil.rmtree(place)
    assert goes_on(folder, stopped.parent / "straight") == ""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: {**t, "adapter.1.bias/exp_avg": torch.ones(3)}, r"expected float32 of \(8,\)"),
        (lambda t: {**t, "adapter.1.bias/step": torch.ones(1)}, r"expected float32 of \(\)"),
        (lambda t: {n: v.double() for n, v in t.items()}, "got torch.float64"),
        (lambda t: {n: v for n, v in t.items() if n != "adapter.1.bias/step"}, "optimizer lacks"),
        (lambda t: {**t, "other/step": torch.tensor(1.0)}, "'other/step' .* no parameter"),
    ],
)
def test_optimizer_tensors_that_are_not_the_parameters_own_are_refused(
    change: Callable[[dict[str, Any]], dict[str, Any]], said: str, stopped: Path, tmp_path: Path
) -> None:
    """Though nobody wrote down what they were."""
    shutil.copytree(stopped, folder := tmp_path / "run")
    (folder / STEP / "digests.json").unlink()
    with pytest.raises(ConfigError, match=f"{STEP}: cannot be read .*digests.json is not there"):
        fit(make_config(folder))
    state = json.loads((folder / STEP / "state.json").read_text())
    del state["digests"]  # as of an older version
    (folder / STEP / "state.json").write_text(json.dumps(state))
    path = folder / STEP / "optimizer.safetensors"
    save_file(change(load_file(path)), path)
    with pytest.raises(ConfigError, match=f"{STEP}: cannot be read .*{said}.*delete this folder"):
        fit(make_config(folder))


class OtherLayer(StandIn):
    """What lora.rank does to a run that is forced to go on."""

    def load_trained(self, folder: Path) -> None:
        raise ConfigError(f"{folder}: size mismatch")


@pytest.mark.parametrize("forced", ["optimizer", "adapter"])
def test_a_whole_checkpoint_of_other_settings_is_not_to_be_deleted(
    forced: str, stopped: Path, tmp_path: Path
) -> None:
    shutil.copytree(stopped, folder := tmp_path / "run")
    other: dict[str, Any] = {"optimizer": Optimizer.adamw_8bit} if forced == "optimizer" else {}
    encoder = OtherLayer(0.3) if forced == "adapter" else None
    said = f"{STEP}: is whole and does not fit these settings"
    with pytest.raises(ConfigError, match=said) as refused:
        fit(make_config(folder, force=True, **other), encoder=encoder)
    assert "delete" not in str(refused.value)


def test_a_final_that_is_not_what_was_written_is_written_again(tmp_path: Path) -> None:
    config = make_config(tmp_path, steps=2)
    fit(config)
    (path,) = (tmp_path / "final").rglob("*.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    fit(config)
    assert path.read_bytes() == whole


def test_metrics_are_read_as_far_as_whole_lines_go(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [b'{"step": 1}\n', b'{"step": 2}\n']
    for end in (b"", b"\0" * 50, b'{"st', b'{"step": 3', b'{"step": 3}\n'[:-1], b"[]\n", b"\xff\n"):
        path.write_bytes(b"".join(lines) + end)
        assert [line["step"] for line in read_lines(path)] == [1, 2]
        path.write_bytes(lines[0] + end + b"\n" + lines[1])
        if end not in (b"", b'{"step": 3}'):
            with pytest.raises(
                DataError, match=r"metrics.jsonl, line 2: damaged; delete this line"
            ):
                read_lines(path)


@pytest.mark.parametrize("name", ["metrics.jsonl", "starts.jsonl", ".lock", "finished.json"])
def test_a_pipe_in_a_runs_folder_is_not_waited_for(
    name: str, stopped: Path, tmp_path: Path
) -> None:
    shutil.copytree(stopped, folder := tmp_path / "run")
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises((ConfigError, DataError), match=f"{name}: not a regular file"):
        fit(make_config(folder))
