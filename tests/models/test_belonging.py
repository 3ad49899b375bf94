"""An adapter and a base that do not belong together are found out, wherever both lie.

python -m pytest tests/models/test_belonging.py
"""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stages import export
from tests.support.embedding import difference, embed, exact_model
from tests.support.embedding import load_exact as load
from tests.support.exported_runs import shake, train_small
from unime.config import InputConfig, LoraSettings
from unime.errors import ConfigError
from unime.models.belonging import base_digest
from unime.models.encoder import Encoder


def tuned(base, folder):
    """A copy of a base of which only the linear layers differ, as after training."""
    shutil.copytree(base, folder)
    path = next(folder.glob("*.safetensors"))
    weights = load_file(path)
    for name, of in weights.items():
        if "proj" in name:
            weights[name] = of + 0.01 * torch.randn(of.shape)
    save_file(weights, path, metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def stage1(tiny_model, tmp_path_factory):
    """A run, and the export of it."""
    folder = tmp_path_factory.mktemp("stage1")
    encoder = train_small(tiny_model("qwen2_vl"), folder / "run")
    export.main([str(folder / "run"), str(folder / "out")])
    return encoder, folder / "run", folder / "out"


@pytest.mark.parametrize("prompt", [None, "chat", "unime"])
@pytest.mark.parametrize("old", [False, True], ids=["", "of an export without digests"])
def test_a_merged_adapter_is_not_applied_again(prompt, old, stage1, tmp_path):
    _, run, out = stage1
    asked = InputConfig(prompt=prompt)
    if old:
        out = shutil.copytree(out, tmp_path / "out")
        described = json.loads((out / "unime.json").read_text())
        described.pop("merged", None)
        (out / "unime.json").write_text(json.dumps(described))
    with pytest.raises(ConfigError, match="model.adapter=null") as error:
        load(out, run / "final", asked)
    assert ("is merged already" in str(error.value)) is not old
    with pytest.raises(ConfigError, match="model.adapter=null"):  # in peft's format alone
        load(out, run if old else run / "final" / "00-rank8", asked)


def test_an_adapter_trained_on_an_export_is_applied(items, stage1, tmp_path):
    _, _, out = stage1
    second = train_small(out, tmp_path / "second", rank=2)
    expected = embed(second, items)
    assert difference(embed(load(out, tmp_path / "second"), items), expected) < 1e-6
    export.main([str(tmp_path / "second"), str(tmp_path / "both")])
    assert difference(embed(load(tmp_path / "both"), items), expected) < 1e-5
    digests = json.loads((tmp_path / "both" / "unime.json").read_text())["merged"]
    assert len(set(digests)) == 2  # stage 1's, and its own
    for run in (stage1[1], tmp_path / "second"):
        with pytest.raises(ConfigError, match="is merged already"):
            load(tmp_path / "both", run / "final")


def test_a_peft_adapter_of_another_base_is_refused(tiny_model, stage1, tmp_path):
    plain = shutil.copytree(stage1[1] / "final" / "00-rank8", tmp_path / "plain")
    other = tuned(tiny_model("qwen2_vl"), tmp_path / "other")
    with pytest.raises(ConfigError, match="whose weights are not those of .*other"):
        load(other, plain)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        load(tiny_model("qwen2_vl"), plain)
        copied = shutil.copytree(tiny_model("qwen2_vl"), tmp_path / "elsewhere")
        load(copied, plain)
    settings = json.loads((plain / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = "Someone/Other-2B"
    (plain / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.warns(UserWarning, match="trained on Someone/Other-2B; here it is put on /"):
        load(tiny_model("qwen2_vl"), plain)


def test_a_run_of_another_base_with_the_same_vocabulary(tiny_model, stage1, tmp_path):
    other = tuned(tiny_model("qwen2_vl"), tmp_path / "other")
    with pytest.warns(UserWarning, match="the same vocabulary and other weights"):
        load(other, stage1[1] / "final")


def test_digests_know_a_base_in_other_files(tiny_model, tmp_path):
    base = tiny_model("qwen2_vl")
    path = next(base.glob("*.safetensors"))
    weights = load_file(path)
    (tmp_path / "cut").mkdir()
    halves = [dict(list(weights.items())[of::2]) for of in (0, 1)]
    for number, half in enumerate(halves):
        renamed = {f"renamed.{name}": of.to(torch.float32) for name, of in half.items()}
        save_file(renamed, tmp_path / "cut" / f"{number}.safetensors")
    assert base_digest(tmp_path / "cut") == base_digest(base) is not None
    assert base_digest(tuned(base, tmp_path / "tuned")) != base_digest(base)
    assert base_digest(tmp_path) is None


def test_a_relative_base_is_found_from_anywhere(items, tiny_model, tmp_path, monkeypatch):
    project = tmp_path / "project"
    shutil.copytree(tiny_model("qwen2_vl"), project / "models" / "small")
    (tmp_path / "away").mkdir()
    monkeypatch.chdir(project)
    expected = embed(train_small(Path("models/small"), Path("runs/x")), items)
    monkeypatch.chdir(tmp_path / "away")
    run = project / "runs" / "x"
    for name in (run / "final", run / "final" / "00-rank8", run):
        assert difference(embed(load(name), items), expected) < 1e-6
    export.main([str(run), "out"])
    assert difference(embed(load("out"), items), expected) < 1e-5
    moved = project.rename(tmp_path / "moved") / "runs" / "x"  # with all that is in it
    assert difference(embed(load(moved), items), expected) < 1e-6
    shutil.rmtree(tmp_path / "moved" / "models")
    for start in (lambda: load(moved), lambda: export.main([str(moved), "again"])):
        with pytest.raises(ConfigError) as error:
            start()
        said = str(error.value)
        assert "models/small" in said and str(project / "models") in said and "hub" not in said


def test_a_checkpoint_is_a_model(items, tiny_model, tmp_path):
    """And so is a run that is named without final/ (test_a_relative_base: in model.name too)."""
    encoder = train_small(tiny_model("qwen2_vl"), tmp_path / "aside")
    expected = embed(encoder, items)
    step = tmp_path / "run" / "checkpoints" / "step_00000020"
    shutil.copytree(tmp_path / "aside" / "final", step)
    (step / "state.json").write_text("{}")
    for adapter in (step, tmp_path / "aside"):
        assert difference(embed(load(tiny_model("qwen2_vl"), adapter), items), expected) < 1e-6
    export.main([str(step), str(tmp_path / "out")])
    assert difference(embed(load(tmp_path / "out"), items), expected) < 1e-5
    for start in (
        lambda: load(tiny_model("qwen2_vl"), tmp_path / "run"),
        lambda: export.main([str(tmp_path / "run"), str(tmp_path / "again")]),
    ):
        with pytest.raises(ConfigError, match=r"such as .*step_00000020"):
            start()


def test_an_adapter_on_top_is_new(tiny_model, stage1):
    """Stage 2 stacks on stage 1's adapter on the base that both have."""
    model = exact_model(tiny_model("qwen2_vl"), adapter=str(stage1[1] / "final"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        encoder = Encoder.load(model, InputConfig(), lora=LoraSettings(rank=2))
    assert len(shake(encoder).adapters.names) == 2
