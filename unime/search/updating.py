"""Bringing an index up to date with a folder, so that a kill at any moment loses nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from unime.errors import DataError
from unime.runtime.digests import digest_of
from unime.runtime.progress import progress_bar
from unime.search.embedding_files import MOST_FILES, FileEmbedder, Job
from unime.search.ledger import Entry, places_of
from unime.search.outcome import Report
from unime.search.points import point_id
from unime.search.walking import File, Walk, walk


class Update:
    """One update of an index.

    Args:
        files: embeds them, and has the store, the ledger and the report.
    """

    def __init__(self, files: FileEmbedder) -> None:
        self.files, self.report = files, files.report
        self.store, self.ledger = files.store, files.ledger

    def run(
        self, folder: Path, but: Path, follow_links: bool, say: Callable[[str], object]
    ) -> Report:
        """Do it, and say what was done."""
        self._settle()
        say(f"looking at {folder}")
        with progress_bar(unit="file", desc="looking") as bar:
            found = walk(folder, but, follow_links, bar.update)
        known = self.ledger.below(str(folder))
        self.report.left_out, self.report.unreadable = found.left_out, dict(found.unknown)
        jobs = self._different(found.files, known)
        say(f"{len(found.files):,} files, of which {len(jobs):,} are new or changed")
        fresh, twins = self._without_twins(jobs)
        self.files.embed(fresh)
        left = self._copy(twins)  # whose twins could not be read
        self.files.embed(left)
        self._remove(found, known)
        return self.report

    def _settle(self) -> None:
        """Take out what a killed run had in hand, and what only one of store and ledger knows."""
        if in_hand := self.ledger.in_hand():
            self.store.remove_files([entry.path for entry in in_hand])
            self.ledger.remove([entry.path for entry in in_hand])
        if self.ledger.stored() == self.store.count():
            return
        entries = list(self.ledger.all())
        expected = {point_id(path, place) for path, place in places_of(entries)}
        there = set(self.store.ids())
        lost = [
            one
            for one in entries
            if any(point_id(one.path, place) not in there for place in one.places or ())
        ]
        self.store.remove_ids([*(there - expected)])
        self.store.remove(places_of(lost))
        self.ledger.remove([entry.path for entry in lost])

    def _different(self, files: Sequence[File], known: dict[str, Entry]) -> list[Job]:
        """Files that are new or have another content."""
        jobs, touched = [], []
        for file in progress_bar(files, unit="file", desc="comparing"):
            entry = known.get(file.path)
            if entry is not None and entry.state == file.state:
                self.report.unchanged += 1
                if entry.problem:
                    self.report.unreadable[file.path] = entry.problem
                continue
            try:
                digest = digest_of(Path(file.path))
            except (OSError, DataError) as error:
                digest, problem = "", str(error)
                file = replace(file, state="")  # the next time it may be readable
                self._unreadable(file, entry, problem)
                continue
            if entry is not None and entry.digest == digest and not entry.problem:
                touched.append(replace(entry, state=file.state))
            else:
                jobs.append(Job(file, digest, entry))
        self.ledger.write(touched)
        self.report.touched = len(touched)
        return jobs

    def _unreadable(self, file: File, before: Entry | None, problem: str) -> None:
        if before is not None:
            self.store.remove(places_of([before]))
        self.ledger.write([Entry(file.path, file.kind, file.state, "", (), problem)])
        self.report.unreadable[file.path] = problem

    def _without_twins(self, jobs: Sequence[Job]) -> tuple[list[Job], list[Job]]:
        """Jobs of different contents, and those whose content the index has or will have."""
        fresh, twins, seen = [], [], set()
        changing = {job.file.path for job in jobs}
        for job in jobs:
            key = (job.file.kind, job.digest)
            if key in seen or any(one.path not in changing for one in self._same(job)):
                twins.append(job)
            else:
                seen.add(key)
                fresh.append(job)
        return fresh, twins

    def _same(self, job: Job) -> list[Entry]:
        return self.ledger.same_content(job.file.kind, job.digest)

    def _copy(self, jobs: Sequence[Job]) -> list[Job]:
        """Store what another file of the same content has; those that have none are left."""
        left, waiting = [], {job.file.path for job in jobs}  # what these had before will go
        for begin in range(0, len(jobs), MOST_FILES):
            copied = []
            for job in jobs[begin : begin + MOST_FILES]:
                twins = [one for one in self._same(job) if one.path not in waiting]
                if twins:
                    copied.append((job, twins[0]))
                else:
                    left.append(job)
            self.files.begin([job for job, _ in copied])
            done = []
            for job, twin in copied:
                try:
                    self.store.copy(twin.path, job.file.path, twin.places or ())
                except LookupError:
                    left.append(job)
                    continue
                job.places = list(twin.places or ())
                done.append(job)
            self.store.sync()
            self.ledger.write([job.entry(done=True) for job in done])
            self.report.moved += len(done)
        return left

    def _remove(self, found: Walk, known: dict[str, Entry]) -> None:
        """Take out files that are gone; of a folder that cannot be read nobody knows."""
        there = {file.path for file in found.files}
        unknown = tuple(f"{path}/" for path in found.unknown)
        gone = [
            entry
            for path, entry in known.items()
            if path not in there and not f"{path}/".startswith(unknown)
        ]
        self.store.remove(places_of(gone))
        self.ledger.remove([entry.path for entry in gone])
        self.report.removed = len(gone)
