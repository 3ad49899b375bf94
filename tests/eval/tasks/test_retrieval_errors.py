"""What is said about retrieval sets that cannot be used: file, row, column and value.

./launch.sh test tests/eval/tasks/test_retrieval_errors.py
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import pytest

from eval.miniatures.captions import (
    SUGARCREPE,
    URBAN1K,
    write_sugarcrepe,
    write_urban1k,
)
from eval.tasks.long_captions import Urban1k
from eval.tasks.sugarcrepe import SugarCrepe
from tests.support.results import source
from unime.data import json_files
from unime.data.json_files import json_items
from unime.errors import DataError


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
    path = tmp_path / "set/test.json"
    path.parent.mkdir()
    path.write_text("[" * 100_000)
    with pytest.raises(DataError, match=f"^{path}: cannot read it: maximum recursion"):
        source(tmp_path).rows("set", None, "test", None, ("a",))


def test_endless_json_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_files, "CHUNK", 10)
    monkeypatch.setattr(json_files, "LONGEST", 50)
    path = tmp_path / "items.json"
    path.write_text('["' + "x" * 1000 + '"]')
    with pytest.raises(DataError, match="broken JSON at"):
        list(json_items(path))


def remove(*names: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        for name in names:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return damage


def put(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def no_archive(folder: Path) -> None:
    remove("image", "caption")(folder)
    put("Urban1k.zip", b"no archive")(folder)


PICTURES = [f"image/{number}.jpg" for number in (8, 9, 10, 12, 13, 14, 15, 16)]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove("caption/11.txt"), ": 1 ids without caption: 11$"),
        (remove(*PICTURES), ": 8 ids without image: 10, 12, 13, 14, 15, …$"),
        (put("caption/9.txt", b"\nsecond line"), ", caption of 9: got '', expected a caption"),
        (put("caption/9.txt", b"\xff"), ", caption of 9: 'utf-8' codec"),
        (put("caption/9.txt", b""), ", caption of 9: got ''"),
        (put("image/9.png", b"a copy"), r": .*two files of id 9: .*image/9\.(jpg|png) and"),
        (remove("image"), ": cannot read it: .*No such file.*/image"),
        (remove("image", "caption"), ": no file 'Urban1k.zip'"),
        (no_archive, "/Urban1k.zip: cannot read it: File is not a zip file"),
    ],
)
def test_bad_urban1k(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    folder = write_urban1k(tmp_path, 9)
    damage(folder)
    with pytest.raises(DataError, match=f"^{folder}{message}"):
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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "^FILE: expected a JSON object"),
        ('{"7": ["a"]}', r"^FILE, row '7': got \['a'\], expected an object"),
        ("{", "^FILE: cannot read it"),
        ('{"0":' * 100_000, "^FILE: cannot read it: maximum recursion"),
        ("{}", "no query"),
        (None, f"{SUGARCREPE}: no file 'data/add_att.json'"),
    ],
    ids=range(6),
)
def test_sugarcrepe_files_that_are_none(tmp_path: Path, content: str | None, message: str) -> None:
    path = write_sugarcrepe(tmp_path, "add_att", {})
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(DataError, match=message.replace("FILE", str(path))):
        SugarCrepe(file="data/add_att.json").read("", source(tmp_path)).checked()
