"""What the base knows: accuracies on drawings, scenes and definitions that pretraining held out.

All answers are read off one forward pass with the right answer in place: greedy decoding gives
exactly the right answer if and only if every answer token is the most likely one there.

    python -m data_prep.demo_base.metrics --base assets/base
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from operator import itemgetter
from pathlib import Path
from statistics import fmean

import torch
from transformers import AutoProcessor, Qwen2VLForConditionalGeneration, Qwen2VLProcessor

from data_prep.demo.emoji import BACKGROUNDS, STYLES, is_held_out
from data_prep.demo_base.batches import IGNORE, answer_logits, answer_loss, collate, of_one_size
from data_prep.demo_base.conversations import (
    NAME_QUESTIONS,
    Conversation,
    Objects,
    Tasks,
    holds_held_out_pair,
    scene_questions,
)

CHUNK = 64
SCENE_QUESTIONS = ("left", "right", "background", "count", "presence", "next_to", "middle")


def name_samples(tasks: Tasks, style: str, count: int) -> list[Conversation]:
    """Held-out cells, one question each; every concept once before any comes twice."""
    rng = random.Random(f"names-{style}-0")
    cells = [
        (concept, background)
        for concept in tasks.concepts
        for background in BACKGROUNDS
        if is_held_out(concept, style, background)
    ]
    rng.shuffle(cells)
    seen: Counter[str] = Counter()
    order = []
    for concept, background in cells:
        order.append((seen[concept.id], concept, background))
        seen[concept.id] += 1
    order.sort(key=itemgetter(0))
    return [
        Conversation("name", ((NAME_QUESTIONS[0], concept.name),), ((concept, style),), background)
        for _, concept, background in order[:count]
    ]


def scene_samples(tasks: Tasks, count: int) -> dict[str, list[Conversation]]:
    """One question each about rows in which some pair of objects was never drawn together."""
    rng = random.Random("scenes")
    found: dict[str, list[Conversation]] = {}
    for number in range(count):
        objects = _new_row(tasks, rng, 2 + number % 2)
        names = [concept.name for concept, _ in objects]
        background = rng.choice(tuple(BACKGROUNDS))
        absent = rng.choice([c.name for c in tasks.concepts if c.name not in names])
        asked = rng.choice([rng.choice(names), absent])
        for kind, turn in scene_questions(objects, background, asked).items():
            if kind in SCENE_QUESTIONS:
                sample = Conversation("scene", (turn,), objects, background)
                found.setdefault(kind, []).append(sample)
    return found


def _new_row(tasks: Tasks, rng: random.Random, size: int) -> Objects:
    while True:
        chosen = rng.sample(tasks.concepts, size)
        if holds_held_out_pair(chosen):
            return tuple((concept, rng.choice(STYLES)) for concept in chosen)


def definition_samples(tasks: Tasks, count: int) -> dict[str, list[Conversation]]:
    """Definition -> word for trained words, held-out words, and concepts."""
    rng = random.Random("definitions")
    trained = [word for word in tasks.words if word not in tasks.reverse_held_out]
    words = {
        "trained": rng.sample(trained, count),
        "held_out": sorted(tasks.reverse_held_out)[:count],
    }
    samples = {
        kind: [
            Conversation("word_text", ((f"Which word means: {tasks.senses[word][0]}?", word),))
            for word in chosen
        ]
        for kind, chosen in words.items()
    }
    samples["concept"] = [
        Conversation("concept_text", ((f"Which thing is it: {c.definition}?", c.name),))
        for c in rng.sample(tasks.defined, min(count, len(tasks.defined)))
    ]
    return samples


@torch.no_grad()
def score(
    model: Qwen2VLForConditionalGeneration,
    processor: Qwen2VLProcessor,
    samples: list[Conversation],
    rng: random.Random | None = None,
) -> dict[str, float]:
    """Share of samples whose first answer token / whole answer / first token in top 5 is right; the
    images are drawn with `rng`."""
    rng = rng or random.Random(0)
    first = exact = top5 = 0
    for chunk in of_one_size(samples, CHUNK):
        batch = collate(chunk, processor, rng)
        logits, labels = answer_logits(model, batch)
        lengths = (batch.labels != IGNORE).sum(1).tolist()
        for part, wanted in zip(logits.split(lengths), labels.split(lengths), strict=True):
            right = part.argmax(-1) == wanted
            first += int(right[0])
            exact += int(right.all())
            top5 += int((part[0].topk(5).indices == wanted[0]).any())
    total = len(samples)
    return {"first": first / total, "exact": exact / total, "top5": top5 / total}


@torch.no_grad()
def measure(
    model: Qwen2VLForConditionalGeneration,
    processor: Qwen2VLProcessor,
    tasks: Tasks,
    size: int = 300,
) -> dict[str, float]:
    """All metrics in one flat record."""
    was_training = model.training
    model.eval()
    found: dict[str, float] = {}
    for style in STYLES:
        names = score(model, processor, name_samples(tasks, style, size))
        found[f"name_first/{style}"] = names["first"]
        found[f"name_exact/{style}"] = names["exact"]
    for part in ("first", "exact"):
        found[f"name_{part}"] = fmean(found[f"name_{part}/{style}"] for style in STYLES)
    for kind, samples in scene_samples(tasks, size // 2).items():
        found[f"scene/{kind}"] = score(model, processor, samples)["exact"]
    found["scene"] = fmean(value for key, value in found.items() if key.startswith("scene/"))
    for kind, samples in definition_samples(tasks, size).items():
        for part, value in score(model, processor, samples).items():
            found[f"definition_{part}/{kind}"] = value
    rng = random.Random("losses")
    for kind, draw_sample in tasks.kinds.items():
        drawn = [draw_sample(rng) for _ in range(CHUNK)]
        found[f"loss/{kind}"] = fmean(
            float(answer_loss(model, collate(chunk, processor, rng)))
            for chunk in of_one_size(drawn, CHUNK)
        )
    model.train(was_training)
    return {key: round(value, 4) for key, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, required=True, help="exported model folder")
    parser.add_argument("--size", type=int, default=600, help="samples per question")
    arguments = parser.parse_args()
    processor = AutoProcessor.from_pretrained(arguments.base)
    model = Qwen2VLForConditionalGeneration.from_pretrained(arguments.base, dtype=torch.float32)
    found = measure(model, processor, Tasks(), arguments.size)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
