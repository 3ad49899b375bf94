"""configs/eval/released/ from end to end, on tiny stand-ins for the models in the same layouts.

./launch.sh test tests/eval/test_published_evaluation.py; the rest of it: … -m backbones
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from eval import evaluate as program
from eval.miniatures.mmeb import write_eval_suite
from tests.support.paths import ROOT
from tests.support.published.layouts import (
    add_to_hub_cache,
    of_peft_1,
    of_sentence_transformers,
    of_transformers_4,
)
from unime.config import EvalConfig, LoraSettings, build_config
from unime.models.adapter_files import WEIGHTS
from unime.models.checkpoint_files import PICKLE
from unime.models.encoder import Encoder

RELEASED = ROOT / "configs/eval/released"
QWEN = "Qwen/Qwen2-VL-2B-Instruct"
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture
def words(tmp_path: Path, empty_hub: Path) -> list[str]:
    """What a tiny evaluation has other than the shipped ones; with an empty hub cache."""
    write_eval_suite(tmp_path / "data", tmp_path / "suite.yaml")
    data = [f"data.root={tmp_path}/data", f"data.suite={tmp_path}/suite.yaml", "num_workers=0"]
    return [*data, "model.precision=float32", "batch_size=3", "inputs.resolution=16x16"]


def evaluate(config: Path, words: list[str], output: Path, *more: str) -> dict[str, Any]:
    program.main(["--config", str(config), *words, f"output_dir={output}", *more])
    return results(output)


def results(folder: Path) -> dict[str, Any]:
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


# Puts a stand-in for the released model into the hub cache; returns its equal for the shipped
# configuration: the same weights in today's layout, and an adapter on them.
Make = Callable[[str, Path, Callable[..., Path], Callable[..., Encoder]], tuple[Path, Path | None]]


def full_weights(name: str, folder: Path, tiny_model: Any, _: Any) -> tuple[Path, None]:
    family = "llava_next" if "1.6" in name else "llava_onevision"
    released = of_transformers_4(tiny_model(family), folder / "released")
    add_to_hub_cache(folder / "cache", name, released)
    if family == "llava_next":
        elsewhere = "llava-hf/llava-v1.6-mistral-7b-hf"
        processor = add_to_hub_cache(folder / "cache", elsewhere, released)
        for path in processor.glob("*.safetensors*"):
            path.unlink()
    return tiny_model(family), None


def embedding_modules(name: str, folder: Path, tiny_model: Any, _: Any) -> tuple[Path, None]:
    released = of_sentence_transformers(tiny_model("qwen3_vl"), folder / "released")
    add_to_hub_cache(folder / "cache", name, released)
    return tiny_model("qwen3_vl"), None


def adapter(name: str, folder: Path, tiny_model: Any, load_tiny: Any) -> tuple[Path, Path]:
    old = of_transformers_4(tiny_model("qwen2_vl"), folder / "base")
    add_to_hub_cache(folder / "cache", QWEN, old)
    encoder = load_tiny("qwen2_vl", lora=LoraSettings(rank=4, use_dora=True))
    torch.manual_seed(0)
    for _, parameter in encoder.trainable_named_parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    encoder.save_adapters(folder / "final")
    released = of_peft_1(folder / "final/00-rank4", folder / "released", QWEN, TARGETS)
    torch.save(load_file(released / WEIGHTS), released / PICKLE)
    (released / WEIGHTS).unlink()
    add_to_hub_cache(folder / "cache", name, released)
    return tiny_model("qwen2_vl"), folder / "final"


RELEASES: dict[str, Make] = {
    "unime-llava-1.6-7b": full_weights,
    "unime-llava-onevision-7b": full_weights,
    "vlm2vec-qwen2-vl-2b": adapter,
    "qwen3-vl-embedding-2b": embedding_modules,
}


@pytest.mark.parametrize(
    "release",
    [
        pytest.param(name, marks=pytest.mark.backbones if "onevision" in name else ())
        for name in RELEASES
    ],
)
def test_a_release_scores_as_the_same_weights(
    release: str, words: list[str], tiny_model: Any, load_tiny: Any, tmp_path: Path
) -> None:
    path = RELEASED / f"{release}.yaml"
    name = build_config(EvalConfig, path).model.name
    base, own = RELEASES[release](name, tmp_path, tiny_model, load_tiny)
    found = evaluate(path, words, tmp_path / "found")
    same = [f"model.name={base}", "model.processor=null"]
    same += [f"model.adapter={own}"] if own else []
    expected = evaluate(path, [*words, *same], tmp_path / "expected")
    assert len(found) == 3
    for task, result in found.items():
        assert result["values"] == expected[task]["values"]
        for key in ("mean_similarity", "effective_rank"):
            assert result[key] == pytest.approx(expected[task][key], rel=1e-5)
        resolved = result["resolved"]
        assert resolved["base"] == {"name": QWEN if own else name, "commit": "0" * 40}
        assert (resolved["adapter"] is None) == (own is None)


def test_a_result_is_of_one_content(
    words: list[str], tiny_model: Any, load_tiny: Any, tmp_path: Path
) -> None:
    """An adapter's result is made anew when its base, which it only names, is another one."""
    tiny, own = adapter("some/adapter", tmp_path, tiny_model, load_tiny)
    base = Path(shutil.copytree(tiny, tmp_path / "copy"))
    released = of_peft_1(own / "00-rank4", tmp_path / "of-copy", str(base), TARGETS)
    words = [*words, f"model.name={released}", "data.tasks=[Names]"]
    fingerprints = []
    for content in ("one", "other", "other"):
        (base / "generation_config.json").write_text(json.dumps({"note": content}))
        path = RELEASED / "vlm2vec-qwen2-vl-2b.yaml"
        found = evaluate(path, words, tmp_path / "out")
        fingerprints.append(found["Names"]["settings_fingerprint"])
    assert fingerprints[0] != fingerprints[1] == fingerprints[2]


@pytest.mark.backbones
def test_the_environment_says_where_the_cache_is(
    words: list[str], tiny_model: Any, load_tiny: Any, tmp_path: Path
) -> None:
    release = "unime-llava-onevision-7b"
    name = build_config(EvalConfig, RELEASED / f"{release}.yaml").model.name
    RELEASES[release](name, tmp_path, tiny_model, load_tiny)
    config = ["--config", f"configs/eval/released/{release}.yaml"]
    command = [sys.executable, "-m", "eval.evaluate", *config, *words, f"output_dir={tmp_path}/out"]
    offline = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

    def run(cache: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | offline | {"HF_HUB_CACHE": str(tmp_path / cache)}
        return subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
        )

    missing = run("nothing")
    assert missing.returncode == 2
    last = missing.stderr.splitlines()[-1]
    assert last.startswith(f"error: model.name: {name} cannot be loaded: no folder, and not to be")
    done = run("cache")
    assert done.returncode == 0, done.stderr
    assert len(results(tmp_path / "out")) == 3
