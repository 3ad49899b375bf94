"""The demo's tasks: what a row of each asks, and which answers would be right.

Each task draws rows from a pool of concepts. A row's `answer_key` says what the right answer is:
two rows of one task with equal keys have answers that are right for each other's queries (another
drawing of the same concept, an identical flag, …). Within a training batch such answers are false
negatives, known here, so that the filter of stage 2 can be judged; an evaluation's list of
candidates never holds one besides the first.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from data_prep.demo.emoji import (
    BACKGROUNDS,
    STYLES,
    Concept,
    load_concepts,
    render,
    sample_rendering,
    scene,
)
from data_prep.demo.wordnet import with_article

CLASSIFY = "Represent the given image for classification."
PLACES = {2: ("left", "right"), 3: ("left", "middle", "right")}


@dataclass(frozen=True)
class Side:
    """A query or a candidate before it is written: text, pixels, or both."""

    text: str = ""
    pixels: np.ndarray | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Row:
    query: Side
    target: Side
    answer_key: str
    others: tuple[tuple[Side, str], ...] = ()  # candidates of this row's own, each with its key


@dataclass(frozen=True)
class DemoTask:
    """One subset, in MMEB's terms."""

    name: str
    meta_task: str
    make: Callable[[random.Random, Sequence[Concept], Concept], Row]
    trained: bool  # rows of this kind are in the training folder
    ood_groups: bool = False  # over concept groups that fine-tuning never sees
    label_pool: Callable[[Sequence[Concept]], list[tuple[str, str]]] | None = None
    # more (text, key) candidates than the rows' own targets


def same(concept: Concept) -> str:
    """Equal for concepts that look the same."""
    return concept.look_alike or concept.id


def never_trained(concepts: Sequence[Concept], split: str) -> list[Concept]:
    """The concepts of groups that fine-tuning never sees: a fifth for validation, the rest for
    test; look-alikes stay together."""
    keys = sorted({same(concept) for concept in concepts})
    random.Random("ood").shuffle(keys)
    chosen = set(keys[: len(keys) // 5])
    return [c for c in concepts if (same(c) in chosen) == (split == "validation")]


def names(pool: Sequence[Concept]) -> list[tuple[str, str]]:
    return [(concept.name, same(concept)) for concept in pool]


def subgroups(pool: Sequence[Concept]) -> list[tuple[str, str]]:
    """Every kind of thing there is, trained or not, as class names are known beforehand."""
    found = sorted({concept.subgroup for concept in load_concepts() if not concept.is_flag})
    return [(subgroup, subgroup) for subgroup in found]


def draw(rng: random.Random, concept: Concept, effect: str = "none") -> tuple[np.ndarray, str]:
    """One rendering and its background."""
    style = rng.choice(STYLES)
    rendering = sample_rendering(rng, concept, effect=effect)
    return render(concept, style, rendering), rendering.background


def classify(rng: random.Random, pool: Sequence[Concept], concept: Concept) -> Row:
    pixels, _ = draw(rng, concept)
    return Row(Side(CLASSIFY, pixels), Side(concept.subgroup), concept.subgroup)


def classify_sketch(rng: random.Random, pool: Sequence[Concept], concept: Concept) -> Row:
    pixels, _ = draw(rng, concept, effect="sketch")
    return Row(Side(CLASSIFY, pixels), Side(concept.name), same(concept))


def caption_of(concept: Concept, background: str) -> str:
    return f"{with_article(concept.name)} on {with_article(background)} background"


def image_to_text(rng: random.Random, pool: Sequence[Concept], concept: Concept) -> Row:
    pixels, background = draw(rng, concept)
    question = "Find a caption describing the given image."
    caption = caption_of(concept, background)
    return Row(Side(question, pixels), Side(caption), f"{same(concept)} {background}")


def text_to_image(rng: random.Random, pool: Sequence[Concept], concept: Concept) -> Row:
    pixels, background = draw(rng, concept)
    question = f"Find an image that matches the given caption: {caption_of(concept, background)}"
    return Row(Side(question), Side("", pixels), f"{same(concept)} {background}")


def image_to_image(rng: random.Random, pool: Sequence[Concept], concept: Concept) -> Row:
    """The same thing in the other drawing style, on another background."""
    first, second = rng.sample(STYLES, 2)
    backgrounds = rng.sample(tuple(BACKGROUNDS), 2)
    drawings = [
        render(concept, style, sample_rendering(rng, concept, background))
        for style, background in zip((first, second), backgrounds, strict=True)
    ]
    question = "Find an image of the same thing in another style."
    return Row(Side(question, drawings[0]), Side("", drawings[1]), same(concept))


def definition_to_image(rng: random.Random, pool: Sequence[Concept], concept: Concept) -> Row:
    pixels, _ = draw(rng, concept)
    question = f"Find an image of this: {concept.definition}"
    return Row(Side(question), Side("", pixels), concept.definition or concept.id)


def flag_to_country(rng: random.Random, pool: Sequence[Concept], concept: Concept) -> Row:
    pixels, _ = draw(rng, concept)
    question = "Find the name of the thing in the given image."
    return Row(Side(question, pixels), Side(concept.name), same(concept))


def _scene(
    rng: random.Random, pool: Sequence[Concept], concept: Concept, count: int
) -> tuple[np.ndarray, list[Concept], list[np.ndarray], int]:
    """A scene that shows `concept`: pixels, the concepts in it, their crops, where it stands."""
    rest = [other for other in pool if same(other) != same(concept)]
    chosen = [concept]
    while len(chosen) < count:
        other = rng.choice(rest)
        if all(same(other) != same(present) for present in chosen):
            chosen.append(other)
    rng.shuffle(chosen)
    background = rng.choice(tuple(BACKGROUNDS))
    drawn = scene([(shown, rng.choice(STYLES)) for shown in chosen], background, rng)
    height, width = drawn.image.shape[:2]
    crops = []
    for left, top, right, bottom in drawn.boxes:
        rows = slice(max(top, 0), min(bottom, height))
        crops.append(drawn.image[rows, max(left, 0) : min(right, width)])
    return drawn.image, chosen, crops, chosen.index(concept)


def _count(rng: random.Random) -> int:
    return 2 if rng.random() < 0.6 else 3


def _where(place: str) -> str:
    return "in the middle" if place == "middle" else f"on the {place}"


def _name_row(pixels: np.ndarray, question: str, shown: list[Concept], gold: Concept) -> Row:
    others = tuple((Side(other.name), same(other)) for other in shown if other is not gold)
    text = f"Represent the given image with the following question: {question}"
    return Row(Side(text, pixels), Side(gold.name), same(gold), others)


def ask_place(rng: random.Random, pool: Sequence[Concept], concept: Concept) -> Row:
    count = _count(rng)
    pixels, shown, _, position = _scene(rng, pool, concept, count)
    question = f"What is {_where(PLACES[count][position])}?"
    return _name_row(pixels, question, shown, concept)


def ask_neighbour(rng: random.Random, pool: Sequence[Concept], concept: Concept) -> Row:
    pixels, shown, _, position = _scene(rng, pool, concept, 2)
    other = shown[1 - position]
    return _name_row(pixels, f"What is next to the {other.name}?", shown, concept)


def _crop_row(
    pixels: np.ndarray, phrase: str, shown: list[Concept], crops: list[np.ndarray], gold: int
) -> Row:
    others = tuple(
        (Side("", crop), same(concept))
        for place, (crop, concept) in enumerate(zip(crops, shown, strict=True))
        if place != gold
    )
    text = f"Select the portion of the image that isolates {phrase}"
    return Row(Side(text, pixels), Side("", crops[gold]), same(shown[gold]), others)


def ground_name(rng: random.Random, pool: Sequence[Concept], concept: Concept) -> Row:
    pixels, shown, crops, position = _scene(rng, pool, concept, _count(rng))
    return _crop_row(pixels, f"the {concept.name}", shown, crops, position)


def ground_place(rng: random.Random, pool: Sequence[Concept], concept: Concept) -> Row:
    count = _count(rng)
    pixels, shown, crops, position = _scene(rng, pool, concept, count)
    phrase = f"the object {_where(PLACES[count][position])}"
    return _crop_row(pixels, phrase, shown, crops, position)


TASKS = (
    DemoTask("Emoji-Kind", "classification", classify, True, label_pool=subgroups),
    DemoTask("Emoji-Sketch", "classification", classify_sketch, False, label_pool=names),
    DemoTask("Scene-Place", "vqa", ask_place, True, label_pool=names),
    DemoTask("Scene-Neighbour", "vqa", ask_neighbour, False, label_pool=names),
    DemoTask("Emoji_i2t", "retrieval", image_to_text, True),
    DemoTask("Emoji_t2i", "retrieval", text_to_image, True),
    DemoTask("Emoji_i2i", "retrieval", image_to_image, True),
    DemoTask("Definition_t2i", "retrieval", definition_to_image, False),
    DemoTask("Groups_i2t", "retrieval", flag_to_country, False, ood_groups=True, label_pool=names),
    DemoTask("Scene-Grounding", "grounding", ground_name, True),
    DemoTask("Scene-Grounding-Place", "grounding", ground_place, False),
)
