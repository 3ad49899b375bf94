"""What a run that goes on is compared by: models and pictures by their content, not their names.

pytest tests/test_fingerprint.py
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unime import fingerprint
from unime.config import ModelConfig, OptimConfig, PairData, PairSource, Stage2Config
from unime.fingerprint import changes, data_fingerprint, folder_digest, run_identity
from unime.items import Item, Pair


def write_folder(folder: Path) -> Path:
    (folder / "00-rank8").mkdir(parents=True)
    (folder / "00-rank8" / "adapter_model.safetensors").write_bytes(bytes(range(256)) * 40)
    (folder / "encoder.json").write_text("{}")
    return folder


def make_config(model: str, adapter: str | None) -> Stage2Config:
    return Stage2Config(
        model=ModelConfig(name=model, adapter=adapter),
        data=PairData(root="mmeb", sources={"A-OKVQA": PairSource()}),
        optim=OptimConfig(5, None, 8, 4, 1e-3),
    )


@pytest.mark.parametrize("which", ["model.name", "model.adapter"])
def test_another_model_under_the_same_name_is_another_run(which: str, tmp_path: Path) -> None:
    folders = {key: write_folder(tmp_path / key) for key in ("model.name", "model.adapter")}
    config = make_config(*map(str, folders.values()))
    saved = run_identity(config, 1)
    assert changes(saved, run_identity(config, 1)) == []
    (folders[which] / "encoder.json").write_text("[]")
    (found,) = changes(saved, run_identity(config, 1))
    assert found.startswith(f"content of {which}: {saved['contents'][which]} -> ")
    shutil.rmtree(folders[which])
    (found,) = changes(saved, run_identity(config, 1))
    assert found.endswith(" -> None")


def test_a_name_on_a_hub_has_no_content() -> None:
    assert run_identity(make_config("Qwen/Qwen2-VL-2B-Instruct", None), 1)["contents"] == {}


def test_folders_are_equal_by_names_and_contents(tmp_path: Path) -> None:
    first, second = write_folder(tmp_path / "first"), write_folder(tmp_path / "second")
    os.utime(second / "encoder.json", (0, 0))
    (second / ".cache" / "download").mkdir(parents=True)
    (second / ".cache" / "download" / "model.metadata").write_text("when it was downloaded")
    assert folder_digest(first) == folder_digest(second)
    (second / "encoder.json").rename(second / "decoder.json")
    assert folder_digest(first) != folder_digest(second)


def test_of_large_files_pieces_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"LARGE_FILE": 10_000, "PIECES": 5, "PIECE_SIZE": 200}.items():
        monkeypatch.setattr(fingerprint, name, value)
    folder = write_folder(tmp_path / "model")
    weights = folder / "00-rank8" / "adapter_model.safetensors"
    whole = weights.read_bytes()
    before = folder_digest(folder)
    for place, seen in ((0, True), (5_100, True), (len(whole) - 1, True), (1_000, False)):
        weights.write_bytes(whole[:place] + b"?" + whole[place + 1 :])
        assert (folder_digest(folder) != before) is seen, place
    weights.write_bytes(whole + b"?")
    assert folder_digest(folder) != before


def test_pictures_drawn_anew_are_other_data(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)

    def pairs(root: Path) -> list[Pair]:
        root.mkdir(exist_ok=True)
        for number, picture in enumerate(pixels):
            Image.fromarray(picture).save(root / f"{number}.png")
        pictures = [Item("", (str(root / f"{number}.png"),)) for number in range(2)]
        return [Pair(Item("a cat"), pictures[0], (pictures[1],), "Captions:0")]

    before = data_fingerprint(pairs(tmp_path / "here"))
    assert data_fingerprint(pairs(tmp_path / "there")) == before  # the same pictures elsewhere
    for number in range(2):  # of the target, then of the negative
        pixels[number, 0, 0, 0] ^= 255
        assert data_fingerprint(pairs(tmp_path / "here")) != before
        pixels[number, 0, 0, 0] ^= 255
    assert data_fingerprint(pairs(tmp_path / "here")) == before
