"""What a run that goes on is compared by: models by their content, not their names.

pytest tests/training/test_identity.py
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from unime.config import ModelConfig, OptimConfig, Optimizer, PairData, PairSource, Stage2Config
from unime.runtime import digests
from unime.runtime.digests import folder_digest
from unime.training.identity import as_before, changes, run_identity


def write_folder(folder: Path) -> Path:
    (folder / "00-rank8").mkdir(parents=True)
    (folder / "00-rank8" / "adapter_model.safetensors").write_bytes(bytes(range(256)) * 40)
    (folder / "encoder.json").write_text("{}")
    return folder


def make_config(model: str = "m", adapter: str | None = None) -> Stage2Config:
    return Stage2Config(
        model=ModelConfig(name=model, adapter=adapter),
        data=PairData(root="mmeb", sources={"A-OKVQA": PairSource()}),
        optim=OptimConfig(5, None, 8, 4, 1e-3),
    )


def test_settings_that_may_and_may_not_change() -> None:
    saved = json.loads(json.dumps(run_identity(make_config(), 2)))
    assert saved["settings"]["data.sources.A-OKVQA.rows"] is None
    assert saved["settings"]["optim.schedule"] == "linear"

    same = make_config()
    same.optim.batch_size_per_device, same.optim.chunk_size = 16, 1
    same.optim.gradient_checkpointing = True
    same.run.output_dir, same.run.log_every, same.run.save_every = "elsewhere", 1, 7
    same.run.save_total_limit, same.run.num_workers, same.run.trackers = 3, 8, []
    assert changes(saved, run_identity(same, 1), same) == []

    other = make_config()
    other.data.sources["A-OKVQA"].rows = 5
    other.lora.train, other.optim.weight_decay = ["llm", "vision"], 0.1
    assert changes(saved, run_identity(other, 1), other) == [
        "data.sources.A-OKVQA.rows: None -> 5",
        "lora.train: ['llm'] -> ['llm', 'vision']",
        "optim.weight_decay: 0.0 -> 0.1",
        "global batch size: 16 -> 8",
    ]


def test_a_setting_that_an_older_version_did_not_have() -> None:
    """At its default the run is as before; at another value it is another run."""
    config = make_config()
    saved = run_identity(config, 1)
    new = ("optim.compile", "optim.optimizer", "inputs.jpeg_draft", "validation.rows",
           "data.answer_column")  # fmt: skip
    for key in new:
        del saved["settings"][key]
    assert changes(saved, run_identity(config, 1), config) == []
    config.optim.optimizer = Optimizer.adamw_8bit
    found = changes(saved, run_identity(config, 1), config)
    assert found == ["optim.optimizer: None -> adamw_8bit"]
    config.data.answer_column = "kind"
    found = changes(saved, run_identity(config, 1), config)
    assert found[0] == "data.answer_column: None -> kind"


@pytest.mark.parametrize("which", ["model.name", "model.adapter"])
def test_another_model_under_the_same_name_is_another_run(which: str, tmp_path: Path) -> None:
    folders = {key: write_folder(tmp_path / key) for key in ("model.name", "model.adapter")}
    config = make_config(*map(str, folders.values()))
    saved = run_identity(config, 1)
    assert changes(saved, run_identity(config, 1), config) == []
    (folders[which] / "encoder.json").write_text("[]")
    (found,) = changes(saved, run_identity(config, 1), config)
    assert found.startswith(f"content of {which}: {saved['contents'][which]} -> ")
    shutil.rmtree(folders[which])
    (found,) = changes(saved, run_identity(config, 1), config)
    assert found.endswith(" -> None")


def test_a_name_on_a_hub_has_no_content() -> None:
    assert run_identity(make_config("Qwen/Qwen2-VL-2B-Instruct"), 1)["contents"] == {}


def test_folders_are_equal_by_names_and_contents(tmp_path: Path) -> None:
    first, second = write_folder(tmp_path / "first"), write_folder(tmp_path / "second")
    os.utime(second / "encoder.json", (0, 0))
    (second / ".cache" / "download").mkdir(parents=True)
    (second / ".cache" / "download" / "model.metadata").write_text("when it was downloaded")
    assert folder_digest(first) == folder_digest(second)
    (second / "encoder.json").rename(second / "decoder.json")
    assert folder_digest(first) != folder_digest(second)


def test_every_tensor_of_a_large_file_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "LARGE_FILE", 1 << 19)
    tensors = {"layers.0": torch.zeros(1 << 18), "projector": torch.zeros(3),
               "layers.1": torch.zeros(1 << 18)}  # fmt: skip

    def digest(key: str, place: int, of: str = "pt") -> str:
        tensors[key][place] += 1
        save_file(tensors, tmp_path / "model.safetensors", {"format": of})
        tensors[key][place] -= 1
        return folder_digest(tmp_path)

    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    found = [folder_digest(tmp_path)]
    assert folder_digest(tmp_path) == found[0]
    found += [digest("projector", place) for place in range(3)]
    found += [digest(f"layers.{n}", place) for n in (0, 1) for place in (0, 1 << 17, -1)]
    assert len(set(found)) == 1 + 3 + 6
    assert digest("layers.1", 1 << 16) == found[0]  # between the pieces
    assert digest("layers.1", 1 << 16, "np") != found[0]  # by its header


@pytest.mark.parametrize("begin", [b"", b"\x02" + b"\0" * 7 + b"[]", b"\x02" + b"\0" * 7 + b"{:"])
def test_other_large_files_count_whole(
    begin: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "LARGE_FILE", 10_000)
    found = set()
    for name in ("model.safetensors", "rows.arrow"):
        for place in (1_000, 300_000, 599_999):
            content = bytearray(600_000)
            content[: len(begin)] = begin
            content[place] = 1
            (tmp_path / name).write_bytes(content)
            found.add(folder_digest(tmp_path))
    assert len(found) == 6


def test_a_run_from_before_answers_were_kept_apart_goes_on_with_its_batches() -> None:
    """Rows of one right answer shared batches then, which is no longer the default."""
    config = make_config()
    saved = json.loads(json.dumps(run_identity(config, 1)))
    for key in ("shared_answers", "temperature", "sub_batch", "clusters"):
        del saved["settings"][f"data.{key}"]
    now = run_identity(config, 1)
    as_before(saved, now, config)
    assert config.data.shared_answers and now["settings"]["data.shared_answers"] is True
    assert changes(saved, now, config) == []
    # one that began since is another run with them
    begun = json.loads(json.dumps(run_identity(make_config(), 1)))
    later = make_config()
    now = run_identity(later, 1)
    as_before(begun, now, later)
    assert not later.data.shared_answers and changes(begun, now, later) == []
    later.data.shared_answers = True
    changed = changes(begun, run_identity(later, 1), later)
    assert changed == ["data.shared_answers: False -> True"]
