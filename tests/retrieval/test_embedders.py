"""Baselines embed as their own libraries do, alone and in mixed batches; ours as its encoder does.

python -m pytest tests/retrieval/test_embedders.py -m "evaluation or not evaluation"
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from itertools import chain

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize

from eval import evaluate
from eval.miniatures.mmeb import write_eval_suite, write_picture, write_rows
from stages import export
from tests.support.baselines import CPU, LONG, MINILM, baseline, load, vectors
from tests.support.embedding import difference, embed, exact_model, load_exact
from tests.support.exported_runs import train_small
from tests.support.tiny.dual import LENGTH, ByHand, build_clip, build_siglip
from unime.config import EvalConfig, EvalData, InputConfig, dump_config
from unime.errors import ConfigError, DataError
from unime.export.verification import odd_items
from unime.inputs.images import load_image
from unime.inputs.items import Item
from unime.inputs.resolution import Resolution
from unime.models.hub import locate
from unime.retrieval.loading import find_model
from unime.retrieval.unime_embedder import UnimeEmbedder
from unime.runtime.workers import load_batches

BUILD = {"clip": build_clip, "siglip": build_siglip}


@pytest.fixture(scope="module", params=BUILD)
def tiny_dual(request, tmp_path_factory):
    return BUILD[request.param](tmp_path_factory.mktemp("dual") / request.param)


@pytest.fixture(scope="module")
def mixture(photos):
    return [
        Item("a cat"),
        Item(images=(photos[0],)),
        Item(LONG),
        Item("a cat on a chair", (photos[1],)),
        Item(images=(photos[2], photos[3])),
        Item(video=tuple(photos)),
        Item("a dog", instruction="a photo of"),
        Item("the garden", (photos[4],), tuple(photos[:2])),
    ]


def test_a_dual_encoder_embeds_as_by_hand(tiny_dual, mixture, photos, monkeypatch):
    embedder, hand = load("dual_encoder", tiny_dual), ByHand(tiny_dual)
    expected = [
        hand.text("a cat"),
        hand.image(photos[0]),
        hand.text(LONG),
        hand.text("a cat on a chair") + hand.image(photos[1]),
        hand.mean(photos[2:4]),
        hand.mean(photos),  # no more than 8 frames
        hand.text("a photo of a dog"),
        hand.text("the garden") + hand.image(photos[4]) + hand.mean(photos[:2]),
    ]
    expected = normalize(torch.stack(expected), dim=1)
    prepared = embedder.prepare(mixture)
    found = embedder.embed(prepared.inputs)
    assert found.dtype is torch.float32 and found.shape == (len(mixture), embedder.dimension)
    assert difference(found, expected) < 1e-5
    assert [i for i, cut in enumerate(prepared.truncated) if cut] == [2]  # LONG
    alone = torch.cat([vectors(embedder, [item]) for item in mixture])
    assert difference(alone, expected) < 1e-5
    order = [5, 2, 7, 0, 3, 6, 1, 4]
    assert difference(vectors(embedder, [mixture[i] for i in order]), expected[order]) < 1e-5
    monkeypatch.setattr("unime.retrieval.dual_encoder.FORWARD", 4)  # many frames: many forwards
    assert difference(vectors(embedder, mixture), expected) < 1e-5
    assert (expected @ expected.T).fill_diagonal_(0).max() < 0.999  # and all are different
    assert not any(embedder.refuses(item) for item in mixture)


def test_frames_and_resolution_are_heeded(tiny_dual, photos):
    hand = ByHand(tiny_dual)
    inputs = InputConfig(num_frames=3, resolution="30x24")
    embedder = load("dual_encoder", tiny_dual, inputs)
    squeezed = [Image.open(photos[i]).convert("RGB").resize((30, 24)) for i in (0, 2, 5)]
    expected = hand.mean(squeezed)  # linspace(0, 5, 3) = 0, 2.5, 5
    found = vectors(embedder, [Item(video=tuple(photos))])
    assert difference(found[0], expected) < 1e-5
    other = vectors(load("dual_encoder", tiny_dual), [Item(video=tuple(photos))])
    assert difference(found, other) > 1e-3
    described = embedder.describe()
    size = described.pop("pixel_budget")["image"]["size"]
    assert size and all(embedder.image_processor.size[name] == side for name, side in size.items())
    shown = {"resolution": "30x24", "num_frames": 3, "max_image_pixels": 50_000_000}
    unset = {"prompt": None, "max_tiles": None, "jpeg_draft": False}
    assert described == shown | unset | {"max_text_tokens": LENGTH}


def test_odd_pictures_are_read_as_ours_are(tiny_dual, tmp_path):
    items = list(chain(*odd_items(tmp_path, Resolution()).values()))
    read = [load_image(item.images[0], InputConfig().max_image_pixels) for item in items]
    hand = ByHand(tiny_dual)
    expected = torch.stack([hand.image(picture) for picture in read])
    assert difference(vectors(load("dual_encoder", tiny_dual), items), expected) < 1e-5


def test_fewer_tokens_if_asked(tmp_path):
    folder = build_clip(tmp_path / "clip")
    short = load("dual_encoder", folder, InputConfig(max_text_tokens=4))
    prepared = short.prepare([Item("a cat"), Item("a cat on a chair"), Item(LONG)])
    assert prepared.inputs["texts"]["input_ids"].shape == (3, 4)
    assert prepared.truncated == [False, True, True]
    assert short.describe()["max_text_tokens"] == 4
    assert load("dual_encoder", folder, InputConfig(max_text_tokens=999)).max_text_tokens == LENGTH
    with pytest.raises(ConfigError, match="max_text_tokens: got 4, expected null for siglip"):
        load("dual_encoder", build_siglip(tmp_path / "siglip"), InputConfig(max_text_tokens=4))


def test_control_tokens_in_a_text_end_nothing(tmp_path):
    embedder = load("dual_encoder", build_clip(tmp_path / "clip"))
    texts = [Item("a <|endoftext|>cat"), Item("a <|endoftext|>dog"), Item("half \ud800 a letter")]
    ids = embedder.prepare(texts).inputs["texts"]["input_ids"]
    end = embedder.tokenizer.eos_token_id
    assert [row.tolist().index(end) for row in ids] != [2, 2, 2]
    found = vectors(embedder, texts)
    assert (found[0] @ found[1]) < 0.999 and found.isfinite().all()


def test_a_file_of_its_own_settings_is_in_the_fingerprint(tmp_path):
    folder = build_clip(tmp_path / "clip")

    def digest(config):
        state = hashlib.blake2b()
        find_model(config).add_to(state)
        return state.hexdigest()

    first = digest(baseline("dual_encoder", folder))
    assert digest(baseline("dual_encoder", shutil.copytree(folder, tmp_path / "copy"))) == first
    assert digest(baseline("sentence_transformers", folder)) != first
    named = baseline("sentence_transformers", folder, prompt_name="query")
    assert digest(named) != digest(baseline("sentence_transformers", folder))
    changed = build_clip(tmp_path / "changed", seed=1)
    assert digest(baseline("dual_encoder", changed)) != first
    described = find_model(baseline("dual_encoder", folder)).describe()
    assert described == {"name": str(folder), "commit": None, "prompt_name": None}
    ours = EvalConfig("out", model=exact_model(folder))
    assert find_model(ours) == locate(ours.model)


def test_bad_items_are_named(tmp_path):
    embedder = load("dual_encoder", build_clip(tmp_path / "clip"))
    with pytest.raises(DataError, match="nowhere.png: there is no such image"):
        embedder.prepare([Item("a"), Item(images=(str(tmp_path / "nowhere.png"),))])
    with pytest.raises(DataError, match="neither text nor image"):
        embedder.prepare([Item(" ", instruction="Find it.")])
    big = Item(images=(str(write_picture(tmp_path / "big.png", 0, 64)),))
    small = load("dual_encoder", tmp_path / "clip", InputConfig(max_image_pixels=1000))
    with pytest.raises(DataError, match=r"big.png: 64 x 64 pixels, more than inputs.max_image"):
        small.prepare([big])


def test_what_is_no_dual_encoder_is_refused(tmp_path, tiny_model):
    folder = build_clip(tmp_path / "clip")
    with pytest.raises(ConfigError, match="no such folder|cannot be loaded"):
        load("dual_encoder", tmp_path / "nothing")
    with pytest.raises(ConfigError, match="dual_encoder: .* lacks get_text_features"):
        load("dual_encoder", tiny_model("qwen2_vl"))
    path = folder / "model.safetensors"
    weights = load_file(path)
    del weights["text_projection.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match="lacks weights of CLIPModel: 1, first text_projection"):
        load("dual_encoder", folder)
    path.unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="found only pytorch_model.bin: pickles"):
        load("dual_encoder", folder)


def test_ours_is_the_encoder(load_tiny, tiny_model, items):
    inputs = InputConfig(max_text_tokens=8)
    encoder = load_tiny("qwen2_vl", inputs=inputs)
    embedder = load("unime", tiny_model("qwen2_vl"), inputs)
    prepared = embedder.prepare(items)
    assert difference(embedder.embed(prepared.inputs), embed(encoder, items)) < 1e-5
    assert sum(prepared.truncated) == 3 and embedder.prepare(items).truncated == prepared.truncated
    assert embedder.dimension == encoder.hidden_size and embedder.device == CPU
    described = embedder.describe()
    prompts, budget = described.pop("prompts"), described.pop("pixel_budget")
    size = encoder.processor.hf_processor.image_processor.size
    assert budget["image"]["size"]["longest_edge"] == size["longest_edge"]
    assert budget["video"]["cap_pixels_per_frame"] is True, "as Qwen's own code has it"
    assert described == encoder.processor.inputs.decisive()
    assert "TEXT\nSummary above sentence in one word:" in prompts["text"]
    assert "Summary above image in one word:" in prompts["image"]
    assert not any(embedder.refuses(item) for item in items)


@pytest.mark.parametrize("kind", ["unime", "dual_encoder", "sentence_transformers"])
def test_worker_processes_prepare(kind, tiny_model, tmp_path, photos):
    items = [Item("a cat"), Item(LONG)]
    if kind != "sentence_transformers":
        items.append(Item(images=(photos[0],)))
    build = {"unime": lambda: tiny_model("qwen2_vl"), "dual_encoder": lambda: build_clip(tmp_path)}
    embedder = load(kind, build[kind]() if kind in build else MINILM)
    assert embedder.kind == kind
    batches = [items, items[::-1]]
    with load_batches(embedder.prepare, batches, 1) as loaded:
        for batch, prepared in zip(batches, loaded, strict=True):
            assert difference(embedder.embed(prepared.inputs), vectors(embedder, batch)) < 1e-6


@pytest.mark.evaluation
@pytest.mark.parametrize("family, prompt", [("qwen2_vl", "unime"), ("qwen3_vl", "instruct")])
def test_our_export_is_a_baseline_too(family, prompt, tiny_model, items, photos, tmp_path):
    inputs = InputConfig(prompt=prompt, num_frames=4)
    encoder = train_small(tiny_model(family), tmp_path / "run", inputs)
    export.main([str(tmp_path / "run"), str(tmp_path / "out")])
    out, own = tmp_path / "out", {"trust_remote_code": True}  # pictures are read as in training
    with pytest.raises(ConfigError, match="trust_remote_code: .* brings its own code"):
        load("sentence_transformers", out)
    embedder = load("sentence_transformers", out, InputConfig(num_frames=4), **own)
    frames = tuple(str(write_picture(tmp_path / f"{n}.png", n, 40)) for n in range(6))
    asked = [
        *items,
        Item("Which animal?", (photos[1],), instruction="Answer the question."),
        Item(video=frames),
        Item("What happens?", video=frames),
    ]
    assert not any(embedder.refuses(item) for item in asked)
    expected = embed(encoder, asked)
    assert difference(vectors(embedder, asked), expected) < 1e-5
    assert embedder.describe()["num_frames"] == 4
    loaded = load_exact(out, inputs=InputConfig(num_frames=4))
    assert difference(vectors(UnimeEmbedder(loaded), asked), expected) < 1e-5
    with pytest.raises(ConfigError, match="max_text_tokens: got 5, expected null: this model"):
        load("sentence_transformers", out, InputConfig(max_text_tokens=5), **own)


@pytest.mark.evaluation
def test_baselines_are_evaluated_by_the_same_program(tmp_path):
    suite = tmp_path / "mini.yaml"
    write_eval_suite(tmp_path / "data", suite)
    with suite.open("a") as file:
        file.write("Texts: {meta_task: retrieval, distribution: ood}\n")
    texts = (("a dog in the garden", "the dog is in a garden"), ("two birds", "birds"))
    no_images = {"qry_img_path": "", "tgt_img_path": ["", ""]}
    rows = [{"qry_text": a, "tgt_text": [b, "a red house"]} | no_images for a, b in texts]
    write_rows(tmp_path / "data", "Texts", "test", rows)
    data = EvalData(root=str(tmp_path / "data"), suite=str(suite))
    clip = baseline("dual_encoder", build_clip(tmp_path / "clip"))
    found = {}
    for name, config in (("clip", clip), ("text", baseline("sentence_transformers", MINILM))):
        config = replace(config, data=data, output_dir=str(tmp_path / "out" / name))
        (tmp_path / f"{name}.yaml").write_text(dump_config(config))
        evaluate.main(["--config", str(tmp_path / f"{name}.yaml")])
        files = sorted((tmp_path / "out" / name).glob("*.json"))
        found[name] = {path.stem: json.loads(path.read_text()) for path in files}
    assert all("not_supported" not in result for result in found["clip"].values())
    assert {result["encoder"] for result in found["clip"].values()} == {"dual_encoder"}
    assert found["text"]["Texts"]["score"] == 1.0
    assert found["text"]["Texts"]["inputs"]["prompt"] is None
    for name in ("Names", "Words_t2i", "Words_i2t"):
        assert "it embeds text, not image" in found["text"][name]["not_supported"]
        assert "score" not in found["text"][name]
