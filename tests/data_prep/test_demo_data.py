"""The demo's data: valid, disjoint, fair and the same every time.

pytest tests/data_prep/test_demo_data.py
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.demo import data as demo_data
from data_prep.demo.data import DemoDataConfig, write_everything
from data_prep.demo.emoji import BACKGROUNDS, load_concepts
from data_prep.demo.tasks import TASKS, DemoTask, caption_of, never_trained, same
from data_prep.demo.texts import (
    definition_questions,
    dictionary,
    dictionary_questions,
    keyword_questions,
    telling_keywords,
)
from eval.tasks.base import EvalTask
from eval.tasks.mmeb_v1 import read_mmeb
from eval.tasks.suites import load_suite
from tests.support.paths import CONFIGS
from unime.config import PairData, PairSource, Stage2Config, build_config
from unime.data.datasets import PairDataset
from unime.data.sampler import GlobalBatchSampler
from unime.data.tables import load_table
from unime.errors import ConfigError
from unime.inputs.items import Pair

SMALL = DemoDataConfig("x", train_rows=80, test_queries=40, validation_queries=24, train_words=60)
CONCEPTS = {concept.name: concept for concept in load_concepts()}
TRAINED = [task.name for task in TASKS if task.trained]
SPLITS = ("validation", "test")
Candidates = dict[tuple[str, str], list[list[tuple[str, str, str]]]]  # with the answer keys


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Candidates]]:
    """Small data, and the candidates as they were written, with keys that the files don't have."""
    folder, seen = tmp_path_factory.mktemp("demo") / "data", {}
    write_table = demo_data._write_eval_table

    def remember(place: Path, images: object, queries: object, candidates: list) -> None:
        seen[place.parent.name, place.name] = candidates
        write_table(place, images, queries, candidates)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_data, "_write_eval_table", remember)
        write_everything(folder, SMALL)
    yield folder, seen


@pytest.fixture(scope="module")
def folder(written: tuple[Path, Candidates]) -> Path:
    return written[0]


@pytest.fixture(scope="module")
def pairs(folder: Path) -> dict[str, list[Pair]]:
    """The training rows of each task."""
    sources = {name: PairSource() for name in TRAINED}
    loaded = PairDataset.load(PairData(root=str(folder / "train"), sources=sources), seed=0)
    found: dict[str, list[Pair]] = {name: [] for name in TRAINED}
    for number in range(len(loaded)):
        found[loaded[number].row_id.partition(":")[0]].append(loaded[number])
    return found


@pytest.fixture(scope="module")
def texts(folder: Path) -> set[str]:
    lines = (folder / "texts/train.jsonl").read_text(encoding="utf-8").splitlines()
    return {json.loads(line)[column] for line in lines for column in ("text", "related")}


def tasks_of(folder: Path, split: str) -> dict[str, EvalTask]:
    suite = load_suite(str(CONFIGS / "suites/demo.yaml"))
    return {name: read_mmeb(str(folder / split), name) for name in suite}


def pixels_below(folder: Path) -> set[bytes]:
    found = set()
    for path in folder.rglob("*.png"):
        with Image.open(path) as image:
            found.add(hashlib.sha256(repr(image.size).encode() + image.tobytes()).digest())
    return found


def test_the_shipped_demo_has_300_test_queries_and_100_candidates() -> None:
    config = build_config(DemoDataConfig, CONFIGS / "demo/data.yaml")
    assert config.validation_queries >= 100
    concepts = [c for c in CONCEPTS.values() if c.split == "test" and not c.ood_group]
    words = dictionary({"test": config.test_queries, "train": config.train_words})["test"]
    size, rng = (config.test_queries, config.candidates), random.Random(0)
    for questions in (
        definition_questions(concepts, *size, rng),
        keyword_questions(concepts, *size, rng),
        dictionary_questions(words, config.candidates, rng),
    ):
        assert len(questions) >= 300
        assert {len(question.wrong) for question in questions} == {99}


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("candidates=2", "candidates: got 2, expected 3 or more"),
        ("train_words=5000", "are more words than there are"),
        ("test_queries=0", "test_queries: got 0, expected positive"),
    ],
)
def test_settings_that_make_no_data(
    word: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--config", str(CONFIGS / "demo/data.yaml"), f"output_dir={tmp_path / 'new'}", word]
    with pytest.raises((ConfigError, SystemExit)) as error:
        demo_data.main(words)
    assert message in f"{error.value}{capsys.readouterr().err}"
    assert not (tmp_path / "new").exists()


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep me")
    words = ["--config", str(CONFIGS / "demo/data.yaml"), f"output_dir={tmp_path}"]
    with pytest.raises(ConfigError, match="is there and holds no demo data; name another"):
        demo_data.main(words)
    assert (tmp_path / "mine.txt").read_text() == "keep me"


def test_the_suite_names_the_tasks() -> None:
    suite = load_suite(str(CONFIGS / "suites/demo.yaml"))
    known = {task.name: task for task in TASKS}
    multimodal = {name: entry for name, entry in suite.items() if entry.meta_task != "text"}
    assert set(multimodal) == set(known) and len(suite) == len(known) + 3
    for name, entry in multimodal.items():
        assert entry.meta_task == known[name].meta_task
        assert (entry.distribution == "ind") == known[name].trained
    by_kind = Counter(entry.meta_task for entry in multimodal.values())
    assert set(by_kind) == {"classification", "vqa", "retrieval", "grounding"}
    assert sum(not task.trained for task in TASKS) >= 3
    trained = build_config(Stage2Config, CONFIGS / "demo/stage2.yaml").data.sources
    assert sorted(trained) == sorted(TRAINED)


def test_training_rows_are_what_stage_2_reads(pairs: dict[str, list[Pair]]) -> None:
    assert {len(rows) for rows in pairs.values()} == {SMALL.train_rows}
    first = pairs["Scene-Grounding"][0]
    assert first.query.text.startswith("Select the portion of the image that isolates the ")
    assert first.query.kind == "image+text" and first.target.kind == "image"
    for name, rows in pairs.items():
        for pair in rows:
            assert pair.target not in pair.negatives
            if name.startswith("Scene-"):  # of n objects: n - 1 wrong answers of its own
                with Image.open(pair.query.images[0]) as image:
                    assert image.width == 64 * (1 + len(pair.negatives))
            else:
                assert not pair.negatives


@pytest.mark.parametrize("split", SPLITS)
def test_every_task_is_what_the_evaluation_reads(folder: Path, split: str) -> None:
    count = SMALL.test_queries if split == "test" else SMALL.validation_queries
    for name, task in tasks_of(folder, split).items():
        assert len(task.queries) == count, name
        rows = load_table(str(folder / split), name, "test", None, ("tgt_text",), ()).read()
        listed = [len(row["tgt_text"]) for row in rows]
        assert listed == [len(own) for own in task.candidates], f"{name}: a candidate twice"
        for query, candidates in zip(task.queries, task.candidate_items(), strict=True):
            assert query.text and "<|image" not in query.text
            assert 20 <= len(candidates) <= SMALL.candidates, name
            assert len({candidate.kind for candidate in candidates}) == 1, name


def test_no_candidate_but_the_first_is_right(written: tuple[Path, Candidates]) -> None:
    """Nor one that looks the same."""
    for (split, name), lists in written[1].items():
        for candidates in lists:
            texts, _, keys = zip(*candidates, strict=True)
            assert keys[0] not in keys[1:], f"{split}/{name}"
            if texts[0] in CONCEPTS and name in {task.name for task in TASKS} - {"Emoji-Kind"}:
                looks = [same(CONCEPTS[text]) for text in texts]
                assert looks[0] not in looks[1:], texts[0]


def test_splits_show_different_concepts_and_pictures(
    folder: Path, pairs: dict[str, list[Pair]]
) -> None:
    splits = {name: {c.name for c in CONCEPTS.values() if c.split == name and not c.ood_group}
              for name in ("train", *SPLITS)}  # fmt: skip
    assert {pair.target.text for pair in pairs["Scene-Place"]} <= splits["train"]
    for split in SPLITS:
        tasks = tasks_of(folder, split)
        for name in ("Scene-Place", "Scene-Neighbour", "Emoji-Sketch"):
            shown = {item.text for row in tasks[name].candidate_items() for item in row}
            assert shown == splits[split], name
    pixels = [pixels_below(folder / split) for split in ("train", *SPLITS)]
    assert sum(map(len, pixels)) == len(set.union(*pixels))


def test_groups_that_are_never_trained() -> None:
    unseen = [concept for concept in CONCEPTS.values() if concept.ood_group]
    validation, test = (never_trained(unseen, split) for split in SPLITS)
    assert sorted(map(id, validation + test)) == sorted(map(id, unseen))
    assert not {same(c) for c in validation} & {same(c) for c in test}
    assert all(c.ood_group and c.split == "test" for c in unseen)
    assert any(c.is_flag for c in unseen) and any(not c.is_flag for c in unseen)


def test_stage_1_reads_no_text_of_what_is_held_out(folder: Path, texts: set[str]) -> None:
    for concept in CONCEPTS.values():
        if concept.split != "train":
            own = {concept.name, concept.definition, ", ".join(concept.keywords)} - {None, ""}
            own |= {caption_of(concept, background) for background in BACKGROUNDS}
            assert not own & texts, concept.name
    for split in SPLITS:
        tasks = tasks_of(folder, split)
        for name in ("Definition_t2t", "Keywords_t2t", "Dictionary_t2t"):
            asked = {query.text for query in tasks[name].queries}
            asked |= {item.text for row in tasks[name].candidate_items() for item in row}
            assert not asked & texts, f"{split}/{name}"


def test_definitions_fit_one_thing_only(folder: Path) -> None:
    captions = {caption_of(concept, background): concept
                for concept in CONCEPTS.values() for background in BACKGROUNDS}  # fmt: skip
    for split in SPLITS:
        task = tasks_of(folder, split)["Definition_t2t"]
        for query, candidates in zip(task.queries, task.candidate_items(), strict=True):
            right, *wrong = [candidate.text for candidate in candidates]
            named = CONCEPTS.get(query.text) or captions.get(query.text) or CONCEPTS[right]
            assert named.split == split and named.definition in (right, query.text)
            for text in wrong:
                other = CONCEPTS[text].definition if text in CONCEPTS else text
                assert other != named.definition


def test_keywords_fit_one_name_only(folder: Path) -> None:
    for split in SPLITS:
        task = tasks_of(folder, split)["Keywords_t2t"]
        for query, candidates in zip(task.queries, task.candidate_items(), strict=True):
            asked = set(query.text.split(", "))
            assert asked <= set(telling_keywords(CONCEPTS[candidates[0].text]))
            for wrong in candidates[1:]:
                assert not asked <= set(CONCEPTS[wrong.text].keywords)


def test_keywords_that_repeat_the_name_are_left_out() -> None:
    assert "dogs" in CONCEPTS["dog"].keywords
    assert "dogs" not in telling_keywords(CONCEPTS["dog"])
    assert "pet" in telling_keywords(CONCEPTS["dog"])


def test_false_negatives_of_training_are_marked(folder: Path, pairs: dict[str, list[Pair]]) -> None:
    by_caption = {caption_of(concept, background): f"{same(concept)} {background}"
                  for concept in CONCEPTS.values() for background in BACKGROUNDS}  # fmt: skip
    expected: dict[str, Callable[[Pair], str]] = {
        "Scene-Place": lambda row: same(CONCEPTS[row.target.text]),
        "Emoji_t2i": lambda row: by_caption[row.query.text.split(": ", 1)[1]],
        "Emoji_i2t": lambda row: by_caption[row.target.text],
        "Emoji-Kind": lambda row: row.target.text,  # equal texts: duplicates, which no filter needs
    }
    for name, key_of in expected.items():
        table = load_table(str(folder / "train"), name, "original", None, ("answer_key",), ())
        keys = [row["answer_key"] for row in table.read()]
        assert keys == list(map(key_of, pairs[name])), name


def test_batches_hold_false_negatives_for_the_filter_to_find() -> None:
    """With the shipped sizes: other drawings of one concept, and look-alikes with other names."""
    config = build_config(DemoDataConfig, CONFIGS / "demo/data.yaml")
    batch = 2 * build_config(Stage2Config, CONFIGS / "demo/stage2.yaml").optim.batch_size_per_device
    train = [c for c in CONCEPTS.values() if c.split == "train" and not c.ood_group]
    order = [concept for _ in range(config.train_rows // len(train)) for concept in train]
    sampler = GlobalBatchSampler({"Emoji_i2i": len(order)}, batch, PairData("x").mixing, seed=0)
    again = alike = 0
    for step in range(10):
        chosen = [order[i] for i in sampler.batch(step)]
        for number, one in enumerate(chosen):
            again += sum(one is other for other in chosen[:number])
            alike += sum(same(one) == same(o) and one is not o for o in chosen[:number])
    assert again >= 10 and alike >= 1


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_rows_are_right(task: DemoTask) -> None:
    rng = random.Random(task.name)
    pool = [c for c in CONCEPTS.values() if c.split == "test" and c.definition]
    for concept in rng.sample(pool, 12):
        row = task.make(rng, pool, concept)
        assert row.query.text and (row.target.text or row.target.pixels is not None)
        assert all(key != row.answer_key for _, key in row.others)
        if task.name.startswith("Scene"):
            assert row.query.pixels is not None
            assert row.query.pixels.shape == (64, 64 * (1 + len(row.others)), 3)
        if task.name == "Scene-Grounding-Place":
            assert is_crop_of_its_place(row.query.text, row.query.pixels, row.target.pixels)
        keys = {"Emoji-Kind": concept.subgroup, "Definition_t2i": concept.definition}
        assert keys.get(task.name, same(concept)) in row.answer_key


def is_crop_of_its_place(question: str, pixels: np.ndarray, crop: np.ndarray) -> bool:
    objects = pixels.shape[1] // 64
    place = {"left": 0, "middle": 1, "right": objects - 1}[question.split()[-1]]
    panel = pixels[:, 64 * place : 64 * place + 64]
    parts = np.lib.stride_tricks.sliding_window_view(panel, crop.shape)  # (Y, X, 1, *crop.shape)
    return bool((parts == crop).all(axis=(-3, -2, -1)).any())


def digest_of(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_same_every_time_and_made_once(tmp_path: Path) -> None:
    tiny = {"train_rows": 4, "test_queries": 6, "validation_queries": 5, "train_words": 8}
    words = ["--config", str(CONFIGS / "demo/data.yaml"), f"output_dir={tmp_path}/data"]
    words += [f"{name}={number}" for name, number in tiny.items()]
    (tmp_path / "data.partial/left").mkdir(parents=True)  # by a run that was interrupted
    demo_data.main(words)
    first = digest_of(tmp_path / "data")
    summary = (tmp_path / "data/summary.json").stat().st_mtime_ns
    demo_data.main(words)
    assert (tmp_path / "data/summary.json").stat().st_mtime_ns == summary
    write_everything(tmp_path / "again", replace(SMALL, **tiny))
    again = digest_of(tmp_path / "again")
    assert {name: value for name, value in first.items() if name != "summary.json"} == again
    demo_data.main([*words, "seed=1"])
    assert digest_of(tmp_path / "data") != first
    assert not (tmp_path / "data.partial").exists()
