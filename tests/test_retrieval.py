"""Encoding in order, scoring one's own candidates, ties, and signs of collapse.

./launch.sh test tests/test_retrieval.py
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch.nn import functional

from unime.config import InputConfig, ModelConfig, Precision, Quantization
from unime.encoder import Encoder
from unime.items import DataError, Item
from unime.retrieval import (
    candidate_index,
    distinct_items,
    embedding_statistics,
    encode_distinct,
    encode_items,
    hit_at_1,
    rank_candidates,
    score_candidates,
)

NONE = float("-inf")


@pytest.fixture(scope="module")
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


@pytest.fixture(scope="module")
def encoder(tiny_model: Callable[..., Path]) -> Encoder:
    name = str(tiny_model("qwen2_vl"))
    model = ModelConfig(name=name, quantization=Quantization.none, precision=Precision.float32)
    return Encoder.load(model, InputConfig(max_text_tokens=60))


@pytest.fixture
def items(pictures: list[str]) -> list[Item]:
    return [
        Item("a short text"),
        Item("", (pictures[0],)),
        Item("a text that is quite a bit longer than the others"),
        Item("a question", (pictures[1],)),
        Item("a short text"),
        Item("", (pictures[3],)),
        Item("two", (pictures[0], pictures[2])),
    ]


def spy(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> list[Item]:
    """The items that are prepared from now on."""
    seen: list[Item] = []
    real = encoder.processor

    class Processor:
        num_truncated = 0
        parts = staticmethod(real.parts)

        def __call__(self, item: Item) -> Any:
            seen.append(item)
            return real(item)

    monkeypatch.setattr(encoder, "processor", Processor())
    return seen


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_every_item_gets_its_own_embedding(
    accelerator: Accelerator, encoder: Encoder, items: list[Item], batch_size: int
) -> None:
    encoder.train()
    found = encode_items(accelerator, encoder, items, batch_size)
    assert encoder.training, "the mode is not put back"
    encoder.eval()
    for row, item in zip(found, items, strict=True):
        with torch.no_grad():
            alone = encoder(encoder.processor.collate([encoder.processor(item)]))[0]
        torch.testing.assert_close(row, alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(len(items)))
    found.requires_grad_()  # no inference tensor: it can be used anywhere


@pytest.mark.backbones
def test_rows_that_must_not_share_a_forward(
    accelerator: Accelerator, load_tiny: Callable[..., Encoder], items: list[Item]
) -> None:
    encoder = load_tiny("mllama")
    together = encode_items(accelerator, encoder, items, batch_size=len(items))
    alone = encode_items(accelerator, encoder, items, batch_size=1)
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    assert (together[:4] @ together[:4].T).fill_diagonal_(0).max() < 0.99  # told apart


def test_equal_items_are_encoded_once(
    accelerator: Accelerator,
    encoder: Encoder,
    pictures: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copy = str(shutil.copy(pictures[0], tmp_path / "copy.png"))
    items = [Item("x", (pictures[0],)), Item("y"), Item("x", (copy,)), Item("y")]
    seen = spy(encoder, monkeypatch)
    found = encode_items(accelerator, encoder, items, 2)
    assert len(seen) == 2
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[1], found[3])
    distinct = distinct_items(accelerator, items)
    assert distinct.items == items[:2]
    assert distinct.index.tolist() == [0, 1, 0, 1]


def test_worker_processes_change_nothing(
    accelerator: Accelerator, encoder: Encoder, items: list[Item]
) -> None:
    items = [*items, Item("word " * 90)]
    here = encode_distinct(accelerator, encoder, items, 2, num_workers=0)
    there = encode_distinct(accelerator, encoder, items, 2, num_workers=2)
    assert torch.equal(here.embeddings, there.embeddings)
    assert here.num_truncated == there.num_truncated == 1


def test_no_items(accelerator: Accelerator, encoder: Encoder) -> None:
    assert encode_items(accelerator, encoder, [], 4).shape == (0, encoder.hidden_size)


def test_what_cannot_be_encoded_is_named(
    accelerator: Accelerator,
    encoder: Encoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"bad\.png: not a readable image"):
        encode_items(accelerator, encoder, [Item("a"), Item("", (str(tmp_path / "bad.png"),))], 2)
    with pytest.raises(DataError, match=r"lost\.png: cannot read the image"):
        encode_items(accelerator, encoder, [Item("", (str(tmp_path / "lost.png"),))], 2)
    monkeypatch.setattr(encoder, "forward", lambda inputs: torch.full((1, 32), torch.nan))
    with pytest.raises(DataError, match=r"the embedding of Item\(text='nan'.* is not finite"):
        encode_items(accelerator, encoder, [Item("nan")], 2)

    def explode(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        raise RuntimeError("out of everything")

    monkeypatch.setattr(encoder, "forward", explode)
    with pytest.raises(DataError, match="RuntimeError: out of everything"):
        encode_items(accelerator, encoder, [Item("a")], 2)


def unit(*rows: list[float]) -> torch.Tensor:
    return functional.normalize(torch.tensor(rows), dim=1)


def test_each_query_is_scored_against_its_own_candidates() -> None:
    torch.manual_seed(0)
    queries = functional.normalize(torch.randn(600, 8), dim=1)  # more than one block
    vectors = functional.normalize(torch.randn(50, 8), dim=1)
    lists = [torch.randint(50, (2 + n % 5,)).tolist() for n in range(600)]
    scores = score_candidates(queries, vectors, candidate_index(lists))
    for query, candidates, row in zip(queries, lists, scores, strict=True):
        expected = torch.stack([query @ vectors[c] for c in candidates])
        torch.testing.assert_close(row[: len(candidates)], expected)
        assert (row[len(candidates) :] == NONE).all()


def test_hits_and_ties() -> None:
    scores = torch.tensor(
        [
            [0.9, 0.5, 0.1],
            [0.5, 0.9, 0.1],
            [0.7, 0.7, 0.1],  # a copy of the right one never hurts
            [0.2, NONE, NONE],
            [-0.9, -0.1, NONE],
            [0.3, 0.3, 0.4],
        ]
    )
    assert hit_at_1(scores).tolist() == [True, False, True, True, False, False]
    assert rank_candidates(scores, 2).tolist() == [[0, 1], [1, 0], [0, 1], [0, 1], [1, 0], [2, 0]]
    assert rank_candidates(scores).shape == (6, 3)


def test_equal_embeddings_score_exactly_equal() -> None:
    torch.manual_seed(0)
    queries = functional.normalize(torch.randn(64, 33), dim=1)
    one = functional.normalize(torch.randn(1, 33), dim=1)
    vectors = torch.cat([functional.normalize(torch.randn(70, 33), dim=1), one, one])
    scores = score_candidates(queries, vectors, candidate_index([[71, 70]] * 64))
    assert torch.equal(scores[:, 0], scores[:, 1])
    assert hit_at_1(scores).all()


def test_statistics_show_collapse() -> None:
    torch.manual_seed(0)
    spread = embedding_statistics(torch.eye(16))
    assert spread["mean_similarity"] == pytest.approx(0, abs=1e-6)
    assert spread["effective_rank"] == pytest.approx(16, rel=1e-4)
    collapsed = embedding_statistics(unit([1.0, 2.0, 3.0]).repeat(10_000, 1))
    assert collapsed["mean_similarity"] == pytest.approx(1, abs=1e-5)
    assert collapsed["effective_rank"] == pytest.approx(1, abs=1e-2)
    assert embedding_statistics(torch.eye(16)[:1])["mean_similarity"] == 0
