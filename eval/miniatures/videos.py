"""Writes miniatures of MMEB-V2's 18 video tasks: their repositories as they are on the hub, and the
folders of frames. A video is one of the demo's drawings, which moves across."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from eval.miniatures.mmeb import Rows, picture, write_json, write_parquet, write_picture

FRAMES = "video-tasks/frames"
LENGTHS = (3, 12, 8, 10)  # frames of video 0, 1, 2, 3, 4 (3 again), …
SUBSETS = """episodic_reasoning action_sequence action_prediction action_antonym fine_grained_action
unexpected_action object_existence object_interaction object_shuffle moving_direction
action_localization scene_transition action_count moving_count moving_attribute state_change
fine_grained_pose character_order egocentric_navigation counterfactual_inference""".split()
TEST = "test-00000-of-00001.parquet"
LETTERS = "ABCDE"
LETTERED = [f"{letter}. Thing {letter.lower()}." for letter in LETTERS]
SOMETHING = ["Closing something", "Holding something", "Opening something"]

# Folders of the frames of each of a task's videos, and the seed of its first
VIDEOS = {
    "video_cls/K700/v{n}": 0,
    "video_cls/SSv2/v{n}": 1,
    "video_cls/HMDB51/v{n}": 2,
    "video_cls/UCF101/v{n}": 3,
    "video_cls/Breakfast/v{n}": 4,
    "video_ret/data/ziyan/video_retrieval/MSR-VTT/frames/video{n}": 1,
    "video_ret/MSVD/video{n}": 2,
    "video_ret/DiDeMo/video{n}": 3,
    "video_ret/YouCook2/video{n}": 4,
    "video_ret/VATEX/video{n}": 5,
    "video_mret/QVHighlight/film{n}/query": 6,
    "video_mret/Charades-STA/film{n}/query": 7,
    "video_qa/Video-MME/y{n}": 0,
    "video_qa/NExTQA/10{n}": 0,
    "video_qa/egoschema/e{n}": 0,
    "video_qa/ActivityNetQA/v_a{n}": 0,
}
# What a repository's README.md declares where its files do not tell
DECLARED = {
    "MSR-VTT": [("train_9k", "train", "msrvtt_train_9k.json"),
                ("test_1k", "test", "msrvtt_test_1k.json")],
    "MSVD": [("default", "test", "msvd_test.json")],
    "DiDeMo": [("default", "test", "didemo_test.json")],
}  # fmt: skip


def write_video(folder: Path, seed: int, length: int | None = None, size: int = 24) -> Path:
    """Frames ``frame_0.png`` … without leading zeros, which only a natural order sorts, and a file
    that is no frame."""
    drawing = picture(seed, size // 2)
    folder.mkdir(parents=True)
    count = length or LENGTHS[seed % len(LENGTHS)]
    for number in range(count):
        frame = Image.new("RGB", (size, size), (40 * seed % 256, 90, 120))
        frame.paste(drawing, (number * size // 2 // count, size // 4))
        frame.save(folder / f"frame_{number}.png")
    (folder / "made_by.txt").write_text("a test\n")
    return folder


def write_video_tasks(root: Path, videos: int = 4) -> None:
    """All 18 tasks, each of `videos` rows, but of MVBench one a subset, and of MomentSeeker three.

    Args:
        root: will hold VLM2Vec/…, lmms-lab/… and video-tasks/frames/…
    """
    frames = root / FRAMES
    for folder, seed in VIDEOS.items():
        for n in range(videos):
            write_video(frames / folder.format(n=n), seed + n)
    for seed, name in ((6, "QVHighlight"), (7, "Charades-STA")):
        for n in range(videos):
            for place, clip in enumerate(("positive_1", "negative_10", "negative_2")):
                below = frames / "video_mret" / name / f"film{n}"
                write_video(below / clip, 10 * seed + 3 * n + place, 4)
            (below / "notes.json").write_text("{}")
    seeker = frames / "video_mret/MomentSeeker"
    for n, clip in enumerate(("film_a_1", "film_a_2", "film_b_1", "film_b_2", "film_b")):
        write_video(seeker / "video_frames" / clip, 20 + n, 8)
    write_picture(seeker / "query_door.jpg", 30)
    for n, subset in enumerate(SUBSETS):
        write_video(frames / "video_qa/MVBench" / subset / "clip.mp4", n, 3)

    for path, rows in (_rows(videos) | _questions(videos)).items():
        (write_parquet if path.endswith(".parquet") else write_json)(root / path, rows)
    declared = DECLARED | {"MVBench": [(name, None, f"json/{name}.json") for name in SUBSETS]}
    for repository, files in declared.items():
        configs = "".join(_declaration(*file) for file in files)
        (root / "VLM2Vec" / repository / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")


def _declaration(name: str, split: str | None, path: str) -> str:
    files = f"\n  - split: {split}\n    path: {path}" if split else f" {path}"
    return f"- config_name: {name}\n  data_files:{files}\n"


def _rows(videos: int) -> dict[str, Rows]:
    """Classification and retrieval: the rows of each file."""

    def of_classes(labels: list[str]) -> Rows:
        return [{"video_id": f"v{n}", "pos_text": labels[n % len(labels)]} for n in range(videos)]

    something = of_classes(SOMETHING[:2])
    for n, row in enumerate(something):
        row["neg_text"] = SOMETHING[:: 1 if n % 2 else -1]
    pairs = [(f"video{n}", f"something moves, number {n}") for n in range(videos)]
    msrvtt = [{"video_id": v, "video": f"{v}.mp4", "caption": c} for v, c in pairs]
    moments = [
        {"query": f"it stops {n}", "video_path": f"/videos/film{n}.mp4"} for n in range(videos)
    ]
    kinetics = ["abseiling", "zumba", "yoga", "curling_(sport)"]
    return {
        "VLM2Vec/Kinetics-700/data/test.jsonl": of_classes(kinetics),
        "VLM2Vec/SmthSmthV2/data/test.jsonl": something,
        "VLM2Vec/HMDB51/data/test.jsonl": of_classes(["wave", "climb_stairs", "brush_hair"]),
        "VLM2Vec/UCF101/data/test.jsonl": of_classes(["YoYo", "Archery", "TaiChi"]),
        "VLM2Vec/Breakfast/data/test.jsonl": of_classes(["tea", "cereal"]),
        "VLM2Vec/MSR-VTT/msrvtt_test_1k.json": msrvtt,
        "VLM2Vec/MSR-VTT/msrvtt_train_9k.json": msrvtt[:1] * 9,
        "VLM2Vec/MSVD/msvd_test.json": [
            {"video_id": v, "video": f"{v}.avi", "caption": [c, "not the first"]} for v, c in pairs
        ],
        "VLM2Vec/DiDeMo/didemo_test.json": [
            {"video": f"videos/test/{v}.mp4", "caption": c} for v, c in pairs
        ],
        "lmms-lab/YouCook2/data/val-00000-of-00001.parquet": [
            {"id": v, "video_path": f"x/{v}.mp4", "sentence": c} for v, c in pairs
        ],
        f"VLM2Vec/VATEX/vatex_test/{TEST}": [
            {"videoID": v, "enCap": [c, "not the first"], "chCap": []} for v, c in pairs
        ],
        f"VLM2Vec/QVHighlight/data/{TEST}": moments,
        f"VLM2Vec/Charades-STA/data/{TEST}": moments,
        f"VLM2Vec/MomentSeeker/data/{TEST}": [
            _moment("a door shuts", "", ["a_2"], ["a_1", "b_1"]),
            _moment("it opens again", "door.jpg", ["a_1", "b_2"], ["a_2"]),
            _moment("what came after", "film/b.mp4", ["b_1", "b_2"], ["a_1", "a_2"]),
        ],
    }


def _moment(query: str, asked: str, right: Iterable[str], wrong: Iterable[str]) -> dict[str, Any]:
    return {
        "query": query,
        "input_frames": asked,
        "positive_frames": [{"output_path": f"film/{n}.mp4", "start": 1.5} for n in right],
        "negative_frames": [{"output_path": f"film/{n}.mp4", "start": 2.5} for n in wrong],
    }


def _questions(videos: int) -> dict[str, Rows]:
    """Question answering: the rows of each file."""
    numbers, directions = range(videos), ["up", "down", "left"]
    bench: dict[str, Rows] = {}
    for n, subset in enumerate(SUBSETS):
        asked = {"video": "clip.mp4", "question": f"What of {subset}?", "candidates": directions}
        row = asked | {"answer": directions[n % 3]} | ({"start": 1} if n % 2 else {})
        bench[f"VLM2Vec/MVBench/json/{subset}.json"] = [row]
    things = {f"a{place}": f"thing {place}" for place in range(5)}
    return bench | {
        f"VLM2Vec/Video-MME/videomme/{TEST}": [
            {"videoID": f"y{n}", "question": f"What is it {n}?", "options": LETTERED[:4],
             "answer": LETTERS[n % 4]}
            for n in numbers
        ],
        f"VLM2Vec/NExTQA/MC/{TEST}": [
            {"video": 100 + n, "question": f"what is it {n}", "answer": 4 - n % 5} | things
            for n in numbers
        ],
        f"VLM2Vec/NExTQA/OE/{TEST}": [{"video": 1, "answer": "open"}],
        f"VLM2Vec/EgoSchema/Subset/{TEST}": [
            {"video_idx": f"e{n}", "question": f"What is it {n}?", "option": LETTERED,
             "answer": str(n % 5)}
            for n in numbers
        ],
        f"VLM2Vec/ActivityNetQA/data/{TEST}": [
            {"video_name": f"a{n}", "question": f"is it {n}", "answer": "no" if n % 2 else "yes"}
            for n in numbers
        ],
    }  # fmt: skip
