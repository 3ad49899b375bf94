"""MMEB's rows as MMEB-V2 reads them, and that they say what version 1's rows say.

./launch.sh test tests/eval/tasks/test_mmeb_instruct.py
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoProcessor

from eval.miniatures.mmeb import TwiceWritten, tasks_in_both_encodings, write_rows
from eval.tasks.base import EvalTask
from eval.tasks.mmeb_instruct import PARSERS, MmebInstructRows
from eval.tasks.mmeb_v1 import MmebRows
from eval.tasks.suites import load_suite
from tests.support.paths import SUITES
from tests.support.results import source
from unime.backbones.families import BACKBONES
from unime.data.mmeb_rows import read_item
from unime.inputs.items import Item, item_digest, item_key
from unime.models.prompts import render

IMAGE = "<|image_1|>"
TASKS = "Kinds Questions Captions Dialogues News Changes Parts".split()

# What version 1's rows hold (TIGER-Lab/MMEB-eval), and the parts of them in MMEB-V2's rows, where
# they are not as in the miniatures of the seven tasks.
QUESTION = "Represent the given image with the following question:"
NEWS = "Represent the given news image with the following caption for domain classification:"
EVERYDAY = "Find me an everyday image that matches the given caption:"
SIMILAR = "Find a day-to-day image that looks similar to the provided image."
QUERIES = [
    ("image_cls", f"{IMAGE}\n{NEWS}", "A view of the harbour",
     f"{IMAGE}\n{NEWS} A view of the harbour\n"),
    ("image_qa", f"{IMAGE}\n{QUESTION}", "What is it?", f"{IMAGE}\n{QUESTION} What is it?\n"),
    ("image_qa", f"{IMAGE} {QUESTION} ", "What is it? ", f"{IMAGE}\n{QUESTION} What is it? \n"),
    ("image_qa", f"{IMAGE}\n{QUESTION}", "A \nB", f"{IMAGE}\n{QUESTION} A\nB\n"),
    ("image_t2i", EVERYDAY, "A red bird.", f"{EVERYDAY} A red bird.\n"),
    ("image_i2i_vg", f"{IMAGE}\n{SIMILAR}", "", f"{IMAGE}\n{SIMILAR}\n"),
]  # fmt: skip


@pytest.mark.parametrize(("parser", "instruction", "text", "expected"), QUERIES)
def test_queries_are_the_strings_of_version_1(
    parser: str, instruction: str, text: str, expected: str
) -> None:
    assert PARSERS[parser].query(instruction, text) == expected


def test_a_blank_caption_is_none() -> None:
    make = PARSERS["image_t2i"].candidate
    assert make is not None
    assert make(f"{IMAGE}\nRepresent it.", " \t") == f"{IMAGE}\nRepresent it.\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, TwiceWritten]]:
    """One task for each parser in both encodings: ``v1/<Task>`` and ``instruct/<Task>``."""
    root = tmp_path_factory.mktemp("mmeb")
    tasks = tasks_in_both_encodings(root)
    for name, task in tasks.items():
        write_rows(root / "v1", name, "test", task.v1)
        write_rows(root / "instruct", name, "test", task.instruct)
    return root, tasks


Folder = tuple[Path, dict[str, TwiceWritten]]


def read(folder: Folder, name: str, encoding: str = "instruct", **settings: Any) -> EvalTask:
    root, tasks = folder
    pictures = source(root, image_root=str(root / "image-tasks"))
    if encoding == "v1":
        return MmebRows(repository="v1").read(name, pictures)
    return replace(tasks[name].reads, repository="instruct", **settings).read(name, pictures)


@pytest.mark.parametrize("name", TASKS)
def test_rows_are_version_1s(folder: Folder, name: str) -> None:
    task = folder[1][name]
    assert [task.reads.row_of_v1(row, row["tgt_text"]) for row in task.instruct] == task.v1


@pytest.mark.parametrize("name", TASKS)
def test_both_encodings_give_the_same_task(folder: Folder, name: str) -> None:
    """Items with the same white space, and so the same prompts."""
    of_v1, of_instruct = read(folder, name, "v1"), read(folder, name)
    assert of_instruct.queries == of_v1.queries
    assert of_instruct.targets == of_v1.targets
    assert of_instruct.candidates == of_v1.candidates
    assert of_instruct.relevance == of_v1.relevance
    items = [[*task.queries, *task.targets] for task in (of_v1, of_instruct)]
    assert [item.spacing for item in items[0]] == [item.spacing for item in items[1]]
    assert all(not item.instruction for item in items[0])


def test_prompts_without_a_chat_are_the_rows_strings(
    folder: Folder, tiny_model: Callable[..., Path]
) -> None:
    """VLM2Vec replaces the token and changes nothing else: new lines at the end count, too. (It
    leaves a token where there is no picture, which would be read as one: here it goes.)"""
    processor = AutoProcessor.from_pretrained(tiny_model("qwen2_vl"))
    _, tasks = folder
    seen = set()
    for name in TASKS:
        task = read(folder, name)
        for number, row in enumerate(tasks[name].v1):
            texts, paths = [row["qry_text"], *row["tgt_text"]], row["tgt_img_path"]
            shown = [row["qry_img_path"], *paths]
            items = [task.queries[number], *task.candidate_items()[number]]
            distinct = list(dict.fromkeys(zip(texts, shown, strict=True)))
            for item, (text, path) in zip(items, distinct, strict=True):
                said = text.replace(IMAGE, "<|image_pad|>" if path else "")
                expected = said if path else said.removeprefix("\n")
                assert render(item, processor, BACKBONES["qwen2_vl"], "vlm2vec") == expected
                seen.add((bool(path), len(text) - len(text.rstrip("\n"))))
    assert seen == {(True, 0), (True, 1), (False, 0), (False, 1), (False, 2)}


def test_candidates_are_told_apart_by_path_and_caption(folder: Folder) -> None:
    """Trap 16: one picture with two captions is two candidates; the right one again is one."""
    root, tasks = folder
    row, task = tasks["News"].instruct[0], read(folder, "News")
    assert row["tgt_img_path"].count("Tiny/4.png") == 3 and len(row["tgt_img_path"]) == 6
    names = [task.target_names[place] for place in task.candidates[0]]
    assert names == [
        "Tiny/4.png:News of 0.", "Tiny/5.png:News of 1.", "Tiny/6.png:News of 2.",
        "Tiny/7.png:News of 3.", "Tiny/4.png:News of others.",
    ]  # fmt: skip
    assert task.relevance[0] == {task.candidates[0][0]: 1.0}


@pytest.mark.parametrize(("name", "end"), [("News", "\n"), ("Parts", "")])
def test_each_candidate_has_its_own_caption_or_none(folder: Folder, name: str, end: str) -> None:
    """VLM2Vec goes by the first one of a row, which is the same where all are alike: its first row
    here would lose a caption, its second have ": \\n" for the blank one."""
    task = folder[1][name]
    row = task.instruct[0]
    for captions in (["", "a bird"], ["a bird", ""]):
        texts = task.reads.row_of_v1(row | {"tgt_inst": f"{IMAGE}\nRelated:"}, captions)["tgt_text"]
        expected = {"": f"{IMAGE}\nRelated:{end}", "a bird": f"{IMAGE}\nRelated: a bird\n"}
        assert texts == [expected[one] for one in captions]


def test_instructions_apart(folder: Folder) -> None:
    root, _ = folder
    picture = str(root / "image-tasks/Tiny/0.png")
    task = read(folder, "Questions", instruction="apart")
    asked = "Represent the given image with the following question:"
    assert task.queries[0] == Item("Is it 0?", (picture,), instruction=asked)
    assert task.targets[0] == Item("kind 0")
    task = read(folder, "Kinds", instruction="apart")
    asked = "Represent the given image for classification"
    assert task.queries[0] == Item("", (picture,), instruction=asked)
    task = read(folder, "News", instruction="apart")
    asked = "Find a news image that matches the provided caption:"
    related = "Represent the given image with related text information:"
    shown = (str(root / "image-tasks/Tiny/4.png"),)
    assert task.queries[0] == Item("It is 0.", instruction=asked)
    assert task.targets[0] == Item("News of 0.", shown, instruction=related)


@pytest.mark.parametrize("instruction", ["inline", "apart"])
def test_candidates_without_an_instruction(folder: Folder, instruction: str) -> None:
    """As Qwen3-VL-Embedding's own evaluation has them."""
    root, _ = folder
    shown = (str(root / "image-tasks/Tiny/4.png"),)
    settings: Any = {"instruction": instruction, "target_instruction": False}
    assert read(folder, "News", **settings).targets[0] == Item("News of 0.", shown)
    assert read(folder, "Dialogues", **settings).targets[0] == Item("", shown)
    assert read(folder, "Kinds", **settings).targets[0] == Item("kind 0")
    query = read(folder, "Questions", **settings).queries[0]
    assert (query.instruction == "") == (instruction == "inline")


def test_the_task_reaches_the_system_turn(folder: Folder, tiny_model: Callable[..., Path]) -> None:
    processor = AutoProcessor.from_pretrained(tiny_model("qwen3_vl"))
    task = read(folder, "Questions", instruction="apart")
    assert render(task.queries[0], processor, BACKBONES["qwen3_vl"], "instruct") == (
        "<|im_start|>system\nRepresent the given image with the following question:<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Is it 0?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_the_suite_reads_each_task_as_vlm2vec_does() -> None:
    suite = load_suite(str(SUITES / "mmeb_instruct.yaml"))
    parsers: dict[str, list[str]] = {}
    for name, task in suite.items():
        assert isinstance(task.format, MmebInstructRows)
        assert task.format.repository == "ziyjiang/MMEB_Test_Instruct"
        assert task.format.blank_line == (name == "VisDial")
        parsers.setdefault(task.format.parser, []).append(name)
    assert {name: len(tasks) for name, tasks in parsers.items()} == {
        "image_cls": 10, "image_qa": 10, "image_t2i": 6, "image_i2t": 2, "image_i2i_vg": 8,
    }  # fmt: skip
    assert set(parsers["image_i2t"]) == {"VisualNews_i2t", "MSCOCO_i2t"}
    assert set(parsers["image_t2i"]) == set(
        "VisDial MSCOCO_t2i VisualNews_t2i WebQA EDIS Wiki-SS-NQ".split()
    )
    of_v1 = load_suite(str(SUITES / "mmeb.yaml"))
    assert list(of_v1) == list(suite)
    for name, task in of_v1.items():
        own = suite[name]
        assert (own.meta_task, own.distribution) == (task.meta_task, task.distribution)


@pytest.mark.parametrize(
    ("text", "path", "spacing"),
    [
        (f"{IMAGE}\nWhich?\n", "a.png", None),
        (f"{IMAGE} Which?", "a.png", (" ", "")),
        (f"{IMAGE}\n<|image_2|> Which?\n\n", "a.png", (" ", "\n\n")),
        ("Which?\n", "a.png", None),
        (f"before {IMAGE} after", "a.png", ("\n", "")),
        ("Which?", "", None),
        ("Which? \n", "", ("\n", " \n")),
        (f"{IMAGE} Which?\n", "", ("\n", "\n")),
    ],
)
def test_items_keep_unusual_white_space_of_rows(
    text: str, path: str, spacing: tuple[str, str] | None
) -> None:
    item = read_item(text, path, str)
    plain = replace(item, spacing=None)
    assert item.spacing == spacing
    assert item == plain and hash(item) == hash(plain)
    if not path:  # the embeddings of prompts with and without it are not mixed up
        assert item_key(item) == item_key(plain)
        assert (item_digest(item) == item_digest(plain)) == (spacing is None)
