"""The demo's texts: what stage 1 reads, and the three text-to-text tasks that measure it.

Held-out concepts and words are kept apart by their *texts*: a definition that a training concept
shares with a test concept is not trained on.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from data_prep.demo.emoji import BACKGROUNDS, Concept, load_concepts
from data_prep.demo.tasks import caption_of
from data_prep.demo.wordnet import GLOSS_WORDS, NUM_WORDS, common_words, load_glosses, shorten
from unime.errors import ConfigError

LEAST_KEYWORDS, MOST_KEYWORDS = 2, 4


@dataclass(frozen=True)
class Question:
    """One text query with its right answer and the wrong ones it is to be told from."""

    text: str
    answer: str
    wrong: tuple[str, ...]


def dictionary(sizes: dict[str, int]) -> dict[str, list[tuple[str, str]]]:
    """Different common words, each with its first definition, for each split: `sizes` many.

    Raises:
        ConfigError: there are not so many words.
    """
    glosses = load_glosses()
    named = {concept.name for concept in load_concepts()}
    words = [word for word in common_words(NUM_WORDS) if word not in named]
    random.Random("words").shuffle(words)
    if sum(sizes.values()) > len(words):
        raise ConfigError(f"train_words: {sizes} are more words than there are ({len(words)})")
    pairs = iter([(word, shorten(glosses[word][0], GLOSS_WORDS)) for word in words])
    return {split: [next(pairs) for _ in range(size)] for split, size in sizes.items()}


def training_texts(
    concepts: Sequence[Concept],
    words: dict[str, list[tuple[str, str]]],
    asked: set[str],
    seed: int,
) -> list[tuple[str, str]]:
    """Pairs of related texts: training concepts' names with their definitions, keywords and
    captions, and words with their definitions. None of them belongs to a held-out concept or word,
    or is `asked` in an evaluation."""
    rng = random.Random(f"{seed}-texts")
    trained = [concept for concept in concepts if concept.split == "train"]
    held_out = asked | {
        text for concept in concepts if concept.split != "train" for text in _texts_of(concept)
    }
    for split, pairs in words.items():
        held_out |= {text for pair in pairs for text in pair} if split != "train" else set()
    pairs = [(concept.name, text) for concept in trained for text in _texts_of(concept)[1:]]
    for concept in trained:
        for background in rng.sample([*BACKGROUNDS], 2):
            pairs.append((concept.name, caption_of(concept, background)))
    pairs += words["train"]
    kept = [pair for pair in dict.fromkeys(pairs) if not held_out & set(pair)]
    rng.shuffle(kept)
    return kept


def _texts_of(concept: Concept) -> list[str]:
    """Its name first."""
    texts = [concept.name, concept.definition, ", ".join(concept.keywords)]
    return [text for text in texts if text]


def definition_questions(
    concepts: Sequence[Concept], count: int, candidates: int, rng: random.Random
) -> list[Question]:
    """Which thing does this definition define? What is the definition of this thing, or of the
    thing in this caption? Things with the same definition are not wrong."""
    defined = [(concept, concept.definition) for concept in concepts if concept.definition]
    asked = [(kind, *pair) for pair in defined for kind in ("name", "definition", "caption")]
    questions = []
    for kind, concept, definition in rng.sample(asked, min(count, len(asked))):
        others = [(other.name, text) for other, text in defined if text != definition]
        text, answer = concept.name, definition
        wrong = {text for _, text in others}
        if kind == "definition":
            text, answer = answer, text
            wrong = {name for name, _ in others} - {concept.name}
        elif kind == "caption":
            text = caption_of(concept, rng.choice([*BACKGROUNDS]))
        chosen = rng.sample(sorted(wrong), min(len(wrong), candidates - 1))
        questions.append(Question(text, answer, tuple(chosen)))
    return questions


def dictionary_questions(
    words: Sequence[tuple[str, str]], candidates: int, rng: random.Random
) -> list[Question]:
    """Which word does this definition define? Words with the same definition are not wrong."""
    questions = []
    for word, definition in words:
        wrong = sorted({other for other, its in words if its != definition and other != word})
        chosen = rng.sample(wrong, min(len(wrong), candidates - 1))
        questions.append(Question(definition, word, tuple(chosen)))
    return questions


def keyword_questions(
    concepts: Sequence[Concept], count: int, candidates: int, rng: random.Random
) -> list[Question]:
    """Which thing do these keywords belong to? Keywords that repeat a word of the name are not
    asked, and things that have all of the keywords are not wrong."""
    hints = {concept: telling_keywords(concept) for concept in concepts}
    rich = [concept for concept in concepts if len(hints[concept]) >= LEAST_KEYWORDS]
    found: dict[str, Question] = {}
    for _ in range(100 * count):  # where keywords are few, fewer different questions are found
        if len(found) == count:
            break
        concept = rng.choice(rich)
        most = min(MOST_KEYWORDS, len(hints[concept]))
        asked = sorted(rng.sample(hints[concept], rng.randint(LEAST_KEYWORDS, most)))
        wrong = [other.name for other in concepts if not set(asked) <= set(other.keywords)]
        chosen = rng.sample(wrong, min(len(wrong), candidates - 1))
        question = Question(", ".join(asked), concept.name, tuple(chosen))
        found.setdefault(question.text, question)
    return list(found.values())


def telling_keywords(concept: Concept) -> list[str]:
    """Keywords of which no word begins as a word of the name does: those give it away."""
    name = re.findall(r"\w+", concept.name)

    def gives_away(keyword: str) -> bool:
        words = re.findall(r"\w+", keyword)
        return any(a.startswith(b) or b.startswith(a) for a in words for b in name)

    return [keyword for keyword in concept.keywords if not gives_away(keyword)]
