"""MMEB's training rows: what becomes of the rows, and what is said about bad ones.

./launch.sh test tests/data/test_train_subset.py
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from eval.miniatures.mmeb import train_rows, write_picture, write_rows
from unime.config import PairData, PairSource
from unime.data.mmeb_rows import strip_image_tokens
from unime.data.tables import image_folder
from unime.data.train_subset import TrainSubset, load_train_subset
from unime.errors import DataError
from unime.inputs.items import Item, Pair


def load(root: Path | str, name: str = "X", **settings: Any) -> TrainSubset:
    """The rows of one subset, without a look into its pictures."""
    source = PairSource(**{key: settings.pop(key) for key in ("rows", "sample") if key in settings})
    seed = settings.pop("seed", 0)
    data = PairData(str(root), sources={name: source}, verify_images=False, **settings)
    return load_train_subset(data, name, seed)


@pytest.mark.parametrize(
    ("text", "stripped"),
    [
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


def test_a_row_of_the_second_shard_is_named_there(tmp_path: Path) -> None:
    rows = train_rows(tmp_path, "X", 5)
    rows[4]["qry_image_path"] = "images/lost.png"
    for number, part in enumerate((rows[:3], rows[3:])):
        write_rows(tmp_path, f"part{number}", "original", part)
        (tmp_path / "X").mkdir(exist_ok=True)
        path = tmp_path / f"part{number}/original-00000-of-00001.parquet"
        path.rename(tmp_path / f"X/original-0000{number}-of-00002.parquet")
    subset = load(tmp_path, on_bad_row="drop")
    assert len(subset) == 4 and subset[3].target == Item("answer 3")
    place = "original-00001-of-00002.parquet, row 1, column 'qry_image_path'"
    assert len(subset.dropped) == 1 and place in subset.dropped[0]


def test_train_rows_become_pairs(tmp_path: Path) -> None:
    rows = train_rows(tmp_path, "A-OKVQA", 3)
    picture = str(tmp_path / rows[0]["qry_image_path"])
    rows[1] |= {"qry": "<|image_1|>\nonly a text", "qry_image_path": None}  # token without image
    rows[2] |= {"qry": "no token", "pos_text": None, "pos_image_path": rows[0]["qry_image_path"]}
    write_rows(tmp_path, "A-OKVQA", "original", rows)
    (tmp_path / "A-OKVQA" / "train-00000-of-00001.parquet").write_bytes(b"stale: never read")
    subset = load(tmp_path, "A-OKVQA")
    assert len(subset) == 3
    question = "Represent the given image with the question: What is 0?"
    assert subset[0] == Pair(Item(question, (picture,)), Item("answer 0"), (), "A-OKVQA:0")
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

    if isinstance(neg_image_path, list):
        neg_image_path = [path if value == "P" else value for value in neg_image_path]
    rows[0]["neg_text"] = neg_text
    rows[0]["neg_image_path"] = path if neg_image_path == "P" else neg_image_path
    write_rows(tmp_path, "X", "original", rows)
    negatives = load(tmp_path)[0].negatives
    assert [(item.text, bool(item.images)) for item in negatives] == expected


ANSWERS = ["cat", None, "", " ", "cat", "7"]


@pytest.mark.parametrize("of_numbers", [False, True])
def test_a_column_names_right_answers(tmp_path: Path, of_numbers: bool) -> None:
    """Texts or whole numbers; what is missing or blank is unknown."""
    cells = [7, None, 8, None, 7, 0] if of_numbers else ANSWERS
    rows = [row | {"kind": cell}
            for row, cell in zip(train_rows(tmp_path, "X", 6), cells, strict=True)]  # fmt: skip
    write_rows(tmp_path, "X", "original", rows)
    found = list(load(tmp_path, answer_column="kind"))
    expected = ["7", "", "8", "", "7", "0"] if of_numbers else ["cat", "", "", "", "cat", "7"]
    assert [pair.answer for pair in found] == expected
    assert {pair.task for pair in found} == {"X"}
    assert [pair.answer for pair in load(tmp_path)] == [""] * 6
    named = [pair.answer for pair in load(tmp_path, answer_column="pos_text")]
    assert named == [f"answer {n}" for n in range(6)]


@pytest.mark.parametrize(
    ("cells", "column", "message"),
    [
        ([1.5, 2.0], "kind", "row 0, column 'kind': got 1.5, expected a text or a whole number"),
        (
            [True, False],
            "kind",
            "row 0, column 'kind': got True, expected a text or a whole number",
        ),
        ([None, ["a"]], "kind", "row 1, column 'kind': got ['a'], expected a text or a whole"),
        (["a", "b"], "klass", "original-00000-of-00001.parquet: no column 'klass'; it has 'qry', "),
    ],
)
def test_a_column_of_answers_that_cannot_be_one(
    tmp_path: Path, cells: list[Any], column: str, message: str
) -> None:
    rows = [row | {"kind": cell}
            for row, cell in zip(train_rows(tmp_path, "X", 2), cells, strict=True)]  # fmt: skip
    path = write_rows(tmp_path, "X", "original", rows)
    with pytest.raises(DataError) as caught:
        load(tmp_path, answer_column=column)
    assert str(path) in str(caught.value) and message in str(caught.value)
    if column == "kind" and cells[0] is None:
        assert len(load(tmp_path, answer_column=column, on_bad_row="drop")) == 1


def test_rows_that_were_verified_are_looked_at_again_for_their_answers(tmp_path: Path) -> None:
    """What is remembered of a table is not taken for another column of it."""
    rows = [row | {"neg_text": ["no"]} for row in train_rows(tmp_path, "X", 2)]
    write_rows(tmp_path, "X", "original", rows)

    def verified(column: str | None) -> TrainSubset:
        data = PairData(str(tmp_path), sources={"X": PairSource()}, answer_column=column)
        return load_train_subset(data, "X")

    assert len(verified(None)) == len(verified("qry")) == 2
    with pytest.raises(DataError, match=r"column 'neg_text': got \['no'\], expected a text or"):
        verified("neg_text")


def test_rows_first_and_random(tmp_path: Path) -> None:
    write_rows(tmp_path, "X", "original", train_rows(tmp_path, "X", 20))

    def chosen(**settings: Any) -> list[str]:
        subset = load(tmp_path, rows=6, **settings)
        return [subset[n].row_id for n in range(len(subset))]

    assert chosen() == [f"X:{n}" for n in range(6)]
    random = chosen(sample="random", seed=1)
    assert random == chosen(sample="random", seed=1) != chosen(sample="random", seed=2)
    assert len(set(random)) == 6
    assert random != chosen()
    assert len(load(tmp_path, rows=99)) == 20


def test_a_rewritten_file_is_read_again(tmp_path: Path) -> None:
    rows = train_rows(tmp_path, "X", 2)
    write_rows(tmp_path, "X", "original", rows)
    assert len(load(tmp_path)) == 2
    write_rows(tmp_path, "X", "original", [rows[0] | {"pos_text": "another"}])
    again = load(tmp_path)
    assert [again[n].target.text for n in range(len(again))] == ["another"]


def test_drop_counts_and_names_the_bad_rows(tmp_path: Path) -> None:
    rows = train_rows(tmp_path, "X", 6)
    rows[1]["pos_text"] = ""
    rows[4]["qry_image_path"] = "images/lost.png"
    path = write_rows(tmp_path, "X", "original", rows)
    subset = load(tmp_path, on_bad_row="drop")
    assert [subset[n].row_id for n in range(len(subset))] == ["X:0", "X:2", "X:3", "X:5"]
    assert subset.dropped == [
        f"{path}, row 1, columns 'pos_text' and 'pos_image_path': got '' and '', both empty",
        f"{path}, row 4, column 'qry_image_path': 'images/lost.png': no such image in {tmp_path}",
    ]
    with pytest.raises(DataError, match="row 1.*and 1 more bad rows.; data.on_bad_row=drop leaves"):
        load(tmp_path)


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
    for outside in (str(tmp_path / "linkedx.png"), f"{root}/../x.png"):
        with pytest.raises(DataError, match="leaves the image folder"):
            image_folder(str(root), None, []).find(outside)


BAD_PLACES = [
    ({"root": "ROOT/nowhere"}, "data.root: no folder"),
    ({"root": "some/where"}, "data.root: no folder 'some/where', and as a hub dataset: "),
    ({"name": "Z"}, "no subset 'Z'; subsets with split 'original': X, Y"),
    ({"split": "test"}, "X: no split 'test'; it has original"),
    ({"revision": "main"}, "data.revision: 'main' is for a hub repository"),
    ({"image_root": "ROOT/lost"}, "data.image_root: no folder"),
    ({"image_root": "ROOT/X"}, "'images/X/Train/X_0.png': no such image in ROOT/X"),
    ({"name": "Y", "on_bad_row": "drop"}, "Y: no good row; ROOT/Y/original-00000"),
]


@pytest.mark.parametrize(("settings", "message"), BAD_PLACES)
def test_places_that_are_not_there(
    tmp_path: Path, settings: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    rows = train_rows(tmp_path, "X", 1)
    write_rows(tmp_path, "X", "original", rows)
    write_rows(tmp_path, "Y", "original", [rows[0] | {"qry_image_path": "lost.png"}])
    wanted = {"root": "ROOT", "name": "X"} | settings
    wanted = {key: value.replace("ROOT", str(tmp_path)) for key, value in wanted.items()}
    with pytest.raises(DataError, match=re.escape(message.replace("ROOT", str(tmp_path)))):
        load(**wanted)


def test_images_elsewhere(tmp_path: Path) -> None:
    rows = train_rows(tmp_path / "pictures", "X", 1)
    write_rows(tmp_path / "rows", "X", "original", rows)
    subset = load(tmp_path / "rows", image_root=str(tmp_path / "pictures"))
    assert subset[0].query.images == (str(tmp_path / "pictures" / rows[0]["qry_image_path"]),)


def test_a_root_with_characters_of_patterns(tmp_path: Path) -> None:
    root = tmp_path / "a[b]*{c}"
    write_rows(root, "X", "original", train_rows(root, "X", 1))
    assert len(load(root)) == 1
