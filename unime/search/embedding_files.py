"""Embedding files part by part, and storing what comes out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from unime.embedder import Embedder, Prepared
from unime.errors import DataError, in_plain_words
from unime.inputs.items import Item
from unime.runtime.digests import digest_of
from unime.runtime.progress import progress_bar
from unime.search.ledger import Entry, Ledger, places_of
from unime.search.outcome import Report
from unime.search.parts import Limits, Part, parts_of
from unime.search.points import payload_of
from unime.search.store import VectorStore
from unime.search.walking import File

BATCHES = 4  # in a group, which is read, embedded and stored together
MOST_FILES = 1000  # in a group


@dataclass
class Job:
    """A file that is embedded.

    Attributes:
        digest: of its content when it was compared, which may be hours ago.
        before: what the index had of it.
        places: of its items that are stored by now.
        problems: with others of them.
        is_changing: whether it changed while it was read: nobody knows what was.
    """

    file: File
    digest: str
    before: Entry | None
    places: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    is_changing: bool = False

    def look_again(self) -> None:
        """Take it as it is now, before it is read.

        Raises:
            DataError, OSError: it changed, and cannot be read.
        """
        state = self.file.state_now()
        if state != self.file.state:
            self.digest = digest_of(Path(self.file.path))
            self.file = replace(self.file, state=state)

    def check(self) -> None:
        """Once it is read, see whether that is what the digest is of."""
        self.is_changing = self.file.state_now() != self.file.state

    def entry(self, done: bool) -> Entry:
        file = self.file
        places = tuple(self.places) if done else None
        problem = "; ".join(self.problems) if done else ""
        return Entry(file.path, file.kind, file.state, self.digest, places, problem)


@dataclass
class Group:
    """Parts that are embedded together, the files that begin among them, and those that end."""

    parts: list[tuple[Job, Part]] = field(default_factory=list)
    begun: list[Job] = field(default_factory=list)
    ended: list[Job] = field(default_factory=list)


class FileEmbedder:
    """Embeds files into a store, and notes them in the ledger and in a report."""

    def __init__(
        self,
        embedder: Embedder,
        store: VectorStore,
        ledger: Ledger,
        limits: Limits,
        batch_size: int,
    ) -> None:
        self.embedder, self.store, self.ledger = embedder, store, ledger
        self.limits, self.batch_size = limits, batch_size
        self.report = Report()

    def begin(self, jobs: Sequence[Job]) -> None:
        """Note files as in hand, and take out what the index had of them."""
        self.ledger.write([job.entry(done=False) for job in jobs])
        self.store.remove(places_of([job.before for job in jobs if job.before is not None]))

    def embed(self, jobs: Sequence[Job]) -> None:
        """Embed files, so many parts at a time that they fit into memory."""
        with progress_bar(total=len(jobs), unit="file", desc="embedding") as bar:
            for group, ready in self._ahead(jobs):
                self.begin(group.begun)
                self._store(group, ready)
                done = self._done(group.ended)
                for job in done:
                    self.report.added += job.before is None and bool(job.places)
                    self.report.changed += job.before is not None and bool(job.places)
                    if job.problems:
                        self.report.unreadable[job.file.path] = "; ".join(job.problems)
                bar.update(len(group.ended))

    def _done(self, ended: Sequence[Job]) -> list[Job]:
        """Note files as done; those that changed while they were read are taken out instead."""
        done = [job for job in ended if not job.is_changing]
        changing = [job for job in ended if job.is_changing]
        self.store.remove([(job.file.path, place) for job in changing for place in job.places])
        self.store.sync()
        self.ledger.write([job.entry(done=True) for job in done])
        self.ledger.remove([job.file.path for job in changing])
        self.report.changing += len(changing)
        return done

    def _groups(self, jobs: Iterable[Job]) -> Iterator[Group]:
        group, size = Group(), BATCHES * self.batch_size
        for job in jobs:
            group.begun.append(job)
            try:
                job.look_again()
                for part in parts_of(job.file.path, job.file.kind, self.limits, self._fits):
                    if part.given is None:
                        job.problems.append(part.problem)
                        continue
                    group.parts.append((job, part))
                    if len(group.parts) >= size:
                        yield group
                        group = Group()
            except (DataError, OSError) as error:
                job.problems.append(in_plain_words(error))
            group.ended.append(job)
            if len(group.ended) >= MOST_FILES:
                yield group
                group = Group()
        yield group

    def _ahead(self, jobs: Iterable[Job]) -> Iterator[tuple[Group, list[Prepared | None]]]:
        """Groups with their parts read, each while the one before is embedded."""
        groups = self._groups(jobs)

        def read() -> tuple[Group, list[Prepared | None]] | None:
            group = next(groups, None)
            return None if group is None else (group, self._read(group))

        with ThreadPoolExecutor(1) as pool:
            coming = pool.submit(read)
            while (found := coming.result()) is not None:
                coming = pool.submit(read)
                yield found

    def _fits(self, text: str) -> bool:
        return not self.embedder.prepare(Item(text)).is_cut

    def _read(self, group: Group) -> list[Prepared | None]:
        ready: list[Prepared | None] = []
        for job, part in group.parts:
            try:
                assert part.given is not None
                (item,), pictures = self.embedder.as_items([part.given])
                ready.append(self.embedder.prepare(item, pictures))
            except DataError as error:
                job.problems.append(in_plain_words(error))
                ready.append(None)
        for job in group.ended:
            job.check()
        return [
            None if job.is_changing else one
            for (job, _), one in zip(group.parts, ready, strict=True)
        ]

    def _store(self, group: Group, ready: Sequence[Prepared | None]) -> None:
        """Embed what could be read, items of like length together, and store it."""
        wanted = [(n, one) for n, one in enumerate(ready) if one is not None]
        wanted.sort(key=lambda pair: pair[1].tokens, reverse=True)
        for begin in range(0, len(wanted), self.batch_size):
            batch = wanted[begin : begin + self.batch_size]
            parts = [group.parts[n] for n, _ in batch]
            rows = self._vectors(parts, [one for _, one in batch])
            kept = [n for n, row in enumerate(rows) if row is not None]
            if kept:
                payloads = [_payload(*parts[n]) for n in kept]
                self.store.put(np.stack([row for row in rows if row is not None]), payloads)
            for n in kept:
                parts[n][0].places.append(parts[n][1].place)
            self.report.embedded += len(kept)
            self.report.cut += sum(one.is_cut for _, one in batch)

    def _vectors(
        self, parts: Sequence[tuple[Job, Part]], batch: Sequence[Prepared]
    ) -> Sequence[np.ndarray | None]:
        try:
            return list(self.embedder.embed(batch))
        except DataError as error:
            if len(batch) == 1:
                parts[0][0].problems.append(in_plain_words(error))
                return [None]
        return [
            row for n, one in enumerate(batch) for row in self._vectors(parts[n : n + 1], [one])
        ]


def _payload(job: Job, part: Part) -> dict[str, object]:
    return payload_of(job.file.path, job.file.kind, part.place, part.line, part.text)
