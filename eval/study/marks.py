"""What became of each step: a mark when it has ended.

A mark is written after its command has ended, whole or not at all; the programs themselves know how
far they have come. So a study that is killed at any moment runs a command again at most to its end.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eval.study.plan import Cell, Step
from unime.errors import DataError
from unime.runtime.files import check_kinds, read_json, write_json

MARKS = "marks"
DONE, FAILED, STOPPED, OPEN = "done", "failed", "stopped", "not run"
KINDS = {"status": str, "reason": str, "seconds": float, "cpu_seconds": float, "commit": str}


@dataclass(frozen=True)
class Mark:
    """How a step has ended, last.

    Attributes:
        status: done; failed, by itself; stopped, by a signal.
        reason: of what is not done, in a line.
        seconds, cpu_seconds: of all its attempts that this was told the end of.
    """

    status: str
    reason: str
    seconds: float
    cpu_seconds: float
    commit: str


class Marks:
    """Of all steps in an output folder of studies."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def of(self, step: Step) -> Mark | None:
        """None: it has not ended yet, or what it made is gone.

        Raises:
            DataError: a mark is damaged.
        """
        path = self.folder / MARKS / f"{step.name}.json"
        if not path.is_file():
            return None
        found: dict[str, Any] = check_kinds(read_json(path), KINDS, str(path))
        mark = Mark(**{key: found[key] for key in KINDS})
        if mark.status not in (DONE, FAILED, STOPPED):
            raise DataError(f"{path}, status: got {mark.status!r:.60}")
        return None if mark.status == DONE and not step.folder.is_dir() else mark

    def ended(
        self, step: Step, status: str, reason: str, seconds: float, cpu: float, commit: str
    ) -> Mark:
        before = self.of(step)
        if before is not None:
            seconds, cpu = seconds + before.seconds, cpu + before.cpu_seconds
        mark = Mark(status, reason, seconds, cpu, commit)
        path = self.folder / MARKS / f"{step.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, asdict(mark))
        return mark

    def state(self, cell: Cell) -> tuple[str, str]:
        """Of a cell: done, failed or not run; and why it failed."""
        if cell.problem:
            return FAILED, cell.problem
        marks = [self.of(step) for step in cell.steps]
        for step, mark in zip(cell.steps, marks, strict=True):
            if mark is not None and mark.status == FAILED:
                return FAILED, f"{step.kind}: {mark.reason}"
        if all(mark is not None and mark.status == DONE for mark in marks):
            return DONE, ""
        return OPEN, next((m.reason for m in marks if m and m.status == STOPPED), "")
