"""Which queries the page of the report shows, and how it holds what they ask and find."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eval.page.files import TaskFiles, item_of
from eval.page.pictures import Pictures
from unime.inputs.images import sample_frames
from unime.inputs.items import Item
from unime.runtime.names import LONGEST

FRAMES = 4  # of a video


class Items:
    """What is shown, each item once; places in it stand for items everywhere on the page."""

    def __init__(self, pictures: Pictures) -> None:
        self.pictures = pictures
        self._places: dict[Item, int] = {}

    def place(self, item: Item) -> int:
        if item not in self._places:
            self.pictures.ask(item.images)
            self.pictures.ask(sample_frames(item.video, FRAMES))
        return self._places.setdefault(item, len(self._places))

    def content(self) -> list[dict[str, Any]]:
        """As the page reads it; call it when the pictures are loaded."""
        return [self._entry(item) for item in self._places]

    def _entry(self, item: Item) -> dict[str, Any]:
        entry: dict[str, Any] = {"kind": item.kind}
        if item.text:
            entry["text"] = item.text[:LONGEST]
            if len(item.text) > LONGEST:
                entry["length"] = len(item.text)
        if item.instruction:
            entry["instruction"] = item.instruction[:LONGEST]
        if item.images:
            entry["images"] = [self.pictures.shown(path) for path in item.images]
        if item.video:
            chosen = sample_frames(item.video, FRAMES)
            entry["frames"] = [self.pictures.shown(path) for path in chosen]
            entry["num_frames"] = len(item.video)
        return entry


def choose_queries(hits: Sequence[Sequence[bool]], count: int) -> list[int]:
    """`count` queries that show every model hit and miss, and where models differ.

    First one for each outcome (the first model hits, it misses, the second hits, ...) that no
    chosen one shows yet; then in turn one of each combination of outcomes, spread over the task.

    Args:
        hits: (Q, M) whether each model has each query right.
    """
    groups: dict[tuple[bool, ...], list[int]] = {}
    for number, outcome in enumerate(hits):
        groups.setdefault(tuple(outcome), []).append(number)
    queues = {outcome: spread(group) for outcome, group in sorted(groups.items(), reverse=True)}
    chosen: list[int] = []
    shown: set[tuple[int, bool]] = set()
    for wanted in [(m, hit) for m in range(len(hits[0])) for hit in (True, False)]:
        fits = [o for o, q in queues.items() if q and o[wanted[0]] is wanted[1]]
        if wanted not in shown and fits and len(chosen) < count:
            best = max(fits, key=lambda outcome: len(set(enumerate(outcome)) - shown))
            chosen.append(queues[best].pop(0))
            shown |= set(enumerate(best))
    while len(chosen) < min(count, len(hits)):
        for queue in queues.values():
            if queue and len(chosen) < count:
                chosen.append(queue.pop(0))
    return sorted(chosen)


def spread(numbers: list[int]) -> list[int]:
    """In an order whose every beginning is spread over the list: by the bits of the place, read
    backwards."""
    bits = max(1, (len(numbers) - 1).bit_length())
    order = sorted(range(len(numbers)), key=lambda place: f"{place:0{bits}b}"[::-1])
    return [numbers[place] for place in order]


def gallery_card(
    number: int, task: int, files: Sequence[TaskFiles], items: Items
) -> dict[str, Any]:
    """One query, and what each model finds for it; null: it has no predictions."""
    known = next(f.predictions for f in files if f.predictions is not None)
    asked = known[number]
    return {
        "task": task,
        "number": number,
        "query": items.place(item_of(asked["query"])),
        "gold": [items.place(item_of(gold)) for gold in asked["gold"]],
        "num_gold": len(asked["label"]),
        "answers": [_answer(f, number, items) for f in files],
    }


def _answer(files: TaskFiles, number: int, items: Items) -> dict[str, Any] | None:
    if files.predictions is None:
        return None
    found = files.predictions[number]
    top = zip(found["top"], found["right"], found["scores"], strict=False)
    answer: dict[str, Any] = {
        "hit": files.predictions.hits[number],
        "gold_score": round(found["gold_score"], 5),
        "top": [[items.place(item_of(item)), round(score, 5), right] for item, right, score in top],
    }
    if found.get("tied") is not None:
        answer["tied"] = found["tied"]
    scores = files.result.scores
    if scores is not None and (files.result.metric != "hit@1" or "tied" in answer):
        answer["value"] = round(scores.values[number], 5)
    return answer
