"""Triples of texts from the demo's, as E5-V's come from NLI: a word, its gloss, a sibling's gloss.

    python -m data_prep.demo.triples --config configs/study/triples/demo.yaml
    ./launch.sh prepare own data/demo-triples/triples.jsonl data/demo-triples/set held_out=0 …

The sibling's gloss is the one that is most like the right one by its words, rare ones counting more
(tf-idf), among glosses of other words which are no text of this word's and share no word with it.
Deterministic; a file of the same settings and texts is kept.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from omegaconf import MISSING

from data_prep.demo.wordnet import load_synonyms
from unime.config import load_config
from unime.config.settings import FilePath, Settings, setting
from unime.errors import DataError, require
from unime.runtime.digests import digest_of
from unime.runtime.files import read_json, write_aside, write_json, writing
from unime.runtime.folder_lock import locked
from unime.runtime.program import run_program

FACTS = "triples.json"  # beside them: of what they were made
ROWS = 512  # compared at a time


@dataclass
class TriplesConfig(Settings):
    texts: FilePath = setting(MISSING, "stage 1's texts, pairs of related ones")
    output: FilePath = setting(MISSING, "the file that is written, of JSON lines")

    def __post_init__(self) -> None:
        super().__post_init__()
        is_lines = self.output.endswith(".jsonl")
        require(is_lines, "output", self.output, "a name that ends in .jsonl")


def main(argv: list[str] | None = None) -> None:
    config = load_config(TriplesConfig, argv)
    output, texts = Path(config.output), Path(config.texts)
    facts = asdict(config) | {"source": digest_of(texts)}
    with locked("output", output.parent), writing("output", output):
        known = output.parent / FACTS
        if output.is_file() and known.is_file() and read_json(known) == facts:
            print(f"{output}: made of the same texts already")
            return
        found = triples(read_pairs(texts))
        lines = [
            json.dumps({"anchor": a, "positive": p, "negative": n}, ensure_ascii=False) + "\n"
            for a, p, n in found
        ]
        write_aside(output, "".join(lines))
        write_json(known, facts)
    print(f"{output}: {len(found)} triples")


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """The pairs of a file of stage 1's texts.

    Raises:
        DataError: a line that is none.
    """
    pairs = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            pairs.append((str(row["text"]), str(row["related"])))
        except (ValueError, LookupError, TypeError):
            raise DataError(f"{path}, line {number}: expected text and related") from None
    return pairs


def triples(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str, str]]:
    """Each pair with the text that is nearest to its second one and belongs to another word; a
    pair for which there is none is left out."""
    synonyms = load_synonyms()
    own = defaultdict[str, set[str]](set)
    for word, text in pairs:
        own[word].add(text)
    weights = _tf_idf([text for _, text in pairs])  # (N, V)
    words = [_words(f"{word} {' '.join(synonyms.get(word, ()))}") for word, _ in pairs]
    found = []
    for start in range(0, len(pairs), ROWS):
        nearest = np.argsort(-(weights[start : start + ROWS] @ weights.T), axis=1, kind="stable")
        for (word, text), alike, order in zip(
            pairs[start : start + ROWS], words[start : start + ROWS], nearest, strict=True
        ):
            others = (
                pairs[place][1]
                for place in order
                if pairs[place][1] not in own[word] and not alike & words[place]
            )
            if (negative := next(others, None)) is not None:
                found.append((word, text, negative))
    return found


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def _tf_idf(texts: Sequence[str]) -> np.ndarray:
    """Unit rows (N, V)."""
    numbers: dict[str, int] = {}
    rows = [[numbers.setdefault(word, len(numbers)) for word in sorted(_words(t))] for t in texts]
    weights = np.zeros((len(rows), len(numbers)), dtype=np.float32)
    for place, row in enumerate(rows):
        weights[place, row] = 1
    weights *= np.log(len(rows) / weights.sum(axis=0))
    norms = np.linalg.norm(weights, axis=1, keepdims=True)
    unit: np.ndarray = weights / np.maximum(norms, 1e-9)
    return unit


if __name__ == "__main__":
    run_program(main)
