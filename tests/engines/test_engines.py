"""The cached step on every engine equals one plain step over the global batch in one process.

pytest tests/engines/test_engines.py    what runs in two minutes
./launch.sh test -m engines     every case on every engine; their figures go to the JSON file that
                                UNIME_ENGINES_RESULTS names, if it does
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText

from benchmarks.engines_table import tables
from tests.support.engine_cases import CASES, LLAVA, MLLAMA, NEXT, QWEN, on_engine, settings
from tests.support.launching import add_results
from tests.support.paths import ROOT
from tests.support.ranks import Ranks
from unime.config import Quantization
from unime.errors import ConfigError
from unime.runtime.files import read_json
from unime.training.engines import SHARDS_WEIGHTS, _fill_deepspeed, check_combination

ROUNDING = ("bfloat16", "autocast")
IN_PARTS = {"in_parts", "in_parts_llm", "in_parts_one_pass"}  # refused where weights are sharded
KEPT = {"kept", "kept_some", "kept_checkpointing"}  # not kept there either
FAST = {
    "ddp": ["llava_lora", "dropout_checkpointing", "kept"],
    "zero2": ["qlora", "in_parts", "kept_some"],  # the order of gradients is its own trap
    "zero3": ["llava_qlora", "text_first"],
    "fsdp2": ["lora"],
}


@pytest.fixture(scope="session")
def engine_folder(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]
) -> Path:
    """The tiny models with weights of half the size, which amplify rounding less."""
    folder = tmp_path_factory.mktemp("engines")
    for family in (QWEN, LLAVA, NEXT, MLLAMA):
        source, target = tiny_model(family), folder / "models" / family
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.safetensors"))
        model = AutoModelForImageTextToText.from_pretrained(source, dtype=torch.float32)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(0.5)
        model.save_pretrained(target)
    return folder


def run_cases(ranks: Ranks, engine: str, cases: list[str], folder: Path) -> dict[str, Any]:
    """The worst of all ranks' results of each case."""
    ranks.run(on_engine, engine, str(folder), *cases, timeout=900)
    found = {}
    for case in cases:
        of_ranks = [read_json(folder / f"{case}_{rank}.json") for rank in range(ranks.count)]
        found[case] = max(of_ranks, key=lambda result: result["worst"])
    return found


def judge(engine: str, found: dict[str, Any]) -> None:
    for case, result in found.items():
        if case in ROUNDING:
            # accelerate's bf16 under FSDP2 casts the adapters too, which autocast does not
            casts_more = engine == "fsdp2" and case == "autocast"
            assert result["whole"] < result["own_rounding"] * (1 + casts_more), (case, result)
        else:
            assert result["whole"] < 5e-6 and result["worst"] < 1e-5, (case, result)
        if case in KEPT:
            some = case == "kept_some"
            assert all(0 < n < result["chunks"] if some else n > 1 for n in result["kept"]), result


@pytest.mark.engines
@pytest.mark.fast
@pytest.mark.parametrize("engine", FAST)
def test_two_ranks_equal_a_plain_step(engine: str, engine_folder: Path, two_ranks: Ranks) -> None:
    """Uneven rows and chunks, a rank that sees hardly an image, LoRA in every part."""
    judge(engine, run_cases(two_ranks, engine, FAST[engine], engine_folder))


@pytest.mark.engines
@pytest.mark.parametrize(
    ("engine", "count"),
    [
        ("single", 1), ("ddp", 2), ("ddp", 3), ("zero1", 2), ("zero2", 2), ("zero2_offload", 2),
        ("zero3", 2), ("zero3_offload", 2), ("fsdp2", 2),
    ],
)  # fmt: skip
def test_every_case(engine: str, count: int, engine_folder: Path, tmp_path: Path) -> None:
    refused = {"autocast"} if engine.startswith("zero") else set()
    if engine.removesuffix("_offload") in SHARDS_WEIGHTS:
        refused |= IN_PARTS | KEPT
    cases = [name for name in CASES if name not in refused]
    ranks = Ranks(tmp_path, count)
    try:
        found = run_cases(ranks, engine, cases, engine_folder)
    finally:
        ranks.stop()
    add_results("UNIME_ENGINES_RESULTS", f"{engine}-{count}", found)
    judge(engine, found)


@pytest.mark.parametrize(
    ("engine", "change", "message"),
    [
        ("zero3", {"quantization": Quantization.int8}, "'int8' with zero3, expected nf4 or none"),
        ("fsdp2", {"quantization": Quantization.int8}, "or use DDP or ZeRO-2"),
        ("zero2", {"auto_chunk": True}, "optim.auto_chunk: got true with zero2, expected false"),
        ("fsdp2", {"graph_memory": 2.0}, "optim.graph_memory: got 2.0 with fsdp2, expected auto"),
        ("zero3", {"use_dora": True}, "lora.use_dora: got true with zero3, expected false"),
    ],
)
def test_what_an_engine_cannot_do(
    engine: str, change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    config = settings(tmp_path)
    for key, value in change.items():
        for part in (config.model, config.optim, config.lora):
            if hasattr(part, key):
                setattr(part, key, value)
    with pytest.raises(ConfigError, match=message):
        check_combination(engine, config)
    for name in ("single", "ddp"):
        check_combination(name, config)


@pytest.mark.parametrize(
    ("settings_of_deepspeed", "message"),
    [
        ({"gradient_clipping": 0.5}, r"gradient_clipping: got 0.5, expected 'auto' or nothing"),
        ({"train_micro_batch_size_per_gpu": 3}, "got 3, .*our configuration decides it .4"),
        ({"gradient_accumulation_steps": 4}, "gradient_accumulation_steps: got 4, expected 'auto'"),
        ({"train_batch_size": 999}, "train_batch_size: got 999"),
        ({"torch_autocast": {"enabled": "true"}}, "torch_autocast .*model.precision decides"),
        ({"data_types": {"grad_accum_dtype": "bf16"}}, "data_types: not supported"),
        ({"zero_optimization": {"zero_quantized_weights": True}}, "zero_quantized_weights: not"),
        ({"optimizer": {"type": "AdamW"}}, "optimizer and scheduler: expected none"),
        ({"bf16": {"enabled": True}}, "bf16 .*model.precision decides"),
        ({"zero_optimization": {"offload_param": {"device": "nvme"}}}, "got 'nvme', expected none"),
    ],
)
def test_neither_configuration_says_what_the_other_does(
    settings_of_deepspeed: dict[str, Any], message: str, tmp_path: Path
) -> None:
    config = settings(tmp_path)
    with pytest.raises(ConfigError, match=message):
        _fill_deepspeed(settings_of_deepspeed, config, 2)
    fine: dict[str, Any] = {"train_micro_batch_size_per_gpu": "auto"}
    _fill_deepspeed(fine, config, 2)
    assert (fine["train_micro_batch_size_per_gpu"], fine["gradient_clipping"]) == (4, 0.0)


def test_the_table_in_the_docs() -> None:
    text = (ROOT / "docs" / "engines.md").read_text()
    assert tables(ROOT / "docs" / "results" / "engines.json") in text
