"""One progress bar for all ranks, and none in a log file."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def progress_bar(rows: Iterable[Any] | None = None, *, shown: bool = True, **settings: Any) -> tqdm:
    """tqdm on the main process if it has a terminal, silent elsewhere."""
    return tqdm(rows, disable=not (shown and _shows_bars()), **settings)


def quiet_transformers() -> None:
    """The same for the bars that transformers draws while it loads weights."""
    if not _shows_bars():
        from transformers.utils import logging as transformers_logging  # slow to import

        transformers_logging.disable_progress_bar()


def _shows_bars() -> bool:
    return os.environ.get("RANK", "0") == "0" and sys.stderr.isatty()  # launchers set RANK
