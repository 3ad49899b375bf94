"""An exported model embeds as the encoder did, wherever it is loaded.

python -m pytest tests/test_export.py
"""

from __future__ import annotations

import json
import re

import pytest
import torch
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from transformers import AutoModelForImageTextToText

from stages import export
from tests.embedding import difference, embed
from unime.config import ConfigError, InputConfig, LoraSettings
from unime.images import load_image

FIRST = LoraSettings(rank=8, dropout=0.0)
SECOND = LoraSettings(rank=2, alpha=8, dropout=0.0, train=["llm", "projector", "vision"])


def shake(encoder):
    torch.manual_seed(0)
    for name, parameter in encoder.trainable_named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return encoder


@pytest.fixture(scope="module")
def trained(load_tiny, tmp_path_factory):
    """``trained("qwen2_vl", "nf4")``: an encoder with two adapters, and the folder of its run."""

    def train(family, quantization="none", inputs=None, second=SECOND):
        run = tmp_path_factory.mktemp("run")
        shake(load_tiny(family, quantization, lora=FIRST, inputs=inputs)).save_adapters(run / "one")
        encoder = load_tiny(family, quantization, adapter=run / "one", lora=second)
        shake(encoder).save_adapters(run / "final")
        return encoder, run

    return train


def as_inputs(items):
    found = []
    for item in items:
        images = [load_image(path, InputConfig()) for path in item.images]
        shown = images[0] if len(images) == 1 else images
        found.append(
            {"image": shown, "text": item.text} if images and item.text else shown or item.text
        )
    return [{"image": x} if isinstance(x, list) else x for x in found]


@pytest.mark.parametrize("family", ["llava_next", "qwen2_vl", "qwen3_vl"])
@pytest.mark.parametrize("prompt", ["unime", "vlm2vec", "instruct"])
def test_everyone_gets_the_same_vectors(
    family, prompt, items, trained, load_tiny, tmp_path, capsys
):
    encoder, run = trained(family, inputs=InputConfig(prompt=prompt))
    expected = embed(encoder, items)
    export.main([str(run), str(tmp_path / "out")])
    said = capsys.readouterr().out
    assert "sentence-transformers, mixed: largest difference" in said
    model = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    vectors = model.encode(as_inputs(items), convert_to_tensor=True)
    assert difference(vectors, expected) < 1e-5
