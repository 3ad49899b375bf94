"""What a step does not compute twice: equal items, and what a frozen vision tower sees.

pytest tests/training/test_saved_forwards.py
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from tests.support.engine_cases import loss_fn, pairs
from tests.support.exported_runs import shake
from unime.config import InputConfig, LoraSettings
from unime.inputs.items import Item, Pair
from unime.models.encoder import Encoder
from unime.training.chunks import Batch, ChunkLimits
from unime.training.collator import PairCollator
from unime.training.grad_cache import cached_backward
from unime.training.graph_memory import GraphMemory

LIMITS = ChunkLimits(3, 2)


@pytest.fixture
def encoder(load_tiny) -> Encoder:  # type: ignore[no-untyped-def]
    return shake(load_tiny("qwen2_vl", lora=LoraSettings(rank=2, dropout=0.0))).train()


def step(encoder: Encoder, batch: Batch, limit: float = 0.0) -> list[Tensor]:
    encoder.zero_grad()
    cached_backward(Accelerator(cpu=True), encoder, batch, loss_fn, graphs=GraphMemory(limit))
    return [p.grad.clone() for _, p in encoder.trainable_named_parameters() if p.grad is not None]


def twice(folder: Path) -> list[Pair]:
    """Items that come again: as another row's target, and under another path."""
    rows = pairs(folder)
    picture = Path(rows[0].query.images[0])
    copy = folder / "copy.png"
    copy.write_bytes(picture.read_bytes())
    again = [Pair(Item("What is this?", (str(copy),)), rows[4].target, row_id="copy")]
    return rows + [replace(rows[2], row_id="again"), *again]


def one_by_one(encoder: Encoder, rows: list[Pair]) -> list[Tensor]:
    """The plain step over all items, equal ones embedded again, pixels and all."""
    groups = {
        "query": [row.query for row in rows],
        "target": [row.target for row in rows] + [n for row in rows for n in row.negatives],
    }
    encoder.zero_grad()
    labels = PairCollator(encoder.processor, LIMITS)(rows).labels
    process = encoder.processor
    embeddings = {
        name: torch.cat([encoder(process.collate([process(item)])) for item in of])
        for name, of in groups.items()
    }
    loss_fn(embeddings, labels).loss.backward()
    return [p.grad.clone() for _, p in encoder.trainable_named_parameters() if p.grad is not None]


@pytest.mark.parametrize("limit", [0.0, 1.0])
@pytest.mark.parametrize("apart", [False, True])
def test_the_gradient_is_that_of_all_items(
    encoder: Encoder, tmp_path: Path, apart: bool, limit: float
) -> None:
    rows = twice(tmp_path)
    batch = PairCollator(encoder.processor, LIMITS, apart=apart)(rows)
    found, expected = step(encoder, batch, limit), one_by_one(encoder, rows)
    ours, plain = (torch.cat([one.flatten() for one in of]) for of in (found, expected))
    assert (ours - plain).norm() < 1e-5 * plain.norm()


def test_equal_items_share_a_row(encoder: Encoder, tmp_path: Path) -> None:
    rows = twice(tmp_path)
    batch = PairCollator(encoder.processor, LIMITS)(rows)
    items = [row.query for row in rows] + [i for row in rows for i in (row.target, *row.negatives)]
    encoded = sum(len(part["input_ids"]) for chunk in batch.chunks for part in chunk)
    assert sum(batch.groups.values()) == len(items) == 27
    assert encoded == len(set(items)) - 1  # and the copy is what it is a copy of


def test_the_tower_sees_a_picture_once(encoder: Encoder, tmp_path: Path) -> None:
    """However many passes there are, and items that show it."""
    rows = twice(tmp_path)
    rows.append(
        Pair(Item("Another question.", rows[0].query.images), Item("an answer"), row_id="x")
    )
    pictures = seen_by_tower(encoder)
    batch = PairCollator(encoder.processor, LIMITS, apart=True)(rows)
    assert not any("pixel_values" in part for chunk in batch.chunks for part in chunk)
    step(encoder, batch)
    assert sum(pictures) == 7 == sum(len(unit["image_grid_thw"]) for unit in batch.media.units)
    pictures.clear()
    step(encoder, PairCollator(encoder.processor, LIMITS)(rows))
    assert sum(pictures) == 2 * 8  # the item with another question is another item


def test_pixels_go_with_the_last_step_of_a_batch(encoder: Encoder, tmp_path: Path) -> None:
    """They are most of a batch, and a step that has no memory makes it anew."""
    rows, found = twice(tmp_path), []
    for last in (False, True):
        batch = PairCollator(encoder.processor, LIMITS, apart=True)(rows)
        encoder.zero_grad()
        cached_backward(Accelerator(cpu=True), encoder, batch, loss_fn, last=last)
        assert [bool(unit) for unit in batch.media.units] == [not last] * 6
        found.append([p.grad.clone() for _, p in encoder.trainable_named_parameters()])
    assert all(map(torch.equal, *found))


def seen_by_tower(encoder: Encoder) -> list[int]:
    """How many pictures each of its forwards sees, from now on."""
    pictures: list[int] = []
    encoder.model.visual.register_forward_pre_hook(  # type: ignore[operator]
        lambda module, args, kwargs: pictures.append(len(kwargs["grid_thw"])), with_kwargs=True
    )
    return pictures


def test_in_a_second_epoch_the_tower_sees_nothing(load_tiny, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Where features are kept on the disk: nor in another run, nor for other adapters."""
    rows, gradients = twice(tmp_path), []
    for seen in (7, 0):
        encoder = load_tiny(
            "qwen2_vl",
            inputs=InputConfig(feature_store=str(tmp_path / "store")),
            lora=LoraSettings(rank=2, dropout=0.0),
        )
        pictures = seen_by_tower(shake(encoder).train())
        for count in (seen, 0):
            pictures.clear()
            batch = PairCollator(encoder.processor, LIMITS, apart=True)(rows)
            gradients.append(step(encoder, batch))
            assert sum(pictures) == count
    for others in gradients[1:]:
        assert all(map(torch.equal, gradients[0], others))
