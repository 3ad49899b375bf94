"""A model that was trained at several sizes says so where it is exported, and is cut alike by all.

./launch.sh test tests/export/test_sizes.py
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from stages import export
from tests.support.exported_runs import train_small
from tests.support.paths import ROOT
from unime import Embedder
from unime.config import Stage2Config, build_config, dump_config
from unime.export.run_facts import trained_sizes

STAGE2 = ROOT / "configs/stage2/qwen2-vl-2b.yaml"


@pytest.fixture(scope="module")
def run(tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sized")
    train_small(tiny_model("qwen2_vl"), folder)
    words = ["loss.matryoshka_dimensions=[8, 4]"]
    (folder / "config.yaml").write_text(dump_config(build_config(Stage2Config, STAGE2, words)))
    return folder


def test_sentence_transformers_cuts_as_the_embedder_does(
    run: Path, tmp_path: Path, pictures: list[str]
) -> None:
    export.main([str(run), str(tmp_path / "out")])
    embedder = Embedder(str(tmp_path / "out"), device="cpu")
    said = json.loads((tmp_path / "out/config.json").read_text())
    assert said["is_matryoshka"] is True
    assert said["matryoshka_dimensions"] == [4, 8, embedder.dimension]
    picture = {"image": pictures[1]}
    given = ["a red bird", "a small house by the sea", picture, picture | {"text": "at night"}]
    expected = embedder.encode(given, dimensions=8)
    theirs = SentenceTransformer(
        str(tmp_path / "out"), device="cpu", truncate_dim=8, trust_remote_code=True
    )
    found = theirs.encode(given, normalize_embeddings=True)
    assert found.shape == (4, 8) and np.abs(found - expected).max() < 1e-5
    cut = theirs.encode(given)  # the same direction
    assert np.abs((cut * expected).sum(axis=1) / np.linalg.norm(cut, axis=1) - 1).max() < 1e-5
    card = (tmp_path / "out/README.md").read_text()
    assert f"**Trained at 4, 8, {embedder.dimension} dimensions**" in card
    assert "truncate_dim=4" in card and "dimensions=4" in card


def test_an_adapter_says_it_on_its_card(run: Path, tmp_path: Path) -> None:
    export.main([str(run), str(tmp_path / "out"), "form=adapter"])
    card = (tmp_path / "out/README.md").read_text()
    assert "**Trained at 4, 8, " in card and "truncate_dim" not in card


def test_the_last_stage_decides() -> None:
    """Also of runs from before there were sizes."""
    one, sized = {"loss": {"temperature": 0.1}}, {"loss": {"matryoshka_dimensions": [8, 4]}}
    assert trained_sizes({"Stage 1": one, "Stage 2": sized}, 8) == [4, 8]
    assert trained_sizes({"Stage 1": sized, "Stage 2": one}, 8) == []
    assert trained_sizes({}, 8) == []
