"""docs/own_model.md's lines make a multimodal LLM of a language model and a vision tower.

python -m pytest tests/models/test_own_model.py
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from stages import export
from tests.support.embedding import difference, embed, exact_model
from tests.support.exported_runs import python_of, shake
from tests.support.paths import ROOT
from tests.support.tiny.chat_templates import CHATML
from tests.support.tiny.families import SQUARE, TEXT, VISION
from tests.support.tiny.tokenizers import build_tokenizer
from unime.config import LoraSettings
from unime.errors import ConfigError
from unime.inputs.items import Item
from unime.models.encoder import Encoder

DOCUMENT = ROOT / "docs" / "own_model.md"


def run_lines(lines):
    named: dict = {}
    exec(compile(lines, str(DOCUMENT), "exec"), named)  # noqa: S102 (it is what is tested)
    return named


@pytest.fixture
def parts(tmp_path, monkeypatch):
    """A folder with a language model whose head is tied, and a CLIP."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    tokenizer = build_tokenizer({})
    tokenizer.chat_template = CHATML
    text = TEXT | {"vocab_size": len(tokenizer), "tie_word_embeddings": True}
    LlamaForCausalLM(LlamaConfig(**text)).save_pretrained("parts/llm")
    tokenizer.save_pretrained("parts/llm")
    CLIPVisionModel(CLIPVisionConfig(**VISION, projection_dim=16)).save_pretrained("parts/vision")
    images = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=SQUARE)
    images.save_pretrained("parts/vision")
    return tmp_path


def test_the_lines_of_the_document(parts, pictures, items, capsys):
    join, look = python_of(DOCUMENT.read_text())
    llm = run_lines(join)["llm"]
    (parts / "bird.jpg").write_bytes(Path(pictures[1]).read_bytes())
    encoder = run_lines(look)["encoder"]
    said = capsys.readouterr().out
    assert "<|im_start|>user\\n<image>\\nWhat is it?\\nSummary above image and sentence" in said
    sample = encoder.processor(Item("a red bird"))
    ids = sample["input_ids"][None]
    with torch.inference_mode():
        hidden = llm.base_model(input_ids=ids).last_hidden_state[:, -1]
    expected = torch.nn.functional.normalize(hidden, dim=1)
    assert difference(embed(encoder, [Item("a red bird")]), expected) < 1e-5
    assert encoder.base.config.tie_word_embeddings

    train = LoraSettings(rank=2, train=["llm", "projector", "vision"])
    learner = Encoder.load(exact_model("models/own"), lora=train)
    shake(learner).save_adapters(parts / "run" / "final")
    export.main(["run", "out"])
    again = Encoder.load(exact_model("out"))
    assert difference(embed(again, items), embed(learner, items)) < 1e-5


def test_what_is_no_multimodal_model_says_so(parts):
    for name in ("gguf", "empty"):
        (parts / name).mkdir()
    (parts / "gguf" / "small-q8.gguf").write_bytes(b"GGUF")
    for name, message in {
        "parts/llm": "has none .*docs/own_model.md",
        "gguf": "found small-q8.gguf: llama.cpp's.*own_model.md",
        "empty": "expected a model as transformers saves .* nothing",
    }.items():
        with pytest.raises(ConfigError, match=message):
            Encoder.load(exact_model(name))
