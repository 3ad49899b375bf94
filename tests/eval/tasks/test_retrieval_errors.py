"""What is said about retrieval sets that cannot be used: file, row, column and value.

./launch.sh test tests/eval/tasks/test_retrieval_errors.py
"""

from __future__ import annotations

import shutil
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import pytest

from eval.miniatures.captions import (
    FLICKR,
    SUGARCREPE,
    URBAN1K,
    source,
    write_captioned,
    write_sugarcrepe,
    write_urban1k,
)
from eval.tasks import long_captions
from eval.tasks.caption_retrieval import CaptionedRows
from eval.tasks.long_captions import Urban1k, json_items
from eval.tasks.sugarcrepe import SugarCrepe
from eval.tasks.suites import load_suite
from unime.errors import ConfigError, DataError


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1}', "no JSON list"),
        ('[{"a": 1}, {"b"', r"broken JSON at '\{\"b\"'"),
        ('[{"a": 1}, oops]', "broken JSON at 'oops]'"),
        ('[{"a": 1}] more', "broken JSON at '] more'"),
        ("", "broken JSON at ''"),
        ('[{"a": 1}{"b": 2}]', r"broken JSON at '\{\"b\": 2\}\]'"),
        ('[{"a": 1},,{"b": 2}]', r"broken JSON at ',\{\"b\": 2\}\]'"),
        ('[{"a": 1},]', r"broken JSON at '\]'"),
        ('[,{"a": 1}]', r"broken JSON at ',\{"),
        ("[1 2]", "broken JSON at '1 2]'"),
        ("[" * 100_000, "cannot read it: maximum recursion"),
        (b"[\xff]", "cannot read it: 'utf-8'"),
    ],
)
def test_broken_json(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = tmp_path / "items.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message) as error:
        list(json_items(path))
    assert str(path) in str(error.value)


def test_deep_json(tmp_path: Path) -> None:
    path = write_sugarcrepe(tmp_path, "add_att", {})
    path.write_text('{"0":' * 100_000)
    with pytest.raises(DataError, match=f"^{path}: cannot read it: maximum recursion"):
        SugarCrepe(file="data/add_att.json").read("", source(tmp_path))
    path = tmp_path / "set/test.json"
    path.parent.mkdir()
    path.write_text("[" * 100_000)
    with pytest.raises(DataError, match=f"^{path}: cannot read it: maximum recursion"):
        source(tmp_path).rows("set", None, "test", None, ("a",))


def test_endless_json_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_captions, "CHUNK", 10)
    monkeypatch.setattr(long_captions, "LONGEST", 50)
    path = tmp_path / "items.json"
    path.write_text('["' + "x" * 1000 + '"]')
    with pytest.raises(DataError, match="broken JSON at"):
        list(json_items(path))


def test_splits_are_named(tmp_path: Path) -> None:
    write_captioned(tmp_path, FLICKR, [["a"]])
    with pytest.raises(DataError, match="no split 'val'; it has test"):
        CaptionedRows("t2i", FLICKR, split="val").read("", source(tmp_path))


def test_urban1k_that_does_not_match(tmp_path: Path) -> None:
    folder = write_urban1k(tmp_path, 9)
    urban1k = Urban1k("t2i", URBAN1K)
    (folder / "caption/11.txt").unlink()
    with pytest.raises(DataError, match=f"^{folder}: 1 ids without caption: 11$"):
        urban1k.read("", source(tmp_path))
    (folder / "caption/11.txt").write_text("back")
    for number in (8, 9, 10, 12, 13, 14, 15, 16):
        (folder / f"image/{number}.jpg").unlink()
    with pytest.raises(DataError, match="8 ids without image: 10, 12, 13, 14, 15, …$"):
        urban1k.read("", source(tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\nsecond line", "got '', expected a caption"), (b"\xff", "'utf-8' codec"), (b"", "got ''")],
)
def test_bad_urban1k_captions(tmp_path: Path, content: bytes, message: str) -> None:
    folder = write_urban1k(tmp_path, 2)
    (folder / "caption/9.txt").write_bytes(content)
    with pytest.raises(DataError, match=f"^{folder}, caption of 9: {message}"):
        Urban1k("i2t", URBAN1K).read("", source(tmp_path))


def test_urban1k_without_its_folders(tmp_path: Path) -> None:
    folder = write_urban1k(tmp_path, 2)
    shutil.rmtree(folder / "image")
    with pytest.raises(DataError, match=f"^{folder}/image: cannot read it: No such file"):
        Urban1k("i2t", URBAN1K).read("", source(tmp_path))
    shutil.rmtree(folder / "caption")
    with pytest.raises(DataError, match=f"^{folder}: no file 'Urban1k.zip'"):
        Urban1k("i2t", URBAN1K).read("", source(tmp_path))
    (folder / "Urban1k.zip").write_bytes(b"no archive")
    with pytest.raises(DataError, match="Urban1k.zip: cannot read it: File is not a zip file"):
        Urban1k("i2t", URBAN1K).read("", source(tmp_path))


def test_urban1k_with_two_files_of_one_id(tmp_path: Path) -> None:
    folder = write_urban1k(tmp_path, 2)
    (folder / "image/9.png").write_bytes((folder / "image/9.jpg").read_bytes())
    with pytest.raises(DataError, match=rf"^{folder}: two files of id 9: .*image/9\.(jpg|png) and"):
        Urban1k("i2t", URBAN1K).read("", source(tmp_path))


@pytest.mark.parametrize(
    ("damage", "message"),
    [("method", "compression method"), ("bytes", "decompressing"), ("large", "bytes, expected")],
)
def test_urban1k_in_an_archive_that_cannot_be_unpacked(
    tmp_path: Path, damage: str, message: str
) -> None:
    folder = tmp_path / URBAN1K
    folder.mkdir(parents=True)
    archive = folder / "Urban1k.zip"
    with ZipFile(archive, "w", ZIP_DEFLATED) as opened:
        size = (1 << 26) + 1 if damage == "large" else 4000
        opened.writestr("Urban1k/caption/1.txt", b"a caption " * (size // 10 + 1))
        info = opened.infolist()[0]
    content = bytearray(archive.read_bytes())
    if damage == "method":
        content[content.index(b"PK\1\2") + 10] = content[8] = 99
    if damage == "bytes":
        start = 30 + len(info.filename)
        content[start : start + 9] = b"\xff" * 9
    archive.write_bytes(content)
    with pytest.raises(DataError, match=f"^{archive}: cannot read it: .*{message}"):
        Urban1k("i2t", URBAN1K).read("", source(tmp_path))


def test_sugarcrepe_files_that_are_none(tmp_path: Path) -> None:
    crepe = SugarCrepe(file="data/add_att.json")
    path = write_sugarcrepe(tmp_path, "add_att", [1])
    with pytest.raises(DataError, match=f"^{path}: expected a JSON object"):
        crepe.read("", source(tmp_path))
    write_sugarcrepe(tmp_path, "add_att", {"7": ["a"]})
    with pytest.raises(DataError, match=rf"^{path}, row '7': got \['a'\], expected an object"):
        crepe.read("", source(tmp_path))
    path.write_text("{")
    with pytest.raises(DataError, match=f"^{path}: cannot read it"):
        crepe.read("", source(tmp_path))
    write_sugarcrepe(tmp_path, "add_att", {})
    with pytest.raises(DataError, match="no query"):
        crepe.read("", source(tmp_path))
    with pytest.raises(DataError, match=f"{SUGARCREPE}: no file 'data/add_obj.json'"):
        SugarCrepe(file="data/add_obj.json").read("", source(tmp_path))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("direction: i2i", "direction: got 'i2i', expected t2i or i2t"),
        ("revision: abc", "direction"),
        ("direction: t2i, max_captions: 0", "max_captions: got 0, expected 1 or more"),
        ("direction: t2i, directon: i2t", "no such setting; the nearest is 'direction'"),
    ],
)
def test_a_task_says_its_direction(tmp_path: Path, entry: str, message: str) -> None:
    suite = tmp_path / "suite.yaml"
    suite.write_text(
        f"Task: {{meta_task: m, format: captioned_rows, repository: {FLICKR}, {entry}}}"
    )
    with pytest.raises(ConfigError) as error:
        load_suite(str(suite))
    assert f"{suite}: Task" in str(error.value) and message in str(error.value)
