"""How a batch is cut: pytest tests/training/test_chunks.py"""

from __future__ import annotations

import random

import pytest
import torch

from tests.support.engine_cases import pairs
from tests.support.tiny.models import FAMILIES
from unime.config import OptimConfig
from unime.errors import ConfigError
from unime.inputs.padding import shows_images
from unime.training.chunks import ChunkLimits
from unime.training.collator import PairCollator

IN_PARTS = pytest.param("mllama", marks=pytest.mark.backbones)  # some rows share no forward


@pytest.mark.parametrize("seed", range(20))
def test_every_item_once_within_the_limits(seed: int) -> None:
    chance = random.Random(seed)
    limits = ChunkLimits(chance.randint(1, 9), chance.randint(1, 9), chance.choice([None, 50, 300]))
    lengths = {
        group: [chance.randint(1, 100) for _ in range(chance.randint(1, 40))]
        for group in ("query", "target")
    }
    plan = limits.plan(lengths)
    for group, most in (("query", limits.items), ("target", limits.targets)):
        chunks = [chunk[group] for chunk in plan if group in chunk]
        everything = sorted(item for chunk in chunks for item in chunk)
        assert everything == list(range(len(lengths[group])))
        for chunk in chunks:
            assert len(chunk) <= most
            tokens = len(chunk) * max(lengths[group][item] for item in chunk)
            assert limits.tokens is None or tokens <= limits.tokens or len(chunk) == 1
    longest = [max(lengths["query"][item] for item in c["query"]) for c in plan if "query" in c]
    if len(plan) > 1:
        assert longest == sorted(longest, reverse=True)


def test_one_chunk_where_all_of_it_fits() -> None:
    lengths = {"query": [5, 9, 7], "target": [3, 4]}
    whole = [{"query": [0, 1, 2], "target": [0, 1]}]
    assert ChunkLimits(5, 5).plan(lengths) == whole
    assert ChunkLimits(4, 4).plan(lengths) == [{"query": [1, 2, 0]}, {"target": [1, 0]}]
    assert ChunkLimits(6, 4).plan(lengths) == whole  # half of it queries, half targets
    assert ChunkLimits(5, 4).plan(lengths) != whole
    assert ChunkLimits(9, 9, 35).plan(lengths) == whole  # 3 × 9 and 2 × 4 with padding
    assert ChunkLimits(9, 9, 34).plan(lengths) == [{"query": [1, 2, 0]}, {"target": [1, 0]}]


def test_halving() -> None:
    limits, seen = ChunkLimits(9, 3, 100), []
    while limits is not None:
        seen.append((limits.items, limits.targets, limits.tokens))
        limits = limits.halved()  # type: ignore[assignment]
    assert seen == [(9, 3, 100), (4, 1, 50), (2, 1, 25), (1, 1, 12)]
    optim = OptimConfig(1, None, 8, 4, 1e-3, target_chunk_size=2, chunk_tokens=99)
    assert str(ChunkLimits.of(optim)) == (
        "optim.chunk_size=4 optim.target_chunk_size=2 optim.chunk_tokens=99"
    )
    with pytest.raises(ConfigError, match="optim.target_chunk_size: got 0, expected positive"):
        OptimConfig(1, None, 8, 4, 1e-3, target_chunk_size=0)


@pytest.mark.parametrize("family", ["qwen2_vl", IN_PARTS])
def test_order_puts_rows_back(family, tmp_path, load_tiny) -> None:  # type: ignore[no-untyped-def]
    """Embeddings of chunks of any size, put in order, are those of the whole; padding shrinks."""
    encoder = load_tiny(family).eval()
    rows = pairs(tmp_path)
    whole = PairCollator(encoder.processor, ChunkLimits(99, 99))(rows)
    shares = []
    with torch.no_grad():
        expected = whole.by_group(encoder(whole.chunks[0]))
        for limits in (ChunkLimits(3, 2), ChunkLimits(1, 4), ChunkLimits(9, 9, 40)):
            batch = PairCollator(encoder.processor, limits)(rows)
            parts = torch.cat([encoder(chunk) for chunk in batch.chunks])
            torch.testing.assert_close(batch.by_group(parts), expected, rtol=1e-4, atol=1e-5)
            assert batch.groups == whole.groups and batch.num_tokens[0] == whole.num_tokens[0]
            shares.append(batch.num_tokens[1])
    assert max(shares) < whole.num_tokens[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_blank_image_changes_nothing(family, load_tiny, items) -> None:  # type: ignore[no-untyped-def]
    """But that the vision tower runs, and is in the graph."""
    encoder = load_tiny(family)
    texts = [encoder.processor(item) for item in items if not item.images]
    part = encoder.processor.collate(texts)
    assert not shows_images(part)
    plain, shown = encoder([part]), encoder([part], [True])
    torch.testing.assert_close(plain, shown, rtol=1e-4, atol=1e-5)
    encoder.requires_grad_(True)
    encoder([part], [True])[:, 0].sum().backward()
    reached = [name for name, p in encoder.named_parameters() if p.grad is not None]
    assert {"vision", "llm"} <= {encoder.backbone.part_of(name) for name in reached}
