"""The store of embeddings: kept, read back, and whole after a kill at any byte.

./launch.sh test tests/data/test_embedding_store.py
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import closing
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from unime.data.embedding_store import RECORD, EmbeddingStore, StoredEmbeddings
from unime.errors import ConfigError, DataError

KEYS = [bytes([number]) * 16 for number in range(1, 8)] + [b"ends in zero" + bytes(4)]


def vectors(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(count, 6, generator=generator))


def open_store(folder: Path) -> EmbeddingStore:
    return EmbeddingStore(folder, {"model": "tiny"})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EmbeddingStore]:
    with closing(open_store(tmp_path / "s")) as store:
        yield store


def test_kept_and_read_back(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s")
    assert store.missing(KEYS) == list(range(8))
    rows = vectors(8)
    store.add(KEYS[:3], rows[:3], [False, True, False])
    store.add([KEYS[7], KEYS[3]], rows[[7, 3]], [True, False])
    assert store.missing([KEYS[5], KEYS[1], KEYS[4]]) == [0, 2]
    reader = StoredEmbeddings.open(tmp_path / "s")  # while the other goes on
    store.add(KEYS[4:5], rows[4:5], [False])
    store.close()
    for again in (reader, open_store(tmp_path / "s")):
        assert again.facts == {"model": "tiny", "dimension": 6}
        assert again.missing(KEYS) == ([4, 5, 6] if again is reader else [5, 6])
        assert torch.equal(again.embeddings([KEYS[7], KEYS[0], KEYS[7]]), rows[[7, 0, 7]])
        assert again.num_truncated(KEYS[:4]) == 1 and again.num_truncated([KEYS[7]]) == 1
        assert again.num_truncated([KEYS[0]]) == 0
        with pytest.raises(KeyError, match="1 of 2 items are missing"):
            again.embeddings([KEYS[0], KEYS[6]])
    again.close()


def test_vectors_stay_on_the_disk(store: EmbeddingStore) -> None:
    store.add(KEYS, vectors(8), [False] * 8)
    mapped = StoredEmbeddings.open(store.folder)._vectors.base
    assert isinstance(mapped, np.memmap) and mapped.mode == "r"


@pytest.mark.parametrize("name", ["vectors", "records"])
def test_a_kill_at_any_byte(store: EmbeddingStore, name: str) -> None:
    """Either file may end anywhere after the first two rows: those are there, the rest comes anew
    and is then right."""
    rows = vectors(5)
    store.add(KEYS[:2], rows[:2], [False, False])
    store.add(KEYS[2:5], rows[2:5], [False, False, True])
    paths = [store.folder / "vectors", store.folder / "records"]
    whole = {path: path.read_bytes() for path in paths}
    size = {"vectors": 6 * 4, "records": RECORD.itemsize}[name]
    for lost in range(1, 3 * size + 1):
        for path, content in whole.items():
            path.write_bytes(content[:-lost] if path.name == name else content)
        expected = list(range(5 - -(-lost // size), 5))
        assert StoredEmbeddings.open(store.folder).missing(KEYS[:5]) == expected
        again = open_store(store.folder)
        missing = again.missing(KEYS[:5])
        assert missing == expected
        again.add([KEYS[n] for n in missing], rows[missing], [False] * len(missing))
        for opened in (again, StoredEmbeddings.open(store.folder)):
            assert torch.equal(opened.embeddings(KEYS[:5]), rows)


def test_a_full_disk_leaves_what_was_there(
    store: EmbeddingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = vectors(5)
    store.add(KEYS[:2], rows[:2], [False, False])
    append = EmbeddingStore._append

    def full(self: EmbeddingStore, name: str, content: bytes, sync: bool = False) -> None:
        append(self, name, content[:13], sync)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(EmbeddingStore, "_append", full)
        with pytest.raises(ConfigError, match="cannot be written: .*No space left"):
            store.add(KEYS[2:4], rows[2:4], [False, False])
    store.add(KEYS[3:5], rows[3:5], [False, False])
    assert torch.equal(store.embeddings([*KEYS[:2], *KEYS[3:5]]), rows[[0, 1, 3, 4]])


def test_other_dimensions_are_refused(store: EmbeddingStore) -> None:
    store.add(KEYS[:2], vectors(2), [False, False])
    with pytest.raises(ConfigError, match="store: .*s has embeddings of 6 dimensions, got 5"):
        store.add(KEYS[2:3], vectors(1)[:, :5], [False])
    assert store.missing(KEYS[:3]) == [2]


def test_damaged_rows_are_not_used(store: EmbeddingStore) -> None:
    store.add(KEYS[:2], vectors(2), [False, False])
    content = bytearray((store.folder / "vectors").read_bytes())
    content[24:48] = bytes(24)
    (store.folder / "vectors").write_bytes(content)
    assert store.embeddings(KEYS[:1]).shape == (1, 6)
    with pytest.raises(DataError, match="s holds rows that are no unit vectors; remove it"):
        store.embeddings(KEYS[:2])


@pytest.mark.parametrize("facts", ["{", "[]", "{}", '{"dimension": null}'])
def test_damaged_facts_are_named(store: EmbeddingStore, facts: str) -> None:
    store.add(KEYS[:2], vectors(2), [False, False])
    (store.folder / "store.json").write_text(facts)
    for opening in (StoredEmbeddings.open, open_store):
        with pytest.raises(DataError, match=r"s/store.json is damaged .*; remove .*/s$"):
            opening(store.folder)


def test_vectors_without_facts_are_forgotten(tmp_path: Path, store: EmbeddingStore) -> None:
    store.add(KEYS[:2], vectors(2), [False, False])
    (store.folder / "store.json").unlink()
    again = open_store(store.folder)
    assert again.missing(KEYS) == list(range(8))
    again.add(KEYS[1:3], vectors(2, seed=1), [False, False])
    assert torch.equal(StoredEmbeddings.open(store.folder).embeddings(KEYS[1:3]), vectors(2, 1))


def hold(folder: Path, opened: Event, end: Event, closed: Event) -> None:
    store = open_store(folder)
    opened.set()
    end.wait(30)
    store.close()
    closed.set()
    time.sleep(30)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    opened, end, closed = (context.Event() for _ in range(3))
    other = context.Process(target=hold, args=(tmp_path, opened, end, closed))
    other.start()
    assert opened.wait(30)
    with pytest.raises(ConfigError, match=f"store: .* is in use by process {other.pid} on"):
        open_store(tmp_path)
    end.set()
    assert closed.wait(30)
    open_store(tmp_path).close()
    other.kill()
    other.join()
