"""What runs say of themselves, for records that are made of them later."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from unime.training.metrics import read_lines


def commits_of(runs: Iterable[Path]) -> str:
    """Of the code that trained these runs, every start of each; not of what reads them."""
    starts = [start for run in runs for start in read_lines(run / "starts.jsonl")]
    return " and ".join(sorted({start["commit"] for start in starts}))
