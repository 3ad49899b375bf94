"""The 18 video tasks of MMEB-V2: what each row becomes, from miniatures of their repositories.

./launch.sh test tests/eval/tasks/test_video_tasks.py
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from transformers import AutoProcessor

from eval.miniatures.mmeb import write_parquet
from eval.miniatures.videos import FRAMES, LENGTHS, write_video, write_video_tasks
from eval.tasks.base import EvalTask
from eval.tasks.suites import load_suite
from eval.tasks.video_classification import ROOT, VideoClassification, read_labels
from eval.tasks.video_qa import VideoQA, fill
from tests.support.results import source
from unime.backbones.families import BACKBONES
from unime.config import InputConfig
from unime.errors import DataError
from unime.inputs.images import sample_frames
from unime.inputs.items import Item, item_key
from unime.models.item_processor import ItemProcessor

SUITE = load_suite(str(ROOT / "configs/suites/mmeb_v2_video.yaml"))
QA = (
    "Given a video and a question, select the most accurate answer from the provided candidates."
    " Return only the exact text of your chosen answer. Question:  "
)
VIDEO, CLIP = (f"Understand the content of the provided video{end}" for end in (".", " clip."))
LETTERED = "A. Thing a.{0}B. Thing b.{0}C. Thing c.{0}D. Thing d."

MOVES, STOPS = "something moves, number 1", "it stops 1"
SEARCH = "Find the clip that corresponds to the described scene in the given video"
BREAKFAST = "cereal coffee friedegg juice milk pancake salad sandwich scrambledegg tea".split()
THINGS = [f"Thing {letter}" for letter in "abcde"]
OPTIONS = [f"thing {number}" for number in range(5)]

# task: queries' text of the second row, all targets or their first, the right ones
EXPECTED: dict[str, tuple[str, list[str], list[str]]] = {
    "K700": ("Recognize the category of the video content.", ["abseiling"], ["zumba"]),
    "SmthSmthV2": (
        "What actions or object interactions are being performed by the person in the video?",
        ["Opening something", "Holding something", "Closing something"], ["Holding something"]),
    "HMDB51": ("What actions or objects interactions are the person in the video doing?",
               ["brush_hair", "cartwheel"], ["climb_stairs"]),
    "UCF101": ("What activities or sports are being performed by the person in the video?",
               ["ApplyEyeMakeup"], ["Archery"]),
    "Breakfast": ("Recognize the breakfast type that the person is cooking in the video. ",
                  BREAKFAST, ["cereal"]),
    **{name: (f"{asked}: {MOVES}", [VIDEO] * 4, [VIDEO]) for name, asked in {
        "MSR-VTT": "Find a video that contains the following visual content",
        "MSVD": "Find the video snippet that corresponds to the given summary",
        "DiDeMo": "Find a video that includes the following described scenes",
        "YouCook2": "Find a video that demonstrates the following action while making a recipe",
        "VATEX": "Select a video that fits the description provided",
    }.items()},
    "QVHighlight": (f"{SEARCH}: {STOPS}", [VIDEO] * 12, [VIDEO]),
    "Charades-STA": (f"{SEARCH}: {STOPS}", [VIDEO] * 12, [VIDEO]),
    "MomentSeeker": (
        "Select the video clip that aligns with the given text and image: it opens again",
        [CLIP] * 4, [CLIP, CLIP]),
    "MVBench": (f"{QA}What of action_sequence?\nOptions:\n(A) up\n(B) down\n(C) left",
                ["(A) up", "(B) down", "(C) left"], ["(B) down"]),
    "Video-MME": (f"{QA}What is it 1?\n{LETTERED.format(chr(10))}", THINGS[:4], ["Thing b"]),
    "NExTQA": (f"{QA}what is it 1\nOptions:\n(A) thing 0\n(B) thing 1\n(C) thing 2\n(D) thing 3\n"
               "(E) thing 4", OPTIONS, ["thing 3"]),
    "EgoSchema": (f"{QA}What is it 1?{LETTERED.format(' ')} E. Thing e.", THINGS, ["Thing b"]),
    "ActivityNetQA": (f"{QA}is it 1? (A) yes; (B) no.", ["yes", "no"], ["no"]),
}  # fmt: skip
ROWS = {"MVBench": 20, "MomentSeeker": 3}  # of all others 4


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mmeb-v2")
    write_video_tasks(root)
    return root


@pytest.fixture
def own_data(data: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(data, tmp_path / "data"))


def read(root: Path, name: str, limit: int | None = None, **settings: Any) -> EvalTask:
    made = replace(SUITE[name].format, **settings)  # type: ignore[type-var]
    return made.read(name, source(root, limit=limit))


def right(task: EvalTask, query: int) -> list[str]:
    return [task.target_names[place] for place in task.relevance[query]]


def names_of(task: EvalTask, query: int) -> list[str]:
    assert task.candidates is not None
    return [task.target_names[place] for place in task.candidates[query]]


def test_there_are_18_rows() -> None:
    meta_tasks = [task.meta_task for task in SUITE.values()]
    assert len(SUITE) == 18
    counts = {name: meta_tasks.count(name) for name in dict.fromkeys(meta_tasks)}
    assert counts == {
        "video_classification": 5, "video_retrieval": 5, "moment_retrieval": 3, "video_qa": 5,
    }  # fmt: skip
    assert {(task.modality, task.metric) for task in SUITE.values()} == {("video", "hit@1")}
    assert set(SUITE) == set(EXPECTED)
    found = {task.format.repository for task in SUITE.values()}  # type: ignore[attr-defined]
    assert found == {
        "VLM2Vec/Kinetics-700", "lmms-lab/YouCook2",
        *(f"VLM2Vec/{name}" for name in SUITE if name not in ("K700", "YouCook2")),
    }  # fmt: skip


def test_classes_are_whole() -> None:
    counts = {"kinetics_700": 700, "ucf101": 101, "hmdb51": 51, "breakfast": 10}
    for name, count in counts.items():
        labels = read_labels(f"configs/suites/labels/{name}.txt")
        assert len(labels) == count
        assert labels == sorted(labels)


@pytest.mark.parametrize("name", EXPECTED)
def test_each_task(data: Path, name: str) -> None:
    task = read(data, name)
    rows, (text, first_targets, rights) = ROWS.get(name, 4), EXPECTED[name]
    assert (task.num_rows, len(task.queries), len(task.relevance)) == (rows, rows, rows)
    assert task.queries[1].text == text
    assert task.queries[1].instruction == ""
    assert [item.text for item in task.targets][: len(first_targets)] == first_targets
    assert [task.targets[place].text for place in task.relevance[1]] == rights
    assert task.left_out == []
    is_global = SUITE[name].meta_task == "video_retrieval" or name in (
        "K700", "HMDB51", "UCF101", "Breakfast"
    )  # fmt: skip
    assert (task.candidates is None) == is_global


def test_frames_are_all_and_in_natural_order(data: Path) -> None:
    assert max(LENGTHS) > 10  # or frame_10 would not come before frame_2 by name
    task = read(data, "K700")
    assert [len(item.video) for item in task.queries] == list(LENGTHS)
    names = [Path(frame).name for frame in task.queries[1].video]
    assert names == [f"frame_{number}.png" for number in range(12)]
    assert sorted(names) != names
    assert {item.kind for item in task.targets} == {"text"}
    target = read(data, "MSVD").targets[0]
    assert target.video == tuple(
        str(data / FRAMES / "video_ret/MSVD/video0" / f"frame_{n}.png") for n in range(8)
    )
    assert read(data, "MSVD").queries[0].video == ()


def test_sampling_is_that_of_the_protocol() -> None:
    """Of fewer frames, as published, what there is, not repeated."""
    for count in range(1, 65):
        frames = [str(number) for number in range(count)]
        chosen = [int(name) for name in sample_frames(frames, 8)]
        evenly = np.linspace(0, count - 1, 8, dtype=int).tolist()
        assert chosen == (evenly if count > 8 else list(range(count)))
        assert (chosen[0], chosen[-1], len(set(chosen))) == (0, count - 1, min(count, 8))


def test_a_video_of_fewer_frames_than_asked(data: Path, tiny_model: Callable[..., Path]) -> None:
    """VLM2Vec's loaders of five tasks fail there: they made a list for `num_frames` of them."""
    llava = AutoProcessor.from_pretrained(tiny_model("llava"))  # which takes frames as images
    prepare = ItemProcessor(llava, BACKBONES["llava"], InputConfig(num_frames=8))
    queries = read(data, "HMDB51").queries
    lengths = [len(item.video) for item in queries]
    assert min(lengths) < 8 < max(lengths)
    taken = [len(prepare(item)["pixel_values"]) for item in queries]
    assert taken == [min(length, 8) for length in lengths]


def test_where_frames_lie(data: Path) -> None:
    packed = "video_ret/data/ziyan/video_retrieval/MSR-VTT/frames/video0"
    assert read(data, "MSR-VTT").targets[0].video[0] == str(data / FRAMES / packed / "frame_0.png")
    assert read(data, "MSR-VTT").target_names == ["video0", "video1", "video2", "video3"]
    assert "video_qa/egoschema/e0" in read(data, "EgoSchema").queries[0].video[0]
    assert "ActivityNetQA/v_a0" in read(data, "ActivityNetQA").queries[0].video[0]
    assert "NExTQA/100" in read(data, "NExTQA").queries[0].video[0]
    first, second = (item.video[0] for item in read(data, "MVBench").queries[:2])
    assert "MVBench/episodic_reasoning/clip.mp4" in first
    assert "MVBench/action_sequence/clip.mp4" in second


def test_another_folder_for_frames(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data / "video-tasks", tmp_path / "frames" / "video-tasks")
    elsewhere = source(data, image_root=str(tmp_path / "frames"))
    task = SUITE["HMDB51"].format.read("HMDB51", elsewhere)
    assert task.queries[0].video[0].startswith(str(tmp_path / "frames"))


def test_local_candidates_are_the_rows_own(data: Path) -> None:
    task = read(data, "SmthSmthV2")
    own = ["Opening something", "Holding something", "Closing something"]
    assert [names_of(task, number) for number in range(2)] == [own, own[::-1]]
    assert [right(task, number) for number in range(2)] == [[own[2]], [own[1]]]
    assert len(task.targets) == 3


def test_first_is_the_task_and_limit_a_part_of_it(data: Path) -> None:
    assert SUITE["SmthSmthV2"].format.first == 1000  # type: ignore[attr-defined]
    task = read(data, "SmthSmthV2", first=3)
    assert (task.num_rows, len(task.queries)) == (3, 3)
    task = read(data, "SmthSmthV2", limit=2, first=3)
    assert (task.num_rows, len(task.queries)) == (3, 2)
    task = read(data, "MVBench", limit=3)
    assert (task.num_rows, len(task.queries)) == (20, 3)


def test_a_limit_keeps_the_corpus_whole(data: Path) -> None:
    task = read(data, "YouCook2", limit=1)
    assert (task.num_rows, len(task.queries), len(task.targets)) == (4, 1, 4)
    assert len(read(data, "Breakfast", limit=1).targets) == 10


def test_a_video_of_two_captions_is_one_target(own_data: Path) -> None:
    file = own_data / "lmms-lab/YouCook2/data/val-00000-of-00001.parquet"
    rows = pq.read_table(file).to_pylist()
    write_parquet(file, [*rows, rows[0] | {"sentence": "again"}])
    task = read(own_data, "YouCook2")
    assert (len(task.queries), len(task.targets)) == (5, 4)
    assert right(task, 4) == right(task, 0) == ["video0"]


def test_clips_of_a_video(data: Path) -> None:
    task = read(data, "QVHighlight")
    below = "video-tasks/frames/video_mret/QVHighlight/film1"
    clips = [f"{below}/{name}" for name in ("negative_2", "negative_10", "positive_1")]
    assert names_of(task, 1) == clips
    assert right(task, 1) == clips[2:]
    query = task.queries[1]
    assert (query.kind, Path(query.video[0]).parent.name) == ("video+text", "query")
    assert {item.kind for item in task.targets} == {"video+text"}
    assert len({item_key(item) for item in task.targets}) == 12  # the miniature's clips differ


def test_moment_seeker_asks_in_three_ways_and_knows_all_right_clips(data: Path) -> None:
    task = read(data, "MomentSeeker")
    assert [item.text for item in task.queries] == [
        "Find the clip that corresponds to the given text: a door shuts",
        "Select the video clip that aligns with the given text and image: it opens again",
        "Find the clip that corresponds to the given sentence and video segment: what came after",
    ]
    assert [item.kind for item in task.queries] == ["text", "image+text", "video+text"]
    folder = data / FRAMES / "video_mret/MomentSeeker"
    assert task.queries[1].images == (str(folder / "query_door.jpg"),)
    assert task.queries[2].video[0] == str(folder / "video_frames/film_b/frame_0.png")
    assert [right(task, number) for number in range(3)] == [
        ["film_a_2"], ["film_a_1", "film_b_2"], ["film_b_1", "film_b_2"],
    ]  # fmt: skip
    assert [names_of(task, number) for number in range(3)] == [
        ["film_a_2", "film_a_1", "film_b_1"],
        ["film_a_1", "film_b_2", "film_a_2"],
        ["film_b_1", "film_b_2", "film_a_1", "film_a_2"],
    ]


def test_mvbench_is_one_task_of_its_subsets_in_order(data: Path) -> None:
    task = read(data, "MVBench")
    subsets = SUITE["MVBench"].format.subsets  # type: ignore[attr-defined]
    assert len(subsets) == len(set(subsets)) == 20
    asked = [item.text.split("What of ")[1].split("?")[0] for item in task.queries]
    assert asked == subsets


@pytest.mark.parametrize(
    ("option", "answer"),
    [
        ("A. Apples.", "Apples"),
        ("B. 3. 5", "3. 5"),
        ("C. He runs. Then he stops.", "He runs. Then he stops"),
        ("D.", "D"),
        ("plain", "plain"),
    ],
)
def test_answers_without_their_letter(option: str, answer: str) -> None:
    assert fill("{answer}", 0, option) == answer
    assert fill("({letter}) {option}", 2, option) == f"(C) {option}"


def test_options_of_the_same_text_are_one_candidate(own_data: Path) -> None:
    file = own_data / "VLM2Vec/NExTQA/MC/test-00000-of-00001.parquet"
    rows = pq.read_table(file).to_pylist()
    rows[1] |= {"a1": "thing 3"}
    write_parquet(file, rows)
    task = read(own_data, "NExTQA")
    assert names_of(task, 1) == ["thing 0", "thing 3", "thing 2", "thing 4"]
    assert right(task, 1) == ["thing 3"]


def test_instructions_apart(data: Path) -> None:
    apart = {"instruction": "apart"}
    clip = read(data, "QVHighlight", **apart)
    instruction = f"{SEARCH}:"
    video = clip.queries[1].video
    assert clip.queries[1] == Item("it stops 1", video=video, instruction=instruction)
    assert {(item.text, item.instruction) for item in clip.targets} == {("", VIDEO)}
    plain = read(data, "QVHighlight", **apart, target_instruction=None)
    assert {(item.text, item.instruction) for item in plain.targets} == {("", "")}
    breakfast = read(data, "Breakfast", **apart)
    asked = "Recognize the breakfast type that the person is cooking in the video."
    assert (breakfast.queries[0].text, breakfast.queries[0].instruction) == ("", asked)
    question = read(data, "ActivityNetQA", **apart).queries[0]
    assert (question.text, question.instruction) == ("is it 0? (A) yes; (B) no.", QA.strip())


# What is wrong with the frames


def remove(path: str) -> Callable[[Path], None]:
    return lambda root: shutil.rmtree(root / FRAMES / path)


def empty(path: str) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        for frame in (root / FRAMES / path).glob("*.png"):
            frame.unlink()

    return damage


MRET, QVH, FOLDER = "video_mret", "video_mret/QVHighlight/film1", "no such folder in ROOT"
BAD_FRAMES = [
    ("K700", remove("video_cls/K700/v2"), "row 2, column 'video_id'", [f"K700/v2': {FOLDER}"]),
    ("K700", empty("video_cls/K700/v1"), "row 1, column 'video_id'", ["K700/v1: no frames (.jpg"]),
    ("MSVD", remove("video_ret/MSVD/video3"), "row 3, column 'video_id'",
     [f"video_ret/MSVD/video3': {FOLDER}", f"video_retrieval/MSVD/frames/video3': {FOLDER}"]),
    ("QVHighlight", remove(f"{QVH}/positive_1"), "row 1, column 'video_path'",
     [f"{QVH}' holds 2 clips, of which 0 begin with 'positive'"]),
    ("QVHighlight", remove(f"{QVH}/query"), "row 1, column 'video_path'", [f"{QVH}/query': no"]),
    ("MomentSeeker", remove(f"{MRET}/MomentSeeker/video_frames/film_a_2"),
     "row 0, column 'positive_frames'", ["MomentSeeker/video_frames/film_a_2': no"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "damage", "where", "messages"), BAD_FRAMES)
def test_frames_that_are_not_there(
    own_data: Path, name: str, damage: Callable[[Path], None], where: str, messages: list[str]
) -> None:
    damage(own_data)
    with pytest.raises(DataError) as error:
        read(own_data, name)
    for message in (where, *messages):
        assert message.replace("ROOT", str(own_data)) in str(error.value)


def test_a_video_beyond_the_limit_is_needed_where_it_is_searched(own_data: Path) -> None:
    remove("video_ret/VATEX/video3")(own_data)
    remove("video_cls/UCF101/v3")(own_data)
    with pytest.raises(DataError, match="row 3, column 'videoID'"):
        read(own_data, "VATEX", limit=1)
    assert len(read(own_data, "UCF101", limit=1).queries) == 1


@pytest.mark.parametrize(
    ("content", "said"), [(None, "cannot read it: "), ("a\nb\n\na\n", "twice: a"), ("\n", "empty")]
)
def test_bad_files_of_classes(tmp_path: Path, content: str | None, said: str) -> None:
    path = tmp_path / "classes.txt"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=f"{path}: {said}"):
        read_labels(str(path))


def test_own_classes_and_questions(tmp_path: Path) -> None:
    """A task of one's own is a row of settings."""
    write_video(tmp_path / "clips/one", 1)
    (tmp_path / "classes.txt").write_text("walks\nruns\n")
    write_parquet(
        tmp_path / "own/test-00000-of-00001.parquet",
        [{"clip": "one", "class": "runs", "question": "how", "true": "B", "options": ["x", "y "]}],
    )
    shared: dict[str, Any] = {"repository": "own", "video": "clip", "frames": ["clips/{video}"]}
    labels = VideoClassification(**shared, label="class", labels=str(tmp_path / "classes.txt"))
    assert right(labels.read("own", source(tmp_path)), 0) == ["runs"]
    asked = VideoQA(**shared, options=["options"], answer="true", answer_is="letter")
    task = asked.read("own", source(tmp_path))
    assert task.queries[0].text == "how\nOptions:\n(A) x\n(B) y"  # no white space at the end
    assert right(task, 0) == ["y "]
