"""Both stages as programs, on a tiny 4-bit model and real images.

pytest tests/stages/test_stages.py
"""

from __future__ import annotations

import json
import os
import runpy
import shutil
import signal
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from tests.support.embedding import embed
from tests.support.launching import Launch
from tests.support.material import (
    EXACT,
    WORDS,
    adapters,
    assert_same_run,
    metrics,
    stage1,
    stage2,
)
from tests.support.ranks import Ranks
from unime.config import InputConfig, ModelConfig
from unime.data.teacher_store import TeacherMeta, write_store
from unime.errors import ConfigError, DataError
from unime.inputs.items import Item
from unime.models.encoder import Encoder

VALIDATED = ("validation.every=2", "validation.share=0.2")
INTERLEAVED = ("data.mixing=interleaved", "data.sub_batch=2", "data.temperature=2")


def test_stage1_says_where_the_teacher_reads_less(
    material: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(material / "teacher", material / "cut")
    facts = json.loads((material / "cut/store.json").read_text()) | {"cut_at": 256, "num_cut": 1}
    (material / "cut/store.json").write_text(json.dumps(facts))
    settings = ("optim.steps=1", "optim.warmup_steps=0", f"data.teacher={material}/cut")
    stage1(material, "after_cut", *settings)
    said = capsys.readouterr().err
    assert "the teacher read 256 tokens of a text" in said and "the student reads 512" in said
    assert "1 texts were longer" in said


@pytest.fixture(scope="module")
def after_stage1(material: Path) -> Path:
    return stage1(material, "stage1")


@pytest.fixture(scope="module")
def after_stage2(material: Path, after_stage1: Path) -> Path:
    return stage2(material, "stage2", f"model.adapter={after_stage1 / 'final'}")


def test_stage1_learns_the_teachers_similarities(after_stage1: Path) -> None:
    lines = metrics(after_stage1)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    watched = {"mean_similarity", "effective_rank", "teacher_correlation", "grad_norm"}
    assert watched <= lines[0].keys()
    long = stage1(after_stage1.parent, "stage1_long", "optim.steps=30", "run.log_every=5")
    losses = [line["loss"] for line in metrics(long)]
    assert losses[-1] < 0.7 * losses[0]
    assert metrics(long)[-1]["teacher_correlation"] > metrics(long)[0]["teacher_correlation"]


def test_stage2_starts_from_stage1(
    material: Path, after_stage1: Path, after_stage2: Path, tiny_model: Callable[..., Path]
) -> None:
    lines = metrics(after_stage2)
    watched = {
        "positive_similarity", "hardest_negative_similarity", "filtered_share", "empty_queries",
        "learning_rate", "grad_norm",
    }  # fmt: skip
    assert watched <= lines[0].keys()
    names = {path.parent.name: path for path in after_stage2.rglob("final/*/*.safetensors")}
    assert len(names) == 2
    first = load_file(next((after_stage1 / "final").rglob("*.safetensors")))
    kept = load_file(names[min(names)])
    assert all(torch.equal(kept[name], tensor) for name, tensor in first.items())
    item = Item("what is it?", (str(material / "mmeb/images/Captions/1.png"),))
    model = tiny_model("qwen2_vl")
    after = (None, f"{after_stage1}/final", f"{after_stage2}/final")
    configs = [ModelConfig(str(model), adapter=adapter) for adapter in after]
    vectors = [embed(Encoder.load(config, InputConfig()), [item]) for config in configs]
    assert (vectors[0] - vectors[1]).norm() > 1e-3 and (vectors[1] - vectors[2]).norm() > 1e-3


def test_stages_go_on_where_they_stopped(
    material: Path, after_stage1: Path, after_stage2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the first step of each stage, with dropout; then the same command again."""
    runs = (
        (stage1, after_stage1, ()),
        (stage2, after_stage2, (f"model.adapter={after_stage1 / 'final'}",)),
    )
    forward = Encoder.forward

    def interrupted(self: Encoder, *inputs: Any) -> Tensor:
        if self.training:  # not while it is loaded, which tries it out
            monkeypatch.undo()  # once
            os.kill(os.getpid(), signal.SIGINT)
        return forward(self, *inputs)

    for stage, straight, settings in runs:
        monkeypatch.setattr(Encoder, "forward", interrupted)
        with pytest.raises(SystemExit, match="130"):
            stage(material, f"stopped_{straight.name}", *settings)
        resumed = stage(material, f"stopped_{straight.name}", *settings)
        assert_same_run(resumed, straight)


def test_two_ranks_equal_one(two_ranks: Ranks, material: Path, after_stage1: Path) -> None:
    adapter = f"model.adapter={after_stage1 / 'final'}"
    two_ranks.run(stages_on_two_ranks, str(material), adapter)
    for name, settings, more in (("one", VALIDATED, ()), ("one_in_one_pass", (), INTERLEAVED)):
        stage1(material, f"{name}/stage1", *EXACT, *settings)
        stage2(material, f"{name}/stage2", *EXACT, *settings, *more, adapter)
    for which, stage in product(("", "_in_one_pass"), ("stage1", "stage2")):
        first, second = material / f"one{which}" / stage, material / f"two{which}" / stage
        one, two = metrics(first), metrics(second)
        assert len(one) == (4 if which else 6)
        for ours, theirs in zip(one, two, strict=True):
            assert ours.keys() == theirs.keys()
            for key in ours.keys() & {"loss", "validation/loss", "validation/hit@1"}:
                assert ours[key] == pytest.approx(theirs[key], rel=1e-5, abs=1e-5)
            if "loss" in ours:
                assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)
        torch.testing.assert_close(adapters(first), adapters(second), rtol=1e-5, atol=1e-5)


def stages_on_two_ranks(words: str, adapter: str) -> None:
    folder = Path(words)
    for name, chunk_size in (("two", 2), ("two_in_one_pass", 99)):
        settings = (*EXACT, "optim.batch_size_per_device=4", f"optim.chunk_size={chunk_size}")
        settings += VALIDATED if name == "two" else ()
        stage1(folder, f"{name}/stage1", *settings)
        more = () if name == "two" else INTERLEAVED
        stage2(folder, f"{name}/stage2", *settings, *more, adapter)


def test_ctrl_c_on_the_terminal(material: Path) -> None:
    """accelerate launch of two ranks, real signals to the whole process group in a step that takes
    longer than the 30 seconds that the launcher waits, and the command it prints."""
    long = [f"{n} " + " ".join(WORDS * 30) for n in range(2000)]
    (material / "long.jsonl").write_text("".join(json.dumps({"text": x}) + "\n" for x in long))
    meta = TeacherMeta("ones", None, "", 2)
    write_store(material / "long", long, meta, lambda some: np.ones((len(some), 2)), 2000)
    launch = Launch(
        material, "ctrl_c", f"data.texts=[{material}/long.jsonl]", f"data.teacher={material}/long",
        "optim.batch_size_per_device=1000", "optim.chunk_size=1",
        stage="stage1", config="cpu_two_ranks",
    )  # fmt: skip
    launch.until(lambda: "training from step 0 to 4" in launch.said, 120)
    assert "2000 texts (0 duplicates left out)" in launch.said
    time.sleep(5)  # the rows are prepared, and the step is on its way
    os.killpg(launch.process.pid, signal.SIGINT)
    assert launch.wait() != 0
    said = launch.said
    assert "stopped at step 0 of 4, everything is saved" in said
    typed = " ".join(launch.process.args[3:])  # type: ignore[arg-type, index]
    assert typed in said.split("to go on:")[1].replace("'", "")
    (folder,) = (launch.output_dir / "checkpoints").iterdir()
    assert folder.name == "step_00000000" and len(list(folder.glob("random_*"))) == 2


def test_bad_settings_and_data(material: Path, after_stage1: Path) -> None:
    with pytest.raises(ConfigError, match=r"other settings \(loss.student_temperature: 0.05 -> 0."):
        stage1(material, "stage1", "loss.student_temperature=0.5")
    (material / "mmeb/images/Captions/3.png").rename(material / "mmeb/hidden.png")
    with pytest.raises(DataError, match=r"row 3, column 'pos_image_path': .*3.png': no such"):
        stage2(material, "bad")
    stage2(material, "dropped", "data.on_bad_row=drop", "optim.steps=1", "loss.symmetric=true")
    dropped = json.loads((material / "dropped/dropped_rows.json").read_text())
    assert len(dropped) == 2 and all("3.png" in message for message in dropped)
    (material / "mmeb/images/Captions/3.png").write_text("not a picture")
    for verify in ("true", "false"):  # before training, and when a batch holds it
        with pytest.raises(DataError, match=r"3.png: not a readable image"):
            stage2(material, "bad", "optim.steps=20", f"data.verify_images={verify}")
    Image.new("RGB", (1200, 5)).save(material / "mmeb/images/Captions/3.png")
    stage2(material, "thin", "data.on_bad_row=drop", "optim.steps=1")
    dropped = json.loads((material / "thin/dropped_rows.json").read_text())
    assert len(dropped) == 2 and all("3.png: 1200 x 5 pixels, one" in row for row in dropped)
    with pytest.raises(DataError, match=r"row \w+:3: .*3.png: .*; data.verify_images=true"):
        stage2(material, "bad_thin", "optim.steps=20", "data.verify_images=false")
    (material / "mmeb/hidden.png").rename(material / "mmeb/images/Captions/3.png")


@pytest.mark.parametrize("module", ["stages.stage1_distill", "stages.stage2_instruct"])
def test_help(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    monkeypatch.delitem(sys.modules, module)
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert f"accelerate launch -m {module} --config configs/" in text
    assert "--print-config" in text and "paper 3." in text
