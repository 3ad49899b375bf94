"""JSON files: what is read, and how a message names what is wrong.

./launch.sh test tests/runtime/test_files.py
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from unime.errors import ConfigError, DataError
from unime.runtime.files import PARTIAL, append, read_json, read_text, replacing, write_json


def test_what_is_written_is_read(tmp_path: Path) -> None:
    for content in ({"a": [1, "é", None]}, [{"a": 0.1}]):
        write_json(tmp_path / "a.json", content)
        assert read_json(tmp_path / "a.json", type(content)) == content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "cannot read it: Expecting property name"),
        (b"\xff", "cannot read it: 'utf-8' codec"),
        (b"[" * 100_000, "cannot read it: maximum recursion"),
        (None, "cannot read it: .*No such file"),
        (b"[]", "expected a JSON object"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=f"^{path}: {message}"):
        read_json(path)
    with pytest.raises(ConfigError, match=f"^model.name: {path}: {message}"):
        read_json(path, key="model.name")


def test_a_list_is_no_object(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(DataError, match="a.json: expected a JSON list"):
        read_json(tmp_path / "a.json", list)


def test_a_folder_comes_back_when_another_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "place").mkdir()
    (tmp_path / "place/first").touch()

    def full(*paths: Path) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("unime.runtime.files.os.replace", full)
    with pytest.raises(OSError, match="no space left"), replacing(tmp_path / "place") as aside:
        aside.mkdir()
    assert [*tmp_path.rglob("*")] == [tmp_path / "place", tmp_path / "place/first"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_written_replaces_all_that_was_there_or_nothing(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "place"

    def write(text: str) -> None:
        with replacing(place) as aside:
            assert not aside.exists()
            if kind == "folder":
                aside.mkdir()
            (aside / text if kind == "folder" else aside).write_text(text)
            if text == "bad":
                raise OSError("no space left")

    for text in ("first", "second"):
        write(text)
    place.rename(tmp_path / "place.replaced")  # by a run that was killed
    (tmp_path / f"place{PARTIAL}").mkdir()
    with pytest.raises(OSError, match="no space left"):
        write("bad")
    found = [path.name for path in place.iterdir()] if kind == "folder" else [place.read_text()]
    assert found == ["second"] and list(tmp_path.iterdir()) == [place]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_written_is_as_readable_as_the_umask_says(tmp_path: Path, kind: str) -> None:
    """safetensors writes files that nobody else may read."""
    with replacing(tmp_path / "place") as aside:
        if kind == "folder":
            (aside / "below").mkdir(parents=True)
        weights = aside / "below/weights" if kind == "folder" else aside
        save_file({"weight": torch.zeros(2)}, weights)
    (tmp_path / "usual").touch()
    written = tmp_path / "place" / ("below/weights" if kind == "folder" else "")
    assert written.stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_what_would_be_waited_for_is_not_opened(tmp_path: Path, make: Any) -> None:
    path = tmp_path / "a.json"
    make(path)
    kind = "a folder" if path.is_dir() else "not a regular file"
    with pytest.raises(DataError, match=f"^{path}: {kind}$"):
        read_json(path)
    with pytest.raises(ConfigError, match=f"^model.name: {path}: {kind}$"):
        read_text(path, key="model.name")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_all_of_what_is_renamed_is_on_the_disk_before(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted(place: int) -> None:
        done.append(Path(os.readlink(f"/proc/self/fd/{place}")).name)
        fsync(place)

    monkeypatch.setattr("unime.runtime.files.os.fsync", noted)
    monkeypatch.setattr(
        "unime.runtime.files.os.replace", lambda *paths: (done.append("renamed"), replace(*paths))
    )
    with replacing(tmp_path / "a") as aside:
        if kind == "folder":
            (aside / "b").mkdir(parents=True)
            (aside / "b/c").touch()
        else:
            aside.touch()
    before = ["c", "b", f"a{PARTIAL}"] if kind == "folder" else [f"a{PARTIAL}"]
    assert done == [*before, "renamed", tmp_path.name]


def test_what_is_appended_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(
        "unime.runtime.files.os.fdatasync", lambda place: sizes.append(os.fstat(place).st_size)
    )
    for text in ("a\n", "é\n"):
        append(tmp_path / "lines", text)
    assert sizes == [2, 5] and (tmp_path / "lines").read_text() == "a\né\n"
