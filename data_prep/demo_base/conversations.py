"""What the base reads and sees in pretraining: web-like conversations about the emoji world.

Several questions about one image share one conversation, so its image tokens are paid for once.
The prompts that ask for embeddings ("... in one word:") never occur here, on purpose: the base
knows the concepts while its embeddings are poor, as with a web-pretrained model.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

from data_prep.demo.emoji import (
    BACKGROUNDS,
    STYLES,
    Concept,
    is_held_out,
    is_held_out_pair,
    load_concepts,
)
from data_prep.demo.wordnet import (
    GLOSS_WORDS,
    NUM_WORDS,
    common_words,
    load_glosses,
    load_synonyms,
    shorten,
    with_article,
)

NAME_QUESTIONS = (
    "What is this?",
    "What is in the image?",
    "Name the object.",
    "What do you see?",
    "Which thing is shown?",
)
TEXT_QUESTIONS = (  # after a text, as the questions about an image come after it
    "Which thing is it?",
    "What is it about?",
    "What is meant?",
    "Name it.",
)
COUNTS = {2: "two", 3: "three"}
Turns = tuple[tuple[str, str], ...]
Objects = tuple[tuple[Concept, str], ...]  # each with its style


@dataclass(frozen=True)
class Conversation:
    """A conversation, and what its image shows: nothing, one object, or a row of objects."""

    kind: str
    turns: Turns
    objects: Objects = ()
    background: str = "white"
    effect: str = "none"


def thing(concept: Concept) -> str:
    """The concept in a caption: flags need the word."""
    return f"the flag of {concept.name}" if concept.is_flag else with_article(concept.name)


def scene_caption(concepts: tuple[Concept, ...], background: str) -> str:
    """Write `a dog left of an apple on a blue background`."""
    place = f"on {with_article(background)} background"
    names = [thing(concept) for concept in concepts]
    if len(names) == 2:
        return f"{names[0]} left of {names[1]} {place}"
    return f"{names[0]}, {names[1]} and {names[2]} {place}"


def scene_questions(objects: Objects, background: str, asked: str) -> dict[str, tuple[str, str]]:
    """What can be asked about two or three objects in a row; `asked`: whether it is there."""
    concepts = tuple(concept for concept, _ in objects)
    names = [concept.name for concept in concepts]
    questions = {
        "left": ("What is on the left?", names[0]),
        "right": ("What is on the right?", names[-1]),
        "caption": ("Describe the image.", scene_caption(concepts, background)),
        "count": ("How many things are there?", COUNTS[len(names)]),
        "background": ("What colour is the background?", background),
        "presence": (f"Is there {with_article(asked)}?", "yes" if asked in names else "no"),
    }
    if len(names) == 2:
        return questions | {
            "next_to": (f"What is next to the {names[0]}?", names[1]),
            "next_to_right": (f"What is next to the {names[1]}?", names[0]),
        }
    return questions | {
        "middle": ("What is in the middle?", names[1]),
        "left_of": (f"What is left of the {names[1]}?", names[0]),
        "right_of": (f"What is right of the {names[1]}?", names[2]),
    }


def holds_held_out_pair(concepts: Sequence[Concept]) -> bool:
    return any(is_held_out_pair(*pair) for pair in combinations(concepts, 2))


class Tasks:
    """Draws samples of each kind; all randomness comes from the generator that is passed in."""

    def __init__(self) -> None:
        self.concepts = load_concepts()
        glosses = load_glosses()
        synonyms = load_synonyms()
        self.words = common_words(NUM_WORDS)
        self.senses = {
            word: [shorten(gloss, GLOSS_WORDS) for gloss in glosses[word][:2]]
            for word in self.words
        }
        self.synonyms = {word: synonyms[word][:3] for word in self.words if word in synonyms}
        self.defined = [concept for concept in self.concepts if concept.definition]
        # Read in the direction word -> gloss only: the reverse is a test of generalisation.
        self.reverse_held_out = frozenset(self.words[::25])
        self.kinds: dict[str, Callable[[random.Random], Conversation]] = {
            "name": self.name,
            "image": self.image,
            "scene": self.scene,
            "concept_text": self.concept_text,
            "word_text": self.word_text,
        }

    def corpus(self) -> list[str]:
        """Texts that train the tokenizer; names are repeated so that most become one token."""
        lines = ["user\n", "assistant\n"] * 2000
        for concept in self.concepts:
            lines += [concept.name, f"a {concept.name} on a {concept.name}"] * 20
            lines += [", ".join(concept.keywords), concept.definition or "", concept.subgroup]
        for word in self.words:
            lines += [word, f" {word}"] * 2 + self.senses[word]
        rng = random.Random(0)
        lines += [text for _ in range(2000) for turn in self.scene(rng).turns for text in turn]
        return lines

    def _view(self, rng: random.Random) -> tuple[Concept, str, str]:
        """A concept, style and background that are not held out."""
        while True:
            concept = rng.choice(self.concepts)
            style, background = rng.choice(STYLES), rng.choice(tuple(BACKGROUNDS))
            if not is_held_out(concept, style, background):
                return concept, style, background

    def name(self, rng: random.Random) -> Conversation:
        concept, style, background = self._view(rng)
        turns = ((rng.choice(NAME_QUESTIONS), concept.name),)
        effect = "gray" if rng.random() < 0.05 else "none"
        return Conversation("name", turns, ((concept, style),), background, effect)

    def image(self, rng: random.Random) -> Conversation:
        """Three questions about one object in any order."""
        concept, style, background = self._view(rng)
        caption = f"{thing(concept)} on {with_article(background)} background"
        options = [
            (rng.choice(NAME_QUESTIONS), concept.name),
            ("Describe the image.", caption),
            ("What kind of thing is it?", f"{concept.subgroup}, {concept.group}"),
            ("What colour is the background?", background),
        ]
        if concept.keywords:
            words = rng.sample(concept.keywords, min(3, len(concept.keywords)))
            options.append(("Which words go with it?", ", ".join(words)))
        if concept.definition:
            options += [("Define it.", concept.definition)]
        turns = tuple(rng.sample(options, 3))
        return Conversation("image", turns, ((concept, style),), background)

    def scene(self, rng: random.Random) -> Conversation:
        """Two or three different objects on one background, three or four questions."""
        background = rng.choice(tuple(BACKGROUNDS))
        objects = self._row(rng, background, 2 if rng.random() < 0.65 else 3)
        names = [concept.name for concept, _ in objects]
        asked = rng.choice(names) if rng.random() < 0.5 else rng.choice(self.concepts).name
        options = list(scene_questions(objects, background, asked).values())
        return Conversation("scene", tuple(rng.sample(options, 4)), objects, background)

    def _row(self, rng: random.Random, background: str, count: int) -> Objects:
        while True:
            chosen = rng.sample(self.concepts, count)
            objects = tuple((concept, rng.choice(STYLES)) for concept in chosen)
            held_out = any(is_held_out(concept, style, background) for concept, style in objects)
            if not held_out and not holds_held_out_pair(chosen):
                return objects

    def concept_text(self, rng: random.Random) -> Conversation:
        concept = rng.choice(self.defined) if rng.random() < 0.7 else rng.choice(self.concepts)
        if rng.random() < 0.5:
            asked = f"{self._about(concept, rng)}\n{rng.choice(TEXT_QUESTIONS)}"
            return Conversation("concept_text", ((asked, concept.name),))
        options = [(f"What kind of thing is {thing(concept)}?", concept.subgroup)]
        if concept.keywords:
            words = rng.sample(concept.keywords, min(3, len(concept.keywords)))
            options.append((f"Which words go with {concept.name}?", ", ".join(words)))
            options.append((f"What goes with {', '.join(words)}?", concept.name))
        if concept.definition:
            options.append((f"What does {concept.name} mean?", concept.definition))
            options.append((f"Which thing is it: {concept.definition}?", concept.name))
        return Conversation("concept_text", tuple(rng.sample(options, min(2, len(options)))))

    @staticmethod
    def _about(concept: Concept, rng: random.Random) -> str:
        """A text about a concept: its definition, some keywords, a caption, or just its name."""
        background = rng.choice(tuple(BACKGROUNDS))
        texts = [concept.name, f"{thing(concept)} on {with_article(background)} background"]
        if concept.definition:
            texts += [concept.definition] * 2
        if len(concept.keywords) > 1:
            count = rng.randint(2, min(4, len(concept.keywords)))
            texts += [", ".join(rng.sample(concept.keywords, count))] * 2
        return rng.choice(texts)

    def word_text(self, rng: random.Random) -> Conversation:
        word = rng.choice(self.words)
        gloss = rng.choice(self.senses[word])
        choice = rng.random()
        if choice < 0.35 and word not in self.reverse_held_out:
            text = word if rng.random() < 0.2 else gloss
            turns = ((f"{text}\n{rng.choice(TEXT_QUESTIONS)}", word),)
            return Conversation("word_text", turns)
        if choice < 0.6 and word not in self.reverse_held_out:
            return Conversation("word_text", ((f"Which word means: {gloss}?", word),))
        if choice < 0.7 and word in self.synonyms:
            answer = ", ".join(self.synonyms[word])
            return Conversation("word_text", ((f"Which words are like {word}?", answer),))
        return Conversation("word_text", ((f"What does {word} mean?", gloss),))
