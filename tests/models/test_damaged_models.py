"""Whatever is wrong with the files of a model, it is refused in one line, or does not matter.

./launch.sh test tests/models/test_damaged_models.py
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.embedding import exact_model
from tests.support.exported_runs import shake
from tests.support.published.layouts import of_sentence_transformers, of_transformers_4, read
from unime.config import LoraSettings, ModelConfig
from unime.errors import ConfigError, DataError
from unime.inputs.items import Item
from unime.models.encoder import Encoder
from unime.runtime.digests import folder_digest

WRONG = (None, "x", -1, 10**9, 1e308, float("nan"), True, [], ["x"], [[0]], {}, {"a": 1})
ADAPTER = "00-rank2/adapter_config.json"


@pytest.fixture(scope="module")
def whole(tiny_model, load_tiny, tmp_path_factory) -> dict[str, Path]:
    """One folder of each layout, none of which a test may change."""
    folder = tmp_path_factory.mktemp("whole")
    base = tiny_model("qwen2_vl")
    shake(load_tiny("qwen2_vl", lora=LoraSettings(rank=2))).save_adapters(folder / "run")
    sentence = of_sentence_transformers(tiny_model("qwen3_vl"), folder / "sentence")
    old = of_transformers_4(base, folder / "old")
    return {"base": base, "run": folder / "run", "sentence": sentence, "old": old}


def copy_of(whole: Path, folder: Path) -> Path:
    """A copy whose files are links to the same content, until they are written anew."""
    return Path(shutil.copytree(whole, folder, copy_function=os.link))


def put(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def outcome(model: ModelConfig, picture: str) -> str:
    """ "" if it loads and embeds, or the one line that says why not."""
    try:
        encoder = Encoder.load(model)
        encoder.encode([Item("a cat"), Item("a cat", (picture,))])
    except (ConfigError, DataError) as error:
        assert "\n" not in str(error) and len(str(error)) < 2000
        return str(error)
    return ""


def damaged_weights(generator: random.Random) -> Iterator[Callable[[bytes], bytes]]:
    """Cut anywhere, with flipped bytes in the header, or with a header that lies."""
    for _ in range(12):
        part = generator.random() ** 3
        yield lambda content, part=part: content[: int(len(content) * part)]
    for _ in range(12):
        place, bit = generator.randrange(2000), 1 << generator.randrange(8)
        yield (
            lambda content, place=place, bit=bit: (
                content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :]
            )
        )
    for length in (0, 1, 2**31, 2**63, 2**64 - 1):
        yield lambda content, length=length: length.to_bytes(8, "little") + content[8:]
    for lie in ([0, 10**12], [-4, 4], [8, 0], [0, 2**64], ["a", "b"], None):
        yield lambda content, lie=lie: with_header(content, {"data_offsets": lie})
    for lie in ([10**9, 10**9], [2**63], [-1], [], "x"):
        yield lambda content, lie=lie: with_header(content, {"shape": lie})
    for lie in ("I8", "U8", "F8_E4M3", "x", 1):
        yield lambda content, lie=lie: with_header(content, {"dtype": lie})


def with_header(content: bytes, lie: dict[str, Any]) -> bytes:
    length = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:length])
    first = next(key for key in header if key != "__metadata__")
    header[first] |= lie
    new = json.dumps(header).encode()
    return len(new).to_bytes(8, "little") + new + content[length:]


@pytest.mark.parametrize(
    "file", ["base/model.safetensors", "run/00-rank2/adapter_model.safetensors"]
)
def test_damaged_weights(file, whole, pictures, tmp_path):
    layout, _, name = file.partition("/")
    content = (whole[layout] / name).read_bytes()
    refused = 0
    for number, damage in enumerate(damaged_weights(random.Random(0))):
        folder = copy_of(whole[layout], tmp_path / str(number))
        put(folder / name, damage(content))
        refused += bool(outcome(exact_model(folder), pictures[0]))
    assert refused >= 33  # all but flipped bits, of which some are in names or spaces


KEYS = {  # of each file those in which every wrong kind of value is tried
    "base/config.json": ["model_type", "vision_config", "text_config", "image_token_id", "dtype"],
    "base/config.json/text_config": [
        *("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
        *("vocab_size", "intermediate_size", "rms_norm_eps", "hidden_act", "rope_parameters"),
        *("max_position_embeddings", "layer_types", "pad_token_id"),
    ],
    "base/config.json/vision_config": ["depth", "embed_dim", "num_heads", "patch_size"],
    "base/processor_config.json": ["image_processor", "processor_class"],
    "base/processor_config.json/image_processor": [
        *("size", "patch_size", "merge_size", "image_mean", "resample", "image_processor_type"),
        "rescale_factor",
    ],
    "base/tokenizer_config.json": ["tokenizer_class", "eos_token", "model_max_length"],
    "base/generation_config.json": ["eos_token_id", "temperature"],
    f"run/{ADAPTER}": [
        *("r", "lora_alpha", "lora_dropout", "target_modules", "rank_pattern", "use_dora"),
        *("alpha_pattern", "exclude_modules", "layers_to_transform", "layer_replication"),
        *("modules_to_save", "init_lora_weights", "bias", "peft_type", "megatron_config"),
    ],
    "run/encoder.json": ["version", "base", "inputs", "adapters", "merged"],
    "run/encoder.json/base": ["name", "folder", "embedding_sample", "model_type", "weights"],
    "run/encoder.json/inputs": ["prompt", "max_text_tokens", "resolution", "max_tiles"],
    "sentence/1_Pooling/config.json": ["pooling_mode"],
    "sentence/sentence_bert_config.json": ["modality_config"],
    "old/model.safetensors.index.json": ["weight_map", "metadata"],
    "old/preprocessor_config.json": ["min_pixels", "image_std"],
}


@pytest.mark.parametrize("kinds", [1, pytest.param(len(WRONG), marks=pytest.mark.backbones)])
@pytest.mark.parametrize("place", KEYS)
def test_values_of_wrong_kinds(place, kinds, whole, pictures, tmp_path):
    layout, _, rest = place.partition("/")
    name, _, part = rest.partition(".json")
    number = 0
    for key in KEYS[place]:
        for value in random.Random(key).sample(WRONG, kinds):
            number += 1
            folder = copy_of(whole[layout], tmp_path / str(number))
            content = read(folder / f"{name}.json")
            (content[part[1:]] if part else content)[key] = value
            put(folder / f"{name}.json", json.dumps(content).encode())
            outcome(exact_model(folder), pictures[0])


DAMAGED = ("config.json", "tokenizer.json", "tokenizer_config.json", "processor_config.json")


@pytest.mark.parametrize("name", [*DAMAGED, "chat_template.jinja"])
def test_damaged_texts(name, whole, pictures, tmp_path):
    """Cut, with flipped bits, replaced, or no file at all."""
    generator = random.Random(name)
    content = (whole["base"] / name).read_bytes()
    damaged = [content[: generator.randrange(len(content))] for _ in range(3)]
    for _ in range(3):
        place = generator.randrange(len(content))
        flipped = bytes([content[place] ^ (1 << generator.randrange(8))])
        damaged.append(content[:place] + flipped + content[place + 1 :])
    damaged += [b"", b"[]", b"null", b"\xff\xfe", b"[" * 100_000]
    for number, new in enumerate(damaged):
        folder = copy_of(whole["base"], tmp_path / str(number))
        put(folder / name, new)
        outcome(exact_model(folder), pictures[0])
    folder = copy_of(whole["base"], tmp_path / "pipe")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert outcome(exact_model(folder), pictures[0]).endswith(f"{name}: not a regular file")


REFUSED: dict[str, list[tuple[str, dict[str, Any], str]]] = {
    "enormous": [
        ("base/config.json", {"num_labels": 10**9}, "num_labels"),
        ("base/config.json/text_config", {"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ("base/config.json/text_config", {"hidden_size": 10**6}, "is of a model of"),
        ("base/config.json/text_config", {"vocab_size": 10**9}, "is of a model of"),
        (f"run/{ADAPTER}", {"r": 10**9}, "rank 1000000000, expected at most the width"),
        (f"run/{ADAPTER}", {"rank_pattern": {"q_proj": 10**9}}, "rank 1000000000"),
        (f"run/{ADAPTER}", {"layer_replication": [[0, 10**9]]}, "layer_replication: got"),
    ],
    "patterns": [
        (f"run/{ADAPTER}", {"target_modules": r"(.+)+(.+)+(.+)+x"}, "does not end within"),
        (f"run/{ADAPTER}", {"target_modules": "("}, "cannot be matched: .*error"),
        (f"run/{ADAPTER}", {"rank_pattern": {r"(\w+|\.)+(\w+|\.)+!": 2}}, "does not end within"),
    ],
    "of other kinds": [
        (f"run/{ADAPTER}", {"lora_alpha": float("nan")}, "lora_alpha: got nan, expected a number"),
        (f"run/{ADAPTER}", {"megatron_config": {"a": 1}, "megatron_core": "this"}, "megatron"),
        ("run/encoder.json", {"adapters": []}, r"has adapters \[\], expected the names"),
        ("run/encoder.json", {"adapters": ["../x"]}, r"has adapters \['../x'\], expected"),
        ("run/encoder.json", {"adapters": ["/x"]}, r"has adapters \['/x'\], expected"),
        ("run/encoder.json", {"adapters": ["00-rank2"] * 2}, "each once"),
        ("run/encoder.json", {"merged": 99}, "has merged 99, expected 0 to 1"),
        ("run/encoder.json", {"merged": True}, "has merged True, expected 0 to 1"),
        (
            "base/config.json",
            {"quantization_config": {"quant_method": "gptq"}},
            "quantised already",
        ),
        ("old/model.safetensors.index.json", {"weight_map": {"a": "../a.safetensors"}}, "beside"),
        ("old/model.safetensors.index.json", {"weight_map": {"a": "a.bin"}}, "beside"),
        ("old/model.safetensors.index.json", {"weight_map": {"a": "a.safetensors"}}, "is there"),
        (
            "base/tokenizer_config.json",
            {"fast_tokenizer_files": ["../a/tokenizer.4.0.0.json"]},
            "beside",
        ),
        ("base/config.json", {"transformers_weights": "weights.bin"}, "beside"),
    ],
    "enormous pictures": [
        ("run/encoder.json/inputs", {"resolution": "20000x20000"}, "inputs.max_image_pixels"),
        ("run/encoder.json/inputs", {"resolution": "90000000..90000001"}, "max_image_pixels"),
        ("run/encoder.json/inputs", {"max_tiles": 10**9}, "inputs.max_tiles: got 1000000000"),
        ("run/encoder.json/inputs", {"num_frames": 10**9}, "inputs.num_frames: got 1000000000"),
        *(
            ("base/processor_config.json/image_processor", {name: value}, f"{value} as {name}")
            for name, value in (("temporal_patch_size", 60_000), ("patch_size", 0))
        ),
        (
            "base/processor_config.json/image_processor",
            {"size": {"shortest_edge": 10**9, "longest_edge": 10**10}},
            "model.processor: its image_processor has 1000000000 as size",
        ),
    ],
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused_by_name(kind, whole, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("unime.runtime.bounded.bounded.__defaults__", (1, 1 << 30))
    for number, (place, changes, message) in enumerate(REFUSED[kind]):
        layout, _, rest = place.partition("/")
        name, _, part = rest.partition(".json")
        folder = copy_of(whole[layout], tmp_path / str(number))
        content = read(folder / f"{name}.json")
        (content[part[1:]] if part else content).update(changes)
        put(folder / f"{name}.json", json.dumps(content).encode())
        assert re.search(message, outcome(exact_model(folder), pictures[0])), (place, changes)


TEMPLATES = {
    "loops within loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}"
    "{% endfor %}",
    "a long product": "{{ 9 ** (9 ** 9) }}",
    "a long text": "{{ 'a' * 10 ** 11 }}",
    "doubled": "{% set n = namespace(s='ab') %}{% for a in range(99) %}{% set n.s = n.s ~ n.s %}"
    "{% endfor %}{{ n.s }}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_chat_template_that_does_not_end(name, whole, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("unime.runtime.bounded.bounded.__defaults__", (1, 1 << 30))
    folder = copy_of(whole["base"], tmp_path / "model")
    put(folder / "chat_template.jinja", TEMPLATES[name].encode())
    start = time.monotonic()
    message = "its chat template (does not end|needs more|says more)"
    assert re.search(message, outcome(exact_model(folder), pictures[0]))
    assert time.monotonic() - start < 60


def test_quantised_weights_are_refused(whole, pictures, tmp_path):
    folder = copy_of(whole["base"], tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    first = next(name for name in weights if "q_proj.weight" in name)
    weights[first] = weights[first].to(torch.int8)
    (folder / "model.safetensors").unlink()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "is of I8: quantised weights" in outcome(exact_model(folder), pictures[0])


def test_a_linked_adapter_is_part_of_the_digest(whole, tmp_path):
    """So that a result of other weights is not kept for these."""
    folder = copy_of(whole["run"], tmp_path / "run")
    before = folder_digest(folder)
    (folder / "00-rank2").rename(tmp_path / "elsewhere")
    (folder / "00-rank2").symlink_to(tmp_path / "elsewhere")
    (folder / "circle").symlink_to(folder)
    assert folder_digest(folder) == before == folder_digest(whole["run"])
    put(tmp_path / "elsewhere/adapter_model.safetensors", b"other weights")
    assert folder_digest(folder) != before


def test_a_link_to_everything_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("unime.runtime.digests.MANY_FILES", 10)
    (tmp_path / "model").mkdir()
    (tmp_path / "other").mkdir()
    for number in range(11):
        (tmp_path / "other" / str(number)).touch()
    (tmp_path / "model/link").symlink_to(tmp_path / "other")
    with pytest.raises(DataError, match="links in it lead to more than 10 files"):
        folder_digest(tmp_path / "model")


def test_a_model_of_links_is_the_model(whole, tmp_path, pictures):
    """As the hub's cache has it: names that lead to what is called by its digest."""
    folder = Path(shutil.copytree(whole["base"], tmp_path / "model", copy_function=os.symlink))
    assert folder_digest(folder) == folder_digest(whole["base"])
    assert outcome(exact_model(folder), pictures[0]) == ""
