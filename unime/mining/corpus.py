"""A task's queries and targets, each once, and which targets are known to be right for which
query."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
from unicodedata import normalize

import numpy as np
import torch
from torch import Tensor

from unime.inputs.items import Item, Pair, item_digest

KNOWN, SHARED, EQUAL = "known positive", "shared target", "equal"
GIVEN = "given negative"  # which the data name themselves
Right = dict[int, set[int]]  # query -> targets


@dataclass(frozen=True)
class Corpus:
    """What a task's rows are made of, by number.

    Attributes:
        queries: different in text, pictures' content or instruction.
        targets: different in text or pictures' content.
        query_of, target_of: of each row (N,).
        row_of: the first row that has a target (T,).
        excluded: by the rule that says so, pairs of a query and a target that is not to be mined
            for it, as sorted numbers ``query * T + target``; no pair is in two of them.
    """

    queries: list[Item]
    targets: list[Item]
    query_of: Tensor
    target_of: Tensor
    row_of: Tensor
    excluded: dict[str, Tensor]

    @classmethod
    def of(cls, pairs: Iterable[Pair], shared_targets: bool = True) -> Corpus:
        """Of all rows of one task.

        Excluded are the negatives that rows bring along, and right answers. Right for a query are
        the targets of all rows with an equal one (and what is asked for by an equal target: rows
        the other way round) and of all rows with an answer that one of these names, those of
        queries that share a target with it, and whatever shows the same as it or a target that is
        right: equal pictures, and texts that are equal but for case and white space, whatever the
        instruction.

        Args:
            shared_targets: whether the second are.

        Raises:
            DataError: a picture that cannot be read.
        """
        queries, targets, row_of = dict[bytes, Item](), dict[bytes, Item](), list[int]()
        query_numbers, target_numbers = dict[bytes, int](), dict[bytes, int]()
        rows: list[tuple[int, int]] = []
        answers: list[str] = []
        given: list[tuple[int, bytes]] = []
        for number, pair in enumerate(pairs):
            asked, wanted = item_digest(replace(pair.query, spacing=None)), content(pair.target)
            if wanted not in targets:
                row_of.append(number)
            queries.setdefault(asked, pair.query)
            targets.setdefault(wanted, pair.target)
            rows.append(
                (
                    query_numbers.setdefault(asked, len(query_numbers)),
                    target_numbers.setdefault(wanted, len(target_numbers)),
                )
            )
            answers.append(pair.answer)
            given += [(rows[-1][0], content(item)) for item in pair.negatives]
        asked_for = list(map(content, queries.values()))
        known = _known(rows, asked_for, list(targets), target_numbers)
        named = _named(rows, answers)
        shared = _shared(rows) if shared_targets else {}
        equal = _equal((known, named), list(queries.values()), list(targets.values()))
        brought: Right = defaultdict(set)
        for query, key in given:
            if key in target_numbers:
                brought[query].add(target_numbers[key])
        places = torch.tensor(rows, dtype=torch.long).reshape(-1, 2)
        return cls(
            list(queries.values()),
            list(targets.values()),
            places[:, 0],
            places[:, 1],
            torch.tensor(row_of, dtype=torch.long),
            _apart(
                {KNOWN: [known, named], SHARED: [shared], EQUAL: [equal], GIVEN: [brought]},
                len(targets),
            ),
        )

    @property
    def first_rows(self) -> Tensor:
        """The first row of each query (Q,)."""
        rows = torch.arange(len(self.query_of))
        first = torch.full((len(self.queries),), len(rows))
        return first.scatter_reduce(0, self.query_of, rows, "amin")

    @property
    def most_excluded(self) -> int:
        """Of how many targets at most none is mined for a query."""
        pairs = torch.cat(list(self.excluded.values()))
        return int((pairs // max(1, len(self.targets))).bincount(minlength=1).max())


def content(item: Item) -> bytes:
    """Equal for items of equal text and pictures, whatever they are asked with."""
    return item_digest(replace(item, instruction="", spacing=None))


def as_shown(item: Item) -> bytes:
    """Equal for items that look the same: their texts may differ in case and white space."""
    return content(replace(item, text=plain_text(item.text)))


def plain_text(text: str) -> str:
    return " ".join(normalize("NFKC", text).casefold().split())


def _known(
    rows: Sequence[tuple[int, int]],
    asked: Sequence[bytes],
    wanted: Sequence[bytes],
    target_numbers: dict[bytes, int],
) -> Right:
    """By the rows themselves, read both ways."""
    known: Right = defaultdict(set)
    queries = _places(asked)
    for query, target in rows:
        known[query].add(target)
        if (itself := target_numbers.get(asked[query])) is not None:
            for other in queries.get(wanted[target], ()):
                known[other].add(itself)
    return known


def _named(rows: Sequence[tuple[int, int]], answers: Sequence[str]) -> Right:
    """The targets of all rows with an answer that the query's rows name."""
    of_query: dict[int, set[str]] = defaultdict(set)
    of_answer: dict[str, set[int]] = defaultdict(set)
    for (query, target), answer in zip(rows, answers, strict=True):
        if answer:
            of_query[query].add(answer)
            of_answer[answer].add(target)

    @cache
    def targets_of(own: frozenset[str]) -> set[int]:
        return set().union(*(of_answer[answer] for answer in own))

    return {query: targets_of(frozenset(own)) for query, own in of_query.items()}


def _shared(rows: Sequence[tuple[int, int]]) -> Right:
    """All targets of the queries that have a target in common."""
    of_query: Right = defaultdict(set)
    of_target: Right = defaultdict(set)
    for query, target in rows:
        of_query[query].add(target)
        of_target[target].add(query)
    with_it = {  # of each target that several queries have, all that these have
        target: set().union(*(of_query[query] for query in asking))
        for target, asking in of_target.items()
        if len(asking) > 1
    }
    return {
        query: set().union(*(with_it.get(target, ()) for target in own))
        for query, own in of_query.items()
    }


def _equal(known: Sequence[Right], queries: Sequence[Item], targets: Sequence[Item]) -> Right:
    """What looks the same as the query, its pictures, or a target that is known to be right, and
    is not known to be."""
    shown = list(map(as_shown, targets))
    places = _places(shown)
    equal: Right = {}
    for number, query in enumerate(queries):
        right = [own[number] for own in known if number in own]
        keys = {as_shown(query)} | {shown[target] for own in right for target in own}
        if query.text and (query.images or query.video):
            keys.add(content(replace(query, text="")))
        found = {target for key in keys for target in places.get(key, ())}
        equal[number] = found.difference(*right)
    return equal


def _places(keys: Sequence[bytes]) -> dict[bytes, list[int]]:
    """All places of each key."""
    places: dict[bytes, list[int]] = {}
    for number, key in enumerate(keys):
        places.setdefault(key, []).append(number)
    return places


def _apart(right: Mapping[str, Sequence[Right]], num_targets: int) -> dict[str, Tensor]:
    """Sorted numbers of the pairs, each under the first name that has it."""

    def numbers(parts: Sequence[Right]) -> Iterator[int]:
        for query, own in chain.from_iterable(part.items() for part in parts):
            yield from (query * num_targets + target for target in own)

    found, taken = {}, np.empty(0, np.int64)
    for name, parts in right.items():
        own = np.unique(np.fromiter(numbers(parts), np.int64))
        own = np.setdiff1d(own, taken, assume_unique=True)
        taken = np.concatenate([taken, own])
        found[name] = torch.from_numpy(own)
    return found
