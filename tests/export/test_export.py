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
from tests.support.embedding import difference, embed, load_exact
from tests.support.exported_runs import REPORT, in_sentence_transformers, shake, train_small
from tests.support.paths import ROOT
from tests.support.published.fake_hub import fake_hub
from tests.support.tiny.models import lora_parts
from unime.config import InputConfig, LoraSettings, Stage2Config, build_config, dump_config
from unime.errors import ConfigError
from unime.export.merged import PASS
from unime.inputs.images import load_image
from unime.inputs.items import Item
from unime.models.adapter_files import WEIGHTS

FIRST = LoraSettings(rank=8, dropout=0.0)
SECOND = LoraSettings(rank=2, alpha=8, dropout=0.0, train=["llm", "projector", "vision"])
STAGE2 = ROOT / "configs/stage2/qwen2-vl-2b.yaml"


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


def read_picture(path):
    return load_image(path, InputConfig().max_image_pixels)


def as_inputs(items, read=read_picture):
    """As sentence-transformers takes them: in a dictionary, or bare where there is one thing."""
    found = []
    for item in items:
        images = [read(path) for path in item.images]
        value = {"image": images if len(images) > 1 else images[0]} if images else {}
        value |= {"text": item.text} if item.text else {}
        found.append(value if len(images) > 1 or len(value) > 1 else next(iter(value.values())))
    return found


def change_json(path, change):
    settings = json.loads(path.read_text())
    change(settings)
    path.write_text(json.dumps(settings))


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
    templates = [tmp_path / f"out/{n}chat_template.jinja" for n in ("", "embedding_")]
    assert templates[0].read_text() == templates[1].read_text()
    loaded = load_exact(tmp_path / "out")
    assert loaded.processor.inputs.prompt == "chat"
    assert difference(embed(loaded, items), expected) < 1e-5


@pytest.mark.parametrize("prompt", ["unime", "instruct"])
def test_the_task_is_asked_where_it_was(prompt, pictures, trained, tmp_path):
    """In sentence-transformers an instruction is a prompt."""
    item = Item("Which animal?", (pictures[1],), instruction="Answer the question.")
    encoder, run = trained("qwen3_vl", inputs=InputConfig(prompt=prompt))
    expected = embed(encoder, [item])
    export.main([str(run), str(tmp_path / "out")])
    model = in_sentence_transformers(tmp_path / "out")
    vector = model.encode(as_inputs([item]), prompt=item.instruction, convert_to_tensor=True)
    assert difference(vector, expected) < 1e-5
    assert difference(embed(load_exact(tmp_path / "out"), [item]), expected) < 1e-5


@pytest.mark.parametrize("quantization, most", [("nf4", 1e-5), ("int8", 0.05)])
def test_a_quantised_base_is_what_it_stood_for(
    quantization, most, items, trained, tmp_path, capsys
):
    encoder, run = trained("qwen2_vl", quantization)
    expected = embed(encoder, items)
    export.main([str(run), str(tmp_path / "out")])
    found = re.search(r"as trained: largest difference (\S+),", capsys.readouterr().out)
    assert found is not None and float(found[1]) < most
    assert "quantization_config" not in (tmp_path / "out" / "config.json").read_text()
    assert difference(embed(load_exact(tmp_path / "out"), items), expected) < most


def test_a_long_text_keeps_its_suffix(tiny_model, tmp_path):
    """Whatever length the base's tokenizer was saved with."""
    base = shutil.copytree(tiny_model("qwen2_vl"), tmp_path / "base")
    change_json(base / "tokenizer_config.json", lambda own: own.update(model_max_length=50))
    encoder = train_small(base, tmp_path / "run")
    item = Item("a red bird on the sea " * 20)
    export.main([str(tmp_path / "run"), str(tmp_path / "out")])
    vector = in_sentence_transformers(tmp_path / "out").encode([item.text], convert_to_tensor=True)
    assert difference(vector, embed(encoder, [item])) < 1e-5


def test_the_last_adapter_scales_what_it_was_trained_on(items, load_tiny, tmp_path):
    """LoRA, DoRA on it merged, LoRA on both merged; and no single adapter is their sum."""
    dora = LoraSettings(rank=2, dropout=0.0, use_dora=True)
    last = None
    for number, lora in enumerate((FIRST, dora, FIRST)):
        encoder = load_tiny("qwen2_vl", adapter=last, merge_adapter=True, lora=lora)
        last = tmp_path / f"{number}" / "final"
        shake(encoder).save_adapters(last)
        loaded = load_exact(encoder.base_description["name"], last)
        assert difference(embed(loaded, items), embed(encoder, items)) < 1e-5
        if number:
            with pytest.raises(ConfigError, match="form: got adapter, expected merged: DoRA"):
                export.main([str(last), str(tmp_path / "sum"), "form=adapter"])
        export.main([str(last), str(tmp_path / f"out{number}")])
        again = load_exact(tmp_path / f"out{number}")
        assert difference(embed(again, items), embed(encoder, items)) < 1e-5


def test_a_runs_processor_is_remembered(items, load_tiny, tiny_model, tmp_path):
    other = shutil.copytree(tiny_model("qwen2_vl"), tmp_path / "other")
    mean = {"image_mean": [0.1, 0.9, 0.4]}
    change_json(other / "processor_config.json", lambda own: own["image_processor"].update(mean))
    encoder = train_small(tiny_model("qwen2_vl"), tmp_path, processor=str(other))
    expected = embed(encoder, items)
    loaded = load_tiny("qwen2_vl", adapter=tmp_path / "final")
    assert difference(embed(loaded, items), expected) < 1e-6
    assert difference(embed(load_exact(tmp_path / "final"), items), expected) < 1e-6
    export.main([str(tmp_path / "final"), str(tmp_path / "out")])
    assert difference(embed(load_exact(tmp_path / "out"), items), expected) < 1e-5


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
    items = [Item(images=(str(path),))]
    second = replace(SECOND, train=lora_parts(family))
    encoder, run = trained(family, inputs=InputConfig(max_tiles=2), second=second)
    export.main([str(run), str(tmp_path / "out")])
    model = in_sentence_transformers(tmp_path / "out")
    vector = model.encode(as_inputs(items), convert_to_tensor=True)
    assert difference(vector, embed(encoder, items)) < 1e-5


def test_a_resolution_travels(items, trained, tmp_path):
    encoder, run = trained("qwen2_vl", inputs=InputConfig(resolution="24x24"))
    export.main([str(run), str(tmp_path / "square")])
    with pytest.raises(ValueError, match="trust_remote_code"):
        SentenceTransformer(str(tmp_path / "square"), device="cpu")
    model = in_sentence_transformers(tmp_path / "square")
    expected = embed(encoder, items)
    assert difference(model.encode(as_inputs(items), convert_to_tensor=True), expected) < 1e-5
    shown = [index for index, item in enumerate(items) if item.images]
    by_path = as_inputs([items[index] for index in shown], read=str)
    assert difference(model.encode(by_path, convert_to_tensor=True), expected[shown]) < 1e-5
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
    loaded = load_exact(tiny_model("llava_onevision"), source)
    expected = embed(loaded, items)
    assert difference(torch.nn.functional.normalize(hidden, dim=1), expected) < 1e-5
    if second:
        assert difference(embed(encoder, items), expected) < 1e-6


def test_dora_is_merged_but_not_added_up(items, trained, tmp_path):
    encoder, run = trained("qwen2_vl", second=LoraSettings(rank=2, dropout=0.0, use_dora=True))
    export.main([str(run), str(tmp_path / "out")])
    assert difference(embed(load_exact(tmp_path / "out"), items), embed(encoder, items)) < 1e-5
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
    out = tmp_path / "out"
    for words, message in {
        (tmp_path, out): "run: .* holds no finished run",
        (run, tmp_path / "full"): "output_dir: .*full exists already",
        (run, out, f"report={tmp_path}/not.json"): "report: .*not.json is not a report",
        (run, out, "base=nowhere"): "model.name: nowhere cannot be loaded",
        (run, out, "push_to_hub=bad name!"): "push_to_hub: Repo id must",
        (run, tmp_path / "not.json" / "out"): "output_dir: .* cannot be written",
    }.items():
        with pytest.raises(ConfigError, match=message):
            export.main([str(word) for word in words])
    for word, message in {
        "licence=mit": "unknown key 'licence'",
        "max_shard_size=banana": "max_shard_size: got 'banana', expected such as 5GB",
    }.items():
        with pytest.raises(SystemExit):
            export.main([str(run), str(out), word])
        assert message in capsys.readouterr().err
    monkeypatch.setitem(PASS, "method_output_name", "no")
    with pytest.raises(Exception, match="last_hidden_state|'no'|method_output_name|no output"):
        export.main([str(run), str(out)])
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]  # no part of it


def test_upload(trained, tmp_path, monkeypatch, capsys):
    _, run = trained("llava_onevision")

    def start(out, *words):
        export.main([str(run), str(tmp_path / out), "form=adapter", *words])
        return capsys.readouterr().out

    with fake_hub() as hub:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        said = start("dry", "--push-to-hub", "me/bird", "dry_run=true")
        assert "to me/bird (private if it is new)" in said and WEIGHTS in said
        assert not hub.created and not hub.tokens
        assert f"uploaded: {hub.url}/me/bird/commit" in start("out", "push_to_hub=me/bird")
        assert hub.created[0]["visibility"] == "private" and hub.tokens == {"Bearer hf_secret"}
        written = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
        assert hub.files["me/bird"] == written and WEIGHTS in written
        refused = "push_to_hub: forbidden/bird: .*403 .*hf upload forbid"
        with pytest.raises(ConfigError, match=refused):
            start("again", "--push-to-hub", "forbidden/bird")
        assert (tmp_path / "again" / WEIGHTS).is_file()
