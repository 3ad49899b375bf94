"""The teacher's embeddings on disk: memory-mapped, looked up by the text itself.

A store is a folder of ``embeddings.npy`` (N, T) float32 with rows of unit norm, ``keys.npy`` with
the sorted hashes of the N texts, and ``meta.json``, which is written last: a folder without it is
not a store yet. While embeddings are computed they are in ``partial/``, with ``done.npy`` saying
which rows are there, so that an interrupted run goes on where it stopped. ``cut_texts.txt`` lists
the rows of the last run's texts of which the teacher read only the beginning.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

from unime.data.text_keys import find_keys, key_array, text_key, text_keys
from unime.errors import DataError
from unime.runtime.files import write_aside, write_json

VERSION = 1
COPY_ROWS = 4096  # rows at a time when an older store is taken over
FILES = ("embeddings.npy", "keys.npy", "meta.json")  # in the order they are moved into place


@dataclass(frozen=True)
class TeacherMeta:
    """What made the embeddings, and how many there are.

    Attributes:
        max_text_tokens: as it was set; None: the model's own limit.
        cut_at: tokens of a text that the teacher read, with prompt and special tokens; None: it
            has no limit, or nobody has looked.
        num_cut: of the last run's texts so many are longer.
    """

    teacher: str
    revision: str | None
    prompt: str
    dimension: int
    count: int = 0
    version: int = VERSION
    max_text_tokens: int | None = None
    cut_at: int | None = None
    num_cut: int = 0


class TeacherStore:
    """A complete store, open for reading."""

    def __init__(self, folder: Path, embeddings: np.ndarray, keys: np.ndarray, meta: TeacherMeta):
        self.folder = folder
        self.embeddings = embeddings  # (N, T) float32, memory-mapped
        self.keys = keys  # (N,) bytes, sorted
        self.meta = meta

    @classmethod
    def open(cls, folder: str | Path) -> TeacherStore:
        """Map a complete store into memory.

        Raises:
            DataError: no store, a half-written or damaged one, or one of another format.
        """
        folder = Path(folder)
        hint = "run data_prep.teacher_embeddings with this output_dir"
        if not (folder / "meta.json").is_file():
            state = "is not complete" if (folder / "partial").is_dir() else "is not there"
            raise DataError(f"{folder}: the store of teacher embeddings {state}; {hint}")
        meta = _read_meta(folder / "meta.json")
        try:
            embeddings = np.load(folder / "embeddings.npy", mmap_mode="r", allow_pickle=False)
            keys = np.load(folder / "keys.npy", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{folder}: cannot read the teacher embeddings: {error}") from None
        shape = (meta.count, meta.dimension)
        if embeddings.shape != shape or embeddings.dtype != np.float32 or len(keys) != meta.count:
            raise DataError(
                f"{folder}: meta.json says {shape} float32, the files hold {embeddings.shape} "
                f"{embeddings.dtype} for {len(keys)} texts; delete the folder and {hint}"
            )
        return cls(folder, embeddings, keys, meta)

    def __len__(self) -> int:
        return self.meta.count

    def find(self, texts: Sequence[str]) -> np.ndarray:
        """The row of each text.

        Raises:
            DataError: texts that the store lacks; says how many and the first.
        """
        rows = find_keys(self.keys, text_keys(texts))  # (n,), -1: none
        if (rows < 0).any():
            lacking = [text for text, row in zip(texts, rows, strict=True) if row < 0]
            raise DataError(
                f"{self.folder}: no teacher embedding for {len(lacking)} of {len(texts)} texts, "
                f"the first {lacking[0][:80]!r}; run python -m data_prep.teacher_embeddings on "
                "these texts with this folder as output_dir"
            )
        return rows


def write_store(
    folder: str | Path,
    texts: Iterable[str],
    meta: TeacherMeta,
    embed: Callable[[list[str]], np.ndarray],
    block_size: int,
    progress: Callable[[int], object] = lambda done: None,
) -> int:
    """Complete the store in `folder` so that it has every text; returns how many were computed.

    What an earlier or an interrupted run left is kept. Texts already in the store stay in it.

    Args:
        embed: texts to their embeddings (n, T); normalised here.
        progress: told at the start and after every block how many texts have their embedding.

    Raises:
        DataError: `folder` holds another teacher's, revision's or prompt's embeddings.
    """
    folder = Path(folder)
    if (folder / "partial" / "complete.npy").is_file():
        _move_into_place(folder)
    found = [f for f in (folder, folder / "partial") if (f / "meta.json").is_file()]
    for old in found:
        _refuse_other(folder, _read_meta(old / "meta.json"), meta)
    by_key = {text_key(text): text for text in texts}
    if folder in found:
        store = TeacherStore.open(folder)
        if (find_keys(store.keys, key_array(by_key)) >= 0).all():
            progress(len(by_key))
            return 0
    keys = _all_keys(folder, by_key)
    done, embeddings = _open_partial(folder, keys, meta)
    wanted = find_keys(keys, key_array(by_key))
    todo = np.sort(wanted[~done[wanted]])
    known = len(by_key) - len(todo)
    progress(known)
    for start in range(0, len(todo), block_size):
        rows = todo[start : start + block_size]
        block = [by_key[bytes(key).ljust(16, b"\0")] for key in keys[rows]]  # S16 drops zeros
        embeddings[rows] = _unit(embed(block), block, meta)
        embeddings.flush()
        done[rows] = True
        done.flush()
        progress(known + start + len(rows))
    os.replace(folder / "partial" / "done.npy", folder / "partial" / "complete.npy")
    _move_into_place(folder)
    return len(todo)


def note_cut(folder: str | Path, cut_at: int | None, row_ids: list[str]) -> Path:
    """Write down at how many tokens texts were cut, and the rows of those that were; returns the
    list's file.

    Raises:
        DataError: there is no complete store.
    """
    folder = Path(folder)
    meta = replace(_read_meta(folder / "meta.json"), cut_at=cut_at, num_cut=len(row_ids))
    write_aside(folder / "cut_texts.txt", "".join(f"{row_id}\n" for row_id in row_ids))
    write_json(folder / "meta.json", asdict(meta))
    return folder / "cut_texts.txt"


def _all_keys(folder: Path, by_key: Iterable[bytes]) -> np.ndarray:
    keys = key_array(by_key)
    if (folder / "meta.json").is_file():
        keys = np.concatenate([keys, TeacherStore.open(folder).keys])
    return np.unique(keys)  # sorted


def _open_partial(folder: Path, keys: np.ndarray, meta: TeacherMeta) -> tuple[np.memmap, np.memmap]:
    """Which rows are there (N,) and the embeddings (N, T), writable; an interrupted run's if it had
    the same texts, otherwise new ones that take over every row that is known already."""
    partial, fresh = folder / "partial", folder / "partial.new"
    complete = (partial / "meta.json").is_file()
    if not complete or not np.array_equal(np.load(partial / "keys.npy"), keys):
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        shape = (len(keys), meta.dimension)
        embeddings = open_memmap(fresh / "embeddings.npy", "w+", np.float32, shape)
        done = open_memmap(fresh / "done.npy", "w+", np.bool_, shape[:1])
        np.save(fresh / "keys.npy", keys)
        for old in (folder, partial):
            if (old / "meta.json").is_file():
                _copy_rows(old, keys, done, embeddings)
        embeddings.flush()
        done.flush()
        del embeddings, done
        text = json.dumps(asdict(meta) | {"count": len(keys)}, indent=1)
        (fresh / "meta.json").write_text(text, encoding="utf-8")
        shutil.rmtree(partial, ignore_errors=True)
        fresh.rename(partial)
    return (
        open_memmap(partial / "done.npy", "r+"),
        open_memmap(partial / "embeddings.npy", "r+"),
    )


def _copy_rows(old: Path, keys: np.ndarray, done: np.ndarray, embeddings: np.ndarray) -> None:
    source = np.load(old / "embeddings.npy", mmap_mode="r", allow_pickle=False)
    known = (
        np.load(old / "done.npy") if (old / "done.npy").is_file() else np.ones(len(source), bool)
    )
    rows = find_keys(keys, np.load(old / "keys.npy", allow_pickle=False))
    taken = np.flatnonzero(known & (rows >= 0))
    for start in range(0, len(taken), COPY_ROWS):
        block = taken[start : start + COPY_ROWS]
        embeddings[rows[block]] = source[block]
        done[rows[block]] = True


def _move_into_place(folder: Path) -> None:
    """Replace the store by the finished ``partial/``; may be interrupted and called again."""
    partial = folder / "partial"
    if (partial / "meta.json").exists():
        (folder / "meta.json").unlink(missing_ok=True)
    for name in FILES:
        if (partial / name).exists():
            os.replace(partial / name, folder / name)
    shutil.rmtree(partial)


def _unit(block: np.ndarray, texts: list[str], meta: TeacherMeta) -> np.ndarray:
    block = np.asarray(block, dtype=np.float32)
    if block.shape != (len(texts), meta.dimension):
        raise DataError(
            f"{meta.teacher}: embeddings of {len(texts)} texts have shape {block.shape}, "
            f"expected {(len(texts), meta.dimension)}"
        )
    norms = np.linalg.norm(block, axis=1, keepdims=True)  # (n, 1)
    bad = ~(np.isfinite(norms) & (norms > 0))[:, 0]
    if bad.any():
        raise DataError(
            f"{meta.teacher}: the embedding of {texts[int(bad.argmax())]!r} is zero or not finite"
        )
    return block / norms


def _read_meta(path: Path) -> TeacherMeta:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        meta = TeacherMeta(**values)
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: not the description of a teacher store: {error}") from None
    if meta.version != VERSION:
        raise DataError(f"{path}: store format {meta.version}, this program reads {VERSION}")
    return meta


def _refuse_other(folder: Path, old: TeacherMeta, new: TeacherMeta) -> None:
    for key in ("teacher", "revision", "prompt", "dimension", "max_text_tokens"):
        if getattr(old, key) != getattr(new, key):
            raise DataError(
                f"{folder}: holds embeddings made with {key}={getattr(old, key)!r}, not "
                f"{getattr(new, key)!r}; choose another output_dir or delete the folder"
            )
