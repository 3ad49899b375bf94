"""One table of settings that cannot be, in every format: who wrote the suite is told its file, the
task, the setting and its value.

./launch.sh test tests/eval/tasks/test_bad_settings.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from eval.tasks.suites import load_suite
from unime.errors import ConfigError

GOOD: dict[str, dict[str, Any]] = {
    "beir": {},
    "captioned_rows": {"direction": "t2i", "repository": "some/pictures"},
    "mmeb_instruct": {"parser": "image_cls"},
    "video_classification": {"frames": ["{stem}"], "labels": "classes.txt"},
    "video_qa": {"frames": ["{subset}/{video}"], "subsets": ["x"], "options": ["a", "b"]},
    "moment_seeker": {"frames": ["{video}"]},
}
GONE = object()  # no such setting
BAD: list[tuple[str, dict[str, Any], str]] = [
    ("beir", {"instruction": "before"}, "instruction: got 'before', expected inline or apart"),
    ("captioned_rows", {"direction": "i2i"}, "direction: got 'i2i', expected t2i or i2t"),
    ("captioned_rows", {"direction": GONE}, "direction"),
    ("captioned_rows", {"max_captions": 0}, "max_captions: got 0, expected 1 or more"),
    ("captioned_rows", {"directon": "i2t"}, "no such setting; the nearest is 'direction'"),
    ("mmeb_instruct", {"parser": "image_c"}, "parser: got 'image_c', expected one of image_cls"),
    ("mmeb_instruct", {"instruction": "both"}, "instruction: got 'both', expected inline or apart"),
    ("mmeb_instruct", {"parser": GONE}, "missing mandatory value: parser"),
    ("mmeb_instruct", {"target_instruct": True}, "the nearest is 'target_instruction'"),
    ("video_classification", {"instruction": "aside"}, "instruction: got 'aside'"),
    ("video_classification", {"first": 0}, "first: got 0"),
    ("video_classification", {"frames": []}, "frames: got []"),
    ("video_classification", {"frames": ["{id}"]}, "frames: got '{id}', expected a text with {vid"),
    ("video_classification", {"frames": ["{video"]}, "frames: got '{video'"),
    ("video_classification", {"candidates": "neg_text"}, "labels and candidates: expected one"),
    ("video_classification", {"labels": GONE}, "labels and candidates: expected one"),
    ("video_qa", {"fixed_options": ["a", "b"]}, "options and fixed_options: expected one"),
    ("video_qa", {"options": GONE}, "options and fixed_options: expected one"),
    ("video_qa", {"subset": "x"}, "subset and subsets: expected one"),
    ("video_qa", {"answer_is": "number"}, "answer_is: got 'number', expected one of text, letter"),
    ("video_qa", {"candidate": "{text}"}, "candidate: got '{text}', expected a text with {letter}"),
    ("moment_seeker", {"pictures": "{stem}"}, "pictures: got '{stem}', expected a text with {vid"),
]


def write_suite(folder: Path, name: str, settings: dict[str, Any]) -> str:
    entry = {"meta_task": "m", "format": name} | GOOD[name] | settings
    named = {key: value for key, value in entry.items() if value is not GONE}
    (folder / "suite.yaml").write_text(yaml.safe_dump({"Task": named}))
    return str(folder / "suite.yaml")


@pytest.mark.parametrize(("name", "settings", "said"), BAD)
def test_bad_settings(tmp_path: Path, name: str, settings: dict[str, Any], said: str) -> None:
    suite = write_suite(tmp_path, name, settings)
    with pytest.raises(ConfigError) as error:
        load_suite(suite)
    assert str(error.value).startswith(f"{suite}: Task") and said in str(error.value)


@pytest.mark.parametrize("name", GOOD)
def test_the_others_are_good(tmp_path: Path, name: str) -> None:
    made = load_suite(write_suite(tmp_path, name, {}))["Task"].format
    assert {key: getattr(made, key) for key in GOOD[name]} == GOOD[name]
