"""Small runs to export, and what comes out of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer

from tests.support.embedding import exact_model
from unime.config import InputConfig, LoraSettings
from unime.models.encoder import Encoder


def in_sentence_transformers(folder: Path, code: bool = True) -> SentenceTransformer:
    return SentenceTransformer(str(folder), device="cpu", trust_remote_code=code)


def shake(encoder: Encoder) -> Encoder:
    """Adapters that change something."""
    torch.manual_seed(0)
    for name, parameter in encoder.trainable_named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return encoder


def train_small(
    base: Path, run: Path, inputs: InputConfig | None = None, rank: int = 8, **model: Any
) -> Encoder:
    """An encoder with one adapter, and its run's final/."""
    settings = LoraSettings(rank=rank, dropout=0.0)
    encoder = Encoder.load(exact_model(base, **model), inputs or InputConfig(), lora=settings)
    shake(encoder).save_adapters(run / "final")
    return encoder


def python_of(card: str) -> list[str]:
    """The blocks of Python on a model card."""
    return re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)


_HALF = {"score": 0.5, "ci95": [0.4, 0.6], "chance": 0.2}

_KIND = {"modality": "image", "meta_task": "vqa", "metric": "hit@1"}

REPORT = {
    "suite": "mini.yaml",
    "limit": None,
    "tasks": {"Names": _KIND},
    "averages": {"micro-1": {"label": "micro-1", "kind": "micro", "modality": "image"}},
    "models": {
        "stage2": {
            "tasks": {"Names": _HALF},
            "averages": {"micro-1": _HALF | {"missing": []}},
            "mean_similarity": 0.1,
            "effective_rank": 3.0,
            "warnings": [],
        }
    },
    "published": {},
}
