"""What is written beside a task's result, in a folder for each modality.

``<task>_score.json`` are the metrics with the names, the order and the form that VLM2Vec's
``experiments/report_score_v2.py`` reads. ``<task>_pred.jsonl`` has a line a query: the ten best
targets, as there, and what the report's gallery shows. ``<task>_sample.safetensors`` has some
embeddings, for its pictures of similarities.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from eval.tasks.base import EvalTask, Relevance
from unime.inputs.images import sample_frames
from unime.inputs.items import Item
from unime.runtime.files import write_aside

SAMPLED = 50  # queries and their targets: the matrices of the paper's figures are 50 x 50
FRAMES = 8  # of a video that are named there
SHOWN = 3  # items of each kind that a line of the predictions holds in full,
LONGEST_TEXT = 100_000  # of texts so many characters


@dataclass
class Ranked:
    """A task and what was found for it."""

    task: EvalTask
    queries: Tensor  # (Q, D)
    targets: Tensor  # (T, D)
    found: Tensor  # (Q, 10), -1 where there are fewer candidates
    scores: Tensor  # (Q, 10)
    shared_first: Tensor  # (Q) how many different candidates share the highest score, 1: none


def side_files(folder: Path, name: str) -> list[Path]:
    """What `write_side_files` writes of a task: scores, predictions and sample."""
    endings = ("score.json", "pred.jsonl", "sample.safetensors")
    return [folder / f"{name}_{ending}" for ending in endings]


def write_side_files(folder: Path, ranked: Ranked, metrics: dict[str, float]) -> None:
    """Write the files of a task into `folder`, each aside and then renamed."""
    folder.mkdir(parents=True, exist_ok=True)
    name, count = ranked.task.name, len(ranked.task.queries)
    of_scores, of_predictions, of_sample = side_files(folder, name)
    scores = metrics | {"num_pred": count, "num_data": count}
    write_aside(of_scores, json.dumps(scores, indent=4).encode())
    lines = (json.dumps(line, ensure_ascii=False) + "\n" for line in predictions(ranked))
    write_aside(of_predictions, "".join(lines).encode("utf-8", "replace"))
    gold = [most_relevant(own)[0] for own in ranked.task.relevance[:SAMPLED]]
    sample = {
        "queries": ranked.queries[:SAMPLED].half().contiguous(),
        "targets": ranked.targets[gold].half().contiguous(),
    }
    write_aside(of_sample, save(sample))


def predictions(ranked: Ranked) -> Iterator[dict[str, Any]]:
    """What was found for each query; of several right targets the most relevant come first. `right`
    says which predictions are (names need not tell targets apart), `tied` how many different
    candidates have the first one's score, if any other has."""
    task = ranked.task
    rows = zip(task.queries, task.relevance, ranked.found.tolist(), ranked.scores, strict=True)
    for number, (query, relevance, places, scores) in enumerate(rows):
        found = [place for place in places if place >= 0]
        gold = most_relevant(relevance)
        similarity = ranked.queries[number] @ ranked.targets[gold[0]]
        shared = int(ranked.shared_first[number])
        yield {
            "prediction": [task.target_names[place] for place in found],
            "label": [task.target_names[place] for place in gold],
            "right": [place in relevance for place in found],
            "rel_scores": [relevance[place] for place in gold],
            "scores": scores[: len(found)].tolist(),
            "gold_score": similarity.item(),
            **({"tied": shared} if shared > 1 else {}),
            "query": _plain(query),
            "gold": [_plain(task.targets[place]) for place in gold[:SHOWN]],
            "top": [_plain(task.targets[place]) for place in found[:SHOWN]],
        }


def most_relevant(relevance: Relevance) -> list[int]:
    """The right targets, the most relevant first: the first is the one that the predictions show
    and the sample holds."""
    return sorted(relevance, key=lambda place: (-relevance[place], place))


def _plain(item: Item) -> dict[str, Any]:
    """An item for people: of a video some of its frames, and how many there are."""
    found = {key: value for key, value in asdict(item).items() if value and key != "spacing"}
    if len(item.text) > LONGEST_TEXT:
        found |= {"text": item.text[:LONGEST_TEXT] + "…"}
    if item.video:
        found |= {"video": sample_frames(item.video, FRAMES), "num_saved_frames": len(item.video)}
    return found
