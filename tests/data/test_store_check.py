"""Damaged stores: none gives a wrong vector, ./launch.sh check says what is damaged, repair=true
takes it out, and the same command then has all of it again.

./launch.sh test tests/data/test_store_check.py
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from stages import check
from unime.data import embedding_store
from unime.data.embedding_store import EmbeddingStore, StoredEmbeddings
from unime.data.stores import check as store_check
from unime.data.stores import files as store_files
from unime.data.stores.check import check_store, find_stores
from unime.data.stores.files import GROWING, RECORD
from unime.data.teacher_store import TeacherMeta, open_store, text_key, write_store
from unime.errors import ConfigError, DataError

DIMENSION = 6
TEXTS = [f"text {number}" for number in range(9)]
KEYS = [text_key(text) for text in TEXTS]
META = TeacherMeta(teacher="a/teacher", revision=None, prompt="", dimension=DIMENSION)
SIZES = {"vectors": 4 * DIMENSION, "digests": 4, "records": RECORD.itemsize}
RIGHT = functional.normalize(
    torch.randn(len(TEXTS), DIMENSION, generator=torch.Generator().manual_seed(0))
)
ORDER = sorted(range(len(KEYS)), key=KEYS.__getitem__)  # of the rows in both stores


def embed(texts: list[str]) -> np.ndarray:
    return RIGHT[[TEXTS.index(text) for text in texts]].numpy()


def write_teacher(folder: Path) -> None:
    """As the teacher's program does: what the store lacks."""
    write_store(folder, TEXTS, META, embed, block_size=4)


def write_evaluation(folder: Path) -> None:
    """As an evaluation does."""
    with closing(EmbeddingStore(folder, {"model": "tiny"})) as store:
        places = [ORDER[n] for n in store.missing([KEYS[n] for n in ORDER])]
        store.add([KEYS[n] for n in places], RIGHT[places], [False] * len(places))


def write_version_1(folder: Path) -> None:
    """An evaluation's store as it was before there were digests."""
    write_evaluation(folder)
    (folder / "digests").unlink()
    (folder / "store.json").write_text(json.dumps({"model": "tiny", "dimension": DIMENSION}))


WRITERS = {"teacher": write_teacher, "evaluation": write_evaluation}


def assert_right(store: StoredEmbeddings) -> int:
    """Whatever of the items is there has its own vector (as float32 of the teacher's scaling)."""
    missing = store.missing(KEYS)
    there = [n for n in range(len(KEYS)) if n not in missing]
    found = store.embeddings([KEYS[n] for n in there])
    torch.testing.assert_close(found, RIGHT[there], atol=1e-6, rtol=0)
    return len(there)


def row(name: str, number: int) -> slice:
    return slice(number * SIZES[name], (number + 1) * SIZES[name])


def change(path: Path, how: Callable[[bytearray], object]) -> None:
    content = bytearray(path.read_bytes())
    how(content)
    path.write_bytes(content)


def damage(folder: Path, seed: int) -> str:
    """One of many ways in which a disk, a copy or a hand may damage a store; says which."""
    chosen = random.Random(seed)
    name = chosen.choice(["store.json", *GROWING])
    path, size = folder / name, (folder / name).stat().st_size
    kind = list(DAMAGES)[seed % len(DAMAGES)]
    DAMAGES[kind](path, size, chosen)
    return f"{kind} {name}"


def cut(path: Path, size: int, chosen: random.Random) -> None:
    os.truncate(path, chosen.randrange(size))


def flip(path: Path, size: int, chosen: random.Random) -> None:
    place, bit = chosen.randrange(size), 1 << chosen.randrange(8)
    change(path, lambda content: content.__setitem__(place, content[place] ^ bit))


def blank(path: Path, size: int, chosen: random.Random) -> None:
    start = chosen.randrange(size)
    end = min(size, start + chosen.choice([1, 24, 4096]))
    change(path, lambda content: content.__setitem__(slice(start, end), bytes(end - start)))


def empty(path: Path, size: int, chosen: random.Random) -> None:
    path.write_bytes(b"")


def remove(path: Path, size: int, chosen: random.Random) -> None:
    path.unlink()


def lose_first(path: Path, size: int, chosen: random.Random) -> None:
    count = SIZES.get(path.name, 1)
    change(path, lambda content: content.__delitem__(slice(count)))


def swap_rows(path: Path, size: int, chosen: random.Random) -> None:
    one, other = (row(chosen.choice(GROWING), n) for n in chosen.sample(range(4), 2))

    def swapped(content: bytearray) -> None:
        content[one], content[other] = content[other], content[one]

    change(path, swapped)


def swap_files(path: Path, size: int, chosen: random.Random) -> None:
    other = path.with_name(chosen.choice(GROWING))
    mine, others = path.read_bytes(), other.read_bytes()
    path.write_bytes(others)
    other.write_bytes(mine)


def other_kind(path: Path, size: int, chosen: random.Random) -> None:
    facts = json.loads(path.with_name("store.json").read_text())
    key = chosen.choice([*facts, "dimension", "version"])
    facts[key] = chosen.choice([None, [], {}, "x", -1, 0, 10**12, True, 2.5, 3, 12])
    path.with_name("store.json").write_text(json.dumps(facts))


def make_folder(path: Path, size: int, chosen: random.Random) -> None:
    path.unlink()
    path.mkdir()


def make_pipe(path: Path, size: int, chosen: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGES = {
    function.__name__: function
    for function in (
        *(cut, flip, blank, empty, remove, lose_first, swap_rows, swap_files, other_kind),
        *(make_folder, make_pipe),
    )
}


@pytest.mark.parametrize("kind", WRITERS)
def test_no_damage_gives_a_wrong_vector(tmp_path: Path, kind: str) -> None:
    """Refused by name, or read with right vectors only; after a repair, where there can be one, the
    same command has them all."""
    refused = 0
    WRITERS[kind](tmp_path / "whole")
    for seed in range(66):
        folder = tmp_path / str(seed)
        shutil.copytree(tmp_path / "whole", folder)
        what = damage(folder, seed)
        for opening in (StoredEmbeddings.open, lambda path: open_store(path, TEXTS)):
            try:
                assert_right(opening(folder))
            except DataError as error:
                assert str(folder) in str(error), what
                refused += 1
        try:
            WRITERS[kind](folder)
            assert_right(StoredEmbeddings.open(folder))
            continue
        except DataError as error:
            assert str(folder) in str(error), what
            if "teacher embeddings: " in str(error) or "another output_dir" in str(error):
                continue  # the facts are another's, which is no damage that one could see
        (found,) = check_store(folder, repair=True)
        assert found.is_sound or str(folder) in found.problem, what
        if found.is_sound:
            WRITERS[kind](folder)
            assert assert_right(StoredEmbeddings.open(folder)) == len(KEYS), what
            assert [again.is_sound for again in check_store(folder)] == [True]
    assert refused > 50


@pytest.mark.parametrize("name", GROWING)
def test_a_lost_first_row_of_any_file_is_known(tmp_path: Path, name: str) -> None:
    """At bfac824 a lost first record gave every item the vector of another."""
    write_evaluation(tmp_path)
    lose_first(tmp_path / name, 0, random.Random(0))
    if name == "records":
        with pytest.raises(DataError, match="row 0: damaged: .*the one that was written"):
            EmbeddingStore(tmp_path, {})
        with pytest.raises(DataError, match="row .*: damaged"):
            StoredEmbeddings.open(tmp_path).embeddings(KEYS[3:4] * 2)
    else:
        with pytest.raises(DataError, match=f"{name}: cut, .* for 9 records, expected"):
            StoredEmbeddings.open(tmp_path)
    (found,) = check_store(tmp_path, repair=True)
    assert "no row is sound; remove" in found.problem
    assert (tmp_path / "vectors").stat().st_size >= 8 * SIZES["vectors"]  # nothing was removed


def test_a_repair_costs_the_damaged_rows_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_teacher(tmp_path / "s")
    change(
        tmp_path / "s/vectors", lambda content: content.__setitem__(row("vectors", 2), bytes(24))
    )
    flip(tmp_path / "s/records", 17, random.Random(0))
    reader = StoredEmbeddings.open(tmp_path / "s")
    with pytest.raises(DataError, match=r"/s, row 2: damaged: .*check .*/s repair=true"):
        open_store(tmp_path / "s", [TEXTS[n] for n in ORDER[1:]])
    with pytest.raises(SystemExit) as end:
        check.main([str(tmp_path / "s")])
    assert end.value.code == 1
    said = capsys.readouterr().out
    assert "/s: 9 rows of 6 dimensions, 2 damaged, 0 duplicate, 0 half-written" in said
    assert f"\n  row 2, key {KEYS[ORDER[2]][:8].hex()}" in said and "\n  row 0, key " in said
    check.main([str(tmp_path / "s"), "repair=true"])
    assert capsys.readouterr().out.endswith("repaired: these rows are taken out\nsound\n")
    assert StoredEmbeddings.open(tmp_path / "s").missing([KEYS[n] for n in ORDER]) == [0, 2]
    asked: list[str] = []
    write_store(tmp_path / "s", TEXTS, META, lambda texts: asked.extend(texts) or embed(texts), 4)
    assert sorted(asked) == sorted(TEXTS[ORDER[n]] for n in (0, 2))
    assert assert_right(open_store(tmp_path / "s", TEXTS)) == len(TEXTS)
    check.main([str(tmp_path / "s")])
    assert "9 rows of 6 dimensions, 0 damaged, 0 duplicate, 0 half-written, 2 taken out" in (
        capsys.readouterr().out
    )
    sound = [KEYS[n] for n in ORDER[3:]]
    torch.testing.assert_close(reader.embeddings(sound), RIGHT[ORDER[3:]])  # it was open all along


def test_cut_vectors_are_repaired(tmp_path: Path) -> None:
    write_evaluation(tmp_path)
    os.truncate(tmp_path / "vectors", 7 * 24 + 3)
    (found,) = check_store(tmp_path, repair=True)
    assert len(found.damaged) == 2 and found.is_sound
    assert StoredEmbeddings.open(tmp_path).missing([KEYS[n] for n in ORDER]) == [7, 8]


def test_duplicates_and_half_written_rows_are_counted(tmp_path: Path) -> None:
    write_evaluation(tmp_path)
    with closing(EmbeddingStore(tmp_path, {})) as store:
        store.add([KEYS[1]], RIGHT[[1]], [False])
    with (tmp_path / "vectors").open("ab") as file:
        file.write(bytes(25))
    (found,) = check_store(tmp_path)
    assert (len(found.duplicate), found.half_written, found.is_sound) == (1, 2, False)
    assert next(check_store(tmp_path, repair=True)).is_sound
    write_evaluation(tmp_path)
    (found,) = check_store(tmp_path)
    assert (found.rows, found.duplicate, found.half_written, found.is_sound) == (9, [], 0, True)


@pytest.mark.parametrize("value", [0, np.nan, 100, np.inf])
@pytest.mark.parametrize("layout", ["before digests", "before store.json"])
def test_what_has_no_digests_is_known_by_its_norm(
    tmp_path: Path, value: float, layout: str
) -> None:
    if layout == "before digests":
        write_version_1(tmp_path)
        vectors = np.memmap(tmp_path / "vectors", "<f4", "r+", shape=(9, DIMENSION))
    else:
        write_old(tmp_path)
        vectors = np.load(tmp_path / "embeddings.npy", mmap_mode="r+")
    vectors[4] *= value
    vectors.flush()
    (found,) = check_store(tmp_path)
    assert [name[:5] for name in found.damaged] == ["row 4"] and not found.is_sound
    with pytest.raises(DataError, match="row 4: damaged: no unit vector"):
        if layout == "before digests":
            EmbeddingStore(tmp_path, {})
        else:
            open_store(tmp_path, TEXTS)
    if layout == "before digests":
        assert next(check_store(tmp_path, repair=True)).is_sound
        write_evaluation(tmp_path)
    else:
        with pytest.warns(UserWarning, match="1 of 9 embeddings are no unit vectors"):
            write_teacher(tmp_path)
    assert assert_right(StoredEmbeddings.open(tmp_path)) == 9
    assert next(check_store(tmp_path)).is_sound


def test_a_store_without_digests_is_given_them(tmp_path: Path) -> None:
    """Nothing is encoded again; it is read before, and after a kill at any write."""
    steps = 0
    while True:
        folder = tmp_path / str(steps)
        write_version_1(folder)
        assert assert_right(StoredEmbeddings.open(folder)) == 9
        left = iter(range(steps))

        def stopping(write: Callable[..., None], left: object = left) -> Callable[..., None]:
            def step(*arguments: object) -> None:
                if next(left, None) is None:  # type: ignore[call-overload]
                    raise RuntimeError
                write(*arguments)

            return step

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(store_files, "write_aside", stopping(store_files.write_aside))
            patch.setattr(store_files, "write_json", stopping(store_files.write_json))
            try:
                EmbeddingStore(folder, {}).close()
                break
            except RuntimeError:
                steps += 1
        assert assert_right(StoredEmbeddings.open(folder)) == 9
        EmbeddingStore(folder, {}).close()
        assert next(check_store(folder)).remark == ""
    assert steps == 2
    assert json.loads((folder / "store.json").read_text())["version"] == 2


def test_a_kill_while_repairing_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_evaluation(tmp_path)
    flip(tmp_path / "vectors", 24, random.Random(0))
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.name != ".lock"}

    def killed(path: Path, content: bytes) -> None:
        path.with_name(path.name + ".partial").write_bytes(content[:9])
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr(store_check, "write_aside", killed)
        with pytest.raises(RuntimeError):
            next(check_store(tmp_path, repair=True))
    assert all(path.read_bytes() == content for path, content in before.items())
    assert next(check_store(tmp_path, repair=True)).is_sound
    write_evaluation(tmp_path)
    assert assert_right(StoredEmbeddings.open(tmp_path)) == 9


def test_all_stores_below_a_folder_are_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An evaluation's output_dir has one for each state of the code."""
    for name in ("out/embeddings/a1", "out/embeddings/b2"):
        write_evaluation(tmp_path / name)
    write_old(tmp_path / "old")
    (tmp_path / "other").mkdir()
    check.main([str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0].rpartition("/")[2] for line in lines if ": 9 rows" in line] == [
        "old", "a1", "b2",
    ]  # fmt: skip
    change(tmp_path / "out/embeddings/a1/digests", lambda content: content.__setitem__(0, 1))
    with pytest.raises(SystemExit):
        check.main([str(tmp_path / "out")])
    assert "a1: 9 rows of 6 dimensions, 1 damaged" in capsys.readouterr().out
    for path in (tmp_path / "other", tmp_path / "none"):
        with pytest.raises(ConfigError, match="no store of embeddings is there"):
            find_stores(path)


def test_facts_that_are_none_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_teacher(tmp_path)
    for facts in ('{"teacher": 5, "dimension": 6, "version": 2}', "[]"):
        (tmp_path / "store.json").write_text(facts)
        with pytest.raises(SystemExit):
            check.main([str(tmp_path), "repair=true"])
        assert capsys.readouterr().out.endswith("damaged\n")


# The layout before ------------------------------------------------------------------------------


def write_old(folder: Path, done: int | None = None) -> None:
    """As the programs before wrote it; done: only so many rows are there."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "embeddings.npy", RIGHT[ORDER].numpy())
    np.save(folder / "keys.npy", np.array([KEYS[n] for n in ORDER], dtype="S16"))
    if done is not None:
        np.save(folder / "done.npy", np.arange(9) < done)
    (folder / "meta.json").write_text(
        '{"teacher": "a/teacher", "revision": null, "prompt": "", "dimension": 6, "count": 9, '
        '"version": 1, "max_text_tokens": null, "cut_at": null, "num_cut": 0}'
    )


@pytest.mark.parametrize("name", ["embeddings.npy", "keys.npy", "done.npy"])
@pytest.mark.parametrize("left", [0, 40, 130, -30, -1])
def test_a_cut_partial_folder_is_refused(tmp_path: Path, name: str, left: int) -> None:
    """At bfac824 its missing end was taken for vectors of zeros."""
    write_old(tmp_path / "partial", done=6)
    path = tmp_path / "partial" / name
    os.truncate(path, left if left >= 0 else path.stat().st_size + left)
    with pytest.raises(DataError, match="partial: cannot read the teacher embeddings: .*delete th"):
        write_teacher(tmp_path)
    assert path.is_file()
    assert [bool(found.problem) for found in check_store(tmp_path / "partial")] == [True]


def test_zeros_that_a_cut_left_are_embedded_again(tmp_path: Path) -> None:
    write_old(tmp_path / "partial", done=9)
    rows = np.load(tmp_path / "partial/embeddings.npy", mmap_mode="r+")
    rows[5:] = 0
    rows.flush()
    asked: list[str] = []
    with pytest.warns(
        UserWarning, match="partial: 4 of 9 embeddings are no unit vectors: left out"
    ):
        write_store(tmp_path, TEXTS, META, lambda texts: asked.extend(texts) or embed(texts), 4)
    assert sorted(asked) == sorted(TEXTS[n] for n in ORDER[5:])
    assert assert_right(open_store(tmp_path, TEXTS)) == 9


def test_a_teacher_without_room_embeds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = embedding_store.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(
        embedding_store.shutil, "disk_usage", lambda folder: usage._replace(free=9 * 45 - 1)
    )
    with pytest.raises(ConfigError, match=r"output_dir: .* 9 more embeddings need .* are free"):
        write_store(tmp_path, TEXTS, META, lambda texts: pytest.fail("embedded"), 4)
