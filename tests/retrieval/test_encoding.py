"""Encoding: each distinct item once, in order, on any number of ranks; signs of collapse.

./launch.sh test tests/retrieval/test_encoding.py
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from torch.nn import functional

from tests.support.embedding import load_exact
from tests.support.ranks import Ranks
from unime.config import InputConfig, ModelConfig, Precision, Quantization
from unime.errors import ConfigError, DataError
from unime.inputs.images import longest_first
from unime.inputs.items import Item
from unime.models.encoder import Encoder
from unime.retrieval.embedder import Prepared
from unime.retrieval.encoding import distinct_items, embedding_statistics, encode, encode_items
from unime.retrieval.unime_embedder import UnimeEmbedder
from unime.runtime.distributed import on_main, together


@pytest.fixture(scope="module")
def accelerator():
    return Accelerator(cpu=True)


@pytest.fixture(scope="module")
def encoder(tiny_model):
    name = str(tiny_model("qwen2_vl"))
    model = ModelConfig(name=name, quantization=Quantization.none, precision=Precision.float32)
    return Encoder.load(model, InputConfig(max_text_tokens=60))


@pytest.fixture(scope="module")
def embedder(encoder):
    return UnimeEmbedder(encoder)


@pytest.fixture
def items(items):
    return [*items, items[0]]


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_every_item_gets_its_own_embedding(accelerator, encoder, embedder, items, batch_size):
    found = encode_items(accelerator, embedder, items, batch_size)
    alone = torch.cat([encoder.encode([item]) for item in items])
    torch.testing.assert_close(found, alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(len(items)))
    found.requires_grad_()  # no inference tensor: it can be used anywhere


@pytest.mark.backbones
def test_rows_that_must_not_share_a_forward(accelerator, load_tiny, items):
    embedder = UnimeEmbedder(load_tiny("mllama"))
    mixed = encode_items(accelerator, embedder, items, batch_size=len(items))
    alone = encode_items(accelerator, embedder, items, batch_size=1)
    torch.testing.assert_close(mixed, alone, rtol=0, atol=1e-5)
    assert (mixed[:4] @ mixed[:4].T).fill_diagonal_(0).max() < 0.99  # told apart


def test_equal_items_are_encoded_once(accelerator, embedder, pictures, tmp_path, monkeypatch):
    copy = str(shutil.copy(pictures[0], tmp_path / "copy.png"))
    items = [Item("x", (pictures[0],)), Item("y"), Item("x", (copy,)), Item("y")]
    seen: list[Item] = []
    prepare = embedder.prepare
    monkeypatch.setattr(embedder, "prepare", lambda of: seen.extend(of) or prepare(of))
    found = encode_items(accelerator, embedder, items, 2)
    assert len(seen) == 2
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[1], found[3])
    distinct = distinct_items(accelerator, items)
    assert distinct.items == items[:2]
    assert distinct.index.tolist() == [0, 1, 0, 1]


def test_items_of_other_spacing_have_embeddings_of_their_own(accelerator):
    """They are equal where only their content counts, and ask a model without a chat otherwise."""
    items = [Item("x"), Item("x", spacing=("\n", "\n")), Item("x")]
    assert items[0] == items[1]
    assert distinct_items(accelerator, items).index.tolist() == [0, 1, 0]
    assert distinct_items(accelerator, items[::-1]).index.tolist() == [0, 1, 0]


def test_worker_processes_change_nothing(accelerator, embedder, items, tmp_path):
    items = [*items, Item("word " * 90)]
    here, there = (
        list(encode(accelerator, embedder, items, 2, num_workers=number)) for number in (0, 2)
    )
    for ours, theirs in zip(here, there, strict=True):
        assert ours.places == theirs.places and ours.truncated == theirs.truncated
        assert torch.equal(ours.embeddings, theirs.embeddings)
    assert [cut for one in here for cut in one.truncated].count(True) == 1
    (tmp_path / "bad.png").write_bytes(b"no picture")
    bad = [*items, Item("", (str(tmp_path / "bad.png"),))]
    with pytest.raises(DataError) as failure:
        list(encode(accelerator, embedder, bad, 2, num_workers=1))
    start = f"bad.png: {tmp_path}/bad.png: "
    assert str(failure.value).startswith(start), "no traceback of a worker in it"


def test_the_longest_come_first(pictures, tmp_path):
    large = tmp_path / "large.png"
    Image.new("RGB", (900, 900)).save(large)
    items = [Item("short"), Item("long " * 50), Item("", (pictures[0],)), Item("", (str(large),))]
    items.append(Item("", (), (pictures[3],) * 3))
    assert longest_first(items) == [3, 1, 4, 0, 2]
    assert longest_first([Item("", (str(tmp_path / "lost.png"),)), Item("a")]) == [1, 0]


def test_no_items(accelerator, embedder):
    assert encode_items(accelerator, embedder, [], 4).shape == (0, embedder.dimension)


def test_what_cannot_be_encoded_is_named(accelerator, encoder, embedder, tmp_path, monkeypatch):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"bad\.png: not a readable image"):
        encode_items(accelerator, embedder, [Item("a"), Item("", (str(tmp_path / "bad.png"),))], 2)
    with pytest.raises(DataError, match=r"lost\.png: cannot read the image"):
        encode_items(accelerator, embedder, [Item("", (str(tmp_path / "lost.png"),))], 2)
    monkeypatch.setattr(encoder, "forward", lambda inputs: torch.full((1, 32), torch.nan))
    with pytest.raises(DataError, match="text 'nan': the embedding is not finite"):
        encode_items(accelerator, embedder, [Item("nan")], 2)
    monkeypatch.setattr(encoder, "forward", lambda inputs: 1 / 0)
    with pytest.raises(DataError, match="ZeroDivisionError: division by zero"):
        encode_items(accelerator, embedder, [Item("a")], 2)


def test_weights_of_zeros_give_no_embedding(accelerator, tiny_model):
    """Their norm is 0: it was stored once, and the disk blamed when it was read."""
    encoder = load_exact(tiny_model("qwen2_vl"))
    for parameter in encoder.parameters():
        parameter.data.zero_()
    items = [Item("a"), Item("more words")]
    with pytest.raises(DataError, match="text 'more words': the embedding has norm 0, expected 1"):
        encode_items(accelerator, UnimeEmbedder(encoder), items, 1)
    with pytest.raises(DataError, match=r"items\[1\]: the embedding has norm 0, expected 1"):
        encoder.encode(items, batch_size=1)


class Letters:
    """An embedder of texts, without a model: how often it sees each text is written to a file."""

    kind, dimension = "letters", 4

    def __init__(self, log: Path) -> None:
        self.log = log

    def prepare(self, items: Sequence[Item]) -> Prepared:
        with self.log.open("a") as file:
            file.writelines(f"{item.text}\n" for item in items)
        return Prepared([item.text for item in items], [len(item.text) > 5 for item in items])

    def embed(self, texts: list[str]) -> torch.Tensor:
        rows = [[text.count(letter) + 0.5 for letter in "abcd"] for text in texts]
        return functional.normalize(torch.tensor(rows), dim=1)


def some_ranks(folder: str) -> None:
    accelerator = Accelerator(cpu=True)
    rank = accelerator.process_index
    texts = ["abcd"[n % 4] * (1 + n % 7) + str(n) for n in range(17)]
    items = [Item(text) for text in texts]
    letters: Any = Letters(Path(folder) / f"{rank}.log")
    rounds = list(encode(accelerator, letters, items, batch_size=2))
    assert sorted(place for one in rounds for place in one.places) == list(range(17))
    for one in rounds:
        expected = letters.embed([texts[place] for place in one.places])
        assert torch.equal(one.embeddings, expected), "put back by index"
        assert one.truncated == [len(texts[place]) > 5 for place in one.places]
    assert len(rounds) == math.ceil(9 / accelerator.num_processes), "9 batches of 2"
    twice = encode_items(accelerator, letters, [items[3], items[0], items[3]], batch_size=1)
    assert torch.equal(twice, letters.embed([texts[3], texts[0], texts[3]]))
    assert on_main(accelerator, lambda: rank) == 0
    with pytest.raises(DataError, match="the ranks have read different rows"):
        distinct_items(accelerator, [Item("the same"), Item(f"row of {rank}")])
    there = [Item("", (str(Path(folder) / f"host{rank}/x.png"),))]  # the same file on each host
    Path(there[0].images[0]).parent.mkdir()
    Path(there[0].images[0]).write_bytes(b"pixels")
    assert len(distinct_items(accelerator, there).keys) == 1
    for kind in (DataError, ConfigError):
        with pytest.raises(kind, match="only on rank 1"):
            together(accelerator, lambda kind=kind: fail(kind) if rank == 1 else None)
    with pytest.raises(DataError, match="KeyError"):
        on_main(accelerator, lambda: {}["lost"])


def fail(kind: type[Exception]) -> None:
    raise kind("only on rank 1")


def test_two_ranks_encode_seventeen_items_once(tmp_path: Path, two_ranks: Ranks) -> None:
    """17 items in batches of 2 do not divide by the ranks: none is left out, none comes twice."""
    two_ranks.run(some_ranks, str(tmp_path))
    assert_encoded_once(tmp_path, 2)


@pytest.mark.evaluation
def test_three_ranks_encode_seventeen_items_once(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path, 3)
    ranks.run(some_ranks, str(tmp_path))
    ranks.stop()
    assert_encoded_once(tmp_path, 3)


def assert_encoded_once(folder: Path, count: int) -> None:
    logs = [(folder / f"{rank}.log").read_text().split() for rank in range(count)]
    seen = [text for log in logs for text in log]
    assert len(seen) == 17 + 2 and len(set(seen)) == 17
    assert all(log for log in logs)


def test_statistics_show_collapse():
    torch.manual_seed(0)
    spread = embedding_statistics(torch.eye(16))
    assert spread["mean_similarity"] == pytest.approx(0, abs=1e-6)
    assert spread["effective_rank"] == pytest.approx(16, rel=1e-4)
    one = functional.normalize(torch.tensor([[1.0, 2.0, 3.0]]))
    collapsed = embedding_statistics(one.repeat(10_000, 1))
    assert collapsed["mean_similarity"] == pytest.approx(1, abs=1e-5)
    assert collapsed["effective_rank"] == pytest.approx(1, abs=1e-2)
    assert embedding_statistics(torch.eye(16)[:1])["mean_similarity"] == 0
