"""Writes miniatures of MMEB-V2's 18 video tasks: their repositories as they are on the hub, and the
folders of frames. A video is one of the demo's drawings, which moves across."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from data_prep.demo.emoji import STYLES, load_concepts, render, sample_rendering

FRAMES = "video-tasks/frames"
LENGTHS = (3, 12, 8, 10)  # frames of video 0, 1, 2, 3, 4 (3 again), …
SUBSETS = """episodic_reasoning action_sequence action_prediction action_antonym fine_grained_action
unexpected_action object_existence object_interaction object_shuffle moving_direction
action_localization scene_transition action_count moving_count moving_attribute state_change
fine_grained_pose character_order egocentric_navigation counterfactual_inference""".split()

Rows = list[dict[str, Any]]


def write_video(folder: Path, seed: int, length: int | None = None, size: int = 24) -> Path:
    """Frames ``frame_0.png`` … without leading zeros, which only a natural order sorts, and a file
    that is no frame."""
    concepts, style = load_concepts(), STYLES[seed % len(STYLES)]
    concept = concepts[seed * 37 % len(concepts)]
    drawing = Image.fromarray(
        render(concept, style, sample_rendering(random.Random(seed), concept))
    )
    drawing = drawing.resize((size // 2, size // 2))
    folder.mkdir(parents=True)
    count = length or LENGTHS[seed % len(LENGTHS)]
    for number in range(count):
        frame = Image.new("RGB", (size, size), (40 * seed % 256, 90, 120))
        frame.paste(drawing, (number * size // 2 // count, size // 4))
        frame.save(folder / f"frame_{number}.png")
    (folder / "made_by.txt").write_text("a test\n")
    return folder


def write_json(path: Path, rows: Rows) -> None:
    """One object a line, or for .json one list."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row) for row in rows]
    path.write_text(f"[{','.join(lines)}]" if path.suffix == ".json" else "\n".join(lines) + "\n")


def write_parquet(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def write_video_tasks(root: Path, videos: int = 4) -> None:
    """All 18 tasks, each of `videos` rows but for MVBench, which has one a subset.

    Args:
        root: will hold VLM2Vec/…, lmms-lab/… and video-tasks/frames/…
    """
    write_classification(root, videos)
    write_retrieval(root, videos)
    write_moments(root, videos)
    write_questions(root, videos)


def write_classification(root: Path, videos: int) -> None:
    for number, (name, folder, labels) in enumerate(
        (
            ("Kinetics-700", "K700", ["abseiling", "zumba", "yoga", "curling_(sport)"]),
            ("SmthSmthV2", "SSv2", ["Closing something", "Holding something"]),
            ("HMDB51", "HMDB51", ["wave", "climb_stairs", "brush_hair"]),
            ("UCF101", "UCF101", ["YoYo", "Archery", "TaiChi"]),
            ("Breakfast", "Breakfast", ["tea", "cereal"]),
        )
    ):
        rows = []
        for place in range(videos):
            write_video(root / FRAMES / "video_cls" / folder / f"v{place}", number + place)
            row: dict[str, Any] = {"video_id": f"v{place}", "pos_text": labels[place % len(labels)]}
            if name == "SmthSmthV2":
                row["neg_text"] = [*labels, "Opening something"][:: 1 if place % 2 else -1]
            rows.append(row)
        write_json(root / "VLM2Vec" / name / "data" / "test.jsonl", rows)


def write_retrieval(root: Path, videos: int) -> None:
    def frames(name: str, seed: int, *, packed: bool = False) -> list[str]:
        inside = f"data/ziyan/video_retrieval/{name}/frames" if packed else name
        names = [f"video{number}" for number in range(videos)]
        for number, video in enumerate(names):
            write_video(root / FRAMES / "video_ret" / inside / video, seed + number)
        return names

    captions = [f"something moves, number {number}" for number in range(videos)]
    pairs = list(zip(frames("MSR-VTT", 1, packed=True), captions, strict=True))
    repository = root / "VLM2Vec" / "MSR-VTT"
    rows = [{"video_id": v, "video": f"{v}.mp4", "caption": c} for v, c in pairs]
    write_json(repository / "msrvtt_test_1k.json", rows)
    write_json(repository / "msrvtt_train_9k.json", rows[:1] * 9)
    (repository / "README.md").write_text(
        "---\nconfigs:\n- config_name: train_9k\n  data_files:\n  - split: train\n"
        "    path: msrvtt_train_9k.json\n- config_name: test_1k\n  data_files:\n  - split: test\n"
        "    path: msrvtt_test_1k.json\n---\n# MSR-VTT\n"
    )
    pairs = list(zip(frames("MSVD", 2), captions, strict=True))
    write_json(
        root / "VLM2Vec" / "MSVD" / "msvd_test.json",
        [{"video_id": v, "video": f"{v}.avi", "caption": [c, "not the first"]} for v, c in pairs],
    )
    pairs = list(zip(frames("DiDeMo", 3), captions, strict=True))
    write_json(
        root / "VLM2Vec" / "DiDeMo" / "didemo_test.json",
        [{"video": f"videos/test/{v}.mp4", "caption": c} for v, c in pairs],
    )
    for name in ("MSVD", "DiDeMo"):
        (root / "VLM2Vec" / name / "README.md").write_text(
            "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: test\n"
            f"    path: {name.lower()}_test.json\n---\n"
        )
    pairs = list(zip(frames("YouCook2", 4), captions, strict=True))
    write_parquet(
        root / "lmms-lab" / "YouCook2" / "data" / "val-00000-of-00001.parquet",
        [{"id": v, "video_path": f"x/{v}.mp4", "sentence": c} for v, c in pairs],
    )
    pairs = list(zip(frames("VATEX", 5), captions, strict=True))
    write_parquet(
        root / "VLM2Vec" / "VATEX" / "vatex_test" / "test-00000-of-00001.parquet",
        [{"videoID": v, "enCap": [c, "not the first"], "chCap": []} for v, c in pairs],
    )


def write_moments(root: Path, videos: int) -> None:
    for seed, name in ((6, "QVHighlight"), (7, "Charades-STA")):
        rows = []
        for number in range(videos):
            below = root / FRAMES / "video_mret" / name / f"film{number}"
            write_video(below / "query", seed + number)
            for place, clip in enumerate(("positive_1", "negative_10", "negative_2")):
                write_video(below / clip, 10 * seed + 3 * number + place, 4)
            (below / "notes.json").write_text("{}")
            rows.append({"query": f"it stops {number}", "video_path": f"/videos/film{number}.mp4"})
        write_parquet(root / "VLM2Vec" / name / "data" / "test-00000-of-00001.parquet", rows)

    folder = root / FRAMES / "video_mret" / "MomentSeeker"
    for number, clip in enumerate(("film_a_1", "film_a_2", "film_b_1", "film_b_2", "film_b")):
        write_video(folder / "video_frames" / clip, 20 + number, 8)
    picture = write_video(folder / "aside", 30, 1) / "frame_0.png"
    with Image.open(picture) as image:
        image.save(folder / "query_door.jpg")
    clips = {"a1": "film/a_1.mp4", "a2": "film/a_2.mp4", "b1": "film/b_1.mp4", "b2": "film/b_2.mp4"}

    def row(query: str, asked: str, positives: list[str], negatives: list[str]) -> dict[str, Any]:
        return {
            "query": query,
            "input_frames": asked,
            "positive_frames": [{"output_path": clips[n], "start": 1.5} for n in positives],
            "negative_frames": [{"output_path": clips[n], "start": 2.5} for n in negatives],
        }

    rows = [
        row("a door shuts", "", ["a2"], ["a1", "b1"]),
        row("it opens again", "door.jpg", ["a1", "b2"], ["a2"]),
        row("what came after", "film/b.mp4", ["b1", "b2"], ["a1", "a2"]),
    ]
    write_parquet(root / "VLM2Vec" / "MomentSeeker" / "data" / "test-00000-of-00001.parquet", rows)


def write_questions(root: Path, videos: int) -> None:
    frames, repositories = root / FRAMES / "video_qa", root / "VLM2Vec"
    configs = []
    for number, subset in enumerate(SUBSETS):
        write_video(frames / "MVBench" / subset / "clip.mp4", number, 3)
        question = f"What of {subset}?"
        row: dict[str, Any] = {
            "video": "clip.mp4",
            "question": question,
            "candidates": ["up", "down", "left"],
        }
        row |= {"answer": ["up", "down", "left"][number % 3]} | ({"start": 1} if number % 2 else {})
        write_json(repositories / "MVBench" / "json" / f"{subset}.json", [row])
        configs.append(f"- config_name: {subset}\n  data_files: json/{subset}.json\n")
    (repositories / "MVBench" / "README.md").write_text(f"---\nconfigs:\n{''.join(configs)}---\n")

    letters = "ABCDE"
    lettered = [f"{letter}. Thing {letter.lower()}." for letter in letters]
    mme, next_qa, ego, yes_no = [], [], [], []
    for number in range(videos):
        for name in ("Video-MME/y", "NExTQA/10", "egoschema/e", "ActivityNetQA/v_a"):
            write_video(frames / f"{name}{number}", number)
        question = f"What is it {number}?"
        mme.append(
            {"videoID": f"y{number}", "question": question, "options": lettered[:4]}
            | {"answer": letters[number % 4]}
        )
        options = {f"a{place}": f"thing {place}" for place in range(5)}
        next_qa.append(
            {"video": 100 + number, "question": f"what is it {number}", "answer": 4 - number % 5}
            | options
        )
        ego.append(
            {"video_idx": f"e{number}", "question": question, "option": lettered}
            | {"answer": str(number % 5)}
        )
        yes_no.append(
            {"video_name": f"a{number}", "question": f"is it {number}"}
            | {"answer": "no" if number % 2 else "yes"}
        )
    test = "test-00000-of-00001.parquet"
    write_parquet(repositories / "Video-MME" / "videomme" / test, mme)
    write_parquet(repositories / "NExTQA" / "MC" / test, next_qa)
    write_parquet(repositories / "NExTQA" / "OE" / test, [{"video": 1, "answer": "open"}])
    write_parquet(repositories / "EgoSchema" / "Subset" / test, ego)
    write_parquet(repositories / "ActivityNetQA" / "data" / test, yes_no)
