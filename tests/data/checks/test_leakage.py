"""What training shows of an evaluation is found by its text, by its bytes and by how it looks, and
different pictures are not.

./launch.sh test tests/data/checks/test_leakage.py
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval.miniatures.mmeb import train_rows, write_eval_suite, write_rows
from stages import check as program
from tests.data.checks.conftest import ALONE, Made, check, data_of, found_in, stamps
from unime.data.checks.check import check_data
from unime.data.checks.leakage import nearest, normalised
from unime.inputs.images import load_image
from unime.inputs.items import Item, Pair

TEXT, PICTURE = "text of the evaluation", "picture of the evaluation"
NEAR = "near-duplicate of the evaluation"


def shown(made: Made, number: int) -> Image.Image:
    return load_image(str(made.pictures / made.pairs[number].target.images[0]), 10**9)


def held_out(made: Made, count: int = 4) -> list[Pair]:
    """Other stamps, with other captions."""
    return [made.pair(path) for path in stamps(count, "vehicles")]


def test_different_pictures_and_texts_are_no_leak(made: Made) -> None:
    report = check(made.write(test=held_out(made)))
    assert report.is_clean and found_in(report) == [] and report.compared_with == 8
    assert [(task.split, task.rows) for task in report.tasks] == [("train", 6), ("test", 4)]


def test_all_animals_beside_all_vehicles(tmp_path: Path) -> None:
    made = Made(tmp_path, 146)
    report = check(made.write(test=held_out(made, 34)))
    assert report.rows == 180
    assert [fault for fault in found_in(report) if fault[2] in (PICTURE, NEAR)] == []


def test_a_text_but_for_case_and_white_space(made: Made) -> None:
    test = held_out(made)
    test[1] = replace(test[1], query=Item(f"  {made.pairs[2].query.text.upper()}\n"))
    (fault,) = found_in(check(made.write(test=test)))
    assert fault == ("train-00000-of-00001.parquet, row 2", "query", TEXT)
    assert normalised("Ｆｕｌｌ  ﬁne\nSTRASSE") == normalised("full fine straße")


def test_the_same_bytes_by_another_name(made: Made) -> None:
    test = held_out(made)
    content = (made.pictures / made.pairs[4].target.images[0]).read_bytes()
    (made.pictures / "renamed.png").write_bytes(content)
    test[2] = replace(test[2], target=Item(images=("renamed.png",)))
    (fault,) = found_in(check(made.write(test=test)))
    assert fault == ("train-00000-of-00001.parquet, row 4", "target", PICTURE)


@pytest.mark.parametrize("form", ["JPEG", "half", "both"])
def test_a_picture_that_was_made_anew(made: Made, form: str) -> None:
    picture = shown(made, 3)
    if form != "JPEG":
        picture = picture.resize((picture.width // 2, picture.height // 2))
    name = "anew.png" if form == "half" else "anew.jpg"
    picture.save(made.pictures / name, **({} if form == "half" else {"quality": 70}))
    test = held_out(made)
    test[0] = replace(test[0], target=Item(images=(name,)))
    root = made.write(test=test)
    report = check(root)
    assert found_in(report) == [("train-00000-of-00001.parquet, row 3", "target", NEAR)]
    assert report.leaks == 1 and report.accepted == 10 and not report.is_clean
    assert "test-00000-of-00001.parquet, row 0" in report.tasks[0].faults[0].reason
    assert report.tasks[0].faults[0].row_id == made.pairs[3].row_id


def test_near_is_a_setting(made: Made) -> None:
    picture = shown(made, 3).resize((40, 40))
    picture.save(made.pictures / "anew.jpg", quality=20)
    test = [replace(held_out(made)[0], target=Item(images=("anew.jpg",)))]
    root = made.write(test=test)
    found = [len(found_in(check(root, settings=replace(ALONE, near=near)))) for near in (0, 30, 64)]
    assert found[0] == 0 and found[2] == 6 and found == sorted(found)


def test_pictures_of_one_colour_look_like_none(made: Made) -> None:
    for name, colour in (("red.png", "red"), ("blue.png", "blue")):
        Image.new("RGB", (50, 50), colour).save(made.pictures / name)
    made.pairs[0] = replace(made.pairs[0], target=Item(images=("red.png",)))
    test = [replace(made.pairs[0], query=Item("x"), target=Item(images=("blue.png",)))]
    assert check(made.write(test=test)).is_clean


def test_against_an_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of MMEB's forms on both sides: the second picture of training is the evaluation's, and one
    of its texts."""
    write_eval_suite(tmp_path / "eval", tmp_path / "suite.yaml")
    rows = train_rows(tmp_path / "train", "pets", 9)[5:]
    asked = tmp_path / "eval/eval_images/eval_pictures/1.png"
    (tmp_path / "train" / rows[1]["qry_image_path"]).write_bytes(asked.read_bytes())
    rows[2]["pos_text"] = "Thing number 2 with MANY MANY words"
    write_rows(tmp_path / "train", "pets", "original", rows)
    (tmp_path / "eval.yaml").write_text(
        f"output_dir: {tmp_path}/out\nmodel: {{name: none}}\n"
        f"data: {{root: {tmp_path}/eval, suite: {tmp_path}/suite.yaml}}\n"
    )
    evaluation = list(program.asked(tmp_path / "eval.yaml"))
    report = check_data(data_of(tmp_path / "train"), ALONE, evaluation=evaluation)
    assert found_in(report) == [
        ("original-00000-of-00001.parquet, row 1", "qry, qry_image_path", PICTURE),
        ("original-00000-of-00001.parquet, row 2", "pos_text, pos_image_path", TEXT),
    ]
    assert "Words_" in report.tasks[0].faults[0].reason


def test_the_nearest_of_each() -> None:
    random = np.random.default_rng(0)
    asked, among = random.integers(0, 2**63, (2, 300), dtype=np.uint64)
    among = among[:90]
    places, distances = nearest(asked.tolist(), among.tolist())
    apart = [[bin(int(a) ^ int(b)).count("1") for b in among] for a in asked]
    assert distances.tolist() == [min(row) for row in apart]
    assert all(row[place] == min(row) for row, place in zip(apart, places, strict=True))
    assert nearest([1], [])[1].tolist() == [65] and len(nearest([], [1])[0]) == 0
