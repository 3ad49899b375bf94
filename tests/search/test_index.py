"""An index follows its files: ./launch.sh test tests/search/test_index.py"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.search.conftest import Counting, drawing
from unime.config import IndexConfig, VectorStoreConfig
from unime.embedder import Embedder
from unime.errors import ConfigError, DataError
from unime.search import Index
from unime.search.store import VectorStore

MEMORY = IndexConfig(store=VectorStoreConfig(url=":memory:"), passage_characters=400)
LOCAL = IndexConfig(passage_characters=400, batch_size=2)


def held(index: Index) -> dict[tuple[str, int], np.ndarray]:
    """Path and place of every point, with its vector."""
    found, _ = index.store._client.scroll("unime", limit=1_000_000, with_vectors=True)
    keys = [(one.payload["path"], one.payload["place"]) for one in found]
    assert len(set(keys)) == len(keys)
    return {key: np.array(one.vector["whole"]) for key, one in zip(keys, found, strict=True)}


def check_equals_new(index: Index, folder: Path, tmp_path: Path) -> None:
    """It holds what an index that is made now would."""
    with Index(tmp_path / "new", index.embedder, MEMORY) as new:
        new.update(folder)
        expected, found = held(new), held(index)
    assert found.keys() == expected.keys()
    assert max(np.abs(found[key] - expected[key]).max() for key in found) < 1e-5
    shutil.rmtree(tmp_path / "new")


def test_only_what_changed_is_embedded(counting: Counting, pictures: Path, tmp_path: Path) -> None:
    with Index(tmp_path / "index", counting, LOCAL) as index:
        counting.since()
        first = index.update(pictures)
        assert (first.added, first.unreadable, first.left_out) == (6, {}, {".mp4 files": 1})
        assert counting.since() == first.embedded == len(held(index)) > 10
        for seed, name in ((0, "a.png"), (2, "below/c.webp")):
            hit = index.search(pictures / name, limit=1)[0]
            assert (hit.path, hit.kind) == (str(pictures / name), "picture"), seed
            assert hit.score > 0.999
        pages = index.search(drawing(11), limit=9, kind="page")
        assert {hit.place for hit in pages} == {1, 2, 3}
        below = index.search("a", below=pictures / "below")
        assert {Path(hit.path).name for hit in below} == {"c.webp", "d.JPG"}
        counting.since()
        second = index.update(pictures)
        assert (second.unchanged, second.embedded, counting.since()) == (6, 0, 0)

        os.utime(pictures / "a.png", (1, 1))  # another date, the same picture
        (pictures / "b.tif").rename(pictures / "below/e.tif")
        shutil.copy(pictures / "pages.pdf", pictures / "below/copy.pdf")
        (pictures / "below/d.JPG").unlink()
        drawing(20).save(pictures / "below/c.webp")
        drawing(21).save(pictures / "new.png")
        third = index.update(pictures)
        assert (third.touched, third.moved, third.copied, third.removed) == (1, 1, 1, 2)
        assert (third.changed, third.added, third.unchanged) == (1, 1, 2)
        assert counting.since() == third.embedded == 2
        check_equals_new(index, pictures, tmp_path)
    with Index(tmp_path / "index", counting) as index:  # on the disk, too, with its settings
        check_equals_new(index, pictures, tmp_path)
        assert index.update(pictures).unchanged == 7


def test_names_that_are_exchanged(counting: Counting, pictures: Path, tmp_path: Path) -> None:
    one, two, three = pictures / "a.png", pictures / "f.png", pictures / "g.png"
    drawing(5).save(two)
    with Index(tmp_path / "index", counting, MEMORY) as index:
        index.update(pictures)
        one.rename(three)
        two.rename(one)
        three.rename(two)
        shutil.copy(two, three)
        index.update(pictures)
        check_equals_new(index, pictures, tmp_path)
        assert index.search(drawing(5), limit=1)[0].path == str(one)


def test_files_that_change_before_they_are_read(
    counting: Counting, pictures: Path, tmp_path: Path
) -> None:
    """Hours may lie between a look at all files and the embedding of one."""
    one, twin, other = pictures / "a.png", pictures / "twin.png", tmp_path / "other.png"
    shutil.copy(one, twin)
    shutil.copy(one, other)

    def change(line: str) -> None:
        if "new or changed" in line:
            drawing(20).save(one)

    with Index(tmp_path / "index", counting, LOCAL) as index:
        first = index.update(pictures, say=change)
        assert (first.added, first.copied, first.changing) == (7, 0, 0)
        check_equals_new(index, pictures, tmp_path)
        counting.since()
        assert (index.update(pictures).unchanged, counting.since()) == (7, 0)
        shutil.copyfile(other, one)  # put back, at another time
        second = index.update(pictures)
        assert (second.copied, second.touched, counting.since()) == (1, 0, 0)
        check_equals_new(index, pictures, tmp_path)


@pytest.mark.parametrize("is_killed", [False, True])
def test_files_that_change_while_they_are_read(
    counting: Counting,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_killed: bool,
) -> None:
    one, text = pictures / "a.png", pictures / "notes.md"
    before, prepare, shown = one.read_bytes(), counting.prepare, 0

    def changing(item: Any, held: Any = None) -> Any:
        nonlocal shown
        ready = prepare(item, held)
        shown += "square" in item.text
        if str(one) in item.images:
            drawing(20).save(one)
        elif "39 says" in item.text:
            text.write_text("Something else.")
        elif pictures / "below/c.webp" in map(Path, item.images):
            (pictures / "below/c.webp").unlink()
        return ready

    def end(*_: Any) -> None:
        raise KeyboardInterrupt

    config = IndexConfig(passage_characters=60, batch_size=2)  # a text of several groups
    with Index(tmp_path / "index", counting, config) as index, monkeypatch.context() as patched:
        patched.setattr(counting, "prepare", changing)
        if is_killed:
            patched.setattr(index.ledger, "remove", end)
            with pytest.raises(KeyboardInterrupt):
                index.update(pictures)
        else:
            first = index.update(pictures)
            assert (first.added, first.changing, first.unreadable, first.removed) == (3, 3, {}, 0)
            assert "3 files changed while they were read; the next update has them" in first.lines()
            assert not {path for path, _ in held(index)} & {str(one), str(text)}
    assert is_killed or shown > 30
    one.write_bytes(before)  # put back, at another time
    with Index(tmp_path / "index", counting) as index:
        index.update(pictures)
        with Index(tmp_path / "new", counting, replace(MEMORY, passage_characters=60)) as new:
            new.update(pictures)
            expected, found = held(new), held(index)
        assert found.keys() == expected.keys()
        assert max(np.abs(found[key] - expected[key]).max() for key in found) < 1e-5
        assert index.update(pictures).unchanged == len({path for path, _ in found})


def test_what_cannot_be_read(counting: Counting, pictures: Path, tmp_path: Path) -> None:
    bad = {
        "cut.png": (pictures / "a.png").read_bytes()[:-40],
        "empty.txt": b" \n",
        "latin.txt": "Grün".encode("latin-1"),
        "broken.pdf": (pictures / "pages.pdf").read_bytes()[:300],
    }
    for name, content in bad.items():
        (pictures / name).write_bytes(content)
    with Index(tmp_path / "index", counting, MEMORY) as index:
        first = index.update(pictures)
        assert first.unreadable.keys() == {str(pictures / name) for name in bad}
        assert all(path in reason for path, reason in first.unreadable.items())
        counting.since()
        second = index.update(pictures)
        assert (second.unreadable, counting.since()) == (first.unreadable, 0)
        shutil.copy(pictures / "a.png", pictures / "cut.png")
        (pictures / "a.png").write_bytes(bad["cut.png"])
        third = index.update(pictures)
        assert str(pictures / "cut.png") not in third.unreadable
        assert index.search(drawing(0), limit=1)[0].path == str(pictures / "cut.png")
        check_equals_new(index, pictures, tmp_path)


def test_what_no_setting_of_an_index_changes(
    counting: Counting, pictures: Path, tmp_path: Path
) -> None:
    """A model's inputs are its own: of a file that they refuse an index says no more than that."""
    Image.new("1", (10_000, 6_000)).save(pictures / "large.png")
    Image.new("RGB", (3_000, 2)).save(pictures / "strip.png")
    with Index(tmp_path / "index", counting, MEMORY) as index:
        reasons = index.update(pictures).unreadable
        assert reasons.keys() == {str(pictures / name) for name in ("large.png", "strip.png")}
        assert "more than 50000000" in reasons[str(pictures / "large.png")]
        assert not [reason for reason in reasons.values() if "inputs." in reason]
        for name in ("large.png", "strip.png"):
            with pytest.raises(DataError, match=r"inputs\.") as caught:
                index.search(pictures / name)
            assert "inputs." not in caught.value.plain and name in caught.value.plain


def test_what_is_left_out(counting: Counting, pictures: Path, tmp_path: Path) -> None:
    (pictures / "link.png").symlink_to(pictures / "a.png")
    (pictures / "elsewhere").symlink_to(tmp_path)
    os.mkfifo(pictures / "pipe.txt")
    with Index(pictures / "index", counting, LOCAL) as index:
        report = index.update(pictures)
        assert report.added == 6 and report.left_out.total() == 4
        assert index.update(pictures, follow_links=True).copied == 1
        with pytest.raises(ConfigError, match="folder"):
            index.update(pictures / "nowhere")
        assert index.update(pictures / "below").unchanged == 2  # others stay
        assert len({path for path, _ in held(index)}) == 7


def test_a_folder_that_is_gone(counting: Counting, pictures: Path, tmp_path: Path) -> None:
    """Its files leave when they are found elsewhere, or when they are to be forgotten."""
    other, away = tmp_path / "other", tmp_path / "away"
    shutil.copytree(pictures / "below", other)
    with Index(tmp_path / "index", counting, LOCAL) as index:
        first = index.update(pictures)
        second = index.update(other)  # the same two pictures, still there
        assert (first.added, second.copied, second.moved, second.removed) == (6, 2, 0, 0)
        pictures.rename(away)
        drawing(30).save(away / "new.png")
        (away / "notes.md").unlink()
        counting.since()
        with pytest.raises(ConfigError, match="forget=true"):
            index.update(pictures)
        third = index.update(away)
        assert (third.added, third.moved, third.removed, counting.since()) == (1, 5, 5, 1)
        left = {path for path, _ in held(index) if not Path(path).exists()}
        assert left == {str(pictures / "notes.md")}  # whose content is nowhere

        shutil.rmtree(other)
        other.mkdir()  # a disk that is not mounted
        with pytest.raises(ConfigError, match="2 files .*forget=true"):
            index.update(other)
        assert {path for path, _ in held(index)} > {str(other / "c.webp")}
        assert [index.forget(one).removed for one in (pictures, other)] == [1, 2]
        with pytest.raises(ConfigError, match="nothing"):
            index.forget(other)
        check_equals_new(index, away, tmp_path)
        assert index.forget(away).removed == 6 and not held(index)


@pytest.mark.parametrize("name", ["put", "remove", "copy"])
def test_a_kill_while_files_move(
    counting: Counting, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with Index(tmp_path / "index", counting, LOCAL) as index:
        index.update(pictures)
    pictures.rename(tmp_path / "away")
    with Index(tmp_path / "index", counting, LOCAL) as index, monkeypatch.context() as patched:

        def end(*_: Any) -> None:
            raise KeyboardInterrupt

        patched.setattr(VectorStore, name, end)
        with pytest.raises(KeyboardInterrupt):
            index.update(tmp_path / "away")
    with Index(tmp_path / "index", counting, LOCAL) as index:
        index.update(tmp_path / "away")
        check_equals_new(index, tmp_path / "away", tmp_path)


@pytest.mark.use
def test_a_store_that_fails_anywhere(
    counting: Counting, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever call of the store is the last one, the next update makes all of it good."""
    put, remove, copy = VectorStore.put, VectorStore.remove, VectorStore.copy
    left = 0

    def failing(call: Any) -> Any:
        def called(self: VectorStore, *given: Any) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            call(self, *given)

        return called

    for name, call in (("put", put), ("remove", remove), ("copy", copy)):
        monkeypatch.setattr(VectorStore, name, failing(call))
    ended = 0
    for calls in range(12):
        with Index(tmp_path / "index", counting, LOCAL) as index:
            drawing(100 + calls).save(pictures / "a.png")
            shutil.copy(pictures / "b.tif", pictures / f"b{calls % 3}.tif")
            (pictures / f"b{(calls + 1) % 3}.tif").unlink(missing_ok=True)
            left = calls
            try:
                index.update(pictures)
            except KeyboardInterrupt:
                ended += 1
        left = 1000
        with Index(tmp_path / "index", counting, LOCAL) as index:
            index.update(pictures)
            check_equals_new(index, pictures, tmp_path)
    assert ended > 4


def test_lost_points_come_back(counting: Counting, pictures: Path, tmp_path: Path) -> None:
    with Index(tmp_path / "index", counting, LOCAL) as index:
        index.update(pictures)
        index.store.remove_files([str(pictures / "pages.pdf")])
        assert index.update(pictures).added == 1
        check_equals_new(index, pictures, tmp_path)
        index.store.put(
            np.ones((1, index.embedder.dimension), np.float32), [{"path": "/", "place": 9}]
        )
        index.update(pictures)
        check_equals_new(index, pictures, tmp_path)


def test_a_power_cut(counting: Counting, pictures: Path, tmp_path: Path) -> None:
    """What the ledger calls done is on the disk, and not in a log that a power cut may take."""
    with Index(tmp_path / "index", counting, LOCAL) as index:
        index.update(pictures)
    with Index(tmp_path / "index", counting, LOCAL) as index:
        drawing(20).save(pictures / "a.png")  # the same number of points
        assert index.update(pictures).changed == 1
        shutil.copytree(tmp_path / "index", tmp_path / "after")
    for lost in (*(tmp_path / "after").rglob("*-wal"), *(tmp_path / "after").rglob("*-shm")):
        lost.unlink()
    with Index(tmp_path / "after", counting, LOCAL) as index:
        index.update(pictures)
        check_equals_new(index, pictures, tmp_path)


def test_one_index_one_model(
    counting: Counting, pictures: Path, tmp_path: Path, tiny_model: Any
) -> None:
    with Index(tmp_path / "index", counting, LOCAL):
        pass
    other = Embedder(tiny_model("llava"), device="cpu")
    with pytest.raises(ConfigError, match="another model"):
        Index(tmp_path / "index", other)
    with pytest.raises(ConfigError, match="passage_characters: got 7, expected 400"):
        Index(tmp_path / "index", counting, IndexConfig(passage_characters=7))
    with pytest.raises(ConfigError, match="model"):
        Index(tmp_path / "nothing")
    with Index(tmp_path / "index", counting), pytest.raises(ConfigError, match="index"):
        Index(tmp_path / "index", counting)
    with Index(tmp_path / "index", counting) as index:  # which the refused one did not unlock
        index.update(pictures)


def test_sizes(counting: Counting, pictures: Path, tmp_path: Path) -> None:
    half = counting.dimension // 2
    with Index(tmp_path / "index", counting, IndexConfig(dimensions=[half])) as index:
        index.update(pictures)
        found = index.search(
            ["a square", {"text": "a", "image": pictures / "a.png"}], 3, dimensions=half
        )
        assert [len(hits) for hits in found] == [3, 3]
        vectors = counting.encode(["a square"], dimensions=half)
        path, place = found[0][0].path, found[0][0].place
        stored, _ = index.store._client.scroll("unime", limit=100, with_vectors=True)
        (own,) = [
            one.vector[str(half)]
            for one in stored
            if (one.payload["path"], one.payload["place"]) == (path, place)
        ]
        assert abs(float(vectors[0] @ np.array(own)) - found[0][0].score) < 1e-5
        with pytest.raises(ValueError, match="dimensions"):
            index.search("a", dimensions=3)
        with pytest.raises(ValueError, match="kind: got 'video'"):
            index.search("a", kind="video")
        for limit in (0, -1, 2.0, True, None, "3"):
            words = f"limit: got {limit!r}, expected a whole number from 1 on"
            with pytest.raises(ValueError, match=f"^{words}$"):
                index.search("a", limit)
        with pytest.raises(ValueError, match="limit: got"):
            index.nearest(vectors, np.int64(0))
        assert len(index.search("a", np.int64(2), dimensions=np.int32(half))) == 2
    with pytest.raises(ConfigError, match=str(tmp_path / "index")):
        Index(tmp_path / "index", counting, IndexConfig(dimensions=[half - 1]))


class Attack:
    """Unpickled, it makes a folder."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def test_a_strangers_index_runs_no_code(counting: Counting, pictures: Path, tmp_path: Path) -> None:
    """Nothing in it is a pickle, and what is none of its rows is refused."""
    index, place = tmp_path / "index", tmp_path / "was here"
    with Index(index, counting, LOCAL) as made:
        made.update(pictures)
    (storage,) = index.rglob("points.sqlite")
    with closing(sqlite3.connect(storage)) as file:
        first = file.execute("select said, vectors from points limit 1").fetchone()
    said, vectors = json.loads(first[0]), first[1]
    with pytest.raises(pickle.UnpicklingError):
        pickle.loads(vectors)
    evil = pickle.dumps(Attack(str(place)))
    for row in (
        (first[0], evil),
        (evil, vectors),
        (first[0], vectors[:-4]),
        (first[0], vectors.hex()),
        ("[]", b""),
        (json.dumps(said | {"payload": [1]}), vectors),
        (json.dumps(said | {"sizes": {"whole": -1}}), vectors),
    ):
        with closing(sqlite3.connect(storage)) as file, file:
            file.execute("update points set said = ?, vectors = ?", row)
        with pytest.raises(ConfigError, match="cannot be opened"):
            Index(index, counting)
    assert not place.exists()
