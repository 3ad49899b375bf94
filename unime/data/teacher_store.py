"""The teacher's embeddings on disk: an embedding store whose items are texts.

Beside its files `cut_texts.txt` lists the rows of the texts of which the teacher read only the
beginning. A store of the layout before (`meta.json`, `embeddings.npy`, `keys.npy`) is read as it
is; when the teacher's program runs on its folder again, it becomes one of this layout, and what it
holds is not embedded again.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import torch
from torch import Tensor

from unime.data.embedding_store import EmbeddingStore, StoredEmbeddings
from unime.data.stores.files import FACTS, KEY, RECORD, Rows
from unime.errors import DataError
from unime.inputs.items import KEY_BYTES, Item, item_digest
from unime.losses import not_unit
from unime.runtime.files import read_json, read_text, regular, write_aside

Embed = Callable[[list[str]], np.ndarray]
Mapped = Callable[[Embed, Sequence[list[str]]], Iterable[np.ndarray]]
HINT = "run data_prep.teacher_embeddings with this output_dir"
OLD_VERSION = 1  # of the layout before
OLD_FILES = ("meta.json", "embeddings.npy", "keys.npy")
TAKEN = "meta.taken_over.json"  # what the first of them is called once another store has it all
OLD_ROWS = 4096  # taken over at a time
CUT_TEXTS = "cut_texts.txt"


@dataclass(frozen=True)
class TeacherMeta:
    """What made the embeddings: the store's facts.

    Attributes:
        max_text_tokens: as it was set; None: the model's own limit.
        cut_at: tokens of a text that the teacher read, with prompt and special tokens; None: it
            has no limit, or nobody has looked.
        num_cut: so many texts are longer: those of `cut_texts.txt`.
    """

    teacher: str
    revision: str | None
    prompt: str
    dimension: int
    max_text_tokens: int | None = None
    cut_at: int | None = None
    num_cut: int = 0


def open_store(folder: str | Path, texts: Sequence[str] = ()) -> StoredEmbeddings:
    """Open a teacher's store, which has to have these texts, for reading.

    Raises:
        DataError: no store, a damaged one or one of something else; or texts that it lacks: says
            how many and the first; or the embedding of one is damaged.
    """
    folder = Path(folder)
    if (folder / OLD_FILES[0]).exists():
        facts, rows, _ = read_old(folder)
        store = StoredEmbeddings(folder, facts, rows)
    elif (folder / FACTS).exists():
        store = StoredEmbeddings.open(folder)
    else:
        raise DataError(f"{folder}: the store of teacher embeddings is not there; {HINT}")
    teacher_of(folder, store.facts)
    keys = [text_key(text) for text in texts]
    lacking = store.missing(keys)
    if lacking:
        raise DataError(
            f"{folder}: no teacher embedding for {len(lacking)} of {len(texts)} texts, the first "
            f"{texts[lacking[0]][:80]!r}; run python -m data_prep.teacher_embeddings on these "
            "texts with this folder as output_dir"
        )
    store.check(keys)  # before a run begins, not in the middle of it
    return store


def text_key(text: str) -> bytes:
    return item_digest(Item(text))


def write_store(
    folder: str | Path,
    texts: Iterable[str],
    meta: TeacherMeta,
    embed: Embed,
    block_size: int,
    progress: Callable[[int], object] = lambda done: None,
    cut: Mapping[str, str] | None = None,
    mapped: Mapped = map,
) -> int:
    """Complete the store in `folder` so that it has every text; returns how many were computed.

    What an earlier or an interrupted run left is kept. Texts already in the store stay in it.

    Args:
        embed: texts to their embeddings (n, T); normalised here.
        progress: told at the start and after every block how many texts have their embedding.
        cut: of the texts those that the teacher cuts, with the name of their row.
        mapped: applies `embed` to blocks of texts, in order.

    Raises:
        ConfigError: `folder` cannot be written, has no room for them, or another process is
            writing there.
        DataError: `folder` holds another teacher's, revision's or prompt's embeddings.
    """
    cut = cut or {}
    by_key = {text_key(text): text for text in texts}
    with closing(EmbeddingStore(Path(folder), asdict(meta), "output_dir")) as store:
        _refuse_other(store.folder, store.facts, meta)
        cut_keys = {text_key(text) for text in cut}
        _take_over_old(store, meta, cut_keys)
        num_cut = _list_cut(store.folder, cut.values())
        keys = sorted(by_key)  # the same blocks, whatever the order of the texts
        todo = [keys[place] for place in store.missing(keys)]
        store.check_space(len(todo), meta.dimension)
        known = len(keys) - len(todo)
        progress(known)
        blocks = [todo[start : start + block_size] for start in range(0, len(todo), block_size)]
        in_words = [[by_key[key] for key in block] for block in blocks]
        done = known
        embedded = mapped(embed, in_words)
        for block, block_texts, vectors in zip(blocks, in_words, embedded, strict=True):
            store.add(block, _unit(vectors, block_texts, meta), [key in cut_keys for key in block])
            done += len(block)
            progress(done)
        store.describe(cut_at=meta.cut_at, num_cut=num_cut)
    return len(todo)


def _take_over_old(store: EmbeddingStore, meta: TeacherMeta, cut: set[bytes]) -> None:
    """Put what a store of the layout before holds, finished or not, into this store, and remove it;
    may be interrupted and called again. What is no unit vector is left out; other files
    of such names stay."""
    partial = store.folder / "partial"
    for old in (store.folder, partial):
        if (old / OLD_FILES[0]).exists():
            _add_old(old, store, meta, cut)
            (old / OLD_FILES[0]).rename(old / TAKEN)
    if (store.folder / TAKEN).exists():
        for name in (*OLD_FILES[1:], TAKEN):
            (store.folder / name).unlink(missing_ok=True)
    if (partial / TAKEN).exists():
        shutil.rmtree(partial, ignore_errors=True)


def _add_old(old: Path, store: EmbeddingStore, meta: TeacherMeta, cut: set[bytes]) -> None:
    """Add what a store of the layout before holds to this one."""
    facts, rows, done = read_old(old)
    _refuse_other(store.folder, facts, meta)
    keys = [key.ljust(KEY_BYTES, b"\0") for key in rows.records["key"].tolist()]
    wanted = [row for row in store.missing(keys) if done[row]]
    store.check_space(len(wanted), meta.dimension)
    left_out = 0
    for start in range(0, len(wanted), OLD_ROWS):
        block = np.array(wanted[start : start + OLD_ROWS])
        vectors = torch.from_numpy(rows[block].vectors)
        whole = ~not_unit(vectors)
        left_out += len(block) - int(whole.sum())
        taken = [keys[row] for row in block[whole.numpy()]]
        store.add(taken, vectors[whole], [key in cut for key in taken])
    if left_out:
        text = f"{old}: {left_out:,} of {len(keys):,} embeddings are no unit vectors: left out"
        warnings.warn(text, stacklevel=2)


def read_old(folder: Path) -> tuple[dict[str, Any], Rows, np.ndarray]:
    """The facts and rows of a store of the layout before, and which rows (N,) are finished.

    Raises:
        DataError: a file is missing, cut or of something else.
    """
    try:
        facts = read_json(folder / OLD_FILES[0])
        wanted = facts.pop("version"), (facts.pop("count"), facts["dimension"]), "float32"
        vectors, keys = _array(folder / "embeddings.npy"), _array(folder / "keys.npy")
        found = OLD_VERSION, vectors.shape, str(vectors.dtype)
        is_partial = (folder / "done.npy").exists()
        done = _array(folder / "done.npy") if is_partial else np.ones(len(vectors), bool)
        if found != wanted or keys.shape != done.shape or keys.shape != vectors.shape[:1]:
            raise ValueError(f"expected {wanted}, got {found} for {len(keys)} texts")
        if keys.dtype != KEY or done.dtype != bool:
            raise ValueError(f"keys are {keys.dtype}, done is {done.dtype}")
    except Exception as error:  # NumPy does not say what it raises for a damaged header
        raise DataError(
            f"{folder}: cannot read the teacher embeddings: {error}; delete the folder and {HINT}"
        ) from None
    records = np.zeros(len(keys), RECORD)
    records["key"] = keys
    return facts, Rows(records, vectors), done


def _array(path: Path) -> np.ndarray:
    """Memory-mapped: a file that is shorter than its header says raises."""
    return np.asarray(np.load(regular(path), mmap_mode="r", allow_pickle=False))


def teacher_of(folder: Path, facts: dict[str, Any]) -> TeacherMeta:
    """What made a store's embeddings, by its facts.

    Raises:
        DataError: they are no teacher's.
    """
    try:
        meta = TeacherMeta(**facts)
        for key, kind in get_type_hints(TeacherMeta).items():
            if not isinstance(value := getattr(meta, key), kind):
                raise TypeError(f"{key}: got {value!r}, expected {getattr(kind, '__name__', kind)}")
    except TypeError as error:
        raise DataError(f"{folder}: not a store of teacher embeddings: {error}") from None
    return meta


def _refuse_other(folder: Path, facts: dict[str, Any], new: TeacherMeta) -> None:
    old = teacher_of(folder, facts)
    for key in ("teacher", "revision", "prompt", "dimension", "max_text_tokens"):
        if getattr(old, key) != getattr(new, key):
            raise DataError(
                f"{folder}: holds embeddings made with {key}={getattr(old, key)!r}, not "
                f"{getattr(new, key)!r}; choose another output_dir or delete the folder"
            )


def _list_cut(folder: Path, row_ids: Iterable[str]) -> int:
    """Add rows to the list of those whose text is cut; returns how many it has."""
    path = folder / CUT_TEXTS
    listed = read_text(path).splitlines() if path.exists() else []
    known = set(listed)
    listed += [row_id for row_id in row_ids if row_id not in known]
    write_aside(path, "".join(f"{row_id}\n" for row_id in listed))
    return len(listed)


def _unit(block: np.ndarray, texts: list[str], meta: TeacherMeta) -> Tensor:
    """The teacher's embeddings (n, T) of a block, scaled to norm 1."""
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
    return torch.from_numpy(block / norms)
