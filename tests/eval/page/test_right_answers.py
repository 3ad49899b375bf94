"""What the page calls right: the target itself, not one of its name.

./launch.sh test tests/eval/page/test_right_answers.py
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from eval.miniatures.mmeb import write_picture
from eval.page.files import read_task_files
from eval.page.gallery import Items, gallery_card
from eval.page.pictures import Pictures
from eval.tasks.prepared import PreparedRows
from eval.tasks.sources import EvalSource
from tests.support.pages.results import write_task
from unime.config import EvalData
from unime.data.prepared.folder import PreparedSet, write_rows
from unime.errors import DataError
from unime.inputs.items import Item, Pair

LINES = "image/Captions_pred.jsonl"


@pytest.fixture
def found(tmp_path: Path) -> Path:
    """Two pictures with one text, as MMEB's training rows have it, each found for the other's
    caption."""
    root, out = tmp_path / "set", tmp_path / "out"
    pairs = []
    for number in range(2):
        write_picture(root / f"{number}.png", number, size=8)
        target = Item("Represent the given image.", (f"{number}.png",))
        pairs.append(Pair(Item(f"caption {number}"), target, row_id=f"Captions:{number}"))
    write_rows(root / "Captions", "test", pairs, 2)
    PreparedSet(rows={"Captions": {"test": 2}}).write(root)
    task = PreparedRows().read("Captions", EvalSource(EvalData(root=str(root))))
    write_task(out, task, torch.eye(2), torch.eye(2).flip(0), modality="image", sizes=())
    return out


def test_a_wrong_target_with_the_name_of_the_right_one_is_no_hit(found: Path) -> None:
    files = read_task_files(found, "Captions")
    assert files.result.scores is not None and files.result.scores.values == [0, 0]
    assert files.predictions is not None and files.predictions.hits == [False, False]
    (answer,) = gallery_card(0, 0, [files], Items(Pictures()))["answers"]
    assert not answer["hit"] and [right for _, _, right in answer["top"]] == [False, True]


def test_files_of_before_go_by_names(found: Path) -> None:
    rewrite(found / LINES, right=None, prediction=["a", "b"], label=["b"])
    predictions = read_task_files(found, "Captions").predictions
    assert predictions is not None and predictions.hits == [False, False]
    assert predictions[1]["right"] == [False, True]


def test_as_many_as_predictions(found: Path) -> None:
    rewrite(found / LINES, right=[True])
    with pytest.raises(DataError, match=r"Captions_pred.jsonl, row 0: right is of 1, expected 2"):
        read_task_files(found, "Captions")


def rewrite(path: Path, **changes: object) -> None:
    lines = [json.loads(line) | changes for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
