"""An exported model embeds as the encoder did, wherever it is loaded.

python -m pytest tests/export/test_export.py
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from peft import PeftModel
from PIL import Image
from sentence_transformers import SentenceTransformer
from transformers import AutoModelForImageTextToText

from stages import export
from tests.support.embedding import difference, embed, exact_model
from tests.support.fake_hub import fake_hub
from tests.support.paths import ROOT
from tests.support.tiny_models import lora_parts
from unime.config import InputConfig, LoraSettings, Stage2Config, build_config, dump_config
from unime.errors import ConfigError
from unime.inputs.images import load_image
from unime.inputs.items import Item
from unime.models.adapter_files import WEIGHTS
from unime.models.encoder import Encoder

FIRST = LoraSettings(rank=8, dropout=0.0)
SECOND = LoraSettings(rank=2, alpha=8, dropout=0.0, train=["llm", "projector", "vision"])
STAGE2 = ROOT / "configs/stage2/qwen2-vl-2b.yaml"
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
        }
    },
    "published": {},
}


def plain(folder, adapter=None):
    return exact_model(folder, adapter=str(adapter) if adapter else None)


def shake(encoder):
    torch.manual_seed(0)
    for name, parameter in encoder.trainable_named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return encoder


@pytest.fixture(scope="module")
def trained(load_tiny, tiny_model, tmp_path_factory):
    """``trained("qwen2_vl", "nf4")``: an encoder with two adapters, and the folder of its run."""

    def train(family, quantization="none", inputs=None, second=SECOND, tokens=None):
        run = tmp_path_factory.mktemp("run")
        if tokens is not None:  # so many are the base's tokenizer's own limit
            model = shutil.copytree(tiny_model(family), run / "model")
            settings = json.loads((model / "tokenizer_config.json").read_text())
            settings["model_max_length"] = tokens
            (model / "tokenizer_config.json").write_text(json.dumps(settings))
            encoder = Encoder.load(plain(model), InputConfig(), lora=FIRST)
            shake(encoder).save_adapters(run / "final")
            return encoder, run
        shake(load_tiny(family, quantization, lora=FIRST, inputs=inputs)).save_adapters(run / "one")
        encoder = load_tiny(family, quantization, adapter=run / "one", lora=second)
        shake(encoder).save_adapters(run / "final")
        return encoder, run

    return train


def as_inputs(items):
    found = []
    for item in items:
        images = [load_image(path, InputConfig().max_image_pixels) for path in item.images]
        shown = images[0] if len(images) == 1 else images
        found.append(
            {"image": shown, "text": item.text} if images and item.text else shown or item.text
        )
    return [{"image": x} if isinstance(x, list) else x for x in found]


def in_sentence_transformers(folder, code=True):
    return SentenceTransformer(str(folder), device="cpu", trust_remote_code=code)


SLOW = pytest.mark.backbones


@pytest.mark.parametrize(
    "family, prompt",
    [
        ("llava_next", "unime"),
        ("qwen2_vl", "unime"),
        ("qwen2_vl", "vlm2vec"),
        pytest.param("qwen2_vl", "unime-v2", marks=SLOW),
        pytest.param("llava_next", "e5v", marks=SLOW),
        pytest.param("llava_next", "instruct", marks=SLOW),
        ("qwen3_vl", "instruct"),
    ],
)
def test_everyone_gets_the_same_vectors(family, prompt, items, trained, tmp_path, capsys):
    encoder, run = trained(family, inputs=InputConfig(prompt=prompt))
    expected = embed(encoder, items)
    export.main([str(run), str(tmp_path / "out")])
    said = capsys.readouterr().out
    for kind in ("text", "image", "image+text", "several images", "mixed"):
        assert f"sentence-transformers, {kind}: largest difference" in said
    model = in_sentence_transformers(tmp_path / "out")
    assert difference(model.encode(as_inputs(items), convert_to_tensor=True), expected) < 1e-5
    assert not list(tmp_path.rglob("*.bin"))
    loaded = Encoder.load(plain(tmp_path / "out"), InputConfig())
    assert loaded.processor.inputs.prompt == "chat"
    assert difference(embed(loaded, items), expected) < 1e-5


def test_an_instruction_is_a_prompt(pictures, trained, tmp_path):
    item = Item("Which animal?", (pictures[1],), instruction="Answer the question.")
    for prompt in ("unime", "instruct"):
        encoder, run = trained("qwen3_vl", inputs=InputConfig(prompt=prompt))
        export.main([str(run), str(tmp_path / prompt)])
        model = in_sentence_transformers(tmp_path / prompt)
        vector = model.encode(as_inputs([item]), prompt=item.instruction, convert_to_tensor=True)
        assert difference(vector, embed(encoder, [item])) < 1e-5


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_a_quantised_base_is_what_it_stood_for(quantization, items, trained, tmp_path, capsys):
    encoder, run = trained("qwen2_vl", quantization)
    expected = embed(encoder, items)
    export.main([str(run), str(tmp_path / "out")])
    found = re.search(r"as trained: largest difference (\S+),", capsys.readouterr().out)
    assert found is not None and float(found[1]) < {"nf4": 1e-5, "int8": 0.05}[quantization]
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "quantization_config" not in json.dumps(config)
    loaded = Encoder.load(plain(tmp_path / "out"), InputConfig())
    assert difference(embed(loaded, items), expected) < {"nf4": 1e-5, "int8": 0.05}[quantization]


def test_a_long_text_keeps_its_suffix(trained, tmp_path):
    """Whatever length the base's tokenizer was saved with."""
    encoder, run = trained("qwen2_vl", tokens=50)
    item = Item("a red bird on the sea " * 20)
    export.main([str(run), str(tmp_path / "out")])
    model = in_sentence_transformers(tmp_path / "out")
    vector = model.encode([item.text], convert_to_tensor=True)
    assert difference(vector, embed(encoder, [item])) < 1e-5


def test_the_last_adapter_scales_what_it_was_trained_on(items, load_tiny, tmp_path):
    """LoRA, DoRA on it merged, LoRA on both merged; and no single adapter is their sum."""
    dora = LoraSettings(rank=2, dropout=0.0, use_dora=True)
    last = None
    for number, lora in enumerate((FIRST, dora, FIRST)):
        encoder = load_tiny("qwen2_vl", adapter=last, merge_adapter=True, lora=lora)
        last = tmp_path / f"{number}" / "final"
        shake(encoder).save_adapters(last)
        loaded = Encoder.load(plain(encoder.base_description["name"], last), InputConfig())
        assert difference(embed(loaded, items), embed(encoder, items)) < 1e-5
        if number:
            with pytest.raises(ConfigError, match="form: got adapter, expected merged: DoRA"):
                export.main([str(last), str(tmp_path / "sum"), "form=adapter"])
        export.main([str(last), str(tmp_path / f"out{number}")])
        again = Encoder.load(plain(tmp_path / f"out{number}"), InputConfig())
        assert difference(embed(again, items), embed(encoder, items)) < 1e-5


def test_an_adapter_keeps_its_inputs(pictures, trained, tiny_model, tmp_path):
    inputs = InputConfig(prompt="vlm2vec", resolution="24x24")
    encoder, run = trained("qwen2_vl", inputs=inputs)
    export.main([str(run), str(tmp_path / "out"), "form=adapter"])
    loaded = Encoder.load(plain(tmp_path / "out"), InputConfig())  # which says its base
    assert loaded.processor.inputs == encoder.processor.inputs
    item = Item("what is it?", (pictures[1],))
    assert difference(embed(loaded, [item]), embed(encoder, [item])) < 1e-5
    card = (tmp_path / "out" / "README.md").read_text()
    assert "PeftModel.from_pretrained" in card and "library_name: transformers" in card


def test_the_task_is_asked_where_it_was(pictures, trained, tmp_path):
    item = Item("Which animal?", (pictures[1],), instruction="Answer the question.")
    for prompt in ("unime", "instruct"):
        encoder, run = trained("qwen3_vl", inputs=InputConfig(prompt=prompt))
        export.main([str(run), str(tmp_path / prompt)])
        loaded = Encoder.load(plain(tmp_path / prompt), InputConfig())
        assert difference(embed(loaded, [item]), embed(encoder, [item])) < 1e-5


def test_a_runs_processor_is_remembered(items, load_tiny, tiny_model, tmp_path):
    other = shutil.copytree(tiny_model("qwen2_vl"), tmp_path / "other")
    settings = json.loads((other / "processor_config.json").read_text())
    settings["image_processor"]["image_mean"] = [0.1, 0.9, 0.4]
    (other / "processor_config.json").write_text(json.dumps(settings))
    model = replace(plain(tiny_model("qwen2_vl")), processor=str(other))
    encoder = shake(Encoder.load(model, InputConfig(), lora=FIRST))
    encoder.save_adapters(tmp_path / "final")
    expected = embed(encoder, items)
    assert (
        difference(embed(load_tiny("qwen2_vl", adapter=tmp_path / "final"), items), expected) < 1e-6
    )
    assert (
        difference(embed(Encoder.load(plain(tmp_path / "final"), InputConfig()), items), expected)
        < 1e-6
    )
    export.main([str(tmp_path / "final"), str(tmp_path / "out")])
    loaded = Encoder.load(plain(tmp_path / "out"), InputConfig())
    assert difference(embed(loaded, items), expected) < 1e-5


def test_what_sentence_transformers_would_embed_otherwise_is_refused(trained, tmp_path):
    _, run = trained("paligemma")
    export.main([str(run), str(tmp_path / "out")])
    model = in_sentence_transformers(tmp_path / "out")
    with pytest.raises(Exception, match="text: only unime embeds them"):
        model.encode(["a cat"])
    card = (tmp_path / "out" / "README.md").read_text()
    assert "not text (its tokenizer alone gets them" in card and "from unime import Encoder" in card


@pytest.mark.parametrize(
    "family", ["llava_next", *(pytest.param(f, marks=SLOW) for f in ("gemma3", "internvl"))]
)
def test_a_number_of_tiles_travels(family, trained, tmp_path):
    path = tmp_path / "wide.png"
    pixels = np.random.default_rng(0).integers(0, 256, (300, 900, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    item = Item(images=(str(path),))
    second = replace(SECOND, train=lora_parts(family))
    encoder, run = trained(family, inputs=InputConfig(max_tiles=2), second=second)
    export.main([str(run), str(tmp_path / "out")])
    model = in_sentence_transformers(tmp_path / "out")
    vector = model.encode(
        [load_image(str(path), InputConfig().max_image_pixels)], convert_to_tensor=True
    )
    assert difference(vector, embed(encoder, [item])) < 1e-5


def test_a_resolution_travels(items, trained, tmp_path):
    encoder, run = trained("qwen2_vl", inputs=InputConfig(resolution="24x24"))
    export.main([str(run), str(tmp_path / "square")])
    with pytest.raises(ValueError, match="trust_remote_code"):
        SentenceTransformer(str(tmp_path / "square"), device="cpu")
    model = in_sentence_transformers(tmp_path / "square")
    expected = embed(encoder, items)
    assert difference(model.encode(as_inputs(items), convert_to_tensor=True), expected) < 1e-5
    by_path = [{"image": list(item.images), "text": item.text} for item in items if item.images]
    kept = [index for index, item in enumerate(items) if item.images]
    by_path = [x if x["text"] else {"image": x["image"]} for x in by_path]
    assert difference(model.encode(by_path, convert_to_tensor=True), expected[kept]) < 1e-5
    alone = model.encode([items[1].images[0]], convert_to_tensor=True)
    assert difference(alone, expected[1:2]) < 1e-5
    assert "trust_remote_code=True" in (tmp_path / "square" / "README.md").read_text()

    encoder, run = trained("qwen2_vl", inputs=InputConfig(resolution="64..128"))
    export.main([str(run), str(tmp_path / "range"), "code=false"])
    model = in_sentence_transformers(tmp_path / "range", code=False)  # its processor does it
    expected = embed(encoder, items)
    assert difference(model.encode(as_inputs(items), convert_to_tensor=True), expected) < 1e-5


@pytest.mark.parametrize("second", [SECOND, None])
def test_one_adapter_for_peft(second, items, trained, tiny_model, tmp_path):
    encoder, run = trained("llava_onevision", second=second or SECOND)
    source = run / ("final" if second else "one")
    export.main([str(source), str(tmp_path / "out"), "form=adapter"])
    full = AutoModelForImageTextToText.from_pretrained(tiny_model("llava_onevision"))
    full = PeftModel.from_pretrained(full, tmp_path / "out").eval()
    batch = encoder.processor.collate([encoder.processor(item) for item in items])
    with torch.no_grad():
        hidden = full.get_base_model().model(**batch, use_cache=False).last_hidden_state[:, -1]
    loaded = Encoder.load(plain(tiny_model("llava_onevision"), source), InputConfig())
    expected = embed(loaded, items)
    assert difference(torch.nn.functional.normalize(hidden, dim=1), expected) < 1e-5
    if second:
        assert difference(embed(encoder, items), expected) < 1e-6


def test_dora_is_merged_but_not_added_up(items, trained, tmp_path):
    encoder, run = trained("qwen2_vl", second=LoraSettings(rank=2, dropout=0.0, use_dora=True))
    export.main([str(run), str(tmp_path / "out")])
    loaded = Encoder.load(plain(tmp_path / "out"), InputConfig())
    assert difference(embed(loaded, items), embed(encoder, items)) < 1e-5
    with pytest.raises(ConfigError, match="form: got adapter, expected merged: DoRA"):
        export.main([str(run), str(tmp_path / "adapter"), "form=adapter"])
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_card_says_how_it_was_made(trained, tmp_path):
    _, run = trained("qwen2_vl", inputs=InputConfig(max_text_tokens=99))
    (run / "config.yaml").write_text(dump_config(build_config(Stage2Config, STAGE2)))
    (tmp_path / "report.json").write_text(json.dumps(REPORT))
    words = ["license=apache-2.0", "name=Me/Bird", f"report={tmp_path / 'report.json'}"]
    words.append("max_shard_size=200KB")
    export.main([str(run), str(tmp_path / "out"), *words])
    assert len(list((tmp_path / "out").glob("model-*-of-*.safetensors"))) > 2
    card = (tmp_path / "out" / "README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert str(tmp_path.parent) not in card  # where the base lay is nobody's business
    assert head["license"] == "apache-2.0" and head["library_name"] == "sentence-transformers"
    for words in (
        "# Me/Bird",
        'SentenceTransformer("Me/Bird", trust_remote_code=True)',
        "texts longer than 99 tokens",
        "A-OKVQA (50000 rows)",
        "loss: temperature 0.02, num_hard_negatives 8",
        "hit@1 in %, 95 % intervals (mini.yaml)",
        "| Names | 20.0 | 50.0 [40.0, 60.0] |",
        "written and loaded again: largest difference",
        "- sentence-transformers, mixed: largest difference",
    ):
        assert words in card, words
    made = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    assert made["inputs"]["prompt"] == "unime" and made["commit"]
    assert made["stages"]["Stage 2, instruction tuning"]["loss"]["num_hard_negatives"] == 8


def test_mistakes(trained, tmp_path, monkeypatch, capsys):
    _, run = trained("qwen2_vl")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    (tmp_path / "not.json").write_text("[]")
    for words, message in {
        (tmp_path, tmp_path / "out"): "run: .* holds no finished run",
        (run, tmp_path / "full"): "output_dir: .*full exists already",
        (
            run,
            tmp_path / "out",
            f"report={tmp_path}/not.json",
        ): "is not a report of eval.report:",
        (run, tmp_path / "out", "base=nowhere"): "model.name: nowhere cannot be loaded",
        (run, tmp_path / "out", "push_to_hub=bad name!"): "push_to_hub: Repo id must",
        (
            run,
            tmp_path / "not.json" / "out",
        ): "output_dir: .* cannot be written: .*(Not a dir|exists)",
    }.items():
        with pytest.raises(ConfigError, match=message):
            export.main([str(word) for word in words])
    for word, message in {
        "licence=mit": "unknown key 'licence'",
        "max_shard_size=banana": "max_shard_size: got 'banana', expected such as 5GB",
    }.items():
        with pytest.raises(SystemExit):
            export.main([str(run), str(tmp_path / "out"), word])
        assert message in capsys.readouterr().err
    monkeypatch.setattr(
        "unime.export.merged.PASS", {"method": "forward", "method_output_name": "no"}
    )
    with pytest.raises(Exception, match="last_hidden_state|'no'|method_output_name|no output"):
        export.main([str(run), str(tmp_path / "out")])
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]  # no part of it


def test_upload(trained, tmp_path, monkeypatch, capsys):
    _, run = trained("llava_onevision")

    def start(out, *words):
        export.main([str(run), str(tmp_path / out), "form=adapter", *words])
        return capsys.readouterr().out

    with fake_hub() as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", hub.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        said = start("dry", "--push-to-hub", "me/bird", "dry_run=true")
        assert "to me/bird (private if it is new)" in said and WEIGHTS in said
        assert not hub.created and not hub.tokens
        assert f"uploaded: {hub.url}/me/bird/commit" in start("out", "push_to_hub=me/bird")
        assert hub.created[0]["visibility"] == "private" and hub.tokens == {"Bearer hf_secret"}
        written = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
        assert hub.files["me/bird"] == written and WEIGHTS in written
        with pytest.raises(
            ConfigError, match="push_to_hub: forbidden/bird: .*403 .*hf upload forbid"
        ):
            start("again", "--push-to-hub", "forbidden/bird")
        assert (tmp_path / "again" / WEIGHTS).is_file()
