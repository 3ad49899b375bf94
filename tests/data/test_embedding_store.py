"""The store of embeddings: kept, read back, and whole after a kill at any byte.

./launch.sh test tests/data/test_embedding_store.py
"""

from __future__ import annotations

import multiprocessing
import resource
import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from unime.data.embedding_store import EmbeddingStore, StoredEmbeddings
from unime.data.stores.files import GROWING, RECORD
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
    mapped = StoredEmbeddings.open(store.folder)._rows.vectors.base
    assert isinstance(mapped, np.memmap) and mapped.mode == "r"


def test_a_kill_at_any_byte(store: EmbeddingStore) -> None:
    """Of all that the second addition writes, in its order, so much is on the disk: the first two
    rows are there, and so is what has a record; the rest comes anew and is then right."""
    rows = vectors(5)
    paths = [store.folder / name for name in GROWING]
    store.add(KEYS[:2], rows[:2], [False, False])
    before = [path.read_bytes() for path in paths]
    store.add(KEYS[2:5], rows[2:5], [False, False, True])
    after = [path.read_bytes() for path in paths]
    added = [len(new) - len(old) for new, old in zip(after, before, strict=True)]
    for written in range(sum(added) + 1):
        left = written
        for path, old, content, size in zip(paths, before, after, added, strict=True):
            path.write_bytes(content[: len(old) + min(left, size)])
            left = max(left - size, 0)
        expected = list(range(paths[2].stat().st_size // RECORD.itemsize, 5))
        assert StoredEmbeddings.open(store.folder).missing(KEYS[:5]) == expected
        again = open_store(store.folder)
        missing = again.missing(KEYS[:5])
        assert missing == expected
        again.add([KEYS[n] for n in missing], rows[missing], [False] * len(missing))
        for opened in (again, StoredEmbeddings.open(store.folder)):
            assert torch.equal(opened.embeddings(KEYS[:5]), rows)


@pytest.mark.parametrize("name", GROWING)
def test_a_full_disk_leaves_what_was_there(store: EmbeddingStore, name: str) -> None:
    """The limit on a file's size stands for it: the write that passes it comes back short."""
    rows, size = vectors(5), {"vectors": 24, "digests": 4, "records": 17}[name]
    store.add(KEYS[:2], rows[:2], [False, False])
    before = {path: path.read_bytes() for path in store.folder.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    append = EmbeddingStore._append

    def full(self: EmbeddingStore, of: str, content: bytes) -> None:
        if of == name:
            resource.setrlimit(resource.RLIMIT_FSIZE, (3 * size + 1, hard))
        append(self, of, content)

    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(EmbeddingStore, "_append", full)
            with pytest.raises(ConfigError, match="cannot be written: .*; what was kept before st"):
                store.add(KEYS[2:5], rows[2:5], [False, False, False])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path: path.read_bytes() for path in store.folder.iterdir()} == before
    store.add(KEYS[3:5], rows[3:5], [False, False])
    assert torch.equal(store.embeddings([*KEYS[:2], *KEYS[3:5]]), rows[[0, 1, 3, 4]])


def test_room_on_the_disk_is_looked_for(
    store: EmbeddingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(0, 0, 2**20))
    store.check_space(1000, 256)
    with pytest.raises(ConfigError, match="store: .*/s: 1,100 more .* need .* bytes, .* are free"):
        store.check_space(1100, 256)


@pytest.mark.parametrize("scale", [0.0, 100.0, float("nan"), float("inf")])
def test_what_is_no_unit_vector_is_not_kept(store: EmbeddingStore, scale: float) -> None:
    rows = vectors(2)
    rows[1] *= scale
    with pytest.raises(
        DataError, match="s: not kept: the embedding (has norm .*, expected 1|is not finite)"
    ):
        store.add(KEYS[:2], rows, [False, False])
    assert store.missing(KEYS[:2]) == [0, 1]


def test_other_dimensions_are_refused(store: EmbeddingStore) -> None:
    store.add(KEYS[:2], vectors(2), [False, False])
    with pytest.raises(ConfigError, match="store: .*s has embeddings of 6 dimensions, got 5"):
        store.add(KEYS[2:3], vectors(1)[:, :5], [False])
    assert store.missing(KEYS[:3]) == [2]


def test_damaged_rows_are_not_used(store: EmbeddingStore) -> None:
    store.add(KEYS[:3], vectors(3), [False] * 3)
    content = bytearray((store.folder / "vectors").read_bytes())
    content[24:48] = content[48:72]  # a unit vector, of another item
    (store.folder / "vectors").write_bytes(content)
    assert store.embeddings(KEYS[:1]).shape == (1, 6)
    with pytest.raises(DataError, match=r"s, row 1: damaged: .* `./launch.sh check .*/s repair=tr"):
        store.embeddings(KEYS[:2])


@pytest.mark.parametrize(
    "facts",
    [
        *("{", "[]", "{}", '{"dimension": null}', '{"dimension": "6"}', '{"dimension": -6}'),
        *(
            '{"dimension": 6.0}',
            '{"dimension": 6, "version": "2"}',
            '{"dimension": 6, "version": 0}',
        ),
    ],
)
def test_damaged_facts_are_named(store: EmbeddingStore, facts: str) -> None:
    store.add(KEYS[:2], vectors(2), [False, False])
    (store.folder / "store.json").write_text(facts)
    for opening in (StoredEmbeddings.open, open_store):
        with pytest.raises(DataError, match=r"s/store.json is damaged .*; remove .*/s$"):
            opening(store.folder)


def test_a_layout_of_tomorrow_is_refused(store: EmbeddingStore) -> None:
    store.add(KEYS[:2], vectors(2), [False, False])
    (store.folder / "store.json").write_text('{"dimension": 6, "version": 3}')
    with pytest.raises(DataError, match="store.json: version 3 is of a newer unime"):
        StoredEmbeddings.open(store.folder)


def test_vectors_without_facts_are_nobodys(store: EmbeddingStore) -> None:
    store.add(KEYS[:2], vectors(2), [False, False])
    (store.folder / "store.json").unlink()
    with pytest.raises(DataError, match="s/store.json is lost, .*; remove .*/s$"):
        open_store(store.folder)
    assert (store.folder / "vectors").stat().st_size == 48


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
