"""Items become rows that keep their prompt, their images and nothing of their neighbours.

python -m pytest tests/models/test_item_processor.py
"""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from tests.support.embedding import difference, embed, exact_model
from tests.support.tiny.chat_templates import SENTENCE, TOGETHER
from tests.support.tiny.models import FAMILIES
from unime.backbones.families import BACKBONES
from unime.config import InputConfig
from unime.data.datasets import TextRow
from unime.errors import DataError
from unime.inputs.images import sample_frames
from unime.inputs.items import Item, Pair, item_key, video_frames
from unime.inputs.padding import shows_images
from unime.models.encoder import Encoder
from unime.models.item_processor import ItemProcessor
from unime.models.prompts import render
from unime.training.chunks import ChunkLimits
from unime.training.collator import PairCollator, TextCollator


@pytest.fixture
def processor(tiny_model):
    def build(family="qwen2_vl", **inputs):
        hf_processor = AutoProcessor.from_pretrained(tiny_model(family))
        return ItemProcessor(hf_processor, BACKBONES[family], InputConfig(**inputs))

    return build


def decode(item_processor, sample):
    return item_processor.tokenizer.decode(sample["input_ids"])


def save(tmp_path, pixels, name="image.png", **options):
    path = tmp_path / name
    Image.fromarray(pixels).save(path, **options)
    return str(path)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_is_padded_on_the_left(family, items, processor):
    prepare = processor(family)
    samples = [prepare(item) for item in items]
    for places, batch in prepare.parts(samples):
        for row, place in enumerate(places):
            sample = samples[place]
            length = len(sample["input_ids"])
            padding = batch["input_ids"].shape[1] - length
            assert batch["attention_mask"][row].tolist() == [0] * padding + [1] * length
            assert torch.equal(batch["input_ids"][row, padding:], sample["input_ids"])
            assert (batch["input_ids"][row, :padding] == prepare.tokenizer.pad_token_id).all()
            if "mm_token_type_ids" in sample:
                of_images = batch["input_ids"][row] == prepare.hf_processor.image_token_id
                assert torch.equal(batch["mm_token_type_ids"][row] == 1, of_images)
    assert not shows_images(prepare.collate([samples[0], samples[5]]))


@pytest.mark.backbones
def test_rows_that_must_not_share_a_forward(items, processor):
    prepare = processor("mllama")
    samples = [prepare(item) for item in items]
    parts = prepare.parts(samples)
    assert [places for places, _ in parts] == [[0, 5], [1, 2], [3, 4]]  # no, one, two images
    assert [len(batch["input_ids"]) for _, batch in parts] == [2, 2, 2]
    with pytest.raises(ValueError, match="these rows of mllama must not share a forward"):
        prepare.collate(samples)
    text, image = prepare.with_blank_image(parts[0][1])
    assert not shows_images(text) and image["pixel_values"].shape[:2] == (1, 1)
    assert {key: value.tolist() for key, value in text.items()} == {
        key: value.tolist() for key, value in parts[0][1].items()
    }


@pytest.mark.backbones
def test_chunks_of_rows_that_must_not_share_a_forward(items, processor):
    """The rows of all parts, in Batch.order, are those of the groups."""
    prepare = processor("mllama")
    pairs = [Pair(items[i], items[5 - i], (items[2],), f"T:{i}") for i in (1, 0, 2)]
    sides = [pair.query for pair in pairs] + [pair.target for pair in pairs] + [items[2]] * 3
    expected = [prepare(item)["input_ids"].tolist() for item in sides]
    for most, parts in ((99, [4]), (2, [2, 1, 2, 1])):
        batch = PairCollator(prepare, ChunkLimits(most, most))(pairs)
        assert [len(chunk) for chunk in batch.chunks] == parts
        rows = [
            row[mask.bool()].tolist()
            for chunk in batch.chunks
            for part in chunk
            for row, mask in zip(part["input_ids"], part["attention_mask"], strict=True)
        ]
        assert [rows[place] for place in batch.order] == expected


def test_images_are_joined_in_order(items, processor):
    prepare = processor("llava_onevision")
    samples = [prepare(item) for item in items]
    batch = prepare.collate(samples)
    assert batch["batch_num_images"].tolist() == [1, 1, 2, 2]
    assert batch["image_sizes"].tolist() == [
        [20, 40], [48, 20], [16, 16], [64, 64], [31, 30], [20, 40],
    ]  # fmt: skip
    tiles = samples[1]["pixel_values"]
    assert torch.equal(batch["pixel_values"][0, : tiles.shape[1]], tiles[0])
    assert (batch["pixel_values"][0, tiles.shape[1] :] == 0).all()


def test_idefics_gets_a_row_of_zeros_for_a_text(items, processor):
    prepare = processor("idefics3")
    samples = [prepare(item) for item in items]
    batch = prepare.collate(samples)
    assert len(batch["pixel_values"]) == len(batch["pixel_attention_mask"]) == len(items)
    has_pixels = batch["pixel_values"].flatten(1).abs().sum(dim=1) > 0
    assert has_pixels.tolist() == [bool(item.images) for item in items]
    assert "pixel_values" not in samples[0]


def test_samples_that_do_not_belong_together(items, processor):
    prepare = processor()
    samples = [prepare(item) for item in items[:2]]
    del samples[0]["mm_token_type_ids"]
    with pytest.raises(ValueError, match="1 samples lack 'mm_token_type_ids'"):
        prepare.collate(samples)
    with pytest.raises(ValueError, match="no sample"):
        prepare.collate([])


def test_token_types_that_do_not_fit_are_refused(pictures, processor, monkeypatch):
    prepare = processor("qwen2_5_vl")
    item = Item(images=(pictures[0],))
    prepare.hf_processor.create_mm_token_type_ids = lambda ids: [[0] * len(row) for row in ids]
    with pytest.raises(ValueError, match="qwen2_5_vl: mm_token_type_ids miss image tokens"):
        prepare(item)
    prepare.hf_processor.return_mm_token_type_ids = False
    with pytest.raises(ValueError, match="qwen2_5_vl returned no mm_token_type_ids"):
        prepare(item)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_long_text_loses_its_end_only(family, pictures, processor):
    prepare = processor(family, max_text_tokens=10)
    words = " ".join(f"word{number}" for number in range(500))
    sample = prepare(Item(words, (pictures[0], pictures[3])))
    whole = processor(family)(Item("word0", (pictures[0], pictures[3])))
    image = prepare.hf_processor.image_token_id
    assert (sample["input_ids"] == image).sum() == (whole["input_ids"] == image).sum() > 0
    assert prepare.num_truncated == 1
    prompt = decode(prepare, sample)
    assert "Summary above image and sentence in one word:" in prompt
    text = prompt[prompt.index("word0") : prompt.index("\nSummary")]
    assert words.startswith(text) and 5 < len(text) < 50
    assert len(prepare.tokenizer(text, add_special_tokens=False)["input_ids"]) <= 10
    prepare(Item("short"))
    assert prepare.num_truncated == 1


def test_thousands_of_tokens(pictures, processor, load_tiny):
    """Nothing but the text is cut, however long it is, and what is left is embedded."""
    words = " ".join(f"word{number}" for number in range(3000))
    encoder = load_tiny("qwen2_vl", inputs=InputConfig(max_text_tokens=4000))
    items = [Item(text, (pictures[0], pictures[3])) for text in (words, "a")]
    long, plain = (encoder.processor(item)["input_ids"] for item in items)
    assert 4000 < len(long) < 4200 and encoder.processor.num_truncated == 1
    image = encoder.processor.hf_processor.image_token_id
    assert (long == image).sum() == (plain == image).sum()
    assert torch.equal(long[-12:], plain[-12:])
    both = embed(encoder, items)
    assert both.isfinite().all() and difference(both[1:], embed(encoder, items[1:])) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_more_tokens_than_the_model_has_positions(family, pictures, tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model(family), tmp_path / family)
    config = json.loads((folder / "config.json").read_text())
    config.get("text_config", config)["max_position_embeddings"] = 120
    (folder / "config.json").write_text(json.dumps(config))
    prepare = Encoder.load(exact_model(folder), InputConfig(num_frames=32)).processor
    assert len(prepare(Item("a"))["input_ids"]) <= 120
    refused = {Item("word " * 300): "inputs.max_text_tokens"}
    if family != "mllama":  # whose images are no tokens
        shown = (pictures[3],) * 32
        sizes = f"{'inputs.max_tiles, ' if BACKBONES[family].tiles else ''}inputs.resolution"
        refused[Item(video=shown)] = f"inputs.num_frames, {sizes}"
        refused[Item("a", shown)] = f"{sizes}, inputs.max_text_tokens"
    for item, lower in refused.items():
        message = rf"(word|64x64.png).*: \d+ tokens, more than the 120 of .*; to lower: {lower}$"
        with pytest.raises(DataError, match=message):
            prepare(item)


@pytest.mark.parametrize("text", ["naïve 🐦🐦🐦 Vögel und 鳥 " * 9, "🐦" * 40, "a" * 99])
def test_a_cut_never_splits_a_character(text, processor):
    prepare = processor(max_text_tokens=14)
    cut, is_cut = prepare.shown(text)
    assert is_cut and cut and text.startswith(cut) and len(cut) < len(text)
    assert len(prepare.tokenizer(cut)["input_ids"]) <= 14


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "text",
    [
        "a few words of which none is long " * 40,
        "word " * 9 + "onewordthatgoesonandon" * 90,
        "line\n\n  and  space " * 40,
        " " * 3000 + "words behind white space " * 9,
        "naïve Vögel 鳥鳥鳥 🐦" * 60,
    ],
)
def test_a_long_text_is_cut_where_all_of_it_would_be(family, text, processor):
    """Only what may be read is tokenised."""
    prepare = processor(family, max_text_tokens=14)
    plain = prepare.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    offsets = plain["offset_mapping"]
    whole = text if len(offsets) <= 14 else text[: offsets[14][0]]
    assert prepare.shown(text) == (whole, len(offsets) > 14)


@pytest.mark.parametrize("text", ["word " * 2_000_000, "a" * 9_000_000, "<image>" * 1_000_000])
def test_a_text_of_megabytes_takes_no_time(text, processor, monkeypatch):
    prepare, lengths = processor(max_text_tokens=14), []
    plain = prepare.tokenizer

    class Counting:
        def __call__(self, head, **settings):
            lengths.append(len(head))
            return plain(head, **settings)

        def __getattr__(self, name):
            return getattr(plain, name)

    monkeypatch.setattr(prepare, "tokenizer", Counting())
    shown, is_cut = prepare.shown(text)
    assert is_cut and len(shown) < 15 * 256 and max(lengths) <= 2 * 15 * 256


def test_an_instruction_of_megabytes_is_refused(processor):
    with pytest.raises(DataError, match=r"an instruction of 2,000,000 characters"):
        processor()(Item("a", instruction="a" * 2_000_000))


@pytest.mark.parametrize("family", FAMILIES)
def test_control_tokens_in_a_text_are_text(family, pictures, processor):
    prepare = processor(family)
    special = [*prepare.tokenizer.all_special_tokens, "<image>", "<|image_pad|>", "<|im_end|>"]
    text = "What does " + " or ".join(special) + "".join(special) + " mean?"
    ids = set(prepare.tokenizer.all_special_ids)
    for images in ((), (pictures[0],), (pictures[1], pictures[3])):
        plain = prepare(Item("What?", images))["input_ids"].tolist()
        sample = prepare(Item(text, images))["input_ids"].tolist()
        assert [i for i in sample if i in ids] == [i for i in plain if i in ids]
        told = prepare(Item("What?", images, instruction=text))["input_ids"].tolist()
        assert [i for i in told if i in ids] == [i for i in plain if i in ids]
        nested = "".join(f"{one[:-1]}{one}{one[-1]} {one[0]}{one}" for one in special)
        inside = prepare(Item(nested, images))["input_ids"].tolist()
        assert [i for i in inside if i in ids] == [i for i in plain if i in ids]
    image = prepare.hf_processor.image_token
    assert f"{image[0]} {image[1:]}" in decode(prepare, prepare(Item(text)))


def test_ordinary_text_is_left_alone(processor):
    prepare = processor("llava_next")
    text = "a < b > c, [INST] & <b>bold</b> | image\n\ttabs  {x}"
    assert prepare.neutralise(text) == text
    assert prepare.neutralise("bad \ud83d half") == "bad ? half"
    prompt = render(Item(text), prepare.hf_processor, prepare.backbone, "unime")
    assert decode(prepare, prepare(Item(text))) == prompt


def test_a_beginning_token_in_the_template_is_not_doubled(tiny_model):
    hf_processor = AutoProcessor.from_pretrained(tiny_model("llava_next"))
    hf_processor.tokenizer.bos_token = "<|im_start|>"
    hf_processor.chat_template = "{{ bos_token }}" + str(BACKBONES["llava_next"].chat_template)
    prepare = ItemProcessor(hf_processor, BACKBONES["llava_next"], InputConfig())
    ids = prepare(Item("a cat"))["input_ids"].tolist()
    assert ids.count(hf_processor.tokenizer.bos_token_id) == 1


def test_resolution(pictures, processor):
    for resolution, size in {
        "native": [20, 40],
        "16x16": [16, 16],
        "30x10": [10, 30],  # height first
        "0..200": [10, 20],
        "3200..9999": [40, 80],
        "100..800": [20, 40],
    }.items():
        prepare = processor("llava_next", resolution=resolution)
        assert prepare(Item(images=(pictures[1],)))["image_sizes"].tolist() == [size]


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_qwen_keeps_pixels_in_a_range_itself(family, pictures, processor):
    few, many = (processor(family, resolution=text) for text in ("64..64", "1024..4096"))
    patches = [len(prepare(Item(images=(pictures[3],)))["pixel_values"]) for prepare in (few, many)]
    assert patches == [64 // 16, 4096 // 16]
    size = few.hf_processor.image_processor.size
    assert (size["shortest_edge"], size["longest_edge"]) == (64, 64)  # which an export carries


def test_frames_are_spread_evenly(pictures, processor, tmp_path):
    for number in range(12):
        Image.new("RGB", (16, 16), (20 * number, 0, 0)).save(tmp_path / f"frame{number}.png")
    (tmp_path / "notes.txt").touch()
    frames = video_frames(tmp_path)
    assert [Path(frame).stem for frame in frames[:3]] == ["frame0", "frame1", "frame2"]
    assert [Path(frame).stem for frame in sample_frames(frames, 4)] == [
        "frame0", "frame3", "frame7", "frame11",
    ]  # fmt: skip
    assert sample_frames(frames[:3], 4) == list(frames[:3])
    prepare = processor("llava", num_frames=3)  # which has no videos: its frames are images
    sample = prepare(Item("What happens?", video=frames))
    assert len(sample["pixel_values"]) == 3
    assert "Summary above image and sentence in one word:" in decode(prepare, sample)
    with pytest.raises(DataError, match="nowhere: cannot read the frames: No such file"):
        video_frames(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: no frames"):
        video_frames(tmp_path / "empty")
    still = [Item(images=frames[:2]), Item(video=frames[:2]), Item(video=frames[:1])]
    told = [Item("a"), Item("a", instruction="a"), Item(instruction="a")]
    assert len({item_key(item) for item in still + told}) == 6


@pytest.mark.backbones
@pytest.mark.parametrize("family", ["gemma3", "paligemma", "mllama"])
def test_a_text_begins_once(family, items, processor):
    prepare = processor(family)
    begin = prepare.tokenizer.bos_token_id
    assert [prepare(item)["input_ids"].tolist().count(begin) for item in items] == [1] * 6


@pytest.mark.backbones
def test_a_text_alone_is_tokenised_as_beside_an_image(pictures, processor):
    prepare = processor("paligemma")
    text, both = prepare(Item("a cat")), prepare(Item("a cat", (pictures[0],)))
    assert text.keys() == both.keys() - {"pixel_values"}
    assert decode(prepare, text) == f"<bos>a cat\n{SENTENCE}\n"
    assert decode(prepare, both) == f"{'<image>' * 16}<bos>a cat\n{TOGETHER}\n"
    for sample in (text, both):
        assert not sample["token_type_ids"].any() and sample["attention_mask"].all()


def test_transparent_is_white_and_rotated_is_upright(tmp_path, processor):
    clear = np.zeros((16, 16, 4), dtype=np.uint8)
    white = np.full((16, 16, 3), 255, dtype=np.uint8)
    gradient = np.repeat(np.arange(0, 256, 16, dtype=np.uint8)[None, :, None], 16, 0).repeat(3, 2)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    paths = [
        save(tmp_path, clear, "clear.png"),
        save(tmp_path, white, "white.png"),
        save(tmp_path, gradient, "turned.png", exif=exif),
        save(tmp_path, np.rot90(gradient, -1).copy(), "upright.png"),
    ]
    prepare = processor("llava", resolution="16x16")
    seen = [prepare(Item(images=(path,)))["pixel_values"] for path in paths]
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[2], seen[3])


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "CMYK", "I;16"])
def test_every_kind_of_picture(mode, tmp_path, processor):
    path = tmp_path / ("image.tiff" if mode == "CMYK" else "image.png")
    Image.new(mode, (20, 30)).save(path)
    assert processor()(Item(images=(str(path),)))["pixel_values"].isfinite().all()


def test_bad_items(tmp_path, processor):
    prepare = processor("qwen2_vl", max_image_pixels=1000)
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    large = save(tmp_path, noise, "large.png")
    cut = tmp_path / "cut.jpg"
    Image.fromarray(noise[:30, :30]).save(cut)
    cut.write_bytes(cut.read_bytes()[:300])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").touch()
    thin = save(tmp_path, noise[:1].repeat(7, 1), "thin.png")
    for images, message in {
        (large,): "large.png: 40 x 40 pixels, more than inputs.max_image_pixels=1000",
        (str(tmp_path / "missing.png"),): "missing.png: there is no such image",
        (str(cut),): "cut.jpg: not a readable image: ",
        (str(tmp_path / "text.png"),): "text.png: not a readable image: cannot identify",
        (str(tmp_path / "empty.png"),): "empty.png: not a readable image: cannot identify",
        (str(tmp_path),): f"{tmp_path}: a folder",
        (thin,): "thin.png: 280 x 1 pixels, one side more than 200 times the other",
        (): "an item has neither text nor image",
    }.items():
        with pytest.raises(DataError, match=message):
            prepare(Item(" " if not images else "", images))


def test_pair_collator(pictures, processor):
    """Equal items share a row of the chunks, whichever group they are in."""
    a, b = Item("a cat"), Item(images=(pictures[0],))
    c, d = Item("what is it?", (pictures[1],)), Item("a dog")
    pairs = [Pair(c, a, (d, b), "T:0"), Pair(b, d, (), "T:1"), Pair(c, a, (a,), "T:2")]
    prepare = processor(max_text_tokens=4)
    batch = PairCollator(prepare, ChunkLimits(2, 2))(pairs)
    sizes = [[len(part["input_ids"]) for part in chunk] for chunk in batch.chunks]
    assert sizes == [[2], [2]]  # c and b, a and d
    by_group = {name: rows.tolist() for name, rows in batch.by_group(torch.arange(5)).items()}
    assert by_group == {"query": [0, 1, 0], "target": [2, 3, 2, 3, 1, 2]}
    whole = PairCollator(prepare, ChunkLimits(9, 9))(pairs)
    assert [[len(part["input_ids"]) for part in chunk] for chunk in whole.chunks] == [[2, 2]]
    assert batch.groups == {"query": 3, "target": 6}
    assert batch.labels["query_key"].tolist() == [item_key(item) for item in (c, b, c)]
    assert batch.labels["target_key"].tolist() == [item_key(x) for x in (a, d, a, d, b, a)]
    assert batch.labels["is_positive"].tolist() == [True] * 3 + [False] * 3
    assert batch.row_ids == ["T:0", "T:1", "T:2"]
    assert batch.num_truncated == 2  # "what is it?", twice


def test_a_bad_row_is_named(processor):
    pairs = [Pair(Item("a"), Item("b"), row_id="T:0"), Pair(Item("a"), Item(""), row_id="T:1")]
    with pytest.raises(DataError, match="row T:1: an item has neither text nor image"):
        PairCollator(processor(), ChunkLimits(2, 2))(pairs)


def test_text_collator(processor):
    teachers = torch.eye(3)
    rows = [TextRow(f"text {i}", teachers[i], f"nli:{i}") for i in range(3)]
    collate = TextCollator(processor(), ChunkLimits(2, 2))
    batch = pickle.loads(pickle.dumps(collate))(rows)  # as a worker gets it
    assert [[len(part["input_ids"]) for part in chunk] for chunk in batch.chunks] == [[2], [1]]
    assert batch.groups == {"text": 3}
    assert torch.equal(batch.labels["teacher"], teachers) and batch.num_truncated == 0
    assert batch.row_ids == ["nli:0", "nli:1", "nli:2"]
