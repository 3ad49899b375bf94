"""Anybody's pictures and texts become a prepared set: read, split by thing, written.

./launch.sh test tests/data_prep/test_own.py
"""

from __future__ import annotations

import csv
import io
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_prep.own.__main__ import main
from data_prep.own.things import text_number
from eval.tasks.sources import EvalSource
from eval.tasks.suites import load_suite
from stages.check import main as check
from unime.config import EvalData, PairData, PairSource
from unime.data.datasets import PairDataset
from unime.data.prepared.folder import PreparedSet
from unime.errors import ConfigError, DataError
from unime.inputs.items import Item, Pair, image_digest
from unime.runtime.files import read_json


def picture(number: int, size: int = 32) -> Image.Image:
    noise = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC)


def content(number: int) -> bytes:
    held = io.BytesIO()
    picture(number).save(held, "PNG")
    return held.getvalue()


def draw(folder: Path, count: int) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        picture(number).save(folder / f"{number}.png")
    return [f"{number}.png" for number in range(count)]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(
                file, list(rows[0]), delimiter="\t" if "t" in path.suffix else ","
            )
            writer.writeheader()
            writer.writerows(
                {k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()}
                for row in rows
            )
    return path


def prepare(path: Path, out: Path, *words: str) -> dict[str, dict[str, list[Pair]]]:
    """The pairs that were written, by task and split, as training reads them."""
    main([str(path), str(out), *words])
    return read(out)


def read(out: Path) -> dict[str, dict[str, list[Pair]]]:
    there = PreparedSet.of(out)
    assert there is not None
    found: dict[str, dict[str, list[Pair]]] = {}
    for task, sizes in there.rows.items():
        for split, count in sizes.items():
            data = PairData(str(out), split=split, sources={task: PairSource()})
            pairs = list(PairDataset.load(data, 0)) if count else []
            assert len(pairs) == count
            found.setdefault(task, {})[split] = pairs
    return found


def shown(item: Item) -> list[object]:
    return [image_digest(path) for path in item.images] or [text_number(item.text)]


def things(pairs: list[Pair]) -> set[object]:
    items = (item for pair in pairs for item in (pair.query, pair.target, *pair.negatives))
    return {thing for item in items for thing in shown(item)}


def texts(pairs: list[Pair]) -> list[tuple[str, str]]:
    return [(pair.query.text, pair.target.text) for pair in pairs]


# Folders -----------------------------------------------------------------------------------------


def test_captions_of_a_folder_are_asked_for(tmp_path: Path) -> None:
    draw(tmp_path / "pets" / "cats", 1)
    (tmp_path / "pets" / "cats" / "0.txt").write_text("A cat.\nde=Katze\n")
    with pytest.raises(ConfigError) as caught:
        main([str(tmp_path / "pets"), str(tmp_path / "out")])
    for said in ("sidecar", "class", "filename", "'A cat.'", "'cats'", "'0'"):
        assert said in str(caught.value)


def test_sidecars(tmp_path: Path) -> None:
    names = draw(tmp_path / "pets" / "deep", 8)
    for number, name in enumerate(names):
        path = tmp_path / "pets" / "deep" / name
        if number % 2:
            mark = "\ufeff" * (number == 3)  # as Windows' editor writes it
            path.with_suffix(".txt").write_text(f"{mark}Number {number}.\nzweite Zeile\n")
        else:
            lines = [f"Number {number}.", f"It is {number}."]
            path.with_suffix(".json").write_text(
                json.dumps({"captions": lines} if number else lines)
            )
    found = prepare(tmp_path / "pets", tmp_path / "out", "captions=sidecar", "held_out=0")
    pairs = found["pets_i2t"]["train"]
    assert sorted(pair.target.text for pair in pairs) == sorted(
        [f"Number {n}." for n in range(8)] + [f"It is {n}." for n in range(0, 8, 2)]
    )
    assert all(Path(pair.query.images[0]).parent.name == "deep" for pair in pairs)
    asked = found["pets_t2i"]["train"]
    assert [(p.target.images, p.query.text) for p in asked] == [
        (p.query.images, p.target.text) for p in pairs
    ]
    assert {p.query.instruction for p in asked} != {p.query.instruction for p in pairs}
    assert len({pair.row_id for pair in pairs}) == len(pairs)


def test_class_folders_share_their_names(tmp_path: Path) -> None:
    for number in range(12):
        folder = tmp_path / "pets" / ("cats" if number % 2 else "dogs")
        folder.mkdir(parents=True, exist_ok=True)
        picture(number).save(folder / f"{number}.png")
    words = ("captions=class", "directions=i2t", "held_out=0.3")
    found = prepare(tmp_path / "pets", tmp_path / "out", *words)["pets_i2t"]
    assert {text for _, text in texts(found["test"])} == {"cats", "dogs"}
    assert "classification" in found["train"][0].query.instruction
    assert not {i for p in found["test"] for i in p.query.images} & {
        i for p in found["train"] for i in p.query.images
    }
    with pytest.raises(DataError, match="share_texts"):
        prepare(tmp_path / "pets", tmp_path / "strict", *words, "share_texts=false")


def test_names_of_files(tmp_path: Path) -> None:
    (tmp_path / "pets").mkdir()
    picture(0).save(tmp_path / "pets" / "a_red-cat__on a mat.png")
    found = prepare(
        tmp_path / "pets", tmp_path / "out", "captions=filename", "directions=t2i", "held_out=0",
        "instruction=Find it:",
    )  # fmt: skip
    (pair,) = found["pets_t2i"]["train"]
    assert (pair.query.text, pair.query.instruction) == ("a red cat on a mat", "Find it:")


# Tables ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_every_table_gives_the_same_pairs(tmp_path: Path, suffix: str) -> None:
    names = draw(tmp_path / "pets", 4)
    rows = [
        {"image": names[n], "captions": [f"one of {n}", f"two of {n}"], "size": n} for n in range(4)
    ]
    path = write(tmp_path / "pets" / f"table.{suffix}", rows)
    found = prepare(path, tmp_path / "out", "held_out=0", "directions=i2t")
    pairs = found["table_i2t"]["train"]
    assert [(Path(p.query.images[0]).name, p.target.text) for p in pairs] == [
        (names[n], text) for n in range(4) for text in (f"one of {n}", f"two of {n}")
    ]
    assert pairs[0].row_id == f"table.{suffix}:0:0"


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_a_csv_of_another_separator(tmp_path: Path, separator: str) -> None:
    (name,) = draw(tmp_path / "pets", 1)
    lines = ["image caption", f'"{name}" "one, two"']
    text = "\n".join(line.replace(" ", separator, 1) for line in lines)
    path = tmp_path / "pets" / "table.csv"
    path.write_text(f"\ufeff{text}\n", encoding="utf-8")
    found = prepare(path, tmp_path / "out", "held_out=0", "directions=i2t")
    assert texts(found["table_i2t"]["train"]) == [("", "one, two")]


def test_pictures_in_a_table_are_copied(tmp_path: Path) -> None:
    rows = [
        {"image": {"bytes": content(n % 3), "path": None}, "question": f"Q{n}?", "answer": f"A{n}"}
        for n in range(4)
    ] + [{"image": {"bytes": content(9), "path": "9.png"}, "question": "Q4?", "answer": "A4"}]
    found = prepare(write(tmp_path / "vqa.parquet", rows), tmp_path / "out", "held_out=0")
    pairs = found["vqa"]["train"]
    assert texts(pairs) == [(f"Q{n}?", f"A{n}") for n in range(5)]
    copies = [Path(pair.query.images[0]) for pair in pairs]
    assert [path.read_bytes() for path in copies] == [content(n) for n in (0, 1, 2, 0, 9)]
    assert len(set(copies)) == 4 and copies[0].is_relative_to(tmp_path / "out" / "images")


def test_labels_of_datasets_are_words(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    rows = {"image": [picture(n) for n in range(4)], "label": [0, 1, 0, 1]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "pets.parquet")
    found = prepare(
        tmp_path / "pets.parquet", tmp_path / "out", "held_out=0", "directions=i2t",
        "instruction=classification",
    )  # fmt: skip
    assert [text for _, text in texts(found["pets_i2t"]["train"])] == ["cat", "dog", "cat", "dog"]


def test_several_pictures_answers_and_negatives(tmp_path: Path) -> None:
    names = draw(tmp_path / "pets", 8)
    rows = [
        {
            "query": {"image": names[:2], "text": "which is red?"},
            "positives": [[names[2], names[3]], names[4]],
            "negatives": [names[5], [names[6], names[7]]],
            "instruction": "Compare:",
            "task": "red things!",
        },
        {"query": "a text", "positives": names[2], "negatives": []},
    ]
    path = write(tmp_path / "pets" / "rows.jsonl", rows)
    words = ("held_out=0", "columns.positives=positive_image", "columns.negatives=negative_image")
    found = prepare(path, tmp_path / "out", *words)
    first, second = found["red_things"]["train"]
    assert [Path(image).name for image in first.query.images] == names[:2]
    assert first.query.text == "which is red?" and first.query.instruction == "Compare:"
    assert [len(pair.target.images) for pair in (first, second)] == [2, 1]
    assert first.negatives == second.negatives and len(first.negatives[1].images) == 2
    assert found["rows"]["train"][0].query.text == "a text"


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_columns_that_the_first_rows_have_not(tmp_path: Path, suffix: str) -> None:
    names = draw(tmp_path, 4)
    rows: list[dict[str, Any]] = [{"query": f"q{n}", "positive": f"p{n}"} for n in range(150)]
    for number in range(120, 150):
        rows[number] |= {"negative": names[number % 4], "split": "test" if number > 125 else ""}
    path = write(tmp_path / f"t.{suffix}", rows)
    found = prepare(path, tmp_path / "own", "columns.negative=negative_image")["t"]
    assert texts(found["test"]) == [(f"q{n}", f"p{n}") for n in range(126, 150)]
    shown = [[Path(one.images[0]).name for one in pair.negatives] for pair in found["train"]]
    assert shown == [[]] * 120 + [[names[n % 4]] for n in range(120, 126)]


@pytest.mark.parametrize("suffix", ["csv", "json", "jsonl", "parquet", "saved"])
def test_a_column_that_is_empty_at_first_holds_paths(tmp_path: Path, suffix: str) -> None:
    import datasets

    names = draw(tmp_path / "mine", 4)
    rows = [
        {"query": f"q{n}", "positive": f"p{n}", "negative": names[n % 4] if n > 120 else None}
        for n in range(125)
    ]
    path = tmp_path / "mine" / f"t.{suffix}"
    if suffix == "saved":
        datasets.Dataset.from_list(rows).save_to_disk(path)
    else:
        write(path, rows)
    words = ("held_out=0", f"image_root={tmp_path / 'mine'}")
    (found,) = prepare(path, tmp_path / "own", *words).values()
    assert [len(one.images) for pair in found["train"] for one in pair.negatives] == [1] * 4


def test_columns_that_nobody_knows_are_asked_for(tmp_path: Path) -> None:
    names = draw(tmp_path / "pets", 4)
    path = write(tmp_path / "pets" / "t.csv", [{"foto": n, "was": f"text {n}"} for n in names])
    with pytest.raises(DataError, match="foto"):
        prepare(path, tmp_path / "out")
    words = ("columns.foto=image", "columns.was=text", "held_out=0", "directions=i2t")
    found = prepare(path, tmp_path / "out", *words)
    assert [text for _, text in texts(found["t_i2t"]["train"])] == [f"text {n}" for n in names]
    with pytest.raises(ConfigError, match="nothing_such"):
        prepare(path, tmp_path / "other", *words, "columns.nothing_such=label")


# Bad rows ----------------------------------------------------------------------------------------


def test_every_bad_row_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = draw(tmp_path / "pets", 6)
    whole = (tmp_path / "pets" / names[5]).read_bytes()
    (tmp_path / "pets" / "cut.png").write_bytes(whole[: len(whole) // 2])
    good = [{"image": name, "caption": f"number {name}"} for name in names]
    bad = [
        {"image": "cut.png", "caption": "cut"},
        {"image": "none.png", "caption": "missing"},
        {"image": "../out.png", "caption": "outside"},
        {"image": "http://a.b/c.png", "caption": "address"},
        {"image": names[0], "caption": " "},
        {"image": "", "caption": "no picture"},
        {"image": 3, "caption": "a number"},
        {"image": names[0], "caption": ["", "one of two"]},
    ]
    path = write(tmp_path / "pets" / "t.jsonl", [*good[:3], *bad, *good[3:]])
    with path.open("a") as file:
        file.write("{broken\n[]\n")
    with pytest.raises(
        DataError, match=r"t\.jsonl, row 3 \(line 4\): .*10 of 16 rows are bad"
    ) as caught:
        prepare(path, tmp_path / "out", "held_out=0")
    assert "on_bad_row=drop" in str(caught.value) and PreparedSet.of(tmp_path / "out") is None
    found = prepare(path, tmp_path / "out", "held_out=0", "on_bad_row=drop", "directions=i2t")
    assert [t for _, t in texts(found["t_i2t"]["train"])] == [f"number {n}" for n in names]
    lines = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").open()]
    assert [int(re.findall(r"row (\d+)", line["where"])[0]) for line in lines] == [
        *range(3, 11),
        14,
        15,
    ]
    for line, said in zip(
        lines, ["cut.png", "none.png", "out.png", "address", "caption"], strict=False
    ):
        assert said in line["reason"]
    assert "10 bad rows" in capsys.readouterr().out


# What is held out --------------------------------------------------------------------------------


def tangled(folder: Path) -> Path:
    """Rows of which many share a caption (in other letters), a picture, its smaller JPEG or a
    group."""
    names, choose = draw(folder, 60), random.Random(0)
    for number in range(0, 60, 5):
        picture(number).resize((24, 24)).save(folder / f"{number}.jpg", quality=95)
        (folder / f"copy{number}.png").write_bytes((folder / f"{number}.png").read_bytes())
    rows = []
    for number, name in enumerate(names):
        same = number % 5 == 0
        images = [name, f"copy{number}.png", f"{number}.jpg"] if same else [name]
        for image in images:
            text = f"Thing  {number // 2}" if number % 3 == 0 else f"thing {number}, {image}"
            rows.append({"image": image, "caption": text, "group": f"album {number // 3}"})
    choose.shuffle(rows)
    return write(folder / "t.jsonl", rows)


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_on_both_sides(tmp_path: Path, seed: int) -> None:
    path = tangled(tmp_path / "pets")
    found = prepare(path, tmp_path / "out", "held_out=0.3", f"seed={seed}")
    for of in found.values():
        assert not things(of["train"]) & things(of["test"])
        assert 0.15 < len(of["test"]) / len(of["train"] + of["test"]) <= 0.3
    sides = {
        split: {re.sub(r"\D", "", Path(p.query.images[0]).stem) for p in found["t_i2t"][split]}
        for split in ("train", "test")
    }
    assert not sides["train"] & sides["test"]  # a copy of another size is the same thing
    albums = {split: {int(n) // 3 for n in numbers} for split, numbers in sides.items()}
    assert not albums["train"] & albums["test"]
    assert found == prepare(path, tmp_path / "again", "held_out=0.3", f"seed={seed}")


def test_what_hangs_together_is_named(tmp_path: Path) -> None:
    names = draw(tmp_path / "pets", 12)
    rows = [{"image": name, "text": "yes" if n else "no"} for n, name in enumerate(names)]
    path = write(tmp_path / "pets" / "t.csv", rows)
    with pytest.raises(DataError, match=r"11 of 12 rows hang together.*'yes'.*share_texts=true"):
        prepare(path, tmp_path / "out")
    found = prepare(path, tmp_path / "out", "share_texts=true", "held_out=0.25")
    assert len(found["t_i2t"]["test"]) == 3


def test_splits_of_the_data_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = draw(tmp_path / "pets", 12)
    rows = [
        {"image": name, "text": f"text {n}", "split": "validation" if n < 4 else "train"}
        for n, name in enumerate(names)
    ]
    rows[7]["text"] = "text 0"
    found = prepare(write(tmp_path / "pets" / "t.csv", rows), tmp_path / "out", "directions=i2t")
    held = [text for _, text in texts(found["t_i2t"]["test"])]
    assert held == ["text 0", "text 1", "text 2", "text 3", "text 0"]
    assert "1 rows" in capsys.readouterr().out


def split_rows(counts: dict[str, tuple[int, int]]) -> list[dict[str, Any]]:
    """Of each task so many rows for test and for training."""
    return [
        {"query": f"{task} {n}", "positive": f"of {task} {n}", "task": task,
         "split": "test" if n < test else "train"}
        for task, (test, train) in counts.items()
        for n in range(test + train)
    ]  # fmt: skip


def test_a_task_of_which_the_data_hold_nothing_out(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", split_rows({"A": (5, 15), "B": (0, 20), "C": (4, 0)}))
    found = prepare(path, tmp_path / "own")
    sizes = {task: (len(of["test"]), len(of["train"])) for task, of in found.items()}
    assert sizes == {"A": (5, 15), "B": (0, 20), "C": (4, 0)}
    assert [*load_suite(str(tmp_path / "own/suite.yaml"))] == ["A", "C"]
    check([str(tmp_path / "own")])  # which finds nothing
    told = read_json(tmp_path / "own/check/check.json")["tasks"]
    assert [(task["name"], task["split"], task["rows"]) for task in told] == [
        ("A", "train", 15), ("B", "train", 20), ("A", "test", 5), ("C", "test", 4)
    ]  # fmt: skip


def test_a_row_that_hangs_together_with_another_task_s_test_is_named(tmp_path: Path) -> None:
    """The data give none of its task for test, so that they are not what is wrong."""
    rows = split_rows({"A": (5, 15), "B": (0, 20)})
    rows[0]["group"] = rows[20]["group"] = "shared"
    path = write(tmp_path / "t.csv", [{"group": f"of {n}"} | row for n, row in enumerate(rows)])
    with pytest.raises(DataError, match=r"B: 1.*'shared'.* leave some rows apart"):
        prepare(path, tmp_path / "own")


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({"A": (2, 18)}, r"too few pairs for test \(A: 2\)"),
        ({"A": (5, 15), "B": (1, 9), "C": (0, 10)}, r"too few pairs for test \(B: 1\)"),
        ({"A": (10, 0), "B": (10, 0)}, "all pairs for test"),
    ],
)
def test_what_helps_a_split_that_cannot_be_used(
    counts: dict[str, tuple[int, int]], said: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "t.csv", split_rows(counts))
    with pytest.raises(DataError, match=rf"{said}.*columns\.split=ignore"):
        prepare(path, tmp_path / "own")
    found = prepare(path, tmp_path / "own", "columns.split=ignore", "held_out=0.3")
    assert all(len(of["test"]) >= 3 <= len(of["train"]) for of in found.values())


def test_a_split_of_rows_that_all_hang_together(tmp_path: Path) -> None:
    rows = split_rows({"A": (4, 16)})
    path = write(tmp_path / "t.csv", [row | {"group": "one"} for row in rows])
    with pytest.raises(
        DataError, match="20 of 20 rows hang together.*'one'.* leave some"
    ) as caught:
        prepare(path, tmp_path / "own")
    assert "held_out=0" not in str(caught.value)


def test_what_is_held_out_is_nobodys_negative(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"query": f"q{n}", "positive": f"p{n}", "negatives": [f"p{m}" for m in range(20) if m != n]}
        for n in range(20)
    ]
    found = prepare(write(tmp_path / "t.json", rows), tmp_path / "out", "held_out=0.2")["t"]
    assert len(found["test"]) == 4 and not any(pair.negatives for pair in found["test"])
    assert not things(found["train"]) & things(found["test"])
    assert [len(pair.negatives) for pair in found["train"]] == [15] * 16
    said = capsys.readouterr().out
    assert "64 negatives" in said and "76 negatives" in said


# Folders that are written ------------------------------------------------------------------------


@pytest.fixture
def pets(tmp_path: Path) -> Iterator[Path]:
    names = draw(tmp_path / "pets", 10)
    rows = [{"image": name, "caption": f"number {n}"} for n, name in enumerate(names)]
    yield write(tmp_path / "pets" / "t.csv", rows)


def test_a_set_is_made_once(pets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    prepare(pets, out, "held_out=0")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}
    prepare(pets, out, "held_out=0")
    assert "already" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}
    with pytest.raises(ConfigError, match="directions"):
        main([str(pets), str(out), "held_out=0", "directions=i2t"])
    pets.write_text(pets.read_text() + "0.png,again\n")
    with pytest.raises(ConfigError, match="data"):
        main([str(pets), str(out), "held_out=0"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(ConfigError, match="mine"):
        main([str(pets), str(tmp_path / "mine")])
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "all of it"
    with pytest.raises(SystemExit):
        main([str(pets.parent), str(pets.parent / "out")])


def test_a_dry_run_writes_nothing(
    pets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(pets), str(tmp_path / "out"), "--dry-run", "held_out=0.3"])
    assert not (tmp_path / "out").exists()
    said = capsys.readouterr().out
    assert "image → picture" in said and "10 rows, 0 bad rows, 10 pictures" in said
    assert said.count("    → ") == 10 and "[4.png]" in said
    assert "t_i2t: 7 pairs would be trained on, 3 held out" in said


def test_copies_stay_when_the_data_go(pets: Path, tmp_path: Path) -> None:
    found = prepare(pets, tmp_path / "out", "copy_images=true", "held_out=0")
    (tmp_path / "pets" / "3.png").unlink()
    assert read(tmp_path / "out") == found
    copied = [Path(pair.query.images[0]).read_bytes() for pair in found["t_i2t"]["train"]]
    assert copied == [(content(n)) for n in range(10)]


@pytest.mark.parametrize("column", ["same_answer", "sku"])
def test_a_column_of_answers(tmp_path: Path, column: str) -> None:
    """Texts or numbers, of every pair that a row makes; known by its name, or named."""
    names = draw(tmp_path / "pets", 6)
    cells = [7, "b", 7, None, "", "b"]
    rows = [
        {"image": name, "captions": [f"one {n}", f"two {n}"], column: cell}
        for n, (name, cell) in enumerate(zip(names, cells, strict=True))
    ]
    path = write(tmp_path / "pets" / "t.jsonl", rows)
    words = ["held_out=0"] + ["columns.sku=same_answer"] * (column == "sku")
    found = prepare(path, tmp_path / "out", *words)
    for task in ("t_i2t", "t_t2i"):
        answers = {pair.row_id: pair.answer for pair in found[task]["train"]}
        expected = ["7", "b", "7", "", "", "b"]
        assert answers == {
            f"t.jsonl:{n}:{k}": own for n, own in enumerate(expected) for k in (0, 1)
        }
    write(path, [row | {column: [1]} for row in rows])
    with pytest.raises(DataError, match=rf"row 0 .*column '{column}': got \[1\], expected a text"):
        prepare(path, tmp_path / "bad", *words)


def test_one_text_asks_in_one_direction(pets: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="directions"):
        main([str(pets), str(tmp_path / "out"), "instruction=Find it:"])


# The evaluation ----------------------------------------------------------------------------------


def test_each_query_is_asked_among_all_targets(tmp_path: Path) -> None:
    names = draw(tmp_path / "pets", 8)
    (tmp_path / "pets" / "copy.png").write_bytes((tmp_path / "pets" / names[0]).read_bytes())
    rows = [
        {"image": name, "caption": f"n {n % 4}", "split": "test"} for n, name in enumerate(names)
    ]
    rows.append({"image": "copy.png", "caption": "again", "split": "test"})
    rows += [{"image": "copy.png", "caption": "again", "split": "test"}]
    picture(99).save(tmp_path / "pets" / "train.png")
    rows.append({"image": "train.png", "caption": "trained on", "split": "train"})
    out = tmp_path / "out"
    prepare(write(tmp_path / "pets" / "t.jsonl", rows), out)
    suite = load_suite(str(out / "suite.yaml"))
    tasks = {
        name: task.read(name, EvalSource(EvalData(str(out), suite=str(out / "suite.yaml"))))
        for name, task in suite.items()
    }
    found, shows = tasks["t_t2i"], tasks["t_i2t"]
    assert [query.text for query in found.queries] == ["n 0", "n 1", "n 2", "n 3", "again"]
    assert len(found.targets) == 8 and found.candidates is None
    assert [sorted(right) for right in found.relevance] == [[0, 4], [1, 5], [2, 6], [3, 7], [0]]
    assert [target.text for target in shows.targets] == ["n 0", "n 1", "n 2", "n 3", "again"]
    assert [sorted(right) for right in shows.relevance][:2] == [[0, 4], [1]]
    assert len(shows.queries) == 8


def test_targets_of_a_query_s_answers_are_right(tmp_path: Path) -> None:
    """Of what is held out; an unknown answer is nobody else's."""
    names = draw(tmp_path / "pets", 6)
    kinds = ["cat", "dog", "cat", "", "", "cat"]
    rows = [
        {"image": name, "caption": f"n {n % 5}", "same_answer": kind, "split": "test"}
        for n, (name, kind) in enumerate(zip(names, kinds, strict=True))
    ]
    picture(99).save(tmp_path / "pets" / "train.png")
    rows.append({"image": "train.png", "caption": "x", "same_answer": "cat", "split": "train"})
    out = tmp_path / "out"
    found = prepare(write(tmp_path / "pets" / "t.jsonl", rows), out)
    assert found["t_t2i"]["train"][0].answer == "cat"
    source = EvalSource(EvalData(str(out), suite=str(out / "suite.yaml")))
    task = load_suite(str(out / "suite.yaml"))["t_t2i"].read("t_t2i", source)
    right = [sorted(own) for own in task.relevance]
    assert right == [[0, 2, 5], [1], [0, 2, 5], [3], [4]]  # n 0 is row 5's query, too
