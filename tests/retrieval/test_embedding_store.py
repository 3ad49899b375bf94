"""The store of embeddings: kept, read back, and whole after a kill at any byte.

./launch.sh test tests/retrieval/test_embedding_store.py
"""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
import torch
from torch import Tensor

from unime.errors import ConfigError, DataError
from unime.retrieval import embedding_store
from unime.retrieval.embedding_store import RECORD, EmbeddingStore

KEYS = [bytes([number]) * 16 for number in range(8)]


def vectors(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(count, 6, generator=generator))


def open_store(folder: Path) -> EmbeddingStore:
    return EmbeddingStore(folder, {"model": "tiny"})


def test_kept_and_read_back(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s")
    assert store.missing(KEYS) == list(range(8))
    rows = vectors(8)
    store.add(KEYS[:3], rows[:3], [False, True, False])
    store.add(KEYS[3:5], rows[3:5], [True, False])
    assert store.missing([KEYS[7], KEYS[1], KEYS[5]]) == [0, 2]
    store.close()
    again = open_store(tmp_path / "s")
    assert again.dimension == 6 and again.missing(KEYS) == [5, 6, 7]
    assert torch.equal(again.embeddings([KEYS[4], KEYS[0], KEYS[4]]), rows[[4, 0, 4]])
    assert again.num_truncated(KEYS[:5]) == 2 and again.num_truncated([KEYS[0]]) == 0
    again.close()


@pytest.mark.parametrize("name", ["vectors", "records"])
def test_a_kill_at_any_byte(tmp_path: Path, name: str) -> None:
    """Either file may end anywhere after the first two rows: those are there, the rest comes anew
    and is then right."""
    rows = vectors(5)
    size = {"vectors": 6 * 4, "records": RECORD.itemsize}[name]
    for lost in range(1, 3 * size + 1):
        folder = tmp_path / f"{name}{lost}"
        store = open_store(folder)
        store.add(KEYS[:2], rows[:2], [False, False])
        store.add(KEYS[2:5], rows[2:5], [False, False, True])
        store.close()
        path = folder / name
        path.write_bytes(path.read_bytes()[:-lost])
        again = open_store(folder)
        missing = again.missing(KEYS[:5])
        assert missing == list(range(5 - -(-lost // size), 5))
        again.add([KEYS[n] for n in missing], rows[missing], [False] * len(missing))
        assert torch.equal(again.embeddings(KEYS[:5]), rows)
        again.close()


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, rows = open_store(tmp_path), vectors(5)
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
    store.close()


def test_damaged_rows_are_not_used(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.add(KEYS[:2], vectors(2), [False, False])
    content = bytearray((tmp_path / "vectors").read_bytes())
    content[24:48] = bytes(24)
    (tmp_path / "vectors").write_bytes(content)
    assert store.embeddings(KEYS[:1]).shape == (1, 6)
    with pytest.raises(DataError, match="no unit vectors; remove the folder"):
        store.embeddings(KEYS[:2])
    store.close()


def hold(folder: str, opened: object, end: object) -> None:
    store = open_store(Path(folder))
    opened.set()  # type: ignore[attr-defined]
    end.wait(30)  # type: ignore[attr-defined]
    store.close()


def test_one_process_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_store, "PATIENCE", 0.3)
    context = multiprocessing.get_context("fork")
    opened, end = context.Event(), context.Event()
    other = context.Process(target=hold, args=(str(tmp_path), opened, end))
    other.start()
    assert opened.wait(30)
    with pytest.raises(ConfigError, match="another process has .* open"):
        open_store(tmp_path)
    end.set()
    other.join(30)
    open_store(tmp_path).close()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="store: .*file/s cannot be written"):
        open_store(tmp_path / "file" / "s")
