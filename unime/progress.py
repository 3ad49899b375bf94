"""One progress bar for all ranks."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def progress_bar(rows: Iterable[Any] | None = None, **settings: Any) -> tqdm:
    """tqdm on the main process (launchers set RANK), silent on all others."""
    return tqdm(rows, disable=os.environ.get("RANK", "0") != "0", **settings)
