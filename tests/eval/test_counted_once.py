"""Nothing is encoded or counted twice: what is query and target at once, and pairs on two ranks.

./launch.sh test tests/eval/test_counted_once.py (the ranks: -m evaluation)
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from eval import evaluate
from eval.miniatures.captions import sugarcrepe_rows, write_sugarcrepe
from eval.miniatures.mmeb import write_picture, write_rows
from tests.support.paths import ROOT
from unime.data.embedding_store import RECORD

PAIRS = 7  # an odd number: on two ranks one has one less


def write_config(folder: Path, model: Path, suite: str, precision: str) -> Path:
    (folder / "suite.yaml").write_text(suite)
    path = folder / "eval.yaml"
    path.write_text(
        f"output_dir: {folder}/out\n"
        f"model: {{name: {model}, quantization: none, precision: {precision}}}\n"
        f"data: {{root: {folder}/data, suite: {folder}/suite.yaml, cache: {folder}/cache}}\n"
        "batch_size: 3\n"
    )
    return path


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_is_query_and_target_is_encoded_once(
    precision: str, tmp_path: Path, tiny_model: Callable[..., Path]
) -> None:
    """With one embedding for both, its own score is 1: no other batch, path or precision (as under
    VLM2Vec's autocast, which is around queries only)."""
    write_picture(tmp_path / "data/eval_images/0.png", 0)
    write_picture(tmp_path / "data/eval_images/1.png", 1)
    ask = "<|image_1|>\nRepresent the given image.\n"
    columns = ("qry_text", "qry_img_path", "tgt_text", "tgt_img_path")
    rows = [
        ("a red bird", "", ["a red bird", "a car, and much more beside it"], ["", ""]),
        (ask, "0.png", [ask, ask], ["0.png", "1.png"]),
    ]
    named = [dict(zip(columns, row, strict=True)) for row in rows]
    write_rows(tmp_path / "data", "Same", "test", named)
    config = write_config(
        tmp_path, tiny_model("qwen2_vl"), "Same: {meta_task: retrieval}\n", precision
    )
    evaluate.main(["--config", str(config)])
    result = json.loads((tmp_path / "out/Same.json").read_text())
    assert (result["num_items"], result["num_encoded"], result["score"]) == (4, 4, 1.0)
    sample = load_file(tmp_path / "out/image/Same_sample.safetensors")
    assert torch.equal(sample["queries"], sample["targets"])
    lines = (tmp_path / "out/image/Same_pred.jsonl").read_text().splitlines()
    assert [json.loads(line)["gold_score"] for line in lines] == pytest.approx([1, 1], abs=1e-5)
    (records,) = (tmp_path / "out/embeddings").rglob("records")
    assert records.stat().st_size == 4 * RECORD.itemsize


@pytest.mark.evaluation
def test_two_ranks_count_each_pair_once(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    """UniME's published code counts what its ranks are padded with: up to 1.2 points too much."""
    data = tmp_path / "data"
    write_sugarcrepe(data, "swap_obj", sugarcrepe_rows(data, PAIRS))
    suite = "Swap: {meta_task: swap, modality: compositional, format: sugarcrepe, file: FILE}\n"
    suite = suite.replace("FILE", "data/swap_obj.json")
    config = write_config(tmp_path, tiny_model("qwen2_vl"), suite, "float32")

    def result(ranks: int) -> dict[str, Any]:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
                *("--nproc_per_node", str(ranks), "-m", "eval.evaluate", "--config", str(config)),
                f"output_dir={tmp_path}/{ranks}",
            ],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        found: dict[str, Any] = json.loads((tmp_path / f"{ranks}/Swap.json").read_text())
        return found

    one, two = result(1), result(2)
    assert two["device"].startswith("2 x ")
    for found in (one, two):
        assert len(found["values"]) == found["num_queries"] == found["num_rows"] == PAIRS
        assert found["num_items"] == found["num_encoded"] == 3 * PAIRS
        assert found["score"] == pytest.approx(sum(found["values"]) / PAIRS)
        folder = tmp_path / ("2" if found is two else "1") / "compositional"
        lines = [json.loads(line) for line in (folder / "Swap_pred.jsonl").read_text().splitlines()]
        assert [line["label"] for line in lines] == [[f"{n}.caption"] for n in range(PAIRS)]
    assert two["values"] == one["values"]
