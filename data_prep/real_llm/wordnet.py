"""WordNet 3's files, as Debian's and Ubuntu's package `wordnet-base` has them.

data.noun    00217593 04 n 01 kill 1 002 @ 00217014 n 0000 … | the destruction of an enemy plane
             or ship; "the pilot reported two kills during the mission"
index.noun   kill n 2 3 @ ~ + 2 1 00217593 00225593       the most frequent sense first
cntlist.rev  kill%1:04:01:: 1 2                           how often a corpus has a sense
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from unime.errors import ConfigError, DataError
from unime.runtime.files import read_text

NOUN = "1"  # in cntlist.rev
EXAMPLE = re.compile(r'"([^"]+)"')


@dataclass(frozen=True)
class Synset:
    """Words of one meaning: its definition, and sentences that use one of them."""

    words: tuple[str, ...]
    definition: str
    examples: tuple[str, ...]


class WordNet:
    """The dictionary in a folder.

    Raises:
        ConfigError: a file is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("data.noun", "index.noun", "cntlist.rev", "data.verb", "data.adj"):
            if not (folder / name).is_file():
                raise ConfigError(
                    f"wordnet: {folder} has no {name}: apt-get install wordnet-base (Debian, "
                    "Ubuntu), or name the folder `dict` of a WordNet 3"
                )

    def synsets(self, part_of_speech: str) -> dict[str, Synset]:
        """Synset by its number, in the file's order.

        Raises:
            DataError: a line that is none.
        """
        found = {}
        for line, words in self._lines(f"data.{part_of_speech}"):
            head, is_there, text = line.partition(" | ")
            try:
                number, count = words[0], int(words[3], 16)
                names = [word.partition("(")[0] for word in words[4 : 4 + 2 * count : 2]]
            except (IndexError, ValueError):
                is_there = ""
            if not is_there:
                raise DataError(f"{self.folder}/data.{part_of_speech}: no synset: {head[:80]!r}")
            definition = EXAMPLE.sub("", text).strip(" ;\n")
            found[number] = Synset(tuple(names), definition, tuple(EXAMPLE.findall(text)))
        return found

    def first_nouns(self) -> dict[str, str]:
        """Noun -> number of its most frequent sense, the most frequent nouns first."""
        counts: Counter[str] = Counter()
        for _, (key, _, count) in self._lines("cntlist.rev"):
            lemma, _, sense = key.partition("%")
            counts[lemma] += int(count) * sense.startswith(NOUN)
        senses = {}
        for _, words in self._lines("index.noun"):
            pointers = int(words[3])
            senses[words[0]] = words[6 + pointers]  # lemma n senses pointers … senses tagged number
        by_count = sorted((noun for noun in senses if counts[noun]), key=lambda n: (-counts[n], n))
        return {noun: senses[noun] for noun in by_count}

    def _lines(self, name: str) -> Iterator[tuple[str, list[str]]]:
        """A file's lines and their words; those of the licence begin with blanks."""
        for line in read_text(self.folder / name).splitlines():
            if line and not line.startswith("  "):
                yield line, line.split()
