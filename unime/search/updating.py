"""Bringing an index up to date with a folder, so that a kill at any moment loses nothing."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from unime.errors import ConfigError, DataError
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
        """Do it, and say what was done.

        Args:
            but: the index's own folder, which is left out.

        Raises:
            ConfigError: there is no such folder, or it is empty where the index has files of it.
        """
        self._settle()
        known = self.ledger.below(str(folder))
        if not folder.is_dir():
            raise _absent(f"{folder} is no folder", folder, known, but)
        say(f"looking at {folder}")
        with progress_bar(unit="file", desc="looking") as bar:
            found = walk(folder, but, follow_links, bar.update)
        if known and not found.unknown and not os.listdir(folder):
            raise _absent(f"{folder} is empty", folder, known, but)
        self.report.left_out, self.report.unreadable = found.left_out, dict(found.unknown)
        jobs = self._different(found.files, known)
        say(f"{len(found.files):,} files, of which {len(jobs):,} are new or changed")
        fresh, twins = self._without_twins(jobs)
        self.files.embed(fresh)
        gone = self._gone(found, known)
        left = self._copy(twins, gone)  # whose twins could not be read
        self.files.embed(left)
        self._take_out([*gone.values()])
        return self.report

    def forget(self, folder: Path) -> Report:
        """Take out what there is of a folder, whether it is gone or not.

        Raises:
            ConfigError: there is nothing of it.
        """
        self._settle()
        known = self.ledger.below(str(folder))
        if not known:
            raise ConfigError(f"folder: the index has nothing of {folder}", "folder")
        self._take_out([*known.values()])
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

    def _copy(self, jobs: Sequence[Job], gone: dict[str, Entry]) -> list[Job]:
        """Store what another file of the same content has; those that have none are left. Of a
        file that was moved here from another folder the old path leaves.

        Args:
            gone: the files that leave of the folder that is looked at.
        """
        left, waiting = [], {job.file.path for job in jobs}  # what these had before will go
        taken: set[str] = set()  # paths that were moved, each to one other
        is_gone = cache(_is_gone)  # of thousands of copies each is another's twin
        for begin in range(0, len(jobs), MOST_FILES):
            copied = []
            for job in jobs[begin : begin + MOST_FILES]:
                twins = [one for one in self._same(job) if one.path not in waiting]
                if not twins:
                    left.append(job)
                    continue
                old = [t for t in twins if t.path not in taken and is_gone(t.path)][:1]
                copied.append((job, (old or twins)[0], bool(old)))
                taken.update(one.path for one in old)
            self.files.begin([job for job, _, _ in copied])
            done, moved = [], []
            for job, twin, is_moved in copied:
                try:
                    self.store.copy(twin.path, job.file.path, twin.places or ())
                except LookupError:
                    left.append(job)
                    continue
                job.places = list(twin.places or ())
                done.append(job)
                moved += [twin] if is_moved else []
            self.store.sync()
            elsewhere = [twin for twin in moved if twin.path not in gone]
            self._take_out(elsewhere, [job.entry(done=True) for job in done])
            self.report.moved += len(moved)
            self.report.copied += len(done) - len(moved)
        return left

    def _gone(self, found: Walk, known: dict[str, Entry]) -> dict[str, Entry]:
        """Files of the folder that are gone; of a folder that cannot be read nobody knows."""
        there = {file.path for file in found.files}
        unknown = tuple(f"{path}/" for path in found.unknown)
        return {
            path: entry
            for path, entry in known.items()
            if path not in there and not f"{path}/".startswith(unknown)
        }

    def _take_out(self, entries: Sequence[Entry], done: Sequence[Entry] = ()) -> None:
        """Take files out, noted as in hand first (at once with those that are `done`): a killed
        run's are taken out by the next."""
        self.ledger.write([*done, *(replace(one, places=None) for one in entries)])
        self.store.remove(places_of(entries))
        self.store.sync()
        self.ledger.remove([one.path for one in entries])
        self.report.removed += len(entries)


def _absent(reason: str, folder: Path, known: Mapping[str, Entry], index: Path) -> ConfigError:
    """Of a folder that may lie on a disk that is not mounted: nothing of it leaves by itself."""
    words = shlex.join([str(folder), str(index), "forget=true"])
    of_it = f"; {len(known):,} files of it leave the index by ./launch.sh index {words}"
    return ConfigError(f"folder: {reason}{of_it * bool(known)}", "folder")


def _is_gone(path: str) -> bool:
    """Whether there is no such file; of one that cannot be looked at nobody knows."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False
