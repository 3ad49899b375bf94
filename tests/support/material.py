"""Small data and both stages' programs, which several files of tests run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from eval.miniatures.mmeb import train_rows, write_picture, write_rows
from stages import stage1_distill, stage2_instruct
from tests.support.stand_in import TIMING
from unime.data.teacher_store import TeacherMeta, write_store
from unime.training.metrics import read_lines

# Without dropout, and without Adam's amplification of rounding where a gradient is nearly zero.
EXACT = ("lora.dropout=0", "optim.epsilon=1e-3")
WORDS = "cat dog bird sea tree house red blue small old runs sleeps near under".split()


def write_material(folder: Path, model: Path) -> None:
    """Texts with a teacher store, pairs with pictures and explicit negatives, both stages' YAML."""
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(WORDS, 2 + n % 5)) + f" {n}" for n in range(32)]
    lines = [json.dumps({"text": text}) + "\n" for text in texts]
    (folder / "texts.jsonl").write_text("".join(lines))
    meta = TeacherMeta("random", None, "", 16)
    write_store(
        folder / "teacher", texts, meta, lambda some: random.normal(size=(len(some), 16)), 99
    )
    root = folder / "mmeb"
    write_rows(root, "Questions", "original", train_rows(root, "Questions", 16))
    for n in range(16):
        write_picture(root / f"images/Captions/{n}.png", 100 + n, size=28 + 14 * (n % 3))
    captions = [
        {
            "qry": f"Find the picture of: {texts[n]}",
            "qry_image_path": "",
            "pos_text": "<|image_1|>\nRepresent the given image.\n",
            "pos_image_path": f"images/Captions/{n}.png",
            "neg_text": "<|image_1|>\nRepresent the given image.\n" if n % 3 else "",
            "neg_image_path": f"images/Captions/{(n + 5) % 16}.png" if n % 3 else "",
        }
        for n in range(16)
    ]
    write_rows(root, "Captions", "original", captions)
    shared = f"""
run: {{log_every: 1, save_every: 2, trackers: []}}
model: {{name: {model}, quantization: nf4, precision: float32}}
optim: {{steps: 4, batch_size_per_device: 8, chunk_size: 2, learning_rate: 0.01, warmup_steps: 1}}
"""
    (folder / "stage1.yaml").write_text(
        f"data: {{texts: [{folder}/texts.jsonl], teacher: {folder}/teacher}}\n"
        f"lora: {{rank: 4, alpha: 8, dropout: 0.1}}{shared}"
    )
    (folder / "stage2.yaml").write_text(
        f"data: {{root: {root}, sources: {{Questions: {{}}, Captions: {{}}}}}}\n"
        f"loss: {{num_hard_negatives: 4, temperature: 0.05}}\n"
        f"lora: {{rank: 2, alpha: 4, dropout: 0.1, train: [llm, projector]}}{shared}"
    )


def stage1(folder: Path, output: str, *settings: str) -> Path:
    arguments = ["--config", str(folder / "stage1.yaml"), f"run.output_dir={folder / output}"]
    stage1_distill.main([*arguments, *settings])
    return folder / output


def stage2(folder: Path, output: str, *settings: str) -> Path:
    arguments = ["--config", str(folder / "stage2.yaml"), f"run.output_dir={folder / output}"]
    stage2_instruct.main([*arguments, *settings])
    return folder / output


def metrics(folder: Path) -> list[dict[str, Any]]:
    return read_lines(folder / "metrics.jsonl")


def adapters(folder: Path) -> dict[str, Tensor]:
    """All tensors of all adapters in ``final/``."""
    found = {
        f"{path.parent.name}/{name}": tensor
        for path in sorted((folder / "final").rglob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }
    assert found
    return found


def assert_same_run(first: Path, second: Path) -> None:
    for ours, theirs in zip(metrics(first), metrics(second), strict=True):
        for name in (*TIMING, "pairs_per_second"):
            ours.pop(name, None), theirs.pop(name, None)
        assert ours == theirs
    torch.testing.assert_close(adapters(first), adapters(second), rtol=0, atol=0)
