"""The teacher's store: what is written, what an interruption leaves, what is refused, and stores of
the layout before. What it promises as every store of embeddings: test_embedding_store.py.

./launch.sh test tests/data/test_teacher_store.py
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.embedding import embeddings
from unime.config import TextData
from unime.data import teacher_store
from unime.data.datasets import TextDataset
from unime.data.embedding_store import EmbeddingStore
from unime.data.stores.files import RECORD
from unime.data.teacher_store import TeacherMeta, open_store, text_key, write_store
from unime.errors import DataError

META = TeacherMeta(teacher="a/teacher", revision=None, prompt="", dimension=3)
ZERO = next(t for t in map(str, range(10**5)) if text_key(t).endswith(b"\0"))


def embed(texts: Sequence[str]) -> np.ndarray:
    """A vector of length 2 for each text, its own whatever else is in the block."""
    seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") for text in texts]
    rows = np.stack([np.random.default_rng(seed).normal(size=3) for seed in seeds])
    return 2 * rows / np.linalg.norm(rows, axis=1, keepdims=True)


class Recorder:
    """Embeds, remembers what it was asked, and gives up after some blocks."""

    def __init__(self, blocks: int | None = None):
        self.blocks = blocks
        self.seen: list[str] = []

    def __call__(self, texts: list[str]) -> np.ndarray:
        if self.blocks == 0:
            raise RuntimeError
        self.blocks = None if self.blocks is None else self.blocks - 1
        self.seen += texts
        return embed(texts)


def texts(count: int) -> list[str]:
    return [f"text {number}" for number in range(count)]


def text_data(root: Path, count: int, store: str) -> TextData:
    (root / "t.jsonl").write_text("".join(f'{{"text": "{text}"}}\n' for text in texts(count)))
    return TextData(texts=[str(root / "t.jsonl")], teacher=str(root / store))


def assert_holds(folder: Path, wanted: list[str]) -> None:
    """These texts and no others, each once, in the layout of today."""
    np.testing.assert_allclose(embeddings(folder, wanted), embed(wanted) / 2, rtol=1e-6)
    assert (folder / "records").stat().st_size == len(wanted) * RECORD.itemsize
    assert (folder / "vectors").stat().st_size == len(wanted) * 3 * 4
    assert not [*folder.glob("*.npy"), *folder.glob("partial*"), *folder.glob("meta.json")]


def test_rows_are_found_by_text_and_have_unit_norm(tmp_path: Path) -> None:
    assert write_store(tmp_path / "s", [*texts(10), *texts(3), ZERO], META, embed, 4) == 11
    assert_holds(tmp_path / "s", [ZERO, *texts(10)[::-1]])
    with pytest.raises(DataError, match="embedding for 1 of 2 texts, the first 'text 33'"):
        open_store(tmp_path / "s", ["text 3", "text 33"])
    assert json.loads((tmp_path / "s/store.json").read_text()) == {
        "version": 2, "teacher": "a/teacher", "revision": None, "prompt": "", "dimension": 3,
        "max_text_tokens": None, "cut_at": None, "num_cut": 0,
    }  # fmt: skip


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    first = Recorder(blocks=2)
    with pytest.raises(RuntimeError):
        write_store(tmp_path, texts(10), META, first, block_size=3)
    assert len(first.seen) == 6
    with pytest.raises(DataError, match="for 4 of 10 texts, .* run .*data_prep.teacher_embeddings"):
        open_store(tmp_path, texts(10))
    second, shown = Recorder(), list[int]()
    assert write_store(tmp_path, texts(10), META, second, 3, shown.append) == 4
    assert sorted(first.seen + second.seen) == sorted(texts(10))
    assert shown == [6, 9, 10]
    assert_holds(tmp_path, texts(10))


def test_new_texts_join_a_complete_and_an_interrupted_store(tmp_path: Path) -> None:
    write_store(tmp_path, texts(5), META, embed, block_size=9)
    interrupted = Recorder(blocks=1)
    with pytest.raises(RuntimeError):
        write_store(tmp_path, texts(9), META, interrupted, block_size=2)
    last = Recorder()
    write_store(tmp_path, texts(12), META, last, block_size=2)
    assert sorted(interrupted.seen + last.seen) == sorted(texts(12)[5:])
    assert_holds(tmp_path, texts(12))
    assert write_store(tmp_path, texts(7), META, Recorder(0), block_size=2) == 0
    assert_holds(tmp_path, texts(12))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"teacher": "b/other"}, "made with teacher='a/teacher', not 'b/other'; choose another"),
        ({"revision": "v2"}, "made with revision=None, not 'v2'"),
        ({"prompt": "query: "}, "made with prompt='', not 'query: '"),
        ({"dimension": 4}, "made with dimension=3, not 4"),
        ({"max_text_tokens": 9}, "made with max_text_tokens=None, not 9"),
    ],
)
@pytest.mark.parametrize("state", ["complete", "interrupted", "old", "old/partial"])
def test_another_teacher_is_refused(
    tmp_path: Path, changed: dict[str, object], message: str, state: str
) -> None:
    if state.startswith("old"):
        write_old(tmp_path / state, texts(3), done=2 if "partial" in state else None)
    elif state == "complete":
        write_store(tmp_path / "old", texts(3), META, embed, block_size=2)
    else:
        with pytest.raises(RuntimeError):
            write_store(tmp_path / "old", texts(3), META, Recorder(blocks=1), block_size=2)
    with pytest.raises(DataError, match=f"^{tmp_path}/old: .*{message}"):
        write_store(tmp_path / "old", texts(3), replace(META, **changed), embed, block_size=2)


def test_a_store_that_is_none_of_a_teacher(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="s: the store of teacher embeddings is not there; run"):
        open_store(tmp_path / "s")
    store = EmbeddingStore(tmp_path / "s", {"model": "tiny"})
    store.add([text_key("a")], torch.eye(3)[:1], [False])
    store.close()
    for opening in (open_store, lambda folder: write_store(folder, ["a"], META, embed, 1)):
        with pytest.raises(DataError, match="s: not a store of teacher embeddings: .*'model'"):
            opening(tmp_path / "s")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros((2, 3)), "a/teacher: the embedding of 'text "),
        (np.full((2, 3), np.nan), "is zero or not finite"),
        (np.ones((2, 4)), "embeddings of 2 texts have shape (2, 4), expected (2, 3)"),
    ],
)
def test_a_teacher_that_fails_is_refused(tmp_path: Path, rows: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        write_store(tmp_path, texts(2), META, lambda _: rows, block_size=2)


def test_rows_of_cut_texts_are_listed_over_all_runs(tmp_path: Path) -> None:
    """Those of one run after those of another, and each once; before anything is embedded."""
    meta = replace(META, cut_at=9)
    first, second = {"text 1": "a.csv:1:text"}, {"text 1": "a.csv:1:text", "text 4": "a.csv:4:text"}
    write_store(tmp_path, texts(3), meta, embed, 2, cut=first)
    with pytest.raises(RuntimeError):
        write_store(tmp_path, texts(5), meta, Recorder(0), 2, cut=second)
    assert (tmp_path / "cut_texts.txt").read_text() == "a.csv:1:text\na.csv:4:text\n"
    write_store(tmp_path, texts(5), meta, embed, 2, cut=second)
    write_store(tmp_path, ["another"], meta, embed, 2, cut={"another": "b.csv:0:text"})
    listed = (tmp_path / "cut_texts.txt").read_text().splitlines()
    assert listed == ["a.csv:1:text", "a.csv:4:text", "b.csv:0:text"]
    store = open_store(tmp_path)
    assert (store.facts["cut_at"], store.facts["num_cut"]) == (9, 3)
    assert store.num_truncated([text_key(text) for text in (*texts(5), "another")]) == 3


def test_a_text_dataset_refuses_a_store_that_does_not_fit(tmp_path: Path) -> None:
    write_store(tmp_path / "store", texts(3), META, embed, block_size=2)
    data = text_data(tmp_path, 5, "store")
    with pytest.raises(DataError, match="2 of 5 texts, the first 'text 3'.*-m data_prep.teach"):
        TextDataset.load(data)
    assert len(TextDataset.load(replace(data, limit=3))) == 3


# The layout before ------------------------------------------------------------------------------


def write_old(folder: Path, wanted: Sequence[str], done: int | None = None) -> None:
    """As the programs before wrote it; done: only so many rows are there."""
    folder.mkdir(parents=True, exist_ok=True)
    by_key = sorted((hashlib.blake2b(t.encode(), digest_size=16).digest(), t) for t in wanted)
    rows = embed([text for _, text in by_key]).astype("<f4") / 2
    count = len(by_key)
    if done is not None:
        rows[done:] = 0
        np.save(folder / "done.npy", np.arange(count) < done)
    np.save(folder / "embeddings.npy", rows)
    np.save(folder / "keys.npy", np.array([key for key, _ in by_key], dtype="S16"))
    (folder / "meta.json").write_text(
        '{"teacher": "a/teacher", "revision": null, "prompt": "", "dimension": 3, "count": '
        f'{count}, "version": 1, "max_text_tokens": null, "cut_at": 9, "num_cut": 1}}'
    )


def test_an_old_store_is_read_as_it_is(tmp_path: Path) -> None:
    write_old(tmp_path / "s", [*texts(9), ZERO])
    before = {path: path.read_bytes() for path in (tmp_path / "s").iterdir()}
    wanted = [ZERO, *texts(9)[::-1]]
    np.testing.assert_allclose(embeddings(tmp_path / "s", wanted), embed(wanted) / 2, rtol=1e-6)
    assert isinstance(open_store(tmp_path / "s")._rows.vectors.base, np.memmap)
    assert {path: path.read_bytes() for path in (tmp_path / "s").iterdir()} == before
    with pytest.raises(DataError, match="for 1 of 2 texts, the first 'text 9'; run python -m data"):
        open_store(tmp_path / "s", ["text 8", "text 9"])
    teacher = TextDataset.load(text_data(tmp_path, 9, "s")).teacher
    assert (teacher.cut_at, teacher.num_cut) == (9, 1)


def test_an_old_store_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is embedded again; what it listed as cut stays listed."""
    monkeypatch.setattr(teacher_store, "OLD_ROWS", 4)
    write_old(tmp_path, [*texts(9), ZERO])
    (tmp_path / "cut_texts.txt").write_text("a.csv:3:text\n")
    cut = {"text 3": "a.csv:3:text", ZERO: "a.csv:9:text"}
    meta = replace(META, cut_at=9)
    assert write_store(tmp_path, [*texts(9), ZERO], meta, Recorder(0), 2, cut=cut) == 0
    assert_holds(tmp_path, [*texts(9), ZERO])
    store = open_store(tmp_path)
    assert store.num_truncated([text_key(text) for text in (*texts(9), ZERO)]) == 2
    assert (store.facts["cut_at"], store.facts["num_cut"]) == (9, 2)
    assert write_store(tmp_path, texts(11), META, embed, 9) == 2
    assert_holds(tmp_path, [*texts(11), ZERO])


def test_files_of_its_names_that_are_none_of_it_stay(tmp_path: Path) -> None:
    (tmp_path / "partial").mkdir()
    others = [tmp_path / name for name in ("embeddings.npy", "keys.npy", "partial/mine")]
    for path in others:
        path.write_text("mine")
    write_store(tmp_path, texts(5), META, embed, 9)
    assert [path.read_text() for path in others] == ["mine"] * 3


@pytest.mark.parametrize("done", ["done.npy", "complete.npy"])
def test_an_interrupted_old_store_is_taken_over(tmp_path: Path, done: str) -> None:
    write_old(tmp_path, texts(4))
    write_old(tmp_path / "partial", texts(9), done=6 if done == "done.npy" else 9)
    (tmp_path / "partial/done.npy").rename(tmp_path / "partial" / done)
    by_key = sorted(texts(9), key=text_key)
    left = set(by_key[6:]) - set(texts(4)) if done == "done.npy" else set()
    rest = Recorder()
    assert write_store(tmp_path, texts(9), META, rest, 2) == len(left)
    assert set(rest.seen) == left
    assert_holds(tmp_path, texts(9))


@pytest.mark.parametrize("steps", range(9))
def test_killed_while_an_old_store_is_taken_over(
    tmp_path: Path, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After so many of its writes and removals: it can be read, by either layout, and nothing is
    embedded again."""
    write_old(tmp_path, texts(5))
    left = iter(range(steps))

    def stopping(function: Callable[..., None]) -> Callable[..., None]:
        def step(*arguments: object, **settings: object) -> None:
            if next(left, None) is None:
                raise RuntimeError
            function(*arguments, **settings)

        return step

    with monkeypatch.context() as patch:
        patch.setattr(teacher_store, "OLD_ROWS", 2)
        patch.setattr(EmbeddingStore, "_append", stopping(EmbeddingStore._append))
        patch.setattr(Path, "unlink", stopping(Path.unlink))
        with pytest.raises(RuntimeError):
            write_store(tmp_path, texts(5), META, embed, 9)
    np.testing.assert_allclose(embeddings(tmp_path, texts(5)), embed(texts(5)) / 2, rtol=1e-6)
    assert write_store(tmp_path, texts(5), META, Recorder(0), 9) == 0
    assert_holds(tmp_path, texts(5))


def change_meta(**values: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        meta = json.loads((folder / "meta.json").read_text())
        (folder / "meta.json").write_text(json.dumps(meta | values))

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "meta.json").write_text("{"), "cannot read the teacher embeddings: "),
        (lambda f: (f / "meta.json").write_text("[]"), "cannot read the teacher embeddings: "),
        (change_meta(colour=1), "not a store of teacher embeddings: "),
        (change_meta(version=2), "expected (2, (3, 3), 'float32'), got (1, (3, 3), 'float32')"),
        (change_meta(count=9), "expected (1, (9, 3), 'float32'), got (1, (3, 3), 'float32') for 3"),
        (lambda f: (f / "keys.npy").unlink(), "cannot read the teacher embeddings: "),
        (lambda f: (f / "embeddings.npy").write_bytes(b""), "cannot read the teacher embeddings: "),
    ],
)
def test_a_damaged_old_store_is_refused(
    tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    write_old(tmp_path / "s", texts(3))
    damage(tmp_path / "s")
    before = {path: path.read_bytes() for path in (tmp_path / "s").iterdir()}
    for opening in (open_store, lambda folder: write_store(folder, texts(3), META, embed, 2)):
        with pytest.raises(DataError, match=f"^{tmp_path}/s: ") as error:
            opening(tmp_path / "s")
        assert message in str(error.value)
    assert before.items() <= {p: p.read_bytes() for p in (tmp_path / "s").iterdir()}.items()
