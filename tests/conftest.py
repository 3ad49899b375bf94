"""Fixtures for every test file: tiny models of real families, and pictures with real pixels."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.checkout import Checkout
from tests.support.material import write_material
from tests.support.pages.browser import started_browser
from tests.support.ranks import Ranks
from tests.support.tiny.models import build_tiny
from unime.config import InputConfig, ModelConfig, Precision, Quantization
from unime.data.checks.memory import CACHE
from unime.inputs.items import Item
from unime.models import hub
from unime.models.encoder import Encoder

# Tiny matrices gain nothing from threads, and beside another process they lose a lot.
torch.set_num_threads(1)
os.environ.pop("UNIME_TYPED", None)  # how launch.sh was called, which is no matter of a test's runs


EVALUATION = (  # what `-m evaluation` runs whole; a plain run leaves out what is marked in them
    *("eval", "retrieval", "data/test_split_files.py"),
)
SLOW = {"engines", "backbones", "evaluation", "data", "use", "study", "attacks", "faults"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The quick tests of the evaluation belong to its group and to a plain run."""
    for item in items:
        own = {mark.name for mark in item.iter_markers()}
        if is_evaluation(item.path) and not own & SLOW:
            item.add_marker("evaluation")
            item.add_marker("fast")


def is_evaluation(path: Path) -> bool:
    return any(path.is_relative_to(Path(__file__).parent / place) for place in EVALUATION)


@pytest.fixture(scope="session", autouse=True)
def code_of_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The copies of models' own code that transformers runs stay out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        cache = str(tmp_path_factory.mktemp("modules"))
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", cache)
        yield


@pytest.fixture(scope="session", autouse=True)
def remembered_checks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is remembered of checked data stays out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE, str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    """``two_ranks.run(function, word, …)`` of a module's own function."""
    ranks = Ranks(tmp_path_factory.mktemp("two_ranks"))
    yield ranks
    ranks.stop()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``tiny_model("qwen2_vl")``: the folder of a tiny random model, built once per session."""
    built: dict[tuple[str, int], Path] = {}

    def build(family: str, seed: int = 0) -> Path:
        if (family, seed) not in built:
            folder = tmp_path_factory.mktemp("models") / f"{family}-{seed}"
            built[family, seed] = build_tiny(family, folder, seed)
        return built[family, seed]

    return build


@pytest.fixture(scope="session")
def load_tiny(tiny_model: Callable[..., Path]) -> Callable[..., Encoder]:
    """``load_tiny("qwen2_vl", quantization="nf4", lora=LoraSettings())``: an encoder in fp32."""

    def load(
        family: str,
        quantization: str = "none",
        precision: str = "float32",
        adapter: Path | None = None,
        merge_adapter: bool = False,
        inputs: InputConfig | None = None,
        seed: int = 0,
        **options: Any,
    ) -> Encoder:
        model = ModelConfig(
            name=str(tiny_model(family, seed)),
            quantization=Quantization(quantization),
            precision=Precision(precision),
            adapter=str(adapter) if adapter else None,
            merge_adapter=merge_adapter,
            trust_remote_code=family == "phi3_v",
        )
        return Encoder.load(model, inputs or InputConfig(), **options)

    return load


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Paths of PNG files of random pixels in different sizes and shapes."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    paths = []
    for width, height in ((16, 16), (40, 20), (20, 48), (64, 64), (30, 31)):
        pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        paths.append(str(folder / f"{width}x{height}.png"))
        Image.fromarray(pixels).save(paths[-1])
    return paths


@pytest.fixture(scope="session")
def items(pictures: list[str]) -> list[Item]:
    """Texts, images, both and several images, of different sizes."""
    return [
        Item("a cat"),
        Item(images=(pictures[1],)),
        Item("What is this, and what is it for? Say it in one sentence.", (pictures[2],)),
        Item("Compare these two.", (pictures[0], pictures[3])),
        Item(images=(pictures[4], pictures[1])),
        Item("two red birds over the sea, and a dog in the garden"),
    ]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


@pytest.fixture
def empty_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of an empty hub cache, and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    hub._snapshot.cache_clear()
    yield tmp_path / "cache"
    hub._snapshot.cache_clear()


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]) -> Path:
    """Small data and both stages' YAML for a tiny model; a file's runs are written beside them."""
    folder = tmp_path_factory.mktemp("material")
    write_material(folder, tiny_model("qwen2_vl"))
    return folder


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """One for all pages: a process has one playwright at a time."""
    with started_browser() as started:
        yield started
