"""MMEB's training rows: what becomes of the rows, and what is said about bad ones.

./launch.sh test tests/data/test_mmeb_train.py
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eval.miniatures.mmeb import train_rows, write_picture, write_rows
from unime.data.mmeb_rows import strip_image_tokens
from unime.data.mmeb_train import load_train_subset
from unime.data.tables import image_folder
from unime.errors import DataError
from unime.inputs.items import Item

Rows = list[dict[str, Any]]


@pytest.mark.parametrize(
    ("text", "stripped"),
    [
        (
            "<|image_1|>\nRepresent the given image with the following question: What is it?\n",
            "Represent the given image with the following question: What is it?",
        ),
        ("<|image_1|>\nIdentify it.\nCaption: a cat\n", "Identify it.\nCaption: a cat"),
        ("Find a Wikipedia image", "Find a Wikipedia image"),
        ("<|image_1|> one line", "one line"),
        ("before <|image_1|> after", "before after"),
        ("before\n<|image_1|>\nafter", "before\nafter"),
        ("<|image_1|>\n<|image_2|>\nboth", "both"),
        ("<|image_1|>\n", ""),
        ("", ""),
        ("an <image> and <|image|>", "an <image> and <|image|>"),
    ],
)
def test_image_tokens_go_and_the_layout_stays(text: str, stripped: str) -> None:
    assert strip_image_tokens(text) == stripped


def test_train_rows_become_pairs(tmp_path: Path) -> None:
    rows = train_rows(tmp_path, "A-OKVQA", 3)
    picture = str(tmp_path / rows[0]["qry_image_path"])
    rows[1] |= {"qry": "<|image_1|>\nonly a text", "qry_image_path": None}  # token without image
    rows[2] |= {"qry": "no token", "pos_text": None, "pos_image_path": rows[0]["qry_image_path"]}
    write_rows(tmp_path, "A-OKVQA", "original", rows)
    (tmp_path / "A-OKVQA" / "train-00000-of-00001.parquet").write_bytes(b"stale: never read")
    subset = load_train_subset(str(tmp_path), "A-OKVQA", "original")
    assert len(subset) == 3
    assert subset[0].query == Item(
        "Represent the given image with the question: What is 0?", (picture,)
    )
    assert subset[0].target == Item("answer 0")
    assert subset[0].negatives == ()
    assert subset[0].row_id == "A-OKVQA:0"
    assert subset[1].query == Item("only a text")
    assert subset[2].query.kind == "image+text"
    assert subset[2].target == Item("", (picture,))


@pytest.mark.parametrize(
    ("neg_text", "neg_image_path", "expected"),
    [
        (None, None, []),
        ("", "", []),
        ("a dog", None, [("a dog", False)]),
        ("", "P", [("", True)]),
        ("a dog", "P", [("a dog", True)]),
        (["a", "b"], None, [("a", False), ("b", False)]),
        (["a", "b"], ["P", ""], [("a", True), ("b", False)]),
        (["", "b"], ["", "P"], [("b", True)]),
        ([], ["P", "P"], [("", True), ("", True)]),
    ],
)
def test_explicit_negatives(
    tmp_path: Path, neg_text: Any, neg_image_path: Any, expected: list[tuple[str, bool]]
) -> None:
    rows = train_rows(tmp_path, "X", 1)
    path = rows[0]["qry_image_path"]

    def fill(value: Any) -> Any:
        return (
            [fill(v) for v in value] if isinstance(value, list) else path if value == "P" else value
        )

    rows[0] |= {"neg_text": neg_text, "neg_image_path": fill(neg_image_path)}
    write_rows(tmp_path, "X", "original", rows)
    negatives = load_train_subset(str(tmp_path), "X", "original")[0].negatives
    assert [(item.text, bool(item.images)) for item in negatives] == expected


def test_rows_first_and_random(tmp_path: Path) -> None:
    write_rows(tmp_path, "X", "original", train_rows(tmp_path, "X", 20))

    def chosen(**settings: Any) -> list[str]:
        subset = load_train_subset(str(tmp_path), "X", "original", rows=6, **settings)
        return [subset[n].row_id for n in range(len(subset))]

    assert chosen() == [f"X:{n}" for n in range(6)]
    random = chosen(sample="random", seed=1)
    assert random == chosen(sample="random", seed=1) != chosen(sample="random", seed=2)
    assert len(set(random)) == 6
    assert random != chosen()
    assert len(load_train_subset(str(tmp_path), "X", "original", rows=99)) == 20


def test_several_shards(tmp_path: Path) -> None:
    rows = train_rows(tmp_path, "X", 5)
    rows[4]["qry_image_path"] = "images/lost.png"
    folder = tmp_path / "X"
    folder.mkdir()
    for number, part in enumerate((rows[:3], rows[3:])):
        pq.write_table(
            pa.Table.from_pylist(part), folder / f"original-0000{number}-of-00002.parquet"
        )
    subset = load_train_subset(str(tmp_path), "X", "original", on_bad_row="drop")
    assert len(subset) == 4
    assert subset[3].target == Item("answer 3")
    assert "original-00001-of-00002.parquet, row 1, column 'qry_image_path'" in subset.dropped[0]
    (folder / "original-00000-of-00002.parquet").unlink()
    with pytest.raises(DataError, match="incomplete split 'original': original-00001-of-00002"):
        load_train_subset(str(tmp_path), "X", "original")


def test_a_rewritten_file_is_read_again(tmp_path: Path) -> None:
    rows = train_rows(tmp_path, "X", 2)
    write_rows(tmp_path, "X", "original", rows)
    assert len(load_train_subset(str(tmp_path), "X", "original")) == 2
    write_rows(tmp_path, "X", "original", [rows[0] | {"pos_text": "another"}])
    again = load_train_subset(str(tmp_path), "X", "original")
    assert [again[n].target.text for n in range(len(again))] == ["another"]


def test_drop_counts_and_names_the_bad_rows(tmp_path: Path) -> None:
    rows = train_rows(tmp_path, "X", 6)
    rows[1]["pos_text"] = ""
    rows[4]["qry_image_path"] = "images/lost.png"
    path = write_rows(tmp_path, "X", "original", rows)
    subset = load_train_subset(str(tmp_path), "X", "original", on_bad_row="drop")
    assert [subset[n].row_id for n in range(len(subset))] == ["X:0", "X:2", "X:3", "X:5"]
    assert subset.dropped == [
        f"{path}, row 1, columns 'pos_text' and 'pos_image_path': got '' and '', both empty",
        f"{path}, row 4, column 'qry_image_path': 'images/lost.png': no such image in {tmp_path}",
    ]
    with pytest.raises(DataError) as error:
        load_train_subset(str(tmp_path), "X", "original")
    assert "row 1" in str(error.value)
    assert "(and 1 more bad rows); data.on_bad_row=drop leaves them out" in str(error.value)


def with_first(**values: Any) -> Callable[[Rows], Rows]:
    return lambda rows: [rows[0] | values, *rows[1:]]


def every(**values: Any) -> Callable[[Rows], Rows]:
    return lambda rows: [row | values for row in rows]


def without(column: str) -> Callable[[Rows], Rows]:
    return lambda rows: [{k: v for k, v in row.items() if k != column} for row in rows]


BAD_TRAIN = [
    (with_first(qry_image_path="images/no.png"),
     "row 0, column 'qry_image_path': 'images/no.png': no such image in"),
    (with_first(qry_image_path="../secret.png"),
     "row 0, column 'qry_image_path': '../secret.png': leaves the image folder"),
    (with_first(qry_image_path="images/../../x.png"), "leaves the image folder"),
    (with_first(qry_image_path="/etc/hostname"), "'/etc/hostname': leaves the image folder"),
    (with_first(qry_image_path="C:\\x.png"), "leaves the image folder"),
    (with_first(qry_image_path="https://pictures.example/x.png"), "is an address; none is fetched"),
    (with_first(qry_image_path="cat: asleep.png"), "'cat: asleep.png': no such image in"),
    (with_first(qry_image_path="."), "row 0, column 'qry_image_path': '.': names no file"),
    (with_first(qry_image_path="images/X/Train"),
     "row 0, column 'qry_image_path': 'images/X/Train': no such image in"),
    (with_first(qry="", qry_image_path=None),
     "row 0, columns 'qry' and 'qry_image_path': got '' and None, both empty"),
    (with_first(qry="<|image_1|>\n", qry_image_path=""), "got '<|image_1|>\\n' and '', both empty"),
    (with_first(pos_text=" "), "columns 'pos_text' and 'pos_image_path': got ' ' and '', both"),
    (every(pos_text=3), "row 0, column 'pos_text': got 3, expected a text"),
    (every(qry=["a"]), "row 0, column 'qry': got ['a'], expected a text"),
    (every(neg_text=["a", "b"], neg_image_path=["images/X/Train/X_0.png"]),
     "row 0, columns 'neg_text', 'neg_image_path': 2 and 1 entries"),
    (every(neg_text=["a", "b"], neg_image_path=["", "no.png"]),
     "row 0, column 'neg_image_path[1]': 'no.png': no such image"),
    (every(neg_text=5), "row 0, column 'neg_text[0]': got 5, expected a text"),
    (every(neg_text=0), "row 0, column 'neg_text[0]': got 0, expected a text"),
    (without("pos_image_path"),
     "no column 'pos_image_path'; it has 'qry', 'qry_image_path', 'pos_text'"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), BAD_TRAIN, ids=[m[:50] for _, m in BAD_TRAIN])
def test_bad_train_rows(tmp_path: Path, change: Callable[[Rows], Rows], message: str) -> None:
    path = write_rows(tmp_path, "X", "original", change(train_rows(tmp_path, "X", 2)))
    with pytest.raises(DataError) as error:
        load_train_subset(str(tmp_path), "X", "original")
    assert str(path) in str(error.value)
    assert message in str(error.value)


@pytest.mark.parametrize("name", ["cat: asleep.png", "10:30.png", "a:b/c:d.png", "a\\b.png"])
def test_names_with_colons_and_absolute_paths(tmp_path: Path, name: str) -> None:
    root = tmp_path / "pictures"
    picture = root / name
    picture.parent.mkdir(parents=True)
    write_picture(picture, 1)
    linked = tmp_path / "linked"
    linked.symlink_to(root)
    for given in (root, linked):
        folder = image_folder(str(given), None, ["below"])
        for path in (name, str(picture), f"{given}/./{name}"):
            assert folder.find(path) == str(given / name)
    with pytest.raises(DataError, match="leaves the image folder"):
        image_folder(str(root), None, []).find(str(tmp_path / "linkedx.png"))
    with pytest.raises(DataError, match="leaves the image folder"):
        image_folder(str(root), None, []).find(f"{root}/../x.png")


BAD_PLACES = [
    ({"root": "ROOT/nowhere"}, "data.root: no folder"),
    ({"root": "some/where"}, "data.root: no folder 'some/where', and as a hub dataset: "),
    ({"subset": "Z"}, "no subset 'Z'; subsets with split 'original': Empty, X, Y"),
    ({"split": "test"}, "X: no split 'test'; it has original"),
    ({"revision": "main"}, "data.revision: 'main' is for a hub repository"),
    ({"image_root": "ROOT/lost"}, "data.image_root: no folder"),
    ({"image_root": "ROOT/X"}, "'images/X/Train/X_0.png': no such image in ROOT/X"),
    ({"subset": "Y", "on_bad_row": "drop"}, "Y: no good row; ROOT/Y/original-00000"),
    ({"subset": "Empty"}, "Empty/original-00000-of-00001.parquet: no rows"),
    ({"subset": "Broken"}, "Broken/original-00000-of-00001.parquet: cannot read it: "),
]


@pytest.mark.parametrize(("settings", "message"), BAD_PLACES)
def test_places_that_are_not_there(
    tmp_path: Path, settings: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    rows = train_rows(tmp_path, "X", 1)
    write_rows(tmp_path, "X", "original", rows)
    write_rows(tmp_path, "Y", "original", [rows[0] | {"qry_image_path": "lost.png"}])
    empty = write_rows(tmp_path, "Empty", "original", rows)
    pq.write_table(pq.read_table(empty).slice(0, 0), empty)
    wanted = {"root": "ROOT", "subset": "X", "split": "original"} | settings
    wanted = {key: value.replace("ROOT", str(tmp_path)) for key, value in wanted.items()}
    if wanted["subset"] == "Broken":
        write_rows(tmp_path, "Broken", "original", rows).write_bytes(b"PAR1 no parquet")
    with pytest.raises(DataError) as error:
        load_train_subset(**wanted)
    assert message.replace("ROOT", str(tmp_path)) in str(error.value)


def test_images_elsewhere(tmp_path: Path) -> None:
    rows = train_rows(tmp_path / "pictures", "X", 1)
    write_rows(tmp_path / "rows", "X", "original", rows)
    root, image_root = str(tmp_path / "rows"), str(tmp_path / "pictures")
    subset = load_train_subset(root, "X", "original", image_root=image_root)
    assert subset[0].query.images == (str(tmp_path / "pictures" / rows[0]["qry_image_path"]),)


def test_a_root_with_characters_of_patterns(tmp_path: Path) -> None:
    root = tmp_path / "a[b]*{c}"
    write_rows(root, "X", "original", train_rows(root, "X", 1))
    assert len(load_train_subset(str(root), "X", "original")) == 1
