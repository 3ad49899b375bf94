"""The texts of the experiment: words with their definitions to train on, and what is held out.

    Gloss-Word   a noun's definition, among nouns         trained, on other words
    Word-Gloss   a noun, among definitions of nouns       trained, on other words
    Example      a sentence, among definitions of verbs and adjectives: of the word it shows
    Verse        a verse, among verses in another translation (nothing of WordNet)

A text is in one place only: in the training texts, in the validation split or in the test split.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.demo.texts import Question
from data_prep.demo.wordnet import GLOSS_WORDS, shorten
from data_prep.real_llm.verses import verse_pairs
from data_prep.real_llm.wordnet import WordNet
from unime.errors import ConfigError

SPLITS = ("validation", "test")
SHORTEST = 3  # words of a definition, and letters of a noun
EXAMPLE_WORDS = range(4, 25)  # words of a sentence
Pair = tuple[str, str]


@dataclass(frozen=True)
class Texts:
    """Training pairs, and what each task of each split asks."""

    train: list[Pair]
    tasks: dict[str, dict[str, list[Question]]]  # split -> task


def choose_texts(wordnet: Path, train_words: int, queries: int, seed: int) -> Texts:
    """All texts, chosen by the seed from the most frequent nouns that there are enough of.

    Raises:
        ConfigError: there are not so many texts, or no WordNet.
        DataError: WordNet's files, or the verses', cannot be read.
    """
    rng, dictionary = random.Random(f"{seed}-texts"), WordNet(wordnet)
    nouns = defined_nouns(dictionary)[: train_words + len(SPLITS) * queries]
    known = {text for pair in nouns for text in pair}
    pools = {
        "nouns": nouns,
        "Example": [pair for pair in examples(dictionary) if not known & {*pair}],
        "Verse": verse_pairs(),
    }
    for pool in pools.values():
        rng.shuffle(pool)
    tasks = {}
    for split in SPLITS:
        words = _take(nouns, queries, "queries")
        tasks[split] = {
            "Gloss-Word": questions([(gloss, word) for word, gloss in words]),
            "Word-Gloss": questions(words),
        }
        for name in ("Example", "Verse"):
            tasks[split][name] = questions(_take(pools[name], queries, "queries"))
    return Texts(_take(nouns, train_words, "train_words"), tasks)


def defined_nouns(dictionary: WordNet) -> list[Pair]:
    """Nouns with the definition of their most frequent sense, the most frequent nouns first; no
    noun and no definition twice, and none that holds its noun."""
    synsets = dictionary.synsets("noun")
    found: dict[str, str] = {}  # by definition
    for noun, number in dictionary.first_nouns().items():
        gloss = shorten(synsets[number].definition, GLOSS_WORDS)
        is_word = noun.isalpha() and noun.isascii() and len(noun) >= SHORTEST
        if is_word and len(gloss.split()) >= SHORTEST and noun not in gloss.lower():
            found.setdefault(gloss, noun)
    return [(noun, gloss) for gloss, noun in found.items()]


def examples(dictionary: WordNet) -> list[Pair]:
    """The first sentence that shows a verb or an adjective, as it stands in it, with the definition
    of what it means there; no sentence and no definition twice."""
    pairs: dict[str, str] = {}  # by definition
    for part_of_speech in ("verb", "adj"):
        for synset in dictionary.synsets(part_of_speech).values():
            gloss = shorten(synset.definition, GLOSS_WORDS)
            words = [re.escape(word.replace("_", " ")) for word in synset.words]
            shows = re.compile(rf"\b({'|'.join(words)})\b", re.IGNORECASE)
            fitting = (
                sentence
                for sentence in synset.examples
                if shows.search(sentence) and len(sentence.split()) in EXAMPLE_WORDS
            )
            sentence = next(fitting, None)
            if sentence and len(gloss.split()) >= SHORTEST and not shows.search(gloss):
                pairs.setdefault(gloss, sentence)
    by_sentence = {sentence: gloss for gloss, sentence in pairs.items()}
    return list(by_sentence.items())


def questions(pairs: Sequence[Pair]) -> list[Question]:
    """The second of a pair is asked for by the first, and told from those of all others."""
    answers = [answer for _, answer in pairs]
    return [
        Question(text, answer, tuple(other for other in answers if other != answer))
        for text, answer in pairs
    ]


def _take(pairs: list[Pair], count: int, key: str) -> list[Pair]:
    """The first `count`, which are then no longer there."""
    if len(pairs) < count:
        raise ConfigError(f"{key}: {count} are more than there are left ({len(pairs)})", key)
    taken = pairs[:count]
    del pairs[:count]
    return taken
