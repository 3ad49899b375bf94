"""Nothing is encoded or counted twice: what is query and target at once, and pairs on two ranks.

./launch.sh test tests/eval/test_counted_once.py (the ranks: -m evaluation)
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from eval import evaluate
from eval.miniatures.captions import sugarcrepe_rows, write_sugarcrepe
from eval.miniatures.mmeb import write_picture, write_rows
from tests.support.ranks import TwoRanks
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


def evaluate_on_two_ranks(folder: str) -> None:
    evaluate.main(["--config", f"{folder}/eval.yaml", f"output_dir={folder}/two"])


@pytest.mark.evaluation
def test_two_ranks_count_each_pair_once(
    two_ranks: TwoRanks, tmp_path: Path, tiny_model: Callable[..., Path]
) -> None:
    """UniME's published code counts what its ranks are padded with: up to 1.2 points too much."""
    data = tmp_path / "data"
    write_sugarcrepe(data, "swap_obj", sugarcrepe_rows(data, PAIRS))
    suite = "Swap: {meta_task: swap, modality: compositional, format: sugarcrepe, file: FILE}\n"
    suite = suite.replace("FILE", "data/swap_obj.json")
    config = write_config(tmp_path, tiny_model("qwen2_vl"), suite, "float32")
    evaluate.main(["--config", str(config)])
    two_ranks.run(evaluate_on_two_ranks, str(tmp_path))
    one, two = (json.loads((tmp_path / f"{name}/Swap.json").read_text()) for name in ("out", "two"))
    assert two["device"].startswith("2 x ")
    for found, name in ((one, "out"), (two, "two")):
        assert len(found["values"]) == found["num_queries"] == found["num_rows"] == PAIRS
        assert found["num_items"] == found["num_encoded"] == 3 * PAIRS
        assert found["score"] == pytest.approx(sum(found["values"]) / PAIRS)
        lines = (tmp_path / name / "compositional/Swap_pred.jsonl").read_text().splitlines()
        labels = [json.loads(line)["label"] for line in lines]
        assert labels == [[f"{n}.caption"] for n in range(PAIRS)]
    assert two["values"] == one["values"]
