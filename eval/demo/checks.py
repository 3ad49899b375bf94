"""What the demo knows beyond hit@1: its images and false negatives are made, so the truth is known.

    python -m eval.demo.checks runs/demo test "an elephant" …      (stages.demo runs this)

The teacher's own score on the text tasks, how precise the false-negative filter is, what the base
can name, and a search with text queries; added to the report in the folder.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from data_prep.demo.emoji import BACKGROUNDS, STYLES, is_held_out, load_concepts
from data_prep.demo_base.conversations import Conversation
from data_prep.demo_base.metrics import score
from data_prep.teachers.sentence_model import embed_texts, load_teacher
from eval.demo.contact_sheet import Answer, answer_queries, draw_sheet
from eval.demo.filter import DATA, judge_filter
from eval.report.comparable import scored
from eval.report.table import narrow_table
from eval.results import TaskResult
from eval.scoring import score_task
from eval.tasks.mmeb_v1 import read_mmeb
from eval.tasks.suites import load_suite
from unime.config import EvalConfig, TeacherConfig, build_config
from unime.errors import require_package
from unime.inputs.items import Item
from unime.models.encoder import Encoder
from unime.runtime.files import read_json, write_json
from unime.runtime.folder_lock import lock_folder
from unime.runtime.program import run_program

if TYPE_CHECKING:
    from rich.table import Table

CONFIGS = Path("configs/demo")
NAMED = 300


def run_checks(folder: Path, split: str, models: tuple[str, ...]) -> dict[str, Any]:
    """The parts of the report that eval.report does not know."""
    tasks = [name for name, task in load_suite("configs/suites/demo.yaml").items()
             if task.meta_task == "text"]  # fmt: skip
    text: dict[str, dict[str, float]] = {"teacher": teacher_scores(tasks, split)}
    for model in models:
        results = scored(
            {task: TaskResult.from_json(folder / f"eval/{model}/{task}.json") for task in tasks}
        )
        text[model] = {task: scores.score for task, scores in results.items()}
        text[model] |= {
            sign: sum(getattr(scores, sign) for scores in results.values()) / len(results)
            for sign in ("mean_similarity", "effective_rank")
        }
    moments = {"before": "stage1", "after": "stage1_stage2"}
    judged = {moment: judge_filter(folder, model, split) for moment, model in moments.items()}
    return {
        "text": text,
        "filter": {
            f"{rows}_{moment}_stage2": judged[moment][rows]
            for rows in ("training", "flags")
            for moment in moments
        },
        "base_naming_accuracy": naming_accuracy(NAMED),
    }


def teacher_scores(tasks: list[str], split: str) -> dict[str, float]:
    """hit@1 of the teacher itself on text-to-text tasks."""
    config = build_config(TeacherConfig, CONFIGS / "teacher.yaml")
    teacher = load_teacher(config)
    scores = {}
    for name in tasks:
        task = read_mmeb(str(DATA / split), name)
        queries, targets = (
            torch.from_numpy(embed_texts(teacher, config, [item.text for item in items])).float()
            for items in (task.queries, task.targets)
        )
        places = {item: place for place, item in enumerate(task.targets)}
        items = torch.tensor([places[item] for item in task.targets])  # the last of its copies
        scores[name] = score_task(task, queries, targets, items)[1]["hit@1"].mean().item()
    return scores


def naming_accuracy(count: int) -> float:
    """How often the base's first name token is right for a drawing that pretraining held out: asked
    as a chat model is, through the processor, before any stage."""
    config = build_config(EvalConfig, CONFIGS / "eval.yaml")
    processor = AutoProcessor.from_pretrained(config.model.name)
    model: Any = AutoModelForImageTextToText.from_pretrained(config.model.name, dtype=torch.float32)
    rng = random.Random(0)
    drawings = [
        Conversation("name", (("What is this?", concept.name),), ((concept, style),), background)
        for concept in load_concepts()
        for style in STYLES
        for background in BACKGROUNDS
        if is_held_out(concept, style, background)
    ]
    return score(model, processor, rng.sample(drawings, count), rng)["first"]


def search(folder: Path, split: str, queries: list[str], sheet: Path) -> list[Answer]:
    """Answer text queries with the split's captioned images, and draw what was found."""
    by_caption = read_mmeb(str(DATA / split), "Emoji_t2i")
    by_image = read_mmeb(str(DATA / split), "Emoji_i2t")
    instruction = by_caption.queries[0].text.split(": ", 1)[0]
    captions = [query.text.split(": ", 1)[1] for query in by_caption.queries]
    captions += [own[0].text for own in by_image.candidate_items()]
    gallery = [own[0] for own in by_caption.candidate_items()]
    gallery += [Item(images=query.images) for query in by_image.queries]
    config = build_config(
        EvalConfig, CONFIGS / "eval.yaml", [f"model.adapter={folder}/stage1_stage2/final"]
    )
    encoder = Encoder.load(config.model, config.inputs)
    items = [Item(f"{instruction}: {query}") for query in queries]

    def is_right(query: int, image: int) -> bool:
        return f"{captions[image]} ".startswith(f"{queries[query]} ")

    answers = answer_queries(encoder, items, queries, gallery, is_right)
    draw_sheet(answers, sheet)
    return answers


def tables(report: dict[str, Any]) -> list[Table]:
    """The text tasks beside the teacher, and the filter beside the truth."""
    text = report["text"]
    first = narrow_table("text to text, hit@1 in %", [*text])
    for name in text["teacher"]:
        first.add_row(name, *(f"{100 * scores[name]:.1f}" for scores in text.values()))
    for sign, digits in (("mean_similarity", 3), ("effective_rank", 1)):
        cells = [f"{s[sign]:.{digits}f}" if sign in s else "" for s in text.values()]
        first.add_row(sign.replace("_", " "), *cells)
    second = narrow_table("false-negative filter", [*report["filter"]])
    for key in ("pairs", "false_negatives", "filtered", "precision", "recall"):
        digits = 3 if key in ("precision", "recall") else 0
        cells = [f"{judged[key]:.{digits}f}" for judged in report["filter"].values()]
        second.add_row(key.replace("_", " "), *cells)
    return [first, second]


def main(words: list[str]) -> None:
    """Add the checks to the report of a demo's folder and print them; draw what is found."""
    require_package("rich", "demo", "the demo's checks")
    from rich.console import Console

    if len(words) < 2 or words[0].startswith("-"):
        raise SystemExit(__doc__)
    folder, split, *queries = words
    lock_folder("folder", Path(folder))
    path = Path(folder) / "report.json"
    report = read_json(path)
    models = tuple(report["models"])
    report |= run_checks(Path(folder), split, models)
    console = Console()
    for table in tables(report):
        console.print(table)
    answers = search(Path(folder), split, queries, Path(folder) / "contact_sheet.png")
    report["search"] = {answer.query: answer.right for answer in answers}
    for answer in answers:
        print(f"“{answer.query}”: {sum(answer.right)} of {len(answer.right)} pictures are right")
    write_json(path, report)


if __name__ == "__main__":
    run_program(lambda: main(sys.argv[1:]))
