"""What a stranger's folder of data leads to: nothing elsewhere, and nothing is waited for.

./launch.sh test tests/data/test_links_and_pipes.py
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from eval.miniatures.captions import URBAN1K, write_urban1k
from eval.miniatures.mmeb import write_json, write_parquet, write_picture
from eval.miniatures.videos import write_video
from eval.tasks.long_captions import Urban1k
from eval.tasks.sources import EvalSource
from eval.tasks.suites import load_suite
from eval.tasks.video_classification import read_labels
from unime.config import EvalData, PairData, PairSource, ReportConfig, build_config
from unime.data.json_files import json_items
from unime.data.survey import survey
from unime.data.tables import load_table
from unime.data.texts import read_texts
from unime.data.train_subset import load_train_subset
from unime.errors import ConfigError, DataError
from unime.inputs.items import Item, Pair, image_digest, video_frames

SHARD = "original-00000-of-00001.parquet"
pytestmark = pytest.mark.usefixtures("soon")


# Links -------------------------------------------------------------------------------------------


def linked(link: Path, to: Path) -> None:
    """The file or folder goes elsewhere, and a link takes its place."""
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(link, to)
    link.symlink_to(to)


def strange(root: Path) -> Path:
    write_picture(root / "pictures/a.png", 1)
    write_video(root / "videos/v", 1, 3)
    write_parquet(root / "X" / SHARD, [{"a": 1}])
    write_json(root / "org/set/items.json", [{"a": 1}])
    write_parquet(root / "org/set/test.parquet", [{"a": 1}])
    (root / "org/set/README.md").write_text("---\nlicense: mit\n---\n")
    write_urban1k(root, 2)
    return root


def read_all(root: Path, follow_links: bool = False) -> None:
    source = EvalSource(EvalData(root=str(root), follow_links=follow_links))
    source.images().find("pictures/a.png")
    source.images("below").find(str(root / "pictures/a.png"))
    source.frames("videos/v")
    assert len(source.rows(None, "X", "original", None, ("a",))) == 1
    assert len(source.rows("org/set", None, "test", None, ("a",))) == 1
    assert list(json_items(source.file("org/set", "items.json", None))) == [{"a": 1}]
    assert len(Urban1k(direction="i2t", repository=URBAN1K).read("", source).queries) == 2


LINKS = [
    "pictures/a.png", "pictures", "videos", "videos/v", "videos/v/frame_1.png", f"X/{SHARD}", "X",
    "org", "org/set", "org/set/items.json", "org/set/test.parquet", "org/set/README.md",
    f"{URBAN1K}/caption/8.txt", f"{URBAN1K}/image/8.jpg", f"{URBAN1K}/caption",
]  # fmt: skip


@pytest.mark.parametrize("link", LINKS)
def test_a_link_leads_nowhere_else_unless_it_may(tmp_path: Path, link: str) -> None:
    root = strange(tmp_path / "root")
    assert (root / link).exists(), sorted(root.rglob("*"))
    linked(root / link, tmp_path / "private" / Path(link).name)
    with pytest.raises(DataError, match="a link leads out of .*; follow_links=true"):
        read_all(root)
    read_all(root, follow_links=True)


def test_links_of_training_rows_lead_nowhere_else(tmp_path: Path) -> None:
    root = tmp_path / "root"
    row = {"qry": "", "qry_image_path": "a.png", "pos_text": "a", "pos_image_path": ""}
    write_parquet(root / "X" / SHARD, [row])
    linked(write_picture(root / "a.png", 1), tmp_path / "private.png")
    data = PairData(root=str(root), sources={"X": PairSource()})
    with pytest.raises(DataError, match="'qry_image_path': .*a.png: a link leads out of"):
        load_train_subset(data, "X")
    linked(root / "X", tmp_path / "other/X")
    with pytest.raises(DataError, match=f"{SHARD}: a link leads out of"):
        load_train_subset(data, "X")
    assert len(load_train_subset(replace(data, follow_links=True), "X")) == 1


def test_roots_may_be_links_and_links_inside_of_them_are_followed(tmp_path: Path) -> None:
    root = strange(tmp_path / "disk/root")
    for link in LINKS[:3] + LINKS[5:]:
        if not (root / link).is_symlink() and "org" not in link and URBAN1K not in link:
            linked(root / link, root / "kept" / link)
    (tmp_path / "root").symlink_to(root)
    read_all(tmp_path / "root")


def test_the_hubs_cache_is_links_itself(tmp_path: Path) -> None:
    repository = tmp_path / "hub/datasets--org--set"
    root = strange(repository / "snapshots/0123abc")
    files = [path for path in root.rglob("*") if path.is_file()]
    for number, path in enumerate(files):
        linked(path, repository / f"blobs/{number}")
    read_all(root)
    (root / "pictures/a.png").unlink()
    (root / "pictures/a.png").symlink_to(write_picture(tmp_path / "hub/datasets--b/a.png", 1))
    with pytest.raises(DataError, match="a link leads out of"):
        read_all(root)


# Pipes and folders -------------------------------------------------------------------------------


def in_place_of(make: Callable[[Path], None], path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    make(path)
    return path


PIPES: dict[str, Callable[[Path], object]] = {
    "pictures/a.png": lambda root: read_all(root),
    "videos/v/frame_1.png": lambda root: video_frames(root / "videos/v"),
    "videos/v/frame_1.jpg": lambda root: read_all(root),
    "lone.png": lambda root: image_digest(str(root / "lone.png")),
    "one.png": lambda root: survey(
        [Pair(Item("q"), Item(images=(str(root / "one.png"),)))], {"X": 1}, 1
    ),
    f"X/{SHARD}": read_all,
    "org/set/items.json": read_all,
    "org/set/test.parquet": read_all,
    "org/set/README.md": read_all,
    f"{URBAN1K}/caption/8.txt": read_all,
    f"{URBAN1K}/image/8.jpg": read_all,
    "J/test.json": lambda root: load_table(str(root), "J", "test", None, ("a",), ()),
    "J/test.jsonl": lambda root: load_table(str(root), "J", "test", None, ("a",), ()),
    "texts.jsonl": lambda root: read_texts([str(root / "texts.jsonl")], ["a"]),
    "texts.csv": lambda root: read_texts([str(root / "texts.csv")], ["a"]),
    "texts.parquet": lambda root: read_texts([str(root / "texts.parquet")], ["a"]),
    "labels.txt": lambda root: read_labels(str(root / "labels.txt")),
    "suite.yaml": lambda root: load_suite(str(root / "suite.yaml")),
    "config.yaml": lambda root: build_config(ReportConfig, root / "config.yaml"),
}  # fmt: skip


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
@pytest.mark.parametrize("name", PIPES)
def test_what_is_no_file_is_named_and_not_waited_for(
    tmp_path: Path, name: str, make: Callable[[Path], None]
) -> None:
    strange(tmp_path)
    in_place_of(make, tmp_path / name)
    with pytest.raises((DataError, ConfigError)) as error:
        PIPES[name](tmp_path)
    assert Path(name).stem in str(error.value)
