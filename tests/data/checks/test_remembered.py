"""A check is made once of the same content: the second reads no picture, of those that have changed
only they are read, and what is remembered can be damaged without harm.

./launch.sh test tests/data/checks/test_remembered.py
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from tests.data.checks.conftest import Made, check, data_of, found_in
from unime.data.checks import pictures
from unime.data.checks.memory import PictureLog, Seen
from unime.data.datasets import PairDataset
from unime.errors import DataError
from unime.inputs.items import Item
from unime.models.item_processor import ItemProcessor


def load(made: Made, processor: ItemProcessor | None = None) -> PairDataset:
    return PairDataset.load(data_of(made.root), 0, processor)


def test_the_second_run_opens_no_picture(
    made: Made, opened: list[str], processor: ItemProcessor
) -> None:
    names = sorted(pair.target.images[0] for pair in made.pairs)
    made.write()
    first = check(made.root, processor)
    assert sorted(opened) == names
    opened.clear()
    again = check(made.root, processor)
    assert opened == [] and again.content() == first.content()
    assert len(load(made, processor)) == 6 and opened == []  # nor does training
    made.write(test=[replace(made.pairs[0], query=Item("other"))])
    assert not check(made.root, processor).is_clean
    assert sorted(opened) == names  # by how they look, which nobody had asked for before


def test_other_settings_read_no_picture_but_look_at_items(
    made: Made, opened: list[str], processor: ItemProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.write()
    assert check(made.root, processor).is_clean
    opened.clear()
    small = ItemProcessor(processor.hf_processor, processor.backbone, processor.inputs, 60)
    report = check(made.root, small)
    assert opened == [] and {kind for _, _, kind in found_in(report)} == {"too long"}
    assert check(made.root, processor).is_clean


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-300])


def cut_unseen(path: Path) -> None:
    """The same size, and the time of before."""
    before, content = path.stat(), path.read_bytes()
    path.write_bytes(content[:100] + bytes(len(content) - 100))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def another(path: Path) -> None:
    """Another file in its place, of the same size and time."""
    before = path.stat()
    aside = path.with_name("aside.png")
    aside.write_bytes(bytes(before.st_size))
    os.utime(aside, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(aside, path)


@pytest.mark.parametrize("damage", [cut, cut_unseen, another])
def test_a_changed_picture_is_read_again_and_only_it(
    made: Made, opened: list[str], damage: Callable[[Path], None]
) -> None:
    made.write()
    assert check(made.root).is_clean
    opened.clear()
    name = made.pairs[2].target.images[0]
    damage(made.pictures / name)
    for _ in range(2):
        ((place, column, kind),) = found_in(check(made.root))
        assert place.endswith("row 2") and column == "target.images[0]"
        assert kind in ("truncated picture", "unreadable picture")
    assert opened == [name]
    assert len(load(made)) == 5 and opened == [name]
    shutil.copy(made.pictures / made.pairs[0].target.images[0], made.pictures / name)
    assert len(load(made)) == 6 and opened == [name] * 2


def test_a_missing_picture_that_comes_is_seen(made: Made, opened: list[str]) -> None:
    pair = made.pairs[1]
    made.pairs[1] = replace(pair, target=Item(images=("later.png",)))
    made.write()
    assert [kind for *_, kind in found_in(check(made.root))] == ["missing picture"]
    opened.clear()
    assert len(load(made)) == 5 and opened == []
    shutil.copy(made.pictures / pair.target.images[0], made.pictures / "later.png")
    assert len(load(made)) == 6 and opened == ["later.png"]
    (made.pictures / "later.png").unlink()
    assert len(load(made)) == 5


def test_other_rows_of_the_same_pictures(made: Made, opened: list[str]) -> None:
    made.write()
    check(made.root)
    opened.clear()
    made.pairs[0] = replace(made.pairs[0], query=Item("", images=()))
    made.write()
    report = check(made.root)
    assert [kind for *_, kind in found_in(report)] == ["empty side"] and opened == []


def test_what_was_read_before_a_kill_is_not_read_again(
    made: Made, monkeypatch: pytest.MonkeyPatch, opened: list[str]
) -> None:
    made.write()
    monkeypatch.setattr(pictures, "BLOCK", 2)
    look = pictures._look

    def look_or_die(path: str, *more: object) -> Seen:
        if len(opened) == 4:
            raise KeyboardInterrupt
        return look(path, *more)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(pictures, "_look", look_or_die)
        with pytest.raises(KeyboardInterrupt):
            check(made.root)
    assert len(opened) == 4
    assert check(made.root).is_clean
    assert len(opened) == 6 == len(set(opened))


@pytest.mark.parametrize("content", [b"", b"{}", b"[1", b"\xff\0", b'{"files": 3}', b'["a", 1]\n'])
def test_what_is_remembered_may_be_damaged(
    made: Made, own_memory: Path, content: bytes, opened: list[str]
) -> None:
    """It counts for nothing then, and the next check remembers again."""
    made.pairs[1] = replace(made.pairs[1], target=Item(images=("lost.png",)))
    made.write()
    first = check(made.root)
    for path in own_memory.iterdir():
        path.write_bytes(content)
    assert check(made.root).content() == first.content()
    assert len(opened) == 10
    assert check(made.root).content() == first.content()
    assert len(opened) == 10


@pytest.mark.parametrize("lost", [("pictures", "counts"), ("pictures", "rows"), ("rows", "counts")])
@pytest.mark.parametrize("held_out", [False, True])
def test_a_part_of_what_is_remembered_may_be_lost(
    made: Made, own_memory: Path, lost: tuple[str, ...], held_out: bool, opened: list[str]
) -> None:
    pair = replace(made.pairs[0], query=Item("other"))
    made.write(**({"test": [pair]} if held_out else {}))
    first = check(made.root)
    for path in own_memory.iterdir():
        if path.name.startswith(lost):
            path.unlink()
    for _ in range(2):
        assert check(made.root).content() == first.content()
    assert len(opened) == (12 if "pictures" in lost else 6)


def test_a_line_whose_looks_are_none_counts_for_nothing(own_memory: Path) -> None:
    log = PictureLog.of("key")
    for name, looks in (("a", "no hash"), ("b", "flat"), ("c", "a0ff"), ("d", "")):
        log.add(name, Seen("1", 2, 3, looks=looks))
    log.save()
    assert sorted(PictureLog.of("key").known) == ["b", "c", "d"]


def test_a_line_that_a_kill_has_cut(own_memory: Path) -> None:
    log = PictureLog.of("key")
    log.add("a", Seen("1", 2, 3))
    log.save()
    with log.path.open("a") as file:
        file.write('["b", "1", 2')
    log = PictureLog.of("key")
    log.add("c", Seen("1", 2, 3))
    log.save()
    assert PictureLog.of("key").known == {"a": Seen("1", 2, 3), "c": Seen("1", 2, 3)}


def test_where_nothing_can_be_remembered_all_is_read(
    made: Made, own_memory: Path, opened: list[str]
) -> None:
    own_memory.write_text("no folder")
    made.write()
    for _ in range(2):
        with pytest.warns(UserWarning, match="UNIME_CACHE: .* cannot be written"):
            assert len(load(made)) == 6
    assert len(opened) == 12


def test_in_several_processes(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """What they see is what one does."""
    monkeypatch.setattr(pictures, "BLOCK", 1)
    Image.new("RGB", (9, 9)).save(made.pictures / "x.png")
    (made.pictures / "y.png").write_text("no picture")
    paths = [str(path) for path in sorted(made.pictures.iterdir())]
    logs = [PictureLog.of(key) for key in ("one", "two")]
    for log, workers in zip(logs, (0, 2), strict=True):
        list(pictures.read_pictures(paths, log, 10**8, "", looks=True, num_workers=workers))
    assert logs[0].known == logs[1].known and list(logs[0].known) == paths
    assert logs[1].known[paths[-1]].kind == "unreadable picture"


def test_a_bad_row_is_raised_as_before(made: Made) -> None:
    made.pairs[1] = replace(made.pairs[1], target=Item(images=("lost.png",)))
    made.write()
    for _ in range(2):
        with pytest.raises(DataError, match="row 1, column 'target.images.0.*on_bad_row=drop"):
            PairDataset.load(replace(data_of(made.root), on_bad_row="raise"), 0)
