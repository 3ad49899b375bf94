"""Features on the disk: what is read is what was written, or is computed again.

python -m pytest tests/models/features/test_store.py
"""

from __future__ import annotations

import logging
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from tests.support.embedding import difference
from tests.support.exported_runs import shake
from unime.config import InputConfig, LoraSettings
from unime.errors import ConfigError
from unime.inputs.items import Item
from unime.models.encoder import Encoder
from unime.models.features.fingerprint import media_key, tower_fingerprint
from unime.models.features.frozen import Features, set_apart
from unime.models.features.store import END, FeatureStore
from unime.models.features.vision import Vision
from unime.retrieval.encoding import encode_items
from unime.retrieval.unime_embedder import UnimeEmbedder

ROOM = 1 << 30


def key_of(number: int) -> bytes:
    return number.to_bytes(16, "big")


def unit_of(number: int, tokens: int = 3) -> Features:
    generator = torch.Generator().manual_seed(number)
    image = torch.randn(tokens, 5, generator=generator)
    layers = {f"image.deepstack.{n}": image.bfloat16() * n for n in range(2)}
    return {"image": image, **layers, "video": image.half().view(1, tokens, 5)}


def filled(folder: Path, numbers: Any, most: int = ROOM) -> FeatureStore:
    store = FeatureStore(folder, "tower", most)
    for number in numbers:
        store.put([key_of(number)], [unit_of(number)])
    return store


def there(store: FeatureStore, numbers: Any) -> list[int]:
    """Which of these are, each bit for bit."""
    found = dict(zip(numbers, store.get([key_of(number) for number in numbers]), strict=True))
    for number, unit in found.items():
        if unit is not None:
            expected = unit_of(number)
            assert unit.keys() == expected.keys()
            for name, value in unit.items():
                assert value.dtype == expected[name].dtype and torch.equal(value, expected[name])
    return [number for number, unit in found.items() if unit is not None]


def only_file(folder: Path) -> Path:
    (file,) = folder.glob(f"*/*{END}")
    return file


def test_what_is_read_is_what_was_written(tmp_path):
    store = filled(tmp_path, range(4))
    assert there(store, range(6)) == [0, 1, 2, 3]
    assert there(FeatureStore(tmp_path, "tower", ROOM), range(6)) == [0, 1, 2, 3]
    assert there(FeatureStore(tmp_path, "another tower", ROOM), range(6)) == []


def test_one_reads_what_another_adds_meanwhile(tmp_path):
    one, other = filled(tmp_path, [0]), filled(tmp_path, [1])
    assert there(one, [0, 1]) == there(other, [0, 1]) == [0, 1]
    one.put([key_of(2)], [unit_of(2)])
    assert there(other, range(4)) == [0, 1, 2]
    other.put([key_of(2)], [unit_of(2)])  # which is there
    assert sum(len(path.read_bytes()) for path in other.folder.iterdir()) < 4 * 600


def add(folder: Path, numbers: range) -> None:
    filled(folder, numbers)


def test_two_processes_write_at_once(tmp_path):
    context = multiprocessing.get_context("fork")
    parts = [range(0, 60), range(40, 100)]
    writers = [context.Process(target=add, args=(tmp_path, part)) for part in parts]
    for writer in writers:
        writer.start()
    reader, seen = FeatureStore(tmp_path, "tower", ROOM), set[int]()
    while any(writer.is_alive() for writer in writers):
        seen |= set(there(reader, range(100)))  # whole ones only
    assert there(reader, range(100)) == list(range(100)) and len(seen) <= 100
    assert [writer.exitcode for writer in writers] == [0, 0]


def test_a_record_that_a_kill_cut_off_does_not_count(tmp_path):
    filled(tmp_path, range(3))
    whole = (file := only_file(tmp_path)).read_bytes()
    each = len(whole) // 3
    for cut in (len(whole) - 1, 2 * each + 20, 2 * each + 1, 2 * each):
        file.write_bytes(whole[:cut])
        assert there(FeatureStore(tmp_path, "tower", ROOM), range(3)) == [0, 1]
    again = filled(tmp_path, [2])  # into a file of its own
    assert there(again, range(3)) == [0, 1, 2]


def test_what_the_disk_damaged_is_computed_again(tmp_path, caplog):
    filled(tmp_path, range(3))
    file = only_file(tmp_path)
    content = bytearray(file.read_bytes())
    content[len(content) // 3 - 5] ^= 1  # a value of the first record
    file.write_bytes(content)
    store = FeatureStore(tmp_path, "tower", ROOM)
    assert there(store, range(3)) == [1, 2]
    assert f"{file}, byte 0: damaged; computed again" in caplog.text
    store.put([key_of(0)], [unit_of(0)])
    assert there(store, range(3)) == [0, 1, 2]
    content[len(content) // 3] ^= 1  # where the second record begins
    file.write_bytes(content)
    assert there(FeatureStore(tmp_path, "tower", ROOM), [1, 2]) == []
    assert "damaged at byte" in caplog.text


def test_records_that_vanish_are_missing(tmp_path, caplog):
    store = filled(tmp_path, range(2))
    only_file(tmp_path).unlink()
    assert there(store, range(2)) == [] and not caplog.records


def test_a_full_folder_takes_no_more_and_says_so_once(tmp_path, caplog):
    filled(tmp_path, range(2))
    size = only_file(tmp_path).stat().st_size
    store = FeatureStore(tmp_path, "another tower", size + size // 2)  # of the whole folder
    for number in range(4):
        store.put([key_of(number)], [unit_of(number)])
    assert there(store, range(4)) == [0]
    assert len(caplog.records) == 1 and "full" in caplog.text


def test_a_disk_that_fails_ends_the_writing_only(tmp_path, caplog):
    store = FeatureStore(tmp_path, "tower", ROOM)
    store.folder.rmdir()
    for number in range(2):
        store.put([key_of(number)], [unit_of(number)])
    assert there(store, range(2)) == []
    assert len(caplog.records) == 1 and "cannot be written" in caplog.text
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="inputs.feature_store: .*file cannot be written"):
        FeatureStore(tmp_path / "file", "tower", ROOM)


@pytest.fixture
def calls(monkeypatch):
    """How many units each call of the tower was given."""
    found: list[int] = []
    compute = Vision.compute

    def counting(self: Vision, media: Any) -> Any:
        found.append(len(media))
        return compute(self, media)

    monkeypatch.setattr(Vision, "compute", counting)
    return found


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_an_evaluation_sees_each_picture_once(precision, items, load_tiny, tmp_path, calls):
    kept = InputConfig(feature_store=str(tmp_path / "kept"))
    plain = load_tiny("qwen3_vl", precision=precision).encode(items)
    assert calls == []
    asked = [*items, Item("What else?", images=items[1].images)]  # the same picture
    first = load_tiny("qwen3_vl", precision=precision, inputs=kept).encode(asked)
    assert calls == [1] * 4  # items with pictures, each alone: the same beside whatever else
    assert difference(first[: len(items)], plain) < (1e-6 if precision == "float32" else 2e-2)
    again = UnimeEmbedder(load_tiny("qwen3_vl", precision=precision, inputs=kept))
    second = encode_items(Accelerator(cpu=True), again, asked, len(asked))
    assert calls == [1] * 4 and torch.equal(second, first)


def test_other_pixels_have_other_keys(items, load_tiny):
    def keys(**settings: Any) -> list[bytes]:
        processor = load_tiny("qwen2_vl", inputs=InputConfig(**settings)).processor
        return set_apart([processor(item) for item in items])[1].keys

    assert len(set(keys())) == 4 and keys() == keys(prompt="e5v", max_text_tokens=3)
    assert not set(keys()) & set(keys(resolution="56x56"))
    ones, twos = torch.ones(2, 3), torch.ones(3, 2)
    assert media_key({"a": ones}) != media_key({"a": twos}) != media_key({"b": twos})
    assert media_key({"a": ones}) != media_key({"a": ones.double()})


def test_a_fingerprint_is_of_the_tower_as_it_is(load_tiny, tmp_path):
    def of(encoder: Encoder) -> str:
        return tower_fingerprint(encoder.base, encoder.backbone)

    encoder = load_tiny("qwen2_vl")
    base = of(encoder)
    for part in ("llm", "vision"):
        trained = shake(load_tiny("qwen2_vl", lora=LoraSettings(rank=2, train=[part])))
        trained.save_adapters(tmp_path / part)
        stacked = of(load_tiny("qwen2_vl", adapter=tmp_path / part))
        trained.adapters.merge()
        merged = of(trained)
        assert (stacked == base) == (merged == base) == (part == "llm")
        assert stacked != merged or part == "llm"
    encoder.model.visual.merger.mlp[0].bias.data[-1] += 1e-3
    assert len({base, of(encoder), of(load_tiny("qwen2_vl", precision="bfloat16"))}) == 3


def test_an_adapter_on_the_tower_never_reads_the_bases_features(items, load_tiny, tmp_path):
    kept = InputConfig(feature_store=str(tmp_path / "kept"))
    trained = shake(load_tiny("qwen2_vl", lora=LoraSettings(rank=2, train=["vision"])))
    trained.save_adapters(tmp_path / "adapter")
    base = load_tiny("qwen2_vl", inputs=kept).encode(items)
    adapter = tmp_path / "adapter"
    tuned = load_tiny("qwen2_vl", inputs=kept, adapter=adapter).encode(items)
    assert difference(tuned, load_tiny("qwen2_vl", adapter=adapter).encode(items)) < 1e-6
    assert difference(tuned[1], base[1]) > 1e-3


def test_where_it_cannot_be_used_the_log_says_why(load_tiny, tmp_path, caplog):
    kept = InputConfig(feature_store=str(tmp_path / "kept"))
    caplog.set_level(logging.WARNING)
    lora = LoraSettings(rank=2, train=["llm", "vision"])
    assert load_tiny("qwen2_vl", inputs=kept, lora=lora).vision.store is None
    assert "not used: vision tower or projector train" in caplog.text
    assert load_tiny("qwen2_vl", inputs=kept, sharded=True).vision.store is None
    assert "splits the weights of the vision tower" in caplog.text
    assert not (tmp_path / "kept").exists()
    lora = LoraSettings(rank=2)
    assert load_tiny("qwen2_vl", inputs=kept, lora=lora).vision.store is not None
