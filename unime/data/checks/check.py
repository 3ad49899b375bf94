"""Everything that a check finds in training data, and what it writes about it.

<output_dir>/
    rows.jsonl    every row that is rejected, or remarked on: where, row_id, column, kind, reason
    check.json    all counts
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from unime.config import DataCheck, PairData, PairSource
from unime.data.checks.content import Content, Histogram
from unime.data.checks.faults import SCHEMA, Fault
from unime.data.checks.items import ItemCheck
from unime.data.checks.leakage import LEAKS, Held, HeldItem, Leaks
from unime.data.checks.memory import PictureLog, key_of, remember, remembered
from unime.data.checks.pictures import picture_log, read_pictures
from unime.data.checks.verify import Verified, max_pixels_of, verify
from unime.data.prepared.folder import PreparedSet
from unime.data.rows import Row
from unime.data.train_subset import TrainSubset, open_train_subset
from unime.errors import DataError, require_package
from unime.inputs.items import Pair
from unime.models.item_processor import ItemProcessor
from unime.runtime.distributed import alone
from unime.runtime.files import replacing, write_json, writing
from unime.runtime.progress import progress_bar

NEARBY = 10_000  # pictures that rows not far from each other share
COUNTED = "counts"  # what the memory calls them
TABLE, COUNTS = "rows.jsonl", "check.json"
HELD_OUT = "test"  # the split of a prepared set that training does not show


@dataclass
class TaskReport:
    """What was found in one task's rows.

    Attributes:
        rows, accepted: all, and those that training uses.
        queries, with_several: different queries, and those that have several right answers.
        cut: texts of which a model is shown the begin alone.
        faults: of rejected rows, and remarks.
    """

    name: str
    split: str
    rows: int = 0
    accepted: int = 0
    queries: int = 0
    with_several: int = 0
    cut: int = 0
    faults: list[Fault] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """Rows by the kind of their faults."""
        rows = {(fault.kind, fault.number) for fault in self.faults}
        return dict(sorted(Counter(kind for kind, _ in rows).items()))


@dataclass
class DataReport:
    """What was found in all tasks."""

    tasks: list[TaskReport]
    lengths: Histogram
    sides: Histogram
    compared_with: int = 0  # held-out texts and pictures

    @property
    def rows(self) -> int:
        return sum(task.rows for task in self.tasks)

    @property
    def accepted(self) -> int:
        return sum(task.accepted for task in self.tasks)

    @property
    def leaks(self) -> int:
        """Rows that show what an evaluation asks about."""
        return sum(
            len({fault.number for fault in task.faults if fault.kind in LEAKS})
            for task in self.tasks
        )

    @property
    def is_clean(self) -> bool:
        rejects = any(fault.rejected for task in self.tasks for fault in task.faults)
        return not rejects and not self.leaks

    def content(self) -> dict[str, Any]:
        """All counts, as JSON values."""
        described = [
            {name: getattr(task, name) for name in DESCRIBED} | {"kinds": task.counts}
            for task in self.tasks
        ]
        histograms = {h.of: [list(bar) for bar in h.bars()] for h in (self.lengths, self.sides)}
        return {
            "rows": self.rows,
            "accepted": self.accepted,
            "leaks": self.leaks,
            "compared_with": self.compared_with,
            "tasks": described,
            "histograms": histograms,
        }

    def write(self, folder: Path) -> None:
        """Write the table and the counts.

        Raises:
            ConfigError: they cannot be written.
        """
        with writing("check.output_dir", folder):
            folder.mkdir(parents=True, exist_ok=True)
            with replacing(folder / TABLE) as aside, aside.open("w", encoding="utf-8") as file:
                for task in self.tasks:
                    for fault in task.faults:
                        file.write(json.dumps(fault.written(task.name)) + "\n")
            write_json(folder / COUNTS, self.content())


DESCRIBED = ("name", "split", "rows", "accepted", "queries", "with_several", "cut")


@dataclass
class _Part:
    """The rows of one task's split, verified, and what is counted of the good ones."""

    subset: TrainSubset
    report: TaskReport
    verified: Verified
    processor: ItemProcessor | None
    settings: DataCheck
    max_pixels: int

    def pairs(self) -> Iterator[tuple[int, Row, Pair]]:
        """The good rows, with their numbers and cells."""
        subset, find = self.subset, lru_cache(NEARBY)(self.subset.images.find)
        rows = zip(subset.selected, subset.table.read(subset.selected), strict=True)
        title = f"counting {subset.name}"
        for number, row in progress_bar(rows, total=len(subset), desc=title, unit="row"):
            yield number, row, subset.read(row, find, number)

    def held_out(self) -> Iterator[HeldItem]:
        """Their queries and targets, each with where it is."""
        for _, row, pair in self.pairs():
            yield from ((row.where, item) for item in (pair.query, pair.target))

    def count(self, held: Held) -> tuple[Histogram, Histogram]:
        """Complete the report of the good rows, unless one of the same is remembered; those that
        training shows are compared with what is held out. Returns how long items and pictures
        are."""
        verified, shows = self.verified, self.report.split != HELD_OUT
        key = key_of(verified.key, verified.states, shows and held.digest, self.settings.near)
        counted = remembered(COUNTED, key)
        try:
            faults = [Fault(**fault) for fault in counted["report"].pop("faults")]
            self.report = TaskReport(**counted["report"], faults=faults)
            return Histogram.read(counted["lengths"]), Histogram.read(counted["sides"])
        except (KeyError, TypeError, ValueError, AttributeError):
            content = self._counted(held if shows else Held())
        lengths, sides = content.lengths, content.sides
        counted = {"report": self.report, "lengths": lengths, "sides": sides}
        remember(COUNTED, key, {name: asdict(value) for name, value in counted.items()})
        return lengths, sides

    def _counted(self, held: Held) -> Content:
        log, report = self.verified.log, self.report
        check = ItemCheck(self.processor, log.size_of) if self.processor else None
        # the log may have lost what was seen of pictures whose rows are remembered
        looks = bool(held and held.looks)
        _read(self.verified.files, log, self.settings, self.max_pixels, looks)
        content, leaks = (
            Content(self.subset, log, check),
            Leaks(self.subset, held, log, self.settings.near),
        )
        for number, row, pair in self.pairs():
            content.add(number, row, pair)
            if held:
                leaks.add(number, row, pair)
        content.finish(self.verified.files)
        report.queries, report.cut = content.num_queries, content.num_cut
        report.with_several = content.num_with_several
        report.faults += self.verified.faults + content.remarks + leaks.finish()
        return content


def check_data(
    data: PairData,
    settings: DataCheck,
    processor: ItemProcessor | None = None,
    seed: int = 0,
    evaluation: Iterable[HeldItem] = (),
    max_pixels: int | None = None,
) -> DataReport:
    """Look at all rows that stage 2 would read, and those that a prepared set holds out.

    Args:
        processor: how training will prepare items; None: pictures are read, and that is all.
        seed: of rows that are chosen at random (``run.seed``).
        evaluation: what training should not show, each item with where it is: queries and their
            right answers. What a prepared set holds out need not be named.
        max_pixels: of a picture that training will read; None: as the processor has it.

    Raises:
        ConfigError: a package is missing.
    """
    tasks, others = _tasks(data), list(evaluation)
    most = max_pixels_of(processor) if max_pixels is None else max_pixels
    looks = bool(others) or any(split == HELD_OUT for _, split in tasks)
    if looks:
        require_package("imagehash", "data", "check")
    checked: list[TaskReport | _Part] = []
    parts: list[_Part] = []
    for name, split in tasks:
        known = parts[0].verified.log if parts else None  # the pictures of all are in one folder
        one = _verified(
            data, TaskReport(name, split), settings, processor, most, seed, looks, known
        )
        checked.append(one)
        parts += [one] if isinstance(one, _Part) else []
    held = Held()
    log = picture_log(most)
    _read([path for _, item in others for path in item.images], log, settings, most)
    held.add(others, log)
    for part in parts:
        if part.report.split == HELD_OUT:
            _read(part.verified.files, part.verified.log, settings, most)
            held.add(part.held_out(), part.verified.log)
    lengths, sides = Histogram(""), Histogram("")
    for part in parts:
        of_part = part.count(held)
        lengths.join(of_part[0])
        sides.join(of_part[1])
    reports = [one.report if isinstance(one, _Part) else one for one in checked]
    return DataReport(reports, lengths, sides, len(held.texts) + len(held.contents))


def _tasks(data: PairData) -> list[tuple[str, str]]:
    """Those that training reads, and what a prepared set holds out of them, and of those that it
    has to ask alone, with their splits."""
    prepared = PreparedSet.of(data.root)
    split = data.split or ("original" if prepared is None else "train")
    found = [(name, split) for name in data.sources]
    if prepared is not None and split != HELD_OUT:
        only_asked = (name for name, sizes in prepared.rows.items() if not sizes.get("train"))
        names = dict.fromkeys([*data.sources, *only_asked])
        found += [(name, HELD_OUT) for name in names if HELD_OUT in prepared.splits(name)]
    return found


def _verified(
    data: PairData,
    report: TaskReport,
    settings: DataCheck,
    processor: ItemProcessor | None,
    most: int,
    seed: int,
    looks: bool,
    log: PictureLog | None,
) -> _Part | TaskReport:
    """The rows of a task, looked at; or that its table cannot be read."""
    if report.split == HELD_OUT and data.split != HELD_OUT:
        data = replace(data, sources={report.name: PairSource()})
    try:
        subset = open_train_subset(replace(data, split=report.split), report.name, seed)
    except DataError as error:
        where = f"{report.name}, {report.split}"
        report.faults.append(Fault(-1, where, "", SCHEMA, "", str(error)))
        return report
    report.rows = len(subset)
    workers = settings.num_workers
    verified = alone(lambda: verify(subset, processor, looks, workers, log, most))
    subset.leave_out(verified.faults)
    report.accepted = len(subset)
    return _Part(subset, report, verified, processor, settings, most)


def _read(
    paths: Sequence[str],
    log: PictureLog,
    settings: DataCheck,
    most: int,
    looks: bool = True,
) -> None:
    workers = settings.num_workers
    title = "looking at pictures"
    alone(lambda: read_pictures(paths, log, most, title, looks, workers))
