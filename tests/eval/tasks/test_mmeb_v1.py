"""MMEB's evaluation rows, version 1: pytest tests/eval/tasks/test_mmeb_v1.py"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from eval.miniatures.mmeb import write_picture, write_rows
from eval.tasks.mmeb_v1 import MmebRows, read_mmeb
from eval.tasks.suites import load_suite
from tests.support.paths import SUITES
from tests.support.results import source
from unime.inputs.items import Item

Rows = list[dict[str, Any]]


def eval_rows(root: Path) -> Rows:
    write_picture(root / "eval_images/Task/q.png", 1)
    write_picture(root / "Task/t.png", 2)
    return [
        {
            "qry_text": "<|image_1|>\nWhich?\n",
            "qry_img_path": "Task/q.png",
            "tgt_text": ["", "word", "both"],
            "tgt_img_path": ["Task/t.png", "", "Task/t.png"],
        },
        {
            "qry_text": "a text",
            "qry_img_path": None,
            "tgt_text": ["word", "another"],
            "tgt_img_path": [None, ""],
        },
    ]


def test_rows_become_queries_and_candidates(tmp_path: Path) -> None:
    write_rows(tmp_path, "Task", "test", eval_rows(tmp_path))
    task = read_mmeb(str(tmp_path), "Task")
    target = str(tmp_path / "Task/t.png")
    assert task.queries == [
        Item("Which?", (str(tmp_path / "eval_images/Task/q.png"),)),
        Item("a text"),
    ]
    assert task.targets == [
        Item("", (target,)), Item("word"), Item("both", (target,)), Item("another"),
    ]  # fmt: skip
    assert task.target_names == ["Task/t.png", "word", "Task/t.png:both", "another"]
    assert task.candidates == [[0, 1, 2], [1, 3]]
    assert task.candidate_items()[1] == [Item("word"), Item("another")]
    assert task.relevance == [{0: 1.0}, {1: 1.0}]


def test_a_limit_takes_the_first_queries(tmp_path: Path) -> None:
    write_rows(tmp_path, "Task", "test", eval_rows(tmp_path))
    task = MmebRows().read("Task", source(tmp_path, limit=1))
    assert (len(task.queries), task.num_rows, len(task.targets)) == (1, 2, 3)


def test_a_task_may_be_another_repositorys_subset(tmp_path: Path) -> None:
    rows = eval_rows(tmp_path)
    write_rows(tmp_path / "org/rows", "Subset", "val", rows[1:])
    rows_of = MmebRows(repository="org/rows", revision="0" * 40, subset="Subset", split="val")
    assert rows_of.read("Task", source(tmp_path)).queries == [Item("a text")]


def test_a_candidate_that_a_row_repeats_is_one(tmp_path: Path) -> None:
    """By text and path, as VLM2Vec's own keys; white space makes no other candidate."""
    rows = eval_rows(tmp_path)
    write_picture(tmp_path / "Task/u.png", 3)
    rows[0] |= {
        "tgt_text": ["yes", "no", "yes", "yes", "<|image_1|>\nyes\n", "no\n"],
        "tgt_img_path": ["", "", "", "Task/t.png", "Task/u.png", ""],
    }
    write_rows(tmp_path, "Task", "test", rows)
    task = read_mmeb(str(tmp_path), "Task")
    assert [task.target_names[place] for place in task.candidates[0]] == [
        "yes", "no", "Task/t.png:yes", "Task/u.png:yes",
    ]  # fmt: skip
    assert task.relevance[0] == {task.target_names.index("yes"): 1.0}


@pytest.mark.parametrize("name", ["mmeb", "mmeb_instruct"])
def test_the_suites_list_the_36_tasks(name: str) -> None:
    suite = load_suite(str(SUITES / f"{name}.yaml"))
    assert len(suite) == 36
    assert Counter((task.meta_task, task.distribution) for task in suite.values()) == {
        ("classification", "ind"): 5, ("classification", "ood"): 5, ("vqa", "ind"): 6,
        ("vqa", "ood"): 4, ("retrieval", "ind"): 8, ("retrieval", "ood"): 4,
        ("grounding", "ind"): 1, ("grounding", "ood"): 3,
    }  # fmt: skip
    assert {(task.modality, task.metric) for task in suite.values()} == {("image", "hit@1")}
